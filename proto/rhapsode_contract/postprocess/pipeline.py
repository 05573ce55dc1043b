"""A list of steps, from and to the document postprocess.json."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from . import steps

SCHEMA_VERSION = 1
Step = Callable[[str], str]

_BUILDERS: Mapping[str, Callable[[], Step]] = {
    "ftfy": steps.build_ftfy,
    "whitespace": lambda: steps.whitespace,
    "quotes": lambda: steps.quotes,
    "last_sentence": lambda: steps.last_sentence,
    "capitals": lambda: steps.capitals,
    "repeated_sentences": lambda: steps.repeated_sentences,
}
STEPS = tuple(_BUILDERS)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Steps by name, applied in order.

    >>> Pipeline(["whitespace", "last_sentence"]).apply("One  day.  Then she")
    'One day.'

    Raises ValueError for an unknown step, and for one whose library is not installed.
    """

    steps: Sequence[str] = ()
    _functions: tuple[Step, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        functions = tuple(_build(index, name) for index, name in enumerate(self.steps))
        object.__setattr__(self, "_functions", functions)

    @classmethod
    def from_document(cls, document: object, *, where: str = "postprocess") -> Self:
        """The pipeline that a document (parsed JSON or YAML) describes. Raises ValueError naming `where` and field."""
        try:
            return cls(_steps_of(document))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """The pipeline in the file at `path`. Raises ValueError naming file and field."""
        try:
            document = json.loads(path.read_bytes())
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON: {error}") from None
        return cls.from_document(document, where=str(path))

    def as_document(self) -> dict[str, Any]:
        """What `from_document` takes."""
        return {"schema_version": SCHEMA_VERSION, "steps": list(self.steps)}

    @property
    def is_empty(self) -> bool:
        """Whether `apply` returns every text as it is."""
        return not self.steps

    def apply(self, text: str) -> str:
        """The text after all steps. `text` is a whole answer: the last sentence of a part of it would be another."""
        for function in self._functions:
            text = function(text)
        return text


def _steps_of(document: object) -> list[str]:
    if not isinstance(document, Mapping):
        raise ValueError(f'expected an object such as {{"schema_version": 1, "steps": []}}, found {document!r}')
    for name in ("schema_version", "steps", *document):
        if name not in document or name not in ("schema_version", "steps"):
            raise ValueError(f"{name}: {'unknown field' if name in document else 'missing'}")
    version, names = document["schema_version"], document["steps"]
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ValueError(f"schema_version: {version!r} is not {SCHEMA_VERSION}")
    if not isinstance(names, list):
        raise ValueError(f"steps: {names!r} is not a list of names")
    return names


def _build(index: int, name: object) -> Step:
    if not isinstance(name, str) or name not in _BUILDERS:
        raise ValueError(f"steps[{index}]: no step {name!r}; there are: {', '.join(STEPS)}")
    try:
        return _BUILDERS[name]()
    except ImportError as error:
        raise ValueError(f"steps[{index}]: {error}") from None
