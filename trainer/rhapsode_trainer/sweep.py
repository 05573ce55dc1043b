"""Search for hyperparameters by Optuna: tree-structured Parzen estimator, hopeless trials pruned by the median.

Every finished trial is kept in a sqlite file, so a search that was stopped or killed goes on; the trial that was under
way then is tried again. What a trial tries depends on nothing but the seed and the trials before it: a search in pieces
and one without a break try the same.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, GateRejected

if TYPE_CHECKING:
    from optuna import Study, Trial

Report = Callable[[int, float], None]
Objective = Callable[[Mapping[str, Any], Report], float]
_STUDY = "sweep"
_SPACE = "space"


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included: integers if both are; `log` spreads them over their magnitude."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        for name, bound in (("low", self.low), ("high", self.high)):
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
                raise ValueError(f"{name}: {bound!r} is not a number (in YAML 1e-5 is a text, 1.0e-5 a number)")
        if self.low > self.high:
            raise ValueError(f"low: {self.low!r} is more than high, {self.high!r}")
        if not isinstance(self.log, bool) or (self.log and self.low <= 0):
            raise ValueError(f"log: {self.log!r} is not false, or true with a low above 0")

    def suggest(self, trial: "Trial", name: str) -> float:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """One of some numbers, texts or truth values."""

    choices: tuple[bool | int | float | str, ...]

    def __post_init__(self) -> None:
        if not self.choices or not all(isinstance(choice, bool | int | float | str) for choice in self.choices):
            raise ValueError(f"choices: {list(self.choices)!r} is not a list of numbers, texts or truth values")

    def suggest(self, trial: "Trial", name: str) -> Any:
        return trial.suggest_categorical(name, self.choices)


Space = Mapping[str, Range | Choices]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A finished trial: number from 1, what it tried, and its value; None if it was pruned or diverged."""

    number: int
    overrides: Mapping[str, Any]
    value: float | None


def parse_space(document: object) -> dict[str, Range | Choices]:
    """The space that a recipe describes, by dotted field: {low, high, log} or {choices}. Raises ValueError (field)."""
    if not isinstance(document, Mapping) or not document:
        raise ValueError(f"{document!r} is not a mapping of fields to what is tried for them")
    return {str(name): _parse_parameter(str(name), fields) for name, fields in document.items()}


def sweep(
    objective: Objective,
    space: Space,
    *,
    trials: int,
    storage: Path,
    seed: int = 0,
    on_trial: Callable[[Tried], None] = lambda tried: None,
) -> dict[str, Any]:
    """Runs until `trials` are finished, with those in the file `storage`; returns the overrides of the lowest value.

    `objective(overrides, report)` trains with the overrides and returns the value to minimise. It calls
    report(step, value) on the way, which stops a hopeless trial with an exception that must be let through. A value
    that is not finite, and GateRejected, count as a trial without a value; any other exception ends the search.

    Raises ConfigError (trials, storage, missing library), GateRejected when no trial reached a value.
    """
    if trials < 1:
        raise ConfigError(f"--trials: {trials} is less than 1")
    optuna = _import_optuna()
    with _naming(storage):
        study = _open(storage, space)
    while (done := len(_finished(study))) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=(seed * 1_000_003 + done) % 2**32)
        study.optimize(lambda trial: _try(study, trial, objective, space), n_trials=1)
        on_trial(_last(study))
    try:
        return study.best_params
    except ValueError:
        raise GateRejected(f"none of {trials} trials reached a value: they diverged or were pruned") from None


def _parse_parameter(name: str, fields: object) -> Range | Choices:
    try:
        if isinstance(fields, Mapping) and set(fields) == {"choices"} and isinstance(fields["choices"], list):
            return Choices(choices=tuple(fields["choices"]))
        if isinstance(fields, Mapping) and {"low", "high"} <= set(fields) <= {"low", "high", "log"}:
            return Range(**fields)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None
    raise ValueError(f"{name}: {fields!r} is neither {{low, high, log}} nor {{choices}}")


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs a library: pip install 'rhapsode-trainer[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open(storage: Path, space: Space) -> "Study":
    """The study in the file; a trial that its process did not live to finish is put in the queue again."""
    import optuna
    from sqlalchemy import URL

    study = optuna.create_study(
        storage=URL.create("sqlite", database=str(storage)).render_as_string(),
        study_name=_STUDY,
        load_if_exists=True,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(),
    )
    described = json.dumps({name: asdict(parameter) for name, parameter in space.items()}, sort_keys=True)
    if study.user_attrs.setdefault(_SPACE, described) != described:
        raise ConfigError(f"{storage}: a search over another space; remove the file to begin anew")
    study.set_user_attr(_SPACE, described)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _finished(study: "Study") -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _last(study: "Study") -> Tried:
    from optuna.trial import TrialState

    finished = _finished(study)
    last = max(finished, key=lambda trial: trial.datetime_complete)
    value = last.value if last.state == TrialState.COMPLETE else None  # a pruned one has the last that it reported
    return Tried(number=len(finished), overrides=last.params, value=value)


def _try(study: "Study", trial: "Trial", objective: Objective, space: Space) -> float:
    from optuna import TrialPruned

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise TrialPruned(f"at step {step}")

    overrides = {name: parameter.suggest(trial, name) for name, parameter in space.items()}
    try:
        value = objective(overrides, report)
    except GateRejected as error:
        raise TrialPruned(str(error)) from None
    except TrialPruned:
        raise
    except BaseException:
        study.enqueue_trial(overrides)
        raise
    if not math.isfinite(value):
        raise TrialPruned(f"the value is {value}")
    return value


@contextmanager
def _naming(storage: Path) -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise ConfigError(
            f"{storage}: cannot be used for the search: {error.args[0] if error.args else error}"
        ) from None
