"""`evaluate`: the exact numbers of a published version on any documents, the same as those of the run that made it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rhapsode_contract.model_directory import verify_version
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from ..data.assembly import Document
from ..data.encoding import encode_documents
from ..data.settings import RowsConfig
from ..errors import DataError, SourceError
from ..evaluation.bootstrap import Interval, bits_per_byte_interval
from ..evaluation.likelihood import score_documents
from ..evaluation.record import documents_sha256
from ..evaluation.scores import Likelihood, total
from ..publish.source import load_source
from .records import VersionRecords, number, read_records

_DEFAULT_STRIDE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What `version` makes of the documents. `recorded`: the bits per byte in its evaluation.json, where they were
    measured on the very same documents."""

    version: Path
    documents: int
    likelihood: Likelihood
    interval: Interval
    recorded: float | None


def evaluate_version(
    version: Path,
    documents: Sequence[Document],
    *,
    rows: RowsConfig,
    batch_size: int = 8,
    stride: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Scores the texts of documents; a prompt is context only, whatever `rows` has the loss on. In fp32, on the GPU if
    there is one. `stride` is that of the recipe unless given.

    Raises VerificationError, SourceError (the version cannot be loaded),
    DataError (no documents), and what `check` raises.
    """
    if not documents:
        raise DataError("--data: no documents to evaluate on")
    verify_version(version)
    records = read_records(version)
    parts = _score(version, documents, rows, stride or _recorded_stride(records), batch_size, check)
    same = records.documents_sha256 == documents_sha256(documents)
    return Evaluation(
        version=version,
        documents=len(documents),
        likelihood=total(parts),
        interval=bits_per_byte_interval(parts),
        recorded=number(records.evaluation, "after", "bits_per_byte") if same else None,
    )


def _recorded_stride(records: VersionRecords) -> int:
    return int(number(records.lineage, "config", "evaluation", "stride") or _DEFAULT_STRIDE)


def _score(
    version: Path,
    documents: Sequence[Document],
    rows: RowsConfig,
    stride: int,
    batch_size: int,
    check: Callable[[], None],
) -> list[Likelihood]:
    model, tokenizer = load_source(version)
    model.float().to("cuda" if torch.cuda.is_available() else "cpu")
    ends = _end_of_text(version, tokenizer)
    rows = replace(rows, loss_on="story")
    encoded = encode_documents(tokenizer.backend_tokenizer, documents, rows, end_of_text=ends, check=check)
    return score_documents(
        model,
        [document.ids for document in encoded],
        [len(document.text.encode()) for document in documents],
        context=model.config.max_position_embeddings,
        stride=stride,
        batch_size=batch_size,
        first_targets=[document.first_target for document in encoded],
        check=check,
    )


def _end_of_text(version: Path, tokenizer: PreTrainedTokenizerFast) -> int:
    ends = tokenizer.eos_token_id
    if ends is None:
        raise SourceError(f"{version}: its tokenizer has no token that ends a text")
    return int(ends)


def render_evaluation(evaluation: Evaluation) -> Table:
    """Numbers with their interval, and those on record."""
    likelihood, interval = evaluation.likelihood, evaluation.interval
    table = Table(title=Text(f"{evaluation.version}: {evaluation.documents:,} documents"), title_justify="left")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_row("bits per byte", f"{likelihood.bits_per_byte:.6f}")
    table.add_row(f"{interval.confidence:.0%} interval", f"{interval.low:.4f} to {interval.high:.4f}")
    table.add_row("perplexity per token", f"{likelihood.perplexity:,.4f}")
    table.add_row("tokens predicted", f"{likelihood.tokens:,}")
    table.add_row("bytes of text", f"{likelihood.bytes:,}")
    if evaluation.recorded is not None:
        table.add_row("bits per byte on record", f"{evaluation.recorded:.6f}")
    return table
