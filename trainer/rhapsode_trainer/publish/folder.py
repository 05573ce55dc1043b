"""`rhapsode-train publish`: an existing model folder becomes a version, without training."""

from pathlib import Path

from rhapsode_contract.model_directory import Lease, ModelFolder

from .card import imported_card
from .lineage import imported_lineage
from .source import load_source
from .version import Records, publish_version

CANARY_TEXT = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps in the shade of an old oak tree until dusk."
)


def publish_folder(source: Path, folder: ModelFolder, lease: Lease) -> Path:
    """Publishes the model in `source` as the new champion of `folder`. Raises SourceError and LoadCheckError."""
    model, tokenizer = load_source(source)
    dtype = str(model.dtype).removeprefix("torch.")
    records = Records(
        card=imported_card(folder.name, type(model).__name__, model.num_parameters(), dtype),
        evaluation={"measured": False, "reason": "published as it was found"},
        samples=[],
        lineage=imported_lineage(folder, source),
        canary_prompt=tokenizer.encode(CANARY_TEXT, add_special_tokens=False),
    )
    return publish_version(folder, lease, model, tokenizer, records, reason=f"published from {source.resolve().name}")
