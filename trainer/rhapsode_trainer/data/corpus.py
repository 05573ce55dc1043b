"""The documents of one run: read from every source, cleaned, without duplicates, in three parts."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from ..errors import ConfigError, DataError
from .assembly import Document, check_rows, join_lines, make_documents
from .files import InputFile, find_files, hash_file
from .hub import hub_name, read_hub
from .outcome import Problem, Rows
from .readers import READERS
from .settings import DataConfig, SourceConfig
from .splitting import Part, part_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The documents of one run, in the order of their sources.

    `files` gives the sha256 of each input file by name, and the commit of each dataset; `skipped` counts rows that were
    left out, by reason.
    """

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    held_out: tuple[Document, ...]
    files: Mapping[str, str]
    skipped: Mapping[str, int]

    @property
    def held_out_bytes(self) -> int:
        """Size of the held-out texts, without their prompts, in bytes of UTF-8."""
        return sum(len(document.text.encode()) for document in self.held_out)


def hash_inputs(config: DataConfig) -> dict[str, str]:
    """What identifies the data without reading it into documents: see Corpus.files. Raises ConfigError."""
    return _hash_inputs(_find_inputs(config))


def load_corpus(config: DataConfig, *, check: Callable[[], None] = lambda: None) -> Corpus:
    """Reads, cleans and splits the documents. `check` is called for each of them and may raise.

    Raises ConfigError (no such file) and DataError (names file and line; too few documents).
    """
    inputs = _find_inputs(config)
    files = _hash_inputs(inputs)
    loading = _Loading(config, inputs, check)
    documents = loading.read(config.sources)
    documents = documents[: ceil(len(documents) * config.part)]
    parts = loading.split(documents)
    parts[Part.VALIDATION] += loading.read(config.validation_sources)
    parts[Part.HELD_OUT] += loading.read(config.held_out_sources)
    loading.separate(parts)
    _require_documents(config, parts)
    return Corpus(
        train=tuple(parts[Part.TRAIN]),
        validation=tuple(parts[Part.VALIDATION]),
        held_out=tuple(parts[Part.HELD_OUT]),
        files=files,
        skipped=dict(loading.skipped),
    )


def read_documents(config: DataConfig, sources: Sequence[SourceConfig]) -> tuple[Document, ...]:
    """The documents of other sources, read and cleaned as `config` says, none set apart.

    Raises ConfigError and DataError.
    """
    config = replace(config, sources=tuple(sources), validation_sources=(), held_out_sources=(), held_out=0.5)
    return tuple(_Loading(config, _find_inputs(config), lambda: None).read(config.sources))


class _Loading:
    """What is counted and remembered while documents are read."""

    def __init__(self, config: DataConfig, inputs: "_Inputs", check: Callable[[], None]) -> None:
        self._config = config
        self._inputs = inputs
        self._check = check
        self.skipped: Counter[str] = Counter()

    def read(self, sources: Sequence[SourceConfig]) -> list[Document]:
        """The documents of the sources; duplicates among them are left out."""
        seen: set[bytes] = set()
        documents = []
        for source in sources:
            for outcome in _read_source(source, self._inputs[source], self._config):
                self._check()
                if isinstance(outcome, Problem):
                    self._reject(outcome)
                elif self._config.deduplicate and (key := _digest(outcome.prompt, outcome.text)) in seen:
                    self.skipped["duplicate"] += 1
                else:
                    documents.append(outcome)
                    if self._config.deduplicate:
                        seen.add(key)
        return documents

    def split(self, documents: Sequence[Document]) -> dict[Part, list[Document]]:
        parts: dict[Part, list[Document]] = {part: [] for part in Part}
        shares = {"held_out": self._config.held_out, "validation": self._config.validation}
        for document in documents:
            parts[part_of(document.text, salt=self._config.split_salt, **shares)].append(document)
        return parts

    def separate(self, parts: dict[Part, list[Document]]) -> None:
        """A text that is measured on is not trained on: sources of different parts may overlap."""
        taken: set[bytes] = set()
        for part in (Part.HELD_OUT, Part.VALIDATION, Part.TRAIN):
            kept = [document for document in parts[part] if _digest(document.text) not in taken]
            self.skipped["in a part that is measured on, too"] += len(parts[part]) - len(kept)
            taken.update(_digest(document.text) for document in kept)
            parts[part] = kept
        self.skipped = +self.skipped

    def _reject(self, problem: Problem) -> None:
        if self._config.on_bad_row == "fail":
            raise DataError(f"{problem} (data.on_bad_row=skip leaves such rows out)")
        self.skipped[problem.reason.rstrip(":,")] += 1


def _read_source(source: SourceConfig, files: Sequence[InputFile], config: DataConfig) -> Iterator[Document | Problem]:
    fields = [config.text_field, config.prompt_field] if config.prompt_field else [config.text_field]
    if source.hub:
        yield from _documents(read_hub(source, fields), source, config)
    for file in files:
        if file.format == "text" and config.prompt_field:
            raise ConfigError(f"data.prompt_field: {file.name} is a text file: it has no fields")
        if file.path.stat().st_size == 0:
            yield Problem(file.name, "empty file")
        else:
            rows = READERS[file.format](file, fields, config.max_document_bytes)
            yield from _documents(rows, source, config, join=file.format == "text")


def _documents(
    rows: Rows, source: SourceConfig, config: DataConfig, *, join: bool = False
) -> Iterator[Document | Problem]:
    lines = check_rows(rows, config.max_document_bytes)
    if join or source.heading:
        lines = join_lines(lines, source.heading, config.max_document_bytes)
    return make_documents(lines, config.cleaning)


_Inputs = Mapping[SourceConfig, Sequence[InputFile]]


def _find_inputs(config: DataConfig) -> _Inputs:
    """The files of each source, listed once: a folder may grow while it is read."""
    sources = (*config.sources, *config.validation_sources, *config.held_out_sources)
    return {source: () if source.hub else find_files(source) for source in sources}


def _hash_inputs(inputs: _Inputs) -> dict[str, str]:
    files = {name: value for found in inputs.values() for file in found for name, value in hash_file(file)}
    return files | {hub_name(source): source.revision for source in inputs if source.hub}


def _require_documents(config: DataConfig, parts: Mapping[Part, Sequence[Document]]) -> None:
    total = sum(map(len, parts.values()))
    wanted = {
        Part.TRAIN: True,
        Part.HELD_OUT: True,
        Part.VALIDATION: config.validation > 0 or len(config.validation_sources) > 0,
    }
    for part, needed in wanted.items():
        if needed and not parts[part]:
            name = ", ".join(source.path or hub_name(source) for source in config.sources)
            raise DataError(f"{name}: {total} documents are too few: none is left for {part.value}")


def _digest(*texts: str) -> bytes:
    """Of any number of texts; their lengths keep neighbours apart."""
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.digest()
