"""Writing and publishing a version: the model, its tokenizer, and the records that explain and prove them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rhapsode_contract.model_directory import Lease, ModelFolder, publish
from rhapsode_contract.postprocess import Pipeline
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .actor import actor
from .canary import record_canary, record_tokenizer
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
    postprocess: Mapping[str, Any] = field(default_factory=Pipeline(()).as_document)
    likelihoods: Mapping[str, Any] | None = None
    training_log: Sequence[Mapping[str, Any]] = ()
    page: str = ""


def publish_version(
    folder: ModelFolder,
    lease: Lease,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records,
    *,
    reason: str,
    alias: str = "champion",
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Publishes and returns the folder of the new version, for which `alias` stands from then on.

    The weights keep their dtype in the files; `model` itself ends up on the CPU in fp32, for the canary. `check` is
    called where publishing can still be left and may raise: then, and on LoadCheckError, no alias has moved.
    """
    dtype = str(model.dtype).removeprefix("torch.")

    def write(staging: Path) -> None:
        _write(staging, model, tokenizer, records)
        check()

    def load_check(version: Path) -> None:
        try:
            check_in_fresh_process(version)
        finally:
            check()  # Ctrl-C ends the fresh process too: then that is the cause to report

    version = publish(
        folder,
        lease,
        write=write,
        dtype=dtype,
        parameter_count=model.num_parameters(),
        actor=actor(),
        reason=reason,
        load_check=load_check,
        alias=alias,
    )
    return folder.version_path(version)


def _write(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Records) -> None:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    canary = record_canary(model.float().cpu(), records.canary_prompt, record_tokenizer(path / "tokenizer.json"))
    (path / "README.md").write_text(records.card, encoding="utf-8")
    _write_json(path / "evaluation.json", {"schema_version": SCHEMA_VERSION, **records.evaluation})
    _write_json(path / "lineage.json", {"schema_version": SCHEMA_VERSION, **records.lineage})
    _write_json(path / "postprocess.json", records.postprocess)
    if records.likelihoods is not None:
        _write_json(path / "likelihoods.json", {"schema_version": SCHEMA_VERSION, **records.likelihoods})
    if records.page:
        (path / "report.html").write_text(records.page, encoding="utf-8")
    if records.training_log:
        _write_lines(path / "training_log.jsonl", records.training_log)
    _write_json(path / "canary.json", canary.as_dict())
    _write_lines(path / "samples.jsonl", records.samples)
    for file in path.rglob("*"):  # safetensors writes files that only their owner may read; servers are other users
        file.chmod(0o755 if file.is_dir() else 0o644)


def _write_lines(path: Path, documents: Sequence[Mapping[str, Any]]) -> None:
    lines = [json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n" for document in documents]
    path.write_text("".join(lines), encoding="utf-8")


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Strict JSON: a number that is not finite is a bug to be seen here, not by a reader."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
