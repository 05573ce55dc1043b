"""The API reference: complete, and that of the .proto files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rhapsode.v1 import generation_pb2, models_pb2

ROOT = Path(__file__).parents[2]
FOLDER = Path("proto/rhapsode/v1")
LINK = re.compile(r"\]\(#([\w-]+)\)")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in (FOLDER, Path("tools")):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "api.md", tmp_path / "docs")
    return tmp_path


def generate(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "generate_reference.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def page(root: Path = ROOT) -> str:
    return (root / "docs" / "api.md").read_text("utf-8")


def section(text: str, heading: str) -> str:
    return re.split(r"^#+ ", text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.M)[0]


def test_the_committed_page_is_that_of_the_proto_files(copy: Path) -> None:
    done = generate(copy, "--check")
    assert done.returncode == 0, done.stderr


def test_a_changed_comment_is_noticed_and_taken_over(copy: Path) -> None:
    models = copy / FOLDER / "models.proto"
    models.write_text(
        models.read_text("utf-8").replace("  // Its number.\n", "  // Its number | <1> or `a|b`.\n"), "utf-8"
    )
    done = generate(copy, "--check")
    assert done.returncode == 1
    assert done.stderr == "docs/api.md is not what the .proto files say: run `make docs` and commit it.\n"
    assert page(copy) == page()
    assert generate(copy).returncode == 0
    assert r"| `version` | 1 | `uint64` |  | Its number \| &lt;1> or `a\|b`. |" in section(page(copy), "ModelVersion")


def test_an_invalid_proto_file_fails_and_changes_nothing(copy: Path) -> None:
    (copy / FOLDER / "broken.proto").write_text('syntax = "proto3";\nmessage {}\n')
    done = generate(copy)
    assert done.returncode != 0
    assert "broken.proto:2" in done.stderr
    assert page(copy) == page()


@pytest.mark.parametrize("file", [generation_pb2.DESCRIPTOR, models_pb2.DESCRIPTOR], ids=lambda file: file.name)
def test_everything_declared_has_a_place_and_a_description(file) -> None:
    text = page()
    for service in file.services_by_name.values():
        for method in service.methods:
            assert f"[{method.output_type.name}]" in section(text, method.name)
    for message in file.message_types_by_name.values():
        rows = section(text, message.name)
        for field in message.fields:
            row = next(line for line in rows.splitlines() if line.startswith(f"| `{field.name}` | {field.number} |"))
            assert len(row.split(" | ")[-1].strip(" |")) > 5, row
    for enum in file.enum_types_by_name.values():
        for value in enum.values:
            assert f"| `{value.name}` | {value.number} | " in section(text, enum.name)


def test_every_link_leads_to_a_heading() -> None:
    anchors = [heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", page(), re.M)]
    assert len(anchors) == len(set(anchors))
    assert set(LINK.findall(page())) <= set(anchors)
    for name in re.findall(r"\]\(([\w./]+\.md)\)", page()):
        assert (ROOT / "docs" / name).exists()


def test_statuses_of_the_comments_are_in_the_table() -> None:
    rows = section(page(), "Errors")
    for status, code in (("INVALID_ARGUMENT", 3), ("NOT_FOUND", 5), ("RESOURCE_EXHAUSTED", 8), ("UNAVAILABLE", 14)):
        assert f"| `{status}` | {code} | [GenerationService](#generationservice) | " in rows


def test_headings_that_github_could_not_tell_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from reference.markdown import Linker
    from reference.schema import File, Message, Schema

    message = Message(name="Errors", comment="", fields=[], oneofs={})
    file = File(name="a.proto", services=[], messages=[message], enums=[])
    with pytest.raises(ValueError, match="several headings would have the same anchor: errors"):
        Linker(Schema(package="rhapsode.v1", files=[file]))
