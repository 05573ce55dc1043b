"""New texts to rate: two versions of a model continue the same prompts from the same seed."""

from collections.abc import Sequence
from pathlib import Path

from rhapsode_contract.model_directory import ModelFolder
from rhapsode_contract.postprocess import Pipeline

from ..errors import ConfigError, DataError, SourceError
from ..evaluation.samples import draw_samples
from ..publish.source import load_source


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are not blank. Raises DataError."""
    try:
        prompts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from None
    if not prompts:
        raise DataError(f"{path}: no prompts: write one on each line")
    return prompts


def draw_pairs(
    folder: ModelFolder, a: int, b: int, prompts: Sequence[str], *, seed: int, max_new_tokens: int
) -> list[tuple[str, str, str]]:
    """(prompt, text of a, text of b), post-processed as each version says. Raises NoSuchVersion, ConfigError."""
    if max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens: {max_new_tokens} is less than 1")
    texts = [_draw(folder.version_path(version), prompts, seed, max_new_tokens) for version in (a, b)]
    return list(zip(prompts, *texts, strict=True))


def _draw(version: Path, prompts: Sequence[str], seed: int, max_new_tokens: int) -> list[str]:
    model, tokenizer = load_source(version)
    samples = draw_samples(
        model.float(),
        tokenizer,
        prompts,
        stage="after",
        seed=seed,
        max_new_tokens=max_new_tokens,
        postprocess=_pipeline(version).apply,
    )
    return [sample.text for sample in samples]


def _pipeline(version: Path) -> Pipeline:
    path = version / "postprocess.json"
    try:
        return Pipeline.load(path) if path.exists() else Pipeline()
    except ValueError as error:
        raise SourceError(str(error)) from None
