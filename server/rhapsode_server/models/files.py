"""What the front-end reads of a version: everything but the weights."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rhapsode_contract.model_directory import files
from rhapsode_contract.postprocess import Pipeline

from rhapsode_server.engine.canary_file import read_canary
from rhapsode_server.engine.refusal import LOAD_FAILED, TOKENIZER_MISMATCH, ModelRefused
from rhapsode_server.models.defaults import read_defaults
from rhapsode_server.models.served import GenerationDefaults
from rhapsode_server.text.chat import ChatTemplate
from rhapsode_server.text.tokenizer import Tokenizer

# Whole in memory at times, here or in the worker: the largest known tokenizer has half as much.
_MOST_BYTES = {"tokenizer.json": 4 * files.SMALL_FILE} | dict.fromkeys(
    (
        *("config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"),
        *("postprocess.json", "canary.json", "evaluation.json"),
    ),
    files.SMALL_FILE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFiles:
    """How texts become ids and back, and what a request leaves unset."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    postprocess: Pipeline
    defaults: GenerationDefaults


def read_files(path: Path) -> VersionFiles:
    """Of the version at `path`. Raises ModelRefused naming the file at fault."""
    _check_sizes(path)
    with _refused(path):
        tokenizer = Tokenizer.load(path)
        _check_tokenizer(path, tokenizer)
        return VersionFiles(
            tokenizer=tokenizer,
            chat_template=ChatTemplate.load(path),
            postprocess=_read_pipeline(path / "postprocess.json"),
            defaults=read_defaults(path, tokenizer.vocabulary_size),
        )


def _check_sizes(path: Path) -> None:
    for name, most in _MOST_BYTES.items():
        size = (path / name).stat().st_size if (path / name).exists() else 0
        if size > most:
            raise ModelRefused(LOAD_FAILED, f"{name} has {size:,} bytes, more than {most:,}")


def _check_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """It must give the ids that the publisher's gave, or every prompt means something else to the model."""
    canary = read_canary(path)
    if canary is None or canary.tokenizer is None:
        return
    for probe in canary.tokenizer.probes:
        if tokenizer.encode(probe.text) != probe.ids:
            raise ModelRefused(
                TOKENIZER_MISMATCH, f"tokenizer.json gives other ids than were recorded for {probe.text!r}"
            )
    if hashlib.sha256((path / "tokenizer.json").read_bytes()).hexdigest() != canary.tokenizer.sha256:
        raise ModelRefused(TOKENIZER_MISMATCH, "tokenizer.json is not the one with which canary.json was recorded")


def _read_pipeline(file: Path) -> Pipeline:
    return Pipeline.load(file) if file.exists() else Pipeline()


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        # Callers see the reason: the file's name will do, where it lies is not theirs to know.
        raise ModelRefused(LOAD_FAILED, str(error).replace(f"{path}/", "")) from error
