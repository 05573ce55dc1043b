"""`make help` tells of every target."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGET = re.compile(r"^([a-z][\w-]*)\s*:(?!=)", re.M)
PROMISED = {"help", "install", "demo", "serve", "test", "check", "fmt", "lint", "types", "proto", "bench", "clean"}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str) -> str:
    """Run as by hand, also when a make runs these tests."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    done = subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def helped(text: str) -> set[str]:
    """The targets that come with a line about them."""
    return {match[1] for match in re.finditer(r"^make ([\w-]+) +\w.{9,}$", text, re.M)}


def test_help_lists_every_target():
    targets = set(TARGET.findall((ROOT / "Makefile").read_text("utf-8")))
    assert targets == helped(make("help"))
    assert targets >= PROMISED


def test_help_is_the_default():
    assert make() == make("help")


def test_every_target_is_phony():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert phony
    assert sorted(phony[1].split()) == sorted(TARGET.findall(makefile))


def test_targets_and_help_are_read():
    assert TARGET.findall("a: b ## A\nB := c\nc-d :\n\te: f\n$(X): a\n.PHONY: a\nx:=1") == ["a", "c-d"]
    assert helped("make a    Does all of it\nmake b\nmake c    ") == {"a"}
