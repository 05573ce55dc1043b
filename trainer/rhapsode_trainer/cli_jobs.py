"""Commands that train: run, reproduce, sweep."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rhapsode_contract.model_directory import Lease, ModelFolder
from rich.console import Console

from .cli_options import Models, Name, make_directory, model_folder
from .config import Recipe, load_recipe, recipe_from, recipe_names
from .data.corpus import hash_inputs
from .environment import is_main, prepare_libraries, silence_libraries, world_size
from .errors import ConfigError, DataError, GateRejected, Interrupted
from .identity import identify, version_with_key
from .interruption import Interruption, watch_signals
from .leases import held_lease, skipping_if_held
from .options import Options
from .status import Status

if TYPE_CHECKING:
    from .run import Result, Run

jobs = typer.Typer()

WorkDir = Annotated[
    Path, typer.Option(help="Checkpoints and logs; never inside the model directory.", envvar="RHAPSODE_WORK_DIR")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the recipe; repeatable.")
]


@jobs.command()
def run(
    recipe: Annotated[str, typer.Argument(help=f"Recipe: {', '.join(recipe_names())}.")],
    name: Name,
    models: Models = Path("models"),
    work_dir: WorkDir = Path("work"),
    overrides: Overrides = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run even if nothing is new, and publish whatever the gate says.")
    ] = False,
    max_minutes: Annotated[
        float | None, typer.Option(help="Time for everything; the training schedule is fitted into it.")
    ] = None,
    feedback_dir: Annotated[
        Path | None, typer.Option(help="Verdicts of the servers on versions.", envvar="RHAPSODE_FEEDBACK_DIR")
    ] = None,
    textfile: Annotated[Path | None, typer.Option(help="Progress for Prometheus' textfile collector.")] = None,
    log_format: Annotated[str, typer.Option(help="text, or json: one line an event on standard output.")] = "text",
) -> None:
    """Train by a recipe and publish the result as a verified version.

    Exit codes: 0 published or skipped, 2 bad configuration, 3 data rejected, 4 model rejected, 75 interrupted, 1 else.
    """
    if log_format not in ("text", "json"):
        raise ConfigError(f"--log-format: {log_format!r} is neither text nor json")
    stream = sys.stdout if log_format == "json" else None
    resolved = load_recipe(recipe, overrides or ())
    options = Options(
        key=identify(resolved),
        force=force,
        feedback_dir=feedback_dir,
        max_minutes=max_minutes,
        textfile=textfile,
        stream=stream,
    )
    if is_main():
        _lead(recipe, resolved, models, name, work_dir / name, options)
    else:
        _help_out(recipe, resolved, models, name, work_dir / name, options)


def _lead(recipe_name: str, recipe: Recipe, models: Path, name: str, work_dir: Path, options: Options) -> None:
    """What the main process does, and the only one where there are no others."""
    console = Console(stderr=options.stream is not None)
    with (
        watch_signals() as interruption,
        _others_waiting() as begin,
        skipping_if_held(console),
        held_lease(models, name, interruption.check) as lease,
    ):
        version = version_with_key(lease.folder, options.key)
        if version is not None and not options.force:
            console.print(f"nothing new: version {version} was made of the same data, recipe and code", highlight=False)
            raise typer.Exit(0)
        begin()
        result = _execute(recipe_name, recipe, lease, work_dir, console, interruption, options)
        from .report import print_report

        print_report(console, result, models)
        if not result.verdict.accepted:
            raise GateRejected(f"{result.version} is kept as candidate: {result.verdict.summary}")


@contextmanager
def _others_waiting() -> Iterator[Callable[[], None]]:
    """The other processes of a run wait to hear whether there is something to do; at the end of the block: no."""
    begun = world_size() == 1

    def say(go: bool) -> None:
        nonlocal begun
        if not begun:
            begun = True
            prepare_libraries()
            from .training.processes import begin_together

            begin_together(go)

    try:
        yield lambda: say(True)
    finally:
        say(False)


def _help_out(recipe_name: str, recipe: Recipe, models: Path, name: str, work_dir: Path, options: Options) -> None:
    """What every process but the main one does. The main one alone has the lease, writes, and speaks."""
    with watch_signals() as interruption:
        prepare_libraries()
        from .training.processes import begin_together

        if not begin_together(go=False):
            return
        folder, console = model_folder(models, name), Console(quiet=True)
        from .run import Run

        silence_libraries()
        status = Status(None, key=options.key)
        Run(recipe_name, recipe, folder, work_dir, console, interruption, status, options).help_out()


@jobs.command()
def reproduce(
    version: Annotated[Path, typer.Argument(help="Folder of a version, such as models/poems/1.")],
    work_dir: WorkDir = Path("work"),
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest difference of a loss, in nats per token; for other machines.")
    ] = 0.0,
) -> None:
    """Run again what made a version, and compare the loss curves. Nothing is published.

    Exit codes: 0 the same curve, 1 another, 2 and 3 it cannot be run again, 75 interrupted.
    """
    from .commands.reproduce import compare_curves, recorded_run, render_curves

    console, recorded = Console(), recorded_run(version)
    recipe = recipe_from(recorded.config)
    _check_data(recorded.data.get("files"), hash_inputs(recipe.data))
    name = f"{version.resolve().parent.name}-{version.name}"
    models = work_dir / "reproduced"
    with watch_signals() as interruption, held_lease(models, name, interruption.check) as lease:
        options = Options(key=f"{identify(recipe)} again", force=True)
        result = _execute(recorded.recipe, recipe, lease, work_dir / name, console, interruption, options)
    comparison = compare_curves(recorded.log, recorded_run(result.version).log, tolerance=tolerance)
    console.print(render_curves(comparison))
    raise typer.Exit(0 if comparison.same else 1)


def _check_data(recorded: Any, present: dict[str, str]) -> None:
    changed = sorted(name for name in {*(recorded or {}), *present} if (recorded or {}).get(name) != present.get(name))
    if changed:
        raise DataError(f"not the data of that run: {', '.join(changed)}")


@jobs.command()
def sweep(
    recipe: Annotated[str, typer.Argument(help=f"Recipe: {', '.join(recipe_names())}.")],
    name: Name,
    trials: Annotated[int, typer.Option(min=1, help="Trials to finish, those of earlier searches included.")] = 20,
    models: Models = Path("models"),
    work_dir: WorkDir = Path("work"),
    overrides: Overrides = None,
) -> None:
    """Search for the settings that the recipe names under `search`, by the loss on its validation documents.

    What is found is trained again and goes through the gate like any other run. A stopped search goes on.
    """
    from .sweep import Tried, parse_space
    from .sweep import sweep as search

    console, resolved = Console(), load_recipe(recipe, overrides or ())
    if not resolved.search or not (resolved.data.validation or resolved.data.validation_sources):
        raise ConfigError("search: a sweep needs the fields to search and validation documents in the recipe")
    folder = work_dir / name / "sweep"
    make_directory("--work-dir", folder)

    def show(tried: Tried) -> None:
        value = "no value" if tried.value is None else f"{tried.value:.4f} bits per byte"
        console.print(f"trial {tried.number}: {value} with {dict(tried.overrides)}", highlight=False, markup=False)

    with watch_signals() as interruption, held_lease(models, name, interruption.check) as lease:

        def objective(found: Mapping[str, Any], report: Callable[[int, float], None]) -> float:
            tried = load_recipe(recipe, [*(overrides or ()), *_settings(found)])
            options = Options(key=identify(tried))
            return _run(recipe, tried, lease.folder, folder, Console(quiet=True), interruption, options).try_out(report)

        storage = folder / f"{identify(resolved)[:16]}.sqlite"
        space = parse_space(resolved.search)
        best = search(objective, space, trials=trials, storage=storage, seed=resolved.seed, on_trial=show)
    run(recipe, name, models, work_dir, [*(overrides or ()), *_settings(best)])


def _settings(found: Mapping[str, Any]) -> list[str]:
    return [f"{field}={json.dumps(value)}" for field, value in found.items()]


def _run(
    recipe_name: str,
    recipe: Recipe,
    folder: ModelFolder,
    work_dir: Path,
    console: Console,
    interruption: Interruption,
    options: Options,
) -> "Run":
    make_directory("--work-dir", work_dir)
    prepare_libraries()
    console.print("Loading torch and transformers ...", highlight=False)
    from .run import Run

    silence_libraries()
    status = Status(work_dir / "status.json", key=options.key, textfile=options.textfile, stream=options.stream)
    return Run(recipe_name, recipe, folder, work_dir, console, interruption, status, options)


def _execute(
    recipe_name: str,
    recipe: Recipe,
    lease: Lease,
    work_dir: Path,
    console: Console,
    interruption: Interruption,
    options: Options,
) -> "Result":
    work = _run(recipe_name, recipe, lease.folder, work_dir, console, interruption, options)
    with _last_phase_on_failure(work.status):
        result = work.execute(lease)
    work.status.phase("published" if result.verdict.accepted else "refused")
    return result


@contextmanager
def _last_phase_on_failure(status: Status) -> Iterator[None]:
    """How the run ended, for whoever reads its status."""
    try:
        yield
    except Interrupted:
        status.phase("interrupted")
        raise
    except GateRejected:
        status.phase("refused")
        raise
    except BaseException:
        status.phase("failed")
        raise
