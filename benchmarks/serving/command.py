"""Run the benchmark and write its results."""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.serving.processes import quiet_libraries
from benchmarks.serving.profiles import PROFILES
from benchmarks.serving.report import as_json, as_markdown
from benchmarks.serving.run import Options, run

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    arguments = parse()
    quiet_libraries()
    options = Options(
        device=arguments.device,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        minutes=arguments.minutes,
        threads=arguments.threads,
        data=arguments.data,
        only=arguments.only,
        callers=tuple(arguments.callers),
        tiny=arguments.tiny,
        peers=not arguments.no_peers,
        sections=not arguments.no_sections,
    )
    with tempfile.TemporaryDirectory() as folder:
        results = run(options, Path(folder))
    text, folder = as_markdown(results), arguments.results
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"serving-{options.device}.md").write_text(text)
    (folder / f"serving-{options.device}.json").write_text(json.dumps(as_json(results), indent=2) + "\n")
    print(f"\n{text}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Measure serving, peers beside.")
    parser.add_argument("--device", choices=sorted(PROFILES), default="cpu", help="default: cpu")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken (default: 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each closed loop in a round (default: 3)")
    parser.add_argument("--minutes", type=float, default=14.0, help="no round but the first begins late (default: 14)")
    parser.add_argument("--threads", type=int, default=0, help="of every system; 0: what each takes for the machine")
    parser.add_argument("--callers", type=int, nargs="+", default=[], help="only these numbers of callers")
    parser.add_argument("--only", default="", metavar="TEXT", help="only systems whose names hold it")
    parser.add_argument("--no-peers", action="store_true", help="only this server and its engine")
    parser.add_argument("--no-sections", action="store_true", help="closed loops only")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the benchmark itself")
    parser.add_argument("--data", type=Path, help="a text to cut prompts from, instead of the excerpt of WikiText-2")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a folder (default: benchmarks/results)")
    return parser.parse_args()
