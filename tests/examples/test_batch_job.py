"""The batch job, with the real server and with one that fails for a row."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from rhapsode_client import Client, Overloaded
from rhapsode_client.testing import FakeServer

from .conftest import EXAMPLES, Run

COMMAND = (sys.executable, "classify.py", "reviews.csv")
LABELS = ("--label", "good", "--label", "bad")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_row_gets_the_likeliest_label(run: Run, client: Client, tmp_path: Path) -> None:
    done = run(*COMMAND, str(tmp_path / "out.csv"), *LABELS, example="batch_job")
    labelled = rows(tmp_path / "out.csv")
    assert [row["id"] for row in labelled] == ["1", "2", "3", "4"]
    assert {row["label"] for row in labelled} <= {"good", "bad"}
    assert all(0 < float(row["probability"]) < 1 and not row["error"] for row in labelled)
    prompt = f"Review: {labelled[0]['text']}\nThis review is"
    assert client.generate(prompt, choices=[" good", " bad"], temperature=0).text == f" {labelled[0]['label']}"
    assert done.stderr == "every row has its label\n"


def test_a_row_that_fails_is_told_apart(tmp_path: Path) -> None:
    with FakeServer() as server:
        server.fail(Overloaded("busy"), prompt="Review: It does what it says.\nThis review is")
        server.reply(" good")
        environment = {"RHAPSODE_ADDRESS": server.address, "RHAPSODE_RETRIES": "0"}
        command = [*COMMAND, str(tmp_path / "out.csv"), *LABELS]
        done = subprocess.run(
            command, cwd=EXAMPLES / "batch_job", env=environment, capture_output=True, text=True, check=False
        )
        assert [list(request.constraint.choices.texts) for request in server.requests] == [[" good", " bad"]] * 4
    assert (done.returncode, done.stderr) == (1, "1 rows failed\n")
    assert [row["error"] for row in rows(tmp_path / "out.csv")] == ["", "", "busy", ""]
