"""Every link of every page in the repository, read where it lies: the files, their headings, the form of addresses."""

import re
import subprocess
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"!?\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
PLACED = re.compile(
    r"(?<![\w./-])(?:proto|client|server|trainer|tests|tools|deploy|benchmarks|docs|examples)/[\w./-]*\w"
)


def pages() -> list[Path]:
    """Those of the repository, also what is about to be committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def prose(text: str) -> str:
    """Without code."""
    return CODE.sub("``", FENCED.sub("", text))


def slug(heading: str) -> str:
    """As where the repository is hosted, and as mkdocs.yml asks for."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    text = page.read_text("utf-8")
    seen: Counter[str] = Counter()
    found = set(ANCHOR.findall(text))
    for heading in HEADING.findall(FENCED.sub("", text)):
        name = slug(heading)
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return frozenset(found)


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    return [link for link in LINK.findall(prose(page.read_text("utf-8"))) if not leads_somewhere(page, link)]


def leads_somewhere(page: Path, link: str) -> bool:
    """An address elsewhere has only to be one: nothing is asked of the network."""
    address = urlsplit(link)
    if address.scheme:
        return address.scheme == "mailto" or (address.scheme in ("https", "http") and "." in address.netloc)
    target = (page.parent / address.path).resolve() if address.path else page
    return target.exists() and (not address.fragment or address.fragment in anchors(target))


def test_every_link_leads_somewhere():
    found = {str(page.relative_to(ROOT)): links for page in pages() if (links := broken(page))}
    assert not found


def test_every_place_in_the_code_that_a_page_of_the_manual_names_is_there():
    """In backticks, as in `server/rhapsode_server/text`."""
    names = ("engine.md", "trainer.md")
    texts = {name: (ROOT / "docs" / name).read_text("utf-8") for name in names}
    texts["CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    places = {place for text in texts.values() for code in CODE.findall(text) for place in PLACED.findall(code)}
    assert len(places) > 20
    assert not [place for place in places if not (ROOT / place).exists()]


def test_broken_links_are_seen(tmp_path: Path):
    other = tmp_path / "other.md"
    other.write_text("# Two words\n\n## `--flag`, what\n\n## Two words\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#two-words) [b](other.md#--flag-what) [c](other.md#two-words-1) `[d](none.md)`\n"
        "```\n[e](none.md)\n```\n[f](none.md) [g](other.md#none) [h](https://) ![i](none.png) [`j`](#none)\n",
        "utf-8",
    )
    assert broken(page) == ["none.md", "other.md#none", "https://", "none.png", "#none"]


# GitHub is more lenient than Markdown in Python, which would show such a list as one paragraph.
ITEM = re.compile(r"( *)(?:[-*]|\d+\.) \S")


def glued_lists(text: str) -> list[str]:
    """First items of lists without a blank line before them, and what is nested by less than four spaces."""
    lines = ["", *FENCED.sub("", text).splitlines()]
    found, is_list = [], False
    for before, line in pairwise(lines):
        item = ITEM.match(line)
        if item and ((before.strip() and not is_list) or 0 < len(item[1]) < 4):
            found.append(line)
        is_list = bool(item) or (is_list and (line.startswith("  ") or not line.strip()))
    return found


def test_lists_are_lists_in_the_site_too():
    found = {str(page.relative_to(ROOT)): lines for page in pages() if (lines := glued_lists(page.read_text("utf-8")))}
    assert not found


def test_glued_lists_are_seen():
    assert glued_lists("# A\n\n- a\n  goes on\n- b\n\ntext\n\n1. c\n2. d\n") == []
    assert glued_lists("text\n- a\n- b\n\n- c\n  - d\n") == ["- a", "  - d"]
