"""One model measured: its likelihood of the held-out documents, and what its samples are like."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rhapsode_contract.postprocess import Pipeline
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .config import Recipe
from .data.assembly import Document
from .data.encoding import encode_documents
from .errors import GateRejected
from .evaluation.likelihood import score_documents
from .evaluation.overlap import measure_overlap
from .evaluation.quality import measure_form, measure_quality
from .evaluation.record import Measured
from .evaluation.samples import Sample, Stage, draw_samples
from .evaluation.scores import Likelihood, total
from .publish.source import load_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """The same documents, prompts and seeds for every model. `check` is called now and then and may raise."""

    recipe: Recipe
    documents: Sequence[Document]
    check: Callable[[], None]

    def measure(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, stage: Stage
    ) -> tuple[Measured, list[Sample]]:
        """The numbers, and the samples they were taken from, in the order of the recipe's prompts.

        Raises GateRejected when the likelihood is not finite: nothing could be drawn from such a model.
        """
        documents = self.score(model, tokenizer, self.documents)
        if not math.isfinite(total(documents).perplexity):
            what = "training diverged" if stage == "after" else f"the model {stage} training cannot be measured"
            raise GateRejected(f"{what}: the likelihood of the held-out documents is not finite")
        samples = self._samples(model, tokenizer, stage, self.recipe.sample.prompts, self.recipe.sample.count)
        texts = [sample.text for sample in samples]
        answers, references = self._answers(model, tokenizer, stage)
        measured = Measured(
            documents=documents,
            canary=self._canary(model, tokenizer),
            quality=measure_quality(texts),
            form=measure_form(texts),
            overlap=measure_overlap([answer.text for answer in answers], references) if answers else None,
        )
        return measured, [*samples, *answers]

    def measure_version(self, version: Path) -> tuple[Measured, list[Sample]]:
        """A published version, in fp32."""
        model, tokenizer = load_source(version)
        return self.measure(model.float(), tokenizer, "champion")

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]
    ) -> list[Likelihood]:
        """Of the texts alone: a prompt is context."""
        rows = replace(self.recipe.rows, loss_on="story")
        encoded = encode_documents(
            tokenizer.backend_tokenizer, documents, rows, end_of_text=tokenizer.eos_token_id, check=self.check
        )
        return score_documents(
            model,
            [document.ids for document in encoded],
            [len(document.text.encode()) for document in documents],
            context=model.config.max_position_embeddings,
            stride=self.recipe.evaluation.stride,
            batch_size=self.recipe.evaluation.batch_size,
            first_targets=[document.first_target for document in encoded],
            check=self.check,
        )

    def _answers(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, stage: Stage
    ) -> tuple[list[Sample], list[str]]:
        """Continuations of the first held-out prompts, and the texts that followed these."""
        chosen = [document for document in self.documents if document.prompt][: self.recipe.sample.held_out_prompts]
        prompts = [document.prompt + self.recipe.rows.separator for document in chosen]
        return self._samples(model, tokenizer, stage, prompts, 1), [document.text for document in chosen]

    def _samples(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        stage: Stage,
        prompts: Sequence[str],
        count: int,
    ) -> list[Sample]:
        config = self.recipe.sample
        return draw_samples(
            model,
            tokenizer,
            prompts,
            stage=stage,
            seed=config.seed,
            max_new_tokens=config.max_new_tokens,
            count=count,
            postprocess=Pipeline(self.recipe.postprocess).apply,
            check=self.check,
        )

    def _canary(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Likelihood | None:
        text = self.recipe.gate.canary_text
        return self.score(model, tokenizer, [Document(text=text, where="gate.canary_text")])[0] if text else None
