"""What a person sets, as GenerateOptions. What is left empty is the server's default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from nicegui import ui

from rhapsode_client import GenerateOptions

MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number of GenerateOptions."""

    name: str
    hint: str
    step: float = 1.0
    initial: float | None = None


COMMON: Sequence[Number] = (
    Number(name="max_new_tokens", hint="The most tokens to generate", initial=120),
    Number(name="temperature", hint="0: always the likeliest token; higher: bolder", step=0.1),
    Number(name="top_p", hint="Draw from the likeliest tokens that together have this probability", step=0.05),
    Number(name="top_k", hint="Draw from so many of the likeliest tokens; 0: all"),
)
RARE: Sequence[Number] = (
    Number(name="min_p", hint="Draw from tokens so many times as probable as the likeliest", step=0.01),
    Number(name="typical_p", hint="Draw from the tokens of most typical information", step=0.05),
    Number(name="repetition_penalty", hint="Above 1: tokens that occurred are less likely", step=0.05),
    Number(name="presence_penalty", hint="Subtracted from the logits of tokens that occurred", step=0.1),
    Number(name="frequency_penalty", hint="The same, for each time that they occurred", step=0.1),
    Number(name="min_new_tokens", hint="The completion does not end before so many tokens"),
)
_WHOLE = {"max_new_tokens", "min_new_tokens", "top_k"}


class Form:
    """The settings, as fields of the page."""

    def __init__(self) -> None:
        self._numbers: dict[str, ui.number] = {}
        with ui.element("div").classes("fields"):
            self._add(COMMON)
        self._seed = ui.input("seed", placeholder="drawn anew", validation=_seed_fault).props(
            "dense stack-label clearable"
        )
        self._seed.classes("w-full").tooltip("The same seed gives the same text")
        self._stops = ui.input_chips("stop texts", new_value_mode="add-unique").props("dense stack-label clearable")
        self._stops.classes("w-full").tooltip("Texts that end the completion; press Enter after each")
        with ui.expansion("More").classes("w-full more"):
            with ui.element("div").classes("fields"):
                self._add(RARE)
            self._ignore_eos = ui.checkbox("go on at the end of the text").props("dense")

    def options(self) -> GenerateOptions:
        """What is set. Raises ValueError for a seed that is none."""
        found: dict[str, object] = {
            name: int(field.value) if name in _WHOLE else field.value
            for name, field in self._numbers.items()
            if field.value is not None
        }
        if fault := _seed_fault(self._seed.value):
            raise ValueError(f"seed: {fault}")
        if self._seed.value:
            found["seed"] = int(self._seed.value)
        if self._stops.value:
            found["stop"] = list(self._stops.value)
        if self._ignore_eos.value:
            found["ignore_eos"] = True
        return cast(GenerateOptions, found)

    def keep_seed(self, seed: int) -> None:
        """The next answers have this seed."""
        self._seed.value = str(seed)

    def _add(self, numbers: Sequence[Number]) -> None:
        for each in numbers:
            field = ui.number(each.name.replace("_", " "), value=each.initial, step=each.step, placeholder="default")
            field.precision = 0 if each.name in _WHOLE else None
            field.props("dense stack-label").tooltip(each.hint)
            self._numbers[each.name] = field


def _seed_fault(text: str | None) -> str | None:
    if not text:
        return None
    is_seed = text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= MAX_SEED
    return None if is_seed else f"a whole number from 0 to {MAX_SEED}"
