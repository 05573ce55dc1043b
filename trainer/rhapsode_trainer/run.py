"""`rhapsode-train run`: prepare, tokenise, train, evaluate, judge, publish; each phase timed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rhapsode_contract.model_directory import Lease, ModelFolder
from rich.console import Console
from transformers import PreTrainedModel

from .budget import Budget, reserve_seconds
from .checkpoints import Checkpoints
from .config import Recipe
from .data.corpus import Corpus, load_corpus
from .data.encoding import encode_documents
from .environment import is_main, world_size
from .evaluation.compression import xz_bits_per_byte
from .evaluation.opponent import find_opponent
from .evaluation.samples import Sample
from .evaluation.scores import Likelihood, total
from .gate import Verdict, judge
from .interruption import Interruption
from .lora import attach, merge, save_adapter
from .measuring import Measuring
from .options import Options
from .plan import Plan, plan_training
from .preparing import Prepared, prepare
from .publish.lineage import trained_lineage
from .publish.version import Records, publish_version
from .recording import Contest, Finished, Outcome, records_of
from .status import Status
from .training.progress import report_progress
from .training.saving import Saving
from .training.speed import Speed, describe, training_flops_per_token, training_record
from .training.train import train

CHAMPION, CANDIDATE = "champion", "candidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run has to tell. `seconds` has one entry for each phase."""

    version: Path
    before: Likelihood
    after: Likelihood
    xz_bits_per_byte: float
    samples: tuple[Sample, Sample]
    verdict: Verdict
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
    status: Status
    options: Options
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)

    def execute(self, lease: Lease) -> Result:
        """Runs every phase. Raises TrainerError of every kind, and what the model directory raises."""
        if (checkpoint := self._checkpoints().newest()) is not None:
            self.interruption.resumes_at = int(checkpoint.name.rpartition("-")[2])
        with self._phase("prepare"):
            corpus = self._load()
            prepared = prepare(self.recipe, corpus)
        with self._phase("tokenise"):
            plan = self._plan(prepared, corpus)
        with self._phase("evaluate before"):
            contest = self._contest(prepared, corpus)
        with self._phase("train"):
            log = self._train(prepared, plan, contest.measuring, corpus)
        training = self._training_record(prepared, plan)
        self.console.print(describe(training), highlight=False)
        with self._phase("evaluate after"):
            after = self._measure_after(prepared, contest)
            verdict = self._judge(contest, after)
            xz = xz_bits_per_byte([each.text for each in corpus.train], [each.text for each in corpus.held_out])
        with self._phase("publish"):
            run = Finished(
                name=self.folder.name,
                recipe_name=self.recipe_name,
                recipe=self.recipe,
                prepared=prepared,
                corpus=corpus,
                contest=contest,
                after=after,
                verdict=verdict,
                xz_bits_per_byte=xz,
                lineage=self._lineage(corpus, {**training, "seconds": self.seconds}),
                log=log,
            )
            records = records_of(run)
            version = self._publish(lease, prepared, records, verdict)
        self._checkpoints().clear()
        return Result(
            version=version,
            before=total(contest.before.measured.documents),
            after=total(after.measured.documents),
            xz_bits_per_byte=xz,
            samples=(contest.before.samples[0], after.samples[0]),
            verdict=verdict,
            seconds=self.seconds,
        )

    def help_out(self) -> None:
        """What the other processes of a run do: the same steps of training, and nothing else."""
        corpus = self._load()
        prepared = prepare(self.recipe, corpus)
        plan = self._plan(prepared, corpus)
        measuring = Measuring(recipe=self.recipe, documents=corpus.held_out, check=self.interruption.check)
        self._train(prepared, plan, measuring, corpus)

    def try_out(self, report: Callable[[int, float], None]) -> float:
        """Trains and returns the bits per byte on the validation documents; after each epoch `report` gets them too,
        and may raise. Publishes nothing."""
        corpus = self._load()
        prepared = prepare(self.recipe, corpus)
        plan = self._plan(prepared, corpus)
        measuring = Measuring(recipe=self.recipe, documents=corpus.held_out, check=self.interruption.check)

        def validate(epoch: int) -> dict[str, float]:
            value = total(measuring.score(prepared.model, prepared.tokenizer, corpus.validation)).bits_per_byte
            report(epoch, value)
            return {"validation_bits_per_byte": value}

        log = train(
            prepared.model,
            plan.rows,
            plan.arguments,
            optimizer=self.recipe.training.optimizer,
            report=lambda done, total, loss: None,
            interruption=self.interruption,
            epoch_ends=plan.epoch_ends or (plan.arguments.max_steps,),
            on_epoch_end=validate,
            compiled=self.recipe.training.compile,
        )
        values = [entry["validation_bits_per_byte"] for entry in log if "validation_bits_per_byte" in entry]
        return values[-1]

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.interruption.check()
        self.status.phase(name)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start
        self.console.print(f"{name}: {self.seconds[name]:.1f} s", highlight=False)

    def _load(self) -> Corpus:
        corpus = load_corpus(self.recipe.data, check=self.interruption.check)
        for reason, count in corpus.skipped.items():
            self.console.print(f"skipped {count:,} rows: {reason}", highlight=False, markup=False)
        return corpus

    def _plan(self, prepared: Prepared, corpus: Corpus) -> Plan:
        dropout = self.recipe.tokenizer.dropout if self.recipe.tokenizer else 0.0
        encode = partial(
            encode_documents,
            prepared.tokenizer.backend_tokenizer,
            corpus.train,
            self.recipe.rows,
            end_of_text=prepared.end_of_text,
            cache=self.work_dir / "tokens",
            dropout=dropout,
            check=self.interruption.check,
        )
        plan = plan_training(self.recipe, encode, pad=prepared.pad, output_dir=self.work_dir)
        self.console.print(
            f"{plan.arguments.max_steps:,} steps over {len(plan.rows):,} rows, {plan.padding_share:.1%} padding",
            highlight=False,
        )
        return plan

    def _contest(self, prepared: Prepared, corpus: Corpus) -> Contest:
        measuring = Measuring(recipe=self.recipe, documents=corpus.held_out, check=self.interruption.check)
        measured, samples = measuring.measure(prepared.model, prepared.tokenizer, "before")
        opponent = find_opponent(self.folder, self.options.feedback_dir)
        champion = None
        if opponent.version is not None:
            numbers, texts = measuring.measure_version(self.folder.version_path(opponent.version))
            champion = Outcome(measured=numbers, samples=texts)
        before = Outcome(measured=measured, samples=samples)
        return Contest(measuring=measuring, before=before, opponent=opponent, champion=champion)

    def _train(self, prepared: Prepared, plan: Plan, measuring: Measuring, corpus: Corpus) -> list[dict[str, float]]:
        model: Any = prepared.model
        if self.recipe.lora is not None:
            torch.manual_seed(self.recipe.seed)
            model = attach(model, self.recipe.lora)

        def validate(epoch: int) -> dict[str, float]:
            parts = total(measuring.score(model, prepared.tokenizer, corpus.validation))
            loss = parts.nats / parts.tokens
            self.console.print(f"epoch {epoch}: validation loss {loss:.4f}", highlight=False)
            return {"validation_loss": loss}

        with report_progress(
            self.console,
            steps=plan.arguments.max_steps,
            tokens_per_step=plan.tokens_per_step,
            status=self.status,
            clock=self.speed.seconds,
        ) as report:
            log = train(
                model,
                plan.rows,
                plan.arguments,
                optimizer=self.recipe.training.optimizer,
                report=report,
                interruption=self.interruption,
                checkpoints=self._checkpoints(),
                saving=Saving(steps=self.recipe.training.save_steps or None, minutes=self.recipe.training.save_minutes),
                budget=self._budget(prepared.model),
                epoch_ends=plan.epoch_ends,
                on_epoch_end=validate if corpus.validation else None,
                compiled=self.recipe.training.compile,
                speed=self.speed,
                tell=partial(self.console.print, highlight=False, markup=False),
            )
        if self.recipe.lora is not None:
            if is_main():
                save_adapter(model, self.work_dir / "adapter")
            prepared.model = merge(model)
            prepared.model.config.use_cache = True
        return log

    def _training_record(self, prepared: Prepared, plan: Plan) -> dict[str, Any]:
        rows = self.recipe.rows
        # How far attention reaches in packed rows is not known: it is left out there.
        reach = rows.block_size if rows.kind == "blocks" else 0
        return training_record(
            self.speed,
            tokens_per_step=plan.tokens_per_step,
            padding_share=plan.padding_share,
            flops_per_token=training_flops_per_token(prepared.model, reach),
            devices=world_size(),
            seconds=self.seconds,
        )

    def _checkpoints(self) -> Checkpoints:
        warn = partial(self.console.print, highlight=False, markup=False)
        return Checkpoints(path=self.work_dir / "checkpoints", key=self.options.key, warn=warn)

    def _budget(self, model: PreTrainedModel) -> Budget | None:
        if self.options.max_minutes is None:
            return None
        reserve = reserve_seconds(
            evaluation=self.seconds.get("evaluate before", 0.0), model_bytes=4 * model.num_parameters()
        )
        return Budget(60 * self.options.max_minutes, reserve=reserve, started=self.started)

    def _measure_after(self, prepared: Prepared, contest: Contest) -> Outcome:
        prepared.unpad()
        measured, samples = contest.measuring.measure(prepared.model, prepared.tokenizer, "after")
        return Outcome(measured=measured, samples=samples)

    def _judge(self, contest: Contest, after: Outcome) -> Verdict:
        return judge(
            self.recipe.gate,
            new=after.measured,
            base=contest.before.measured,
            champion=contest.champion.measured if contest.champion else None,
            opponent=contest.opponent,
            forced=self.options.force,
        )

    def _lineage(self, corpus: Corpus, training: dict[str, Any]) -> dict[str, Any]:
        lineage = trained_lineage(self.folder, self.recipe_name, self.recipe, corpus, key=self.options.key)
        return {**lineage, "training": training}

    def _publish(self, lease: Lease, prepared: Prepared, records: Records, verdict: Verdict) -> Path:
        after = records.evaluation["after"]["bits_per_byte"]
        return publish_version(
            self.folder,
            lease,
            prepared.model,
            prepared.tokenizer,
            records,
            reason=f"recipe {self.recipe_name}: {after:.3f} bits per byte; {verdict.summary}",
            alias=CHAMPION if verdict.accepted else CANDIDATE,
            check=self.interruption.check,
        )
