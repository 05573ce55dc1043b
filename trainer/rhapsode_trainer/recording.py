"""What a finished run leaves behind in its version: numbers, samples, curve, card and page."""

from dataclasses import asdict, dataclass
from typing import Any

from rhapsode_contract.postprocess import Pipeline

from .config import Recipe
from .data.corpus import Corpus
from .evaluation.opponent import Opponent
from .evaluation.record import Measured, documents_sha256, likelihoods_record, model_record
from .evaluation.samples import Sample
from .evaluation.scores import finite_or_none
from .gate import Verdict
from .measuring import Measuring
from .preparing import Prepared
from .publish.card import trained_card
from .publish.page import Page, report_page
from .publish.version import Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A model measured, with its samples."""

    measured: Measured
    samples: list[Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What the new model is compared with: the model before training, and the version to beat, if there is one."""

    measuring: Measuring
    before: Outcome
    opponent: Opponent
    champion: Outcome | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run up to its verdict. `name` is the model's; `log` is that of training."""

    name: str
    recipe_name: str
    recipe: Recipe
    prepared: Prepared
    corpus: Corpus
    contest: Contest
    after: Outcome
    verdict: Verdict
    xz_bits_per_byte: float
    lineage: dict[str, Any]
    log: list[dict[str, float]]


def records_of(run: Finished) -> Records:
    """Everything but the weights and the tokenizer."""
    champion = run.contest.champion.samples if run.contest.champion else []
    samples = [asdict(sample) for sample in (*run.contest.before.samples, *champion, *run.after.samples)]
    evaluation = _evaluation(run)
    log = [{name: _finite(value) for name, value in entry.items()} for entry in run.log]
    page = Page(
        name=run.name,
        description=run.recipe.description,
        evaluation=evaluation,
        samples=samples,
        lineage=run.lineage,
        log=log,
    )
    return Records(
        card=trained_card(run.name, run.recipe_name, run.recipe, evaluation),
        evaluation=evaluation,
        samples=samples,
        lineage=run.lineage,
        canary_prompt=_canary_prompt(run.prepared, run.corpus),
        postprocess=Pipeline(run.recipe.postprocess).as_document(),
        likelihoods=likelihoods_record(documents_sha256(run.corpus.held_out), run.after.measured.documents),
        training_log=log,
        page=report_page(page),
    )


def _canary_prompt(prepared: Prepared, corpus: Corpus) -> list[int]:
    longest = max(corpus.held_out, key=lambda document: len(document.text))
    ids: list[int] = prepared.tokenizer.backend_tokenizer.encode(longest.text, add_special_tokens=False).ids
    return [prepared.end_of_text, *ids]


def _finite(value: Any) -> Any:
    return finite_or_none(value) if isinstance(value, float) else value


def _evaluation(run: Finished) -> dict[str, Any]:
    contest, corpus = run.contest, run.corpus
    return {
        "measured": True,
        "data": {
            "train_documents": len(corpus.train),
            "held_out_documents": len(corpus.held_out),
            "held_out_bytes": corpus.held_out_bytes,
        },
        "before": model_record(contest.before.measured),
        "champion": model_record(contest.champion.measured) if contest.champion else None,
        "after": model_record(run.after.measured),
        "verdict": run.verdict.as_dict(),
        "xz_bits_per_byte": run.xz_bits_per_byte,
    }
