"""The audit finds what is affected and nothing else."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "tools" / "audit.py"
PINS = "# pins\nGood_One==1.5.0\nother==2.0\n"


def advisory(*events: dict[str, str], name: str = "good-one", **more: object) -> dict[str, object]:
    affected = {
        "package": {"name": name, "ecosystem": more.pop("ecosystem", "PyPI")},
        "ranges": [{"type": "ECOSYSTEM", "events": list(events)}],
        "versions": more.pop("versions", []),
    }
    return {"id": "PYSEC-1", "summary": "It bites.", "affected": [affected], **more}


@pytest.fixture
def audit(tmp_path: Path):
    """Audits these pins by these advisories, with a copy of the program."""

    def run(*advisories: dict[str, object]) -> tuple[int, str]:
        (tmp_path / "tools").mkdir(exist_ok=True)
        program = tmp_path / "tools" / "audit.py"
        program.write_text(PROGRAM.read_text())
        (tmp_path / "constraints.txt").write_text(PINS)
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            for number, each in enumerate(advisories):
                archive.writestr(f"PYSEC-{number}.json", json.dumps(each))
        command = [sys.executable, str(program), str(tmp_path / "all.zip")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.stderr
        return done.returncode, done.stdout.strip()

    return run


@pytest.mark.parametrize(
    "hit",
    [
        advisory({"introduced": "0"}),
        advisory({"introduced": "1.5"}, {"fixed": "1.5.1"}),
        advisory({"introduced": "0"}, {"last_affected": "1.5.0"}),
        advisory({"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "1.4"}),
        advisory({"introduced": "not a version"}),
        advisory(versions=["1.5.0"]),
        advisory({"introduced": "0"}, name="Good.One"),
    ],
)
def test_an_affected_version_is_found(audit, hit: dict[str, object]):
    assert audit(hit) == (1, "good-one 1.5.0: PYSEC-1 It bites.")


def test_what_does_not_affect_a_pin_is_not_reported(audit):
    others = (
        advisory({"introduced": "0"}, {"fixed": "1.5"}),
        advisory({"introduced": "1.5.1"}),
        advisory({"introduced": "0"}, {"last_affected": "1.4"}),
        advisory({"introduced": "0"}, name="absent"),
        advisory({"introduced": "0"}, ecosystem="npm"),
        advisory({"introduced": "0"}, withdrawn="2026-01-01T00:00:00Z"),
    )
    assert audit(*others) == (0, "none of 2 pinned versions has a known vulnerability")


def test_what_is_no_zip_is_refused(tmp_path: Path):
    done = subprocess.run([sys.executable, PROGRAM, tmp_path / "none.zip"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"audit: error: {tmp_path / 'none.zip'} is no zip of advisories" in done.stderr
