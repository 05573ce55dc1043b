"""Settings from one table, the fields of a dataclass: flags, environment and --help come from it."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from typing import Any, NoReturn, TypeVar

from rhapsode_server.values import accept_any

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How users write a field: `parse` reads texts, the default's among them; `check` raises ValueError for a value."""

    parse: Callable[[str], Any]
    default: str | None
    unit: str
    help: str
    check: Callable[[Any], None]


def option(
    parse: Callable[[str], T], default: str | None, unit: str, help: str, check: Callable[[T], None] = accept_any
) -> T:
    """A field of the table; without a default it must be given."""
    metadata = {"option": Option(parse=parse, default=default, unit=unit, help=help, check=check)}
    made: T = field(metadata=metadata) if default is None else field(default=parse(default), metadata=metadata)
    return made


def check_fields(config: Any) -> None:
    """Raises ValueError naming the flag of a field that may not have its value."""
    for each in fields(config):
        with named(each):
            each.metadata["option"].check(getattr(config, each.name))


def load(
    table: Callable[..., T], parser: argparse.ArgumentParser, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> T:
    """What flags, else environment, else defaults give. Prints what is wrong and exits with 2."""
    try:
        return table(**dict(_given(table, flags, environment)))
    except ValueError as error:
        parser.error(str(error))


def _given(table: Any, flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for each in fields(table):
        chosen: Option = each.metadata["option"]
        # An empty variable is an unset one: compose files and manifests often pass them on so.
        text = flags[each.name] if flags[each.name] is not None else environment.get(_variable(each)) or None
        with named(each):
            if text is not None:
                yield each.name, chosen.parse(text)
            elif chosen.default is None:
                raise ValueError(f"missing; give {_flag(each)} {chosen.unit} or set {_variable(each)}")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in two lines, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


def add_flags(parser: argparse.ArgumentParser, table: Any) -> None:
    """Those of the table itself, then those of what it extends, under a title each."""
    for owner in (each for each in table.__mro__ if "title" in vars(each)):
        _add_group(parser, owner.title, [each for each in fields(owner) if each.name in owner.__annotations__])


def _add_group(parser: argparse.ArgumentParser, title: str, group: "Sequence[Field[Any]]") -> None:
    flags = parser.add_argument_group(title)
    for each in group:
        chosen: Option = each.metadata["option"]
        default = "required" if chosen.default is None else f"default: {chosen.default or 'none'}"
        flags.add_argument(_flag(each), metavar=chosen.unit, help=f"{chosen.help} ({default}; {_variable(each)})")


@contextmanager
def named(each: "Field[Any]") -> Iterator[None]:
    """Errors begin with the field's flag."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{_flag(each)}: {error}") from None


def _flag(each: "Field[Any]") -> str:
    return "--" + each.name.replace("_", "-")


def _variable(each: "Field[Any]") -> str:
    return "RHAPSODE_" + each.name.upper()
