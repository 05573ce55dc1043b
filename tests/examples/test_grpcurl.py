"""The tour from a shell, with whichever tool there is."""

import json
import os
import shutil
from pathlib import Path

import pytest
from rhapsode_client import Client

from .conftest import BIN, EXAMPLES, Run


def test_the_session_runs_with_buf(run: Run, client: Client, tmp_path: Path) -> None:
    check(run, client, path=without_grpcurl(tmp_path))


@pytest.mark.skipif(not shutil.which("grpcurl"), reason="needs grpcurl on the PATH: github.com/fullstorydev/grpcurl")
def test_the_session_runs_with_grpcurl(run: Run, client: Client) -> None:
    check(run, client, path=os.environ["PATH"])


def check(run: Run, client: Client, path: str) -> None:
    done = run("env", f"PATH={path}", "./session.sh", example="grpcurl")
    parts = done.stdout.split("== ")[1:]
    assert len(parts) == (EXAMPLES / "grpcurl" / "session.sh").read_text().count("\ncall ")
    models, whole, stream, choice, batch, score, tokens, refused = parts
    assert '"name": "poems"' in models
    expected = client.generate("The sea", temperature=0.8, seed=7, max_new_tokens=16)
    answer = json.loads(whole[whole.index("\n{\n") :])
    assert (answer["text"], answer["seed"]) == (expected.text, "7")
    assert stream.count('"delta"') >= 1
    assert '"finished"' in stream
    assert '"text": "yes"' in choice or '"text": "no"' in choice
    assert batch.count('"response"') == 3
    assert '"perplexity"' in score
    assert '"piece"' in tokens
    assert refused.rstrip().endswith("refused, as it should be")
    assert "sampling.top_p" in done.stderr


def without_grpcurl(folder: Path) -> str:
    """A PATH with the shell's tools and buf alone."""
    for tool in ("sh", "env", "echo"):
        (folder / tool).symlink_to(shutil.which(tool) or "")
    (folder / "buf").symlink_to(BIN / "buf")
    return str(folder)
