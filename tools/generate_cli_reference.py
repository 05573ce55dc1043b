"""Generates the reference in docs/cli.md from the help screens, or with --check says whether it is the committed one.

python tools/generate_cli_reference.py [--check]
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rhapsode_client.cli.app import COMMANDS, app
from typer.main import get_command
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cli.md"
MARK = "<!-- What follows is generated from the help screens: `python tools/generate_cli_reference.py`. -->\n"
CONNECTION = "\nConnection:\n"
"""Where a screen begins with what all of them share."""


def reference() -> str:
    """A section for the list of commands, for each command, and for each command of a group."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    sections = [section for name in COMMANDS for section in _sections(name, commands[name])]
    return "\n".join([_section("### rhapsode", screen()), *sections])


def _sections(name: str, command: object) -> Iterator[str]:
    yield _section(f"### rhapsode {name}", screen(name))
    for each in getattr(command, "commands", {}):
        yield _section(f"#### rhapsode {name} {each}", screen(name, each))


def _section(heading: str, shown: str) -> str:
    own, shared, _ = shown.partition(CONNECTION)
    ending = "\nAnd the options of [a connection](#connection).\n" if shared else ""
    return f"{heading}\n\n```text\n{own.strip()}\n```\n{ending}"


def screen(*words: str) -> str:
    """What `rhapsode WORDS --help` shows, 80 columns wide."""
    shown = CliRunner().invoke(app, [*words, "--help"], prog_name="rhapsode").stdout
    return "".join(f"{line.rstrip()}\n" for line in shown.splitlines())


def main() -> int:
    """Exit code 1: the committed page is not what the help screens say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    check = parser.parse_args().check
    committed = PAGE.read_text("utf-8")
    page = f"{committed.partition(MARK)[0]}{MARK}\n{reference()}"
    if not check:
        PAGE.write_text(page, "utf-8")
    elif committed != page:
        print("docs/cli.md is not what the help screens say: run `make docs` and commit it.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
