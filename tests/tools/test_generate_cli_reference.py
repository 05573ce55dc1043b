"""The command line's reference: complete, and that of the help screens."""

import subprocess
import sys
from pathlib import Path

from rhapsode_client.cli.app import COMMANDS
from rhapsode_client.cli.failures import ExitCode
from rhapsode_client.cli.slash import COMMANDS as SLASH_COMMANDS
from rhapsode_client.cli.target import calls_admin, calls_server

ROOT = Path(__file__).parents[2]
PAGE = "docs/cli.md"


def generate(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "generate_cli_reference.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def page() -> str:
    return (ROOT / PAGE).read_text("utf-8")


def test_the_committed_page_is_that_of_the_help_screens():
    done = generate(ROOT, "--check")
    assert done.returncode == 0, done.stderr


def test_a_difference_is_noticed_and_only_the_reference_is_made_anew(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "docs").mkdir()
    tool = "tools/generate_cli_reference.py"
    (tmp_path / tool).write_text((ROOT / tool).read_text("utf-8"), "utf-8")
    changed = page().replace("# The command line", "# By hand").replace("Continue PROMPT.", "Sing.")
    (tmp_path / PAGE).write_text(changed, "utf-8")
    done = generate(tmp_path, "--check")
    assert done.returncode == 1
    assert done.stderr == "docs/cli.md is not what the help screens say: run `make docs` and commit it.\n"
    assert generate(tmp_path).returncode == 0
    assert (tmp_path / PAGE).read_text("utf-8") == page().replace("# The command line", "# By hand")


def test_every_command_has_its_screen():
    assert "\n### rhapsode\n\n```text\nUsage: rhapsode [OPTIONS] COMMAND" in page()
    for name in COMMANDS:
        assert f"\n### rhapsode {name}\n\n```text\nUsage: rhapsode {name} " in page()
    assert "\n#### rhapsode admin promote\n" in page()


def test_what_is_written_by_hand_names_everything():
    written = page().partition("## Reference")[0]
    for code in ExitCode:
        assert f"\n| {code.value} |" in written
    for name in SLASH_COMMANDS:
        assert f"`/{name}" in written
    for option in _options(calls_server) | _options(calls_admin):
        assert f"`--{option.replace('_', '-')} " in written
        assert f"RHAPSODE_{option.upper()}`" in written


def _options(decorate) -> set[str]:
    def command(*, target) -> None: ...

    return set(decorate(command).__annotations__)
