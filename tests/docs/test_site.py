"""The documentation as a site: mkdocs.yml and tools/site_hooks.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from site_hooks import ELSEWHERE, on_page_content, place_in_site, relink  # noqa: E402

# What a browser would fetch from elsewhere; a link that a reader may follow is none of these.
LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\"\s>]+)|<link[^>]*rel=\"?stylesheet[^>]*>")
HREF = re.compile(r"href=\"?([^\"\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make site` does: whatever MkDocs warns of fails it, such as a link or an anchor that leads nowhere, or
    a page that no menu names. (With --quiet it would not even warn.)"""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def loaded(html: str) -> list[str]:
    """The addresses that a page loads from another host."""
    found = [match[1] or HREF.search(match[0])[1] for match in LOADED.finditer(html)]
    return [address for address in found if re.match(r"(?:https?:)?//", address)]


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: Path):
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    missing = [page for page in (*pages, *ELSEWHERE.values()) if not (site / page).with_suffix(".html").is_file()]
    assert not missing
    assert not {path.name: found for path in site.rglob("*.html") if (found := loaded(path.read_text("utf-8")))}


def test_a_reader_can_search_it(site: Path):
    texts = json.loads((site / "search" / "search_index.json").read_text("utf-8"))["docs"]
    assert any(each["location"].startswith("engine.html#") and "Gumbel" in each["text"] for each in texts)


def test_what_is_loaded_from_elsewhere_is_seen():
    html = (
        '<script src="https://cdn.example.org/a.js"></script><img src=images/a.svg><a href="https://example.org">x</a>'
        '<link rel="stylesheet" href="//fonts.example.org/b.css"><link rel="stylesheet" href="assets/c.css">'
    )
    assert loaded(html) == ["https://cdn.example.org/a.js", "//fonts.example.org/b.css"]


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("[a](engine.md#memory)", "[a](engine.md#memory)"),
        ("[a](../SECURITY.md#reporting) [b](../deploy)", "[a](threat-model.md#reporting) [b](deploy/index.md)"),
        ("see [the rules](../deploy/prometheus/rules.yml).", "see the rules."),
        ("[a](#here) [b](https://example.org/README.md)", "[a](#here) [b](https://example.org/README.md)"),
        ("[a](../no/such/file.md)", "[a](../no/such/file.md)"),
        ("![a](images/dashboard.png)", "![a](images/dashboard.png)"),
        ("```\n[a](../SECURITY.md)\n```\n", "```\n[a](../SECURITY.md)\n```\n"),
    ],
)
def test_links_of_the_repository_become_those_of_the_site(text: str, moved: str):
    assert relink(text, "docs/calling.md", "calling.md") == moved


def test_pages_from_elsewhere_link_into_the_site():
    text = "[a](../../docs/operations.md#alerts) [b](../README.md) [c](docker-compose.yml)"
    moved = relink(text, "deploy/compose/README.md", "deploy/compose.md")
    assert moved == "[a](../operations.md#alerts) [b](index.md) c"


def test_a_folder_is_its_first_page():
    assert place_in_site("benchmarks") == "benchmarks/method.md"
    assert place_in_site("docs/engine.md") == "engine.md"
    assert place_in_site("trainer") is None


def test_bars_within_code_in_tables_stay_plain():
    html = r"<p>\|</p><td><code>a\|b</code></td>"
    assert on_page_content(html, None, None, None) == r"<p>\|</p><td><code>a|b</code></td>"  # type: ignore[arg-type]
