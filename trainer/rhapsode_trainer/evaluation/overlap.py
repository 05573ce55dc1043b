"""How much generated text shares with a reference: BLEU and chrF as sacrebleu defines them.

Of little meaning for free stories, where many continuations are right; of use between versions of one model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Corpus BLEU and chrF, each from 0 to 100, with the signatures under which others can compute the same."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str


def measure_overlap(texts: Sequence[str], references: Sequence[str]) -> Overlap:
    """One reference for each text, in order. Raises ValueError (their numbers differ, or there are none) and
    ConfigError (sacrebleu is not installed)."""
    if not texts or len(texts) != len(references):
        raise ValueError(f"references: {len(references)} for {len(texts)} texts")
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise ConfigError("BLEU and chrF need sacrebleu: pip install 'rhapsode-trainer[stories]'") from None
    bleu, chrf = BLEU(), CHRF()
    scores = [metric.corpus_score(list(texts), [list(references)]).score for metric in (bleu, chrf)]
    return Overlap(
        bleu=float(scores[0]),
        chrf=float(scores[1]),
        bleu_signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
    )
