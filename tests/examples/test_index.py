"""Every example is listed, described and run."""

import re
from pathlib import Path

from .conftest import EXAMPLES


def test_each_folder_is_in_the_list_and_has_a_page_and_a_test() -> None:
    folders = {folder.name for folder in EXAMPLES.iterdir() if folder.is_dir()}
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)/README\.md\) \|", (EXAMPLES / "README.md").read_text("utf-8"), re.M)
    assert {name for name, _ in listed} == {name for _, name in listed} == folders
    for name in folders:
        assert (EXAMPLES / name / "README.md").read_text("utf-8").startswith("# ")
        assert (Path(__file__).parent / f"test_{name}.py").is_file()
