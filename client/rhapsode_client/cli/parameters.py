"""Options that several commands have, given to each of them as one argument."""

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any


def gathers(
    command: Callable[..., None],
    name: str,
    options: Mapping[str, Any],
    gathered: Callable[[Mapping[str, Any]], Any] = dict,
) -> Callable[..., None]:
    """`command`, whose argument `name` becomes these options: annotated types by name, of which typer makes them."""
    own = [each for each in signature(command).parameters.values() if each.name != name]
    added = [Parameter(each, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for each, kind in options.items()]

    @wraps(command)
    def run(**given: Any) -> None:
        taken = gathered({each: given.pop(each) for each in options})
        command(**given, **{name: taken})

    parameters = sorted([*own, *added], key=lambda each: each.kind)
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run
