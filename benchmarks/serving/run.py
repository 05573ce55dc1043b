"""The whole run: model, limits, systems, loops, sections, and all of it as one value for the report."""

import os
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.serving import closed
from benchmarks.serving.closed import Cells
from benchmarks.serving.limits import Limits, Load, Shape, measure_limits
from benchmarks.serving.micro import AttentionStep, DecodeStep, attention_steps, decode_steps
from benchmarks.serving.model import make_model, read_shape
from benchmarks.serving.processes import Host, apart
from benchmarks.serving.profiles import CONTINUOUS, NO_PREFIXES, PROFILES, SERVER, Profile
from benchmarks.serving.sections import SHARES, OpenLoop, PrefixReuse, open_loop, prefix_reuse
from benchmarks.serving.systems import Kind, Setting, UnavailableError
from benchmarks.serving.workload import Request, Sizes, gpt2_tokenizer, make_requests, wikitext

NUM_REQUESTS = 128
ATTENTION_ROWS = 16
STEPS = 20
OPEN_LOOP_SHARE_OF_TIME = 0.15
PACKAGES = ("torch", "transformers", "ctranslate2", "grpcio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`minutes` bound the whole run: the first round and the sections are always done, later rounds if time is left."""

    device: str = "cpu"
    rounds: int = 3
    seconds: float = 3.0
    minutes: float = 14.0
    threads: int = 0
    data: Path | None = None
    only: str = ""
    callers: tuple[int, ...] = ()
    tiny: bool = False
    peers: bool = True
    sections: bool = True
    seed: int = 0


@dataclass(slots=True)
class Results:
    options: Options
    profile: Profile
    shape: Shape
    load: Load
    limits: Limits
    machine: dict[str, Any]
    start_seconds: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    cells: Cells = field(default_factory=dict)
    open_loops: dict[str, list[OpenLoop]] = field(default_factory=dict)
    prefix: PrefixReuse | None = None
    steps: dict[str, list[DecodeStep]] = field(default_factory=dict)
    attention: list[AttentionStep] = field(default_factory=list)


def run(options: Options, folder: Path) -> Results:
    """`folder` takes the model in every form, some 2 GB."""
    began, profile = time.monotonic(), PROFILES[options.device]
    say("model and workload")
    apart(partial(make_model, folder, tiny=options.tiny))
    tokenizer, text = gpt2_tokenizer(), wikitext(options.data)
    requests = make_requests(tokenizer, text, NUM_REQUESTS, Sizes(), options.seed)
    shape = apart(read_shape, folder)
    settings = {each: setting(options, profile, folder, each) for each in {kind.precision for kind in profile.kinds}}
    say("limits of the machine")
    limits = apart(measure_limits, options.device, settings[profile.precisions[0]].cores, profile.precisions, shape)
    results = Results(options, profile, shape, Load.of(requests), limits, describe_machine(options, settings))
    if options.sections:
        run_sections(results, settings, tokenizer, text)
    with ExitStack() as stack:
        hosts = start_hosts(results, settings, stack)
        closed.warm_up(hosts, requests, results.absent)
        deadline = began + 60 * options.minutes * (1 - OPEN_LOOP_SHARE_OF_TIME)
        results.cells = closed.measure(
            hosts,
            requests,
            rounds=options.rounds,
            seconds=options.seconds,
            deadline=deadline,
            absent=results.absent,
        )
        if options.sections:
            run_open_loops(results, hosts, requests)
    results.machine["minutes"] = (time.monotonic() - began) / 60
    return results


def setting(options: Options, profile: Profile, folder: Path, precision: str) -> Setting:
    return Setting(
        folder=folder / "saved",
        models=folder / "models",
        device=options.device,
        precision=precision,
        threads=options.threads,
        max_callers=max(options.callers or (profile.max_callers,)),
        server_flags=NO_PREFIXES,
    )


def run_sections(results: Results, settings: dict[str, Setting], tokenizer: Any, text: str) -> None:
    """What needs the machine for itself."""
    profile, shape = results.profile, results.shape
    say("decode steps of the engine")
    for precision in profile.precisions:
        results.steps[precision] = apart(
            decode_steps, settings[precision], profile.step_rows, profile.step_context, STEPS
        )
    if profile.attention_contexts:
        exact = settings[profile.precisions[0]]
        contexts = profile.attention_contexts
        results.attention = apart(attention_steps, exact, ATTENTION_ROWS, contexts, STEPS, shape)
    say("prefix reuse")
    kind = next(kind for kind in profile.kinds if kind.name == SERVER)
    with closing(Host(kind, replace(settings[kind.precision], server_flags=()))) as host:
        results.prefix = prefix_reuse(host, tokenizer, text)


def start_hosts(results: Results, settings: dict[str, Setting], stack: ExitStack) -> dict[Kind, Host]:
    hosts = {}
    for kind in chosen_kinds(results):
        say(f"starting {kind.title}")
        began = time.monotonic()
        try:
            hosts[kind] = Host(kind, settings[kind.precision])
        except UnavailableError as error:
            results.absent[kind.title] = str(error)
            say(f"  absent: {error}")
            continue
        stack.callback(hosts[kind].close)
        results.start_seconds[kind.title] = time.monotonic() - began
    return hosts


def chosen_kinds(results: Results) -> list[Kind]:
    """With the callers that the options leave of the profile's."""
    options, kinds = results.options, []
    for kind in results.profile.kinds:
        if options.only not in kind.title or not (options.peers or kind.name.startswith(SERVER)):
            continue
        callers = tuple(each for each in kind.callers if not options.callers or each in options.callers)
        kinds.append(replace(kind, callers=callers or options.callers))
    return kinds


def run_open_loops(results: Results, hosts: dict[Kind, Host], requests: Sequence[Request]) -> None:
    for kind, host in hosts.items():
        if kind.name not in (SERVER, CONTINUOUS):
            continue
        capacity = max(cell.tokens_per_second for (title, _), cell in results.cells.items() if title == kind.title)
        for share in SHARES:
            say(f"open loop of {kind.title} at {share:.0%}")
            loop = open_loop(host, requests, capacity, share, 2 * results.options.seconds)
            results.open_loops.setdefault(kind.title, []).append(loop)


def describe_machine(options: Options, settings: dict[str, Setting]) -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": next(iter(settings.values())).cores,
        "device": options.device if options.device == "cpu" else apart(device_name),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": {name: version(name) for name in PACKAGES},
        "load_average_at_start": os.getloadavg()[0],
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name()


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def say(what: str) -> None:
    print(what, flush=True)
