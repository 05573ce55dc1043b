"""Writing and publishing a version: the model, its tokenizer, and the records that explain and prove them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhapsode_contract.model_directory import Lease, ModelFolder, publish
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .actor import actor
from .canary import record_canary
from .load_check import check_in_fresh_process

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What a version says about itself beside its weights. `canary_prompt` holds token ids."""

    card: str
    evaluation: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    lineage: Mapping[str, Any]
    canary_prompt: Sequence[int]


def publish_version(
    folder: ModelFolder,
    lease: Lease,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records,
    *,
    reason: str,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Publishes and returns the folder of the new version, which is the champion from then on.

    The weights keep their dtype in the files; `model` itself ends up on the CPU in fp32, for the canary. `check` is
    called where publishing can still be left and may raise: then, and on LoadCheckError, the champion has not moved.
    """
    dtype = str(model.dtype).removeprefix("torch.")

    def write(staging: Path) -> None:
        _write(staging, model, tokenizer, records)
        check()

    def load_check(version: Path) -> None:
        check_in_fresh_process(version)
        check()

    version = publish(
        folder,
        lease,
        write=write,
        dtype=dtype,
        parameter_count=model.num_parameters(),
        actor=actor(),
        reason=reason,
        load_check=load_check,
    )
    return folder.version_path(version)


def _write(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Records) -> None:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    canary = record_canary(model.float().cpu(), records.canary_prompt)
    (path / "README.md").write_text(records.card, encoding="utf-8")
    _write_json(path / "evaluation.json", {"schema_version": SCHEMA_VERSION, **records.evaluation})
    _write_json(path / "lineage.json", {"schema_version": SCHEMA_VERSION, **records.lineage})
    _write_json(path / "postprocess.json", {"schema_version": SCHEMA_VERSION, "steps": []})
    _write_json(path / "canary.json", canary.as_dict())
    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in records.samples]
    (path / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    for file in path.rglob("*"):  # safetensors writes files that only their owner may read; servers are other users
        file.chmod(0o755 if file.is_dir() else 0o644)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Strict JSON: a number that is not finite is a bug to be seen here, not by a reader."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
