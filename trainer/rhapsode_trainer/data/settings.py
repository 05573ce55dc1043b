"""What a recipe says about its documents and the rows made of them.

Field paths in messages are relative to the class; whoever builds the recipe puts the rest in front.
"""

import re
from dataclasses import dataclass

from .cleaning import STEPS

FORMATS = ("auto", "text", "jsonl", "csv", "parquet", "fairseq")
_REVISION = re.compile(r"[0-9a-f]{40}")


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raises ValueError, naming the field and its value, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{field}: {value!r} {rule}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Where documents come from: files, or a dataset of the Hugging Face hub.

    `path` is a file, a folder (every file of a known format in it, by name), a glob, or `package:` and a path for what
    is shipped. A text file is one document; a line or row of any other format is one. A dataset of the hub is pinned by
    the commit in `revision`, so that the same recipe reads the same rows tomorrow.

    `heading` is a regular expression: where it is set, a line (of a text file) or row that matches it and stands
    between blank ones begins a document, and those that follow belong to it.
    """

    path: str = ""
    format: str = "auto"
    hub: str = ""
    hub_config: str = ""
    split: str = "train"
    revision: str = ""
    heading: str = ""

    def __post_init__(self) -> None:
        require(bool(self.path) != bool(self.hub), "path", self.path, "is needed, or hub, and not both")
        require(self.format in FORMATS, "format", self.format, f"is not one of {', '.join(FORMATS)}")
        if self.hub:
            pinned = _REVISION.fullmatch(self.revision) is not None
            require(pinned, "revision", self.revision, "is not a commit of the dataset: 40 characters of 0-9a-f")
        require(self.hub != "" or self.revision == "", "revision", self.revision, "is of use only with hub")
        try:
            re.compile(self.heading)
        except re.error as error:
            raise ValueError(f"heading: {self.heading!r} is not a regular expression: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Documents: from where, how they are cleaned, and which of them training never sees.

    A row of a source gives the text of a document in `text_field` and, where `prompt_field` is set, what is to come
    before it. `part` is the leading share of the documents of `sources` that is used at all. `held_out` (for the final
    numbers) and `validation` (for those while training) are shares of the documents, chosen by the hash of their text
    and `split_salt`; sources of their own may stand in their place. A row that cannot be used ends the run
    (`on_bad_row: fail`) or is counted (`skip`).
    """

    sources: tuple[SourceConfig, ...]
    text_field: str = "text"
    prompt_field: str = ""
    on_bad_row: str = "fail"
    max_document_bytes: int = 16 * 2**20
    cleaning: tuple[str, ...] = ()
    deduplicate: bool = True
    part: float = 1.0
    validation: float = 0.0
    validation_sources: tuple[SourceConfig, ...] = ()
    held_out: float = 0.0
    held_out_sources: tuple[SourceConfig, ...] = ()
    split_salt: str = ""

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "sources", self.sources, "is empty")
        require(self.text_field != "", "text_field", self.text_field, "is empty")
        different = self.text_field != self.prompt_field
        require(different, "prompt_field", self.prompt_field, "is the same field as text_field")
        require(self.on_bad_row in ("fail", "skip"), "on_bad_row", self.on_bad_row, "is neither fail nor skip")
        require(self.max_document_bytes >= 1, "max_document_bytes", self.max_document_bytes, "is less than 1")
        for step in self.cleaning:
            require(step in STEPS, "cleaning", step, f"is not one of {', '.join(STEPS)}")
        require(0 < self.part <= 1, "part", self.part, "is not above 0 and at most 1")
        self._check_split()
        for source in (*self.sources, *self.validation_sources, *self.held_out_sources):
            plain = not (self.prompt_field and source.heading)
            require(
                plain, "prompt_field", self.prompt_field, "does not go with a heading: it makes one text of many rows"
            )

    def _check_split(self) -> None:
        for name, share, sources in (
            ("validation", self.validation, self.validation_sources),
            ("held_out", self.held_out, self.held_out_sources),
        ):
            require(0 <= share < 1, name, share, "is not between 0 and 1")
            require(share == 0 or not sources, name, share, f"is a share, and {name}_sources are there too")
        some = self.held_out > 0 or len(self.held_out_sources) > 0
        require(
            some, "held_out", self.held_out, "is needed, or held_out_sources: nothing else tells how good a model is"
        )
        require(
            self.held_out + self.validation < 1, "validation", self.validation, "and held_out leave nothing to train"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsConfig:
    """How documents become rows of `block_size` tokens: `packed` one after the other, or each cut into `blocks`.

    `loss_on: story` leaves the prompt out of the loss. `separator` stands between the prompt and the text, and belongs
    to the prompt.
    """

    kind: str
    block_size: int
    loss_on: str = "all"
    separator: str = ""

    def __post_init__(self) -> None:
        require(self.kind in ("packed", "blocks"), "kind", self.kind, "is neither packed nor blocks")
        require(self.block_size >= 2, "block_size", self.block_size, "is less than 2 tokens")
        require(self.loss_on in ("all", "story"), "loss_on", self.loss_on, "is neither all nor story")
