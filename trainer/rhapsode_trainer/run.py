"""`rhapsode-train run`: prepare, train, evaluate, publish; each phase timed."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rhapsode_contract.model_directory import Lease, ModelFolder
from rich.console import Console
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainingArguments

from .config import Recipe
from .data.documents import Corpus, load_corpus
from .data.packing import pack
from .data.tokenizer import encode, random_encoder, train_tokenizer
from .errors import ConfigError, GateRejected
from .evaluation.compression import xz_bits_per_byte
from .evaluation.likelihood import Likelihood, score_documents, total
from .evaluation.samples import Sample, draw_sample
from .interruption import Interruption
from .publish.card import trained_card
from .publish.lineage import trained_lineage
from .publish.version import Records, publish_version
from .training.model import build_model
from .training.progress import report_progress
from .training.train import rows_needed, train, training_arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run has to tell. `seconds` has one entry for each phase."""

    version: Path
    before: Likelihood
    after: Likelihood
    xz_bits_per_byte: float
    samples: tuple[Sample, Sample]
    seconds: dict[str, float]


@dataclass(slots=True)
class Run:
    """One run of a recipe. The caller holds the lease of `folder`."""

    recipe_name: str
    recipe: Recipe
    folder: ModelFolder
    work_dir: Path
    console: Console
    interruption: Interruption
    seconds: dict[str, float] = field(default_factory=dict)

    def execute(self, lease: Lease) -> Result:
        """Runs every phase. Raises TrainerError of every kind, and what the model directory raises."""
        with self._phase("prepare"):
            corpus = load_corpus(self.recipe.data)
            tokenizer = train_tokenizer(corpus.train, self.recipe.tokenizer.vocab_size)
            model = build_model(self.recipe.model, self.recipe.generation, tokenizer, self.recipe.seed)
            arguments = self._arguments(model)
            held_out = _as_scored(tokenizer, corpus.held_out)
        with self._phase("evaluate before"):
            before = self._score(model, held_out, corpus)
            sample_before = draw_sample(model, tokenizer, self.recipe.sample, "before")
        with self._phase("train"):
            self._train(model, tokenizer.backend_tokenizer, corpus, arguments)
        with self._phase("evaluate after"):
            after = self._score(model, held_out, corpus)
            if not math.isfinite(after.perplexity):
                raise GateRejected("training diverged: the likelihood of the held-out documents is not finite")
            sample_after = draw_sample(model, tokenizer, self.recipe.sample, "after")
            xz = xz_bits_per_byte(corpus.train, corpus.held_out)
        samples = (sample_before, sample_after)
        with self._phase("publish"):
            evaluation = _evaluation(corpus, before, after, xz)
            records = self._records(corpus, evaluation, samples, held_out)
            version = self._publish(lease, model, tokenizer, records)
        return Result(
            version=version, before=before, after=after, xz_bits_per_byte=xz, samples=samples, seconds=self.seconds
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.interruption.check()
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start
        self.console.print(f"{name}: {self.seconds[name]:.1f} s", highlight=False)

    def _arguments(self, model: PreTrainedModel) -> TrainingArguments:
        block_size, context = self.recipe.training.block_size, model.config.max_position_embeddings
        if block_size > context:
            raise ConfigError(f"training.block_size: {block_size} is more than the model's context of {context}")
        return training_arguments(self.recipe.training, seed=self.recipe.seed, output_dir=self.work_dir)

    def _train(
        self, model: PreTrainedModel, tokenizer: Tokenizer, corpus: Corpus, arguments: TrainingArguments
    ) -> None:
        config, steps = self.recipe.training, arguments.max_steps
        rows = pack(
            random_encoder(tokenizer, corpus.train, self.recipe.tokenizer.dropout),
            end_of_text=model.config.eos_token_id,
            block_size=config.block_size,
            rows=rows_needed(arguments),
            seed=self.recipe.seed,
        )
        tokens_per_step = rows_needed(arguments) // steps * config.block_size
        with report_progress(self.console, steps=steps, tokens_per_step=tokens_per_step) as report:
            log = train(
                model, rows, arguments, optimizer=config.optimizer, report=report, interruption=self.interruption
            )
        lines = [json.dumps(entry) + "\n" for entry in log]
        (self.work_dir / "training_log.jsonl").write_text("".join(lines), encoding="utf-8")

    def _score(self, model: PreTrainedModel, documents: Sequence[Sequence[int]], corpus: Corpus) -> Likelihood:
        parts = score_documents(
            model,
            documents,
            [len(text.encode()) for text in corpus.held_out],
            context=model.config.max_position_embeddings,
            stride=self.recipe.evaluation.stride,
            batch_size=self.recipe.evaluation.batch_size,
            check=self.interruption.check,
        )
        return total(parts)

    def _records(
        self,
        corpus: Corpus,
        evaluation: dict[str, Any],
        samples: Sequence[Sample],
        held_out: Sequence[Sequence[int]],
    ) -> Records:
        return Records(
            card=trained_card(self.folder.name, self.recipe_name, self.recipe, evaluation),
            evaluation=evaluation,
            samples=[asdict(sample) for sample in samples],
            lineage=trained_lineage(self.folder, self.recipe_name, self.recipe, corpus),
            canary_prompt=max(held_out, key=len),
        )

    def _publish(
        self, lease: Lease, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, records: Records
    ) -> Path:
        reason = f"recipe {self.recipe_name}: {records.evaluation['after']['bits_per_byte']:.3f} bits per byte"
        check = self.interruption.check
        return publish_version(self.folder, lease, model, tokenizer, records, reason=reason, check=check)


def _as_scored(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Each text between two end-of-text tokens: what it is conditioned on, and the EOS that is to be predicted."""
    ends: int = tokenizer.eos_token_id
    return [[ends, *ids, ends] for ids in encode(tokenizer.backend_tokenizer, texts)]


def _evaluation(corpus: Corpus, before: Likelihood, after: Likelihood, xz: float) -> dict[str, Any]:
    return {
        "measured": True,
        "data": {
            "train_documents": len(corpus.train),
            "held_out_documents": len(corpus.held_out),
            "held_out_bytes": corpus.held_out_bytes,
        },
        "before": _as_numbers(before),
        "after": _as_numbers(after),
        "xz_bits_per_byte": xz,
    }


def _as_numbers(value: Likelihood) -> dict[str, float]:
    return {**asdict(value), "perplexity": value.perplexity, "bits_per_byte": value.bits_per_byte}
