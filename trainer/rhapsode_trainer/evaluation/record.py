"""What evaluation.json and likelihoods.json of a version hold.

evaluation.json: `before` (the base model), `champion` (null when there was none) and `after`, each with its numbers on
the same held-out documents, and the verdict of the gate. likelihoods.json: the new model's likelihood of each document,
so that any two versions that were measured on the same documents can be compared pair by pair later.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..data.assembly import Document
from .bootstrap import bits_per_byte_interval
from .overlap import Overlap
from .quality import Form, Quality
from .scores import Likelihood, finite_or_none, total


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One model: its likelihood on each held-out document and on the canary text, and what its samples are like."""

    documents: Sequence[Likelihood]
    canary: Likelihood | None = None
    quality: Quality | None = None
    form: Form | None = None
    overlap: Overlap | None = None


def model_record(measured: Measured, *, confidence: float = 0.95) -> dict[str, Any]:
    """The numbers of one model for evaluation.json; what is not finite is null."""
    return {
        **likelihood_record(total(measured.documents)),
        "bits_per_byte_interval": bits_per_byte_interval(measured.documents, confidence=confidence).as_dict(),
        "canary_bits_per_byte": finite_or_none(measured.canary.bits_per_byte) if measured.canary else None,
        "quality": asdict(measured.quality) if measured.quality else None,
        "form": asdict(measured.form) if measured.form else None,
        "overlap": asdict(measured.overlap) if measured.overlap else None,
    }


def likelihood_record(value: Likelihood) -> dict[str, float | None]:
    """Sums and what follows from them; what is not finite is null."""
    return {
        "nats": finite_or_none(value.nats),
        "tokens": value.tokens,
        "bytes": value.bytes,
        "perplexity": finite_or_none(value.perplexity),
        "bits_per_byte": finite_or_none(value.bits_per_byte),
    }


def likelihoods_record(documents: str, parts: Sequence[Likelihood]) -> dict[str, Any]:
    """The content of likelihoods.json; `documents` is `documents_sha256` of what was scored, in the same order."""
    return {
        "documents_sha256": documents,
        "nats": [finite_or_none(part.nats) for part in parts],
        "tokens": [part.tokens for part in parts],
        "bytes": [part.bytes for part in parts],
    }


def parse_likelihoods(record: Mapping[str, Any]) -> tuple[str, list[Likelihood]]:
    """The inverse of `likelihoods_record`; null is NaN again. Raises KeyError, TypeError and ValueError."""
    rows = zip(record["nats"], record["tokens"], record["bytes"], strict=True)
    parts = [
        Likelihood(nats=math.nan if nats is None else float(nats), tokens=int(tokens), bytes=int(size))
        for nats, tokens, size in rows
    ]
    return str(record["documents_sha256"]), parts


def documents_sha256(documents: Iterable[Document]) -> str:
    """One hash for the prompts and texts in their order, whatever file or format they come from."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps([document.prompt, document.text]).encode() + b"\n")
    return digest.hexdigest()


def flatten(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A nested mapping with dotted names, as in `--set a.b=c`; an empty mapping stays a value."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        full = f"{path}.{name}" if path else str(name)
        leaves |= flatten(value, full) if isinstance(value, Mapping) and value else {full: value}
    return leaves
