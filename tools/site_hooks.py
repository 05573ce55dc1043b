"""What MkDocs does for the documentation beyond docs/: pages from elsewhere in the repository, and links to its files.

In the repository every link leads to a file, so that the pages can be read where they lie. In the site a link to a page
leads to that page, and one to any other file of the repository is only its text: the site does not hold the sources.
"""

import posixpath
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

# Of pages outside of docs/: path in the repository, and in the site.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "threat-model.md",
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks/method.md",
    "benchmarks/results/frontend.md": "benchmarks/frontend.md",
    "benchmarks/results/sampling.md": "benchmarks/sampling.md",
    "benchmarks/results/serving-cpu.md": "benchmarks/serving-cpu.md",
    "benchmarks/results/training-cpu.md": "benchmarks/training-cpu.md",
    "deploy/README.md": "deploy/index.md",
    "deploy/compose/README.md": "deploy/compose.md",
    "deploy/images/README.md": "deploy/images.md",
    "examples/README.md": "examples/index.md",
    "examples/batch_job/README.md": "examples/batch_job.md",
    "examples/evaluation/README.md": "examples/evaluation.md",
    "examples/grpcurl/README.md": "examples/grpcurl.md",
    "examples/node/README.md": "examples/node.md",
    "examples/retraining/README.md": "examples/retraining.md",
    "examples/streaming_service/README.md": "examples/streaming_service.md",
}
_SHOWN_AS_ANOTHER = ("README.md",)

_FENCE = re.compile(r"^ *(```|~~~)")
_LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\(([^()\s]+)\)")
_CELL = re.compile(r"<td.*?</td>", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from elsewhere. MkDocs names those that the menu asks for and that are not there."""
    for source, page in ELSEWHERE.items():
        if source not in _SHOWN_AS_ANOTHER and (ROOT / source).is_file():
            files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links within the repository into links within the site."""
    pages = {source: uri for source, uri in ELSEWHERE.items() if source not in _SHOWN_AS_ANOTHER}
    sources = {uri: source for source, uri in pages.items()}
    uri = page.file.src_uri
    return relink(markdown, sources.get(uri, f"docs/{uri}"), uri)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In cells of tables the parser leaves the backslash before a bar that stands in code."""
    return _CELL.sub(lambda cell: cell[0].replace(r"\|", "|"), html)


def relink(markdown: str, source: str, uri: str) -> str:
    """The text of a page at `source` in the repository, for its place `uri` in the site. What leads nowhere stays."""
    lines, is_code = [], False
    for line in markdown.splitlines(keepends=True):
        is_code ^= bool(_FENCE.match(line))
        lines.append(line if is_code else _LINK.sub(partial(_moved, source=source, uri=uri), line))
    return "".join(lines)


def _moved(link: re.Match[str], *, source: str, uri: str) -> str:
    text, (path, mark, anchor) = link[1], link[2].partition("#")
    if not path or ":" in path:
        return link[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if (place := place_in_site(target)) is not None:
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(uri) or '.')}{mark}{anchor})"
    return text if (ROOT / target).exists() else link[0]


def place_in_site(path: str, elsewhere: Mapping[str, str] = ELSEWHERE) -> str | None:
    """Of a file or folder of the repository, or of the page that a folder has; None if it is not in the site."""
    for candidate in (path, f"{path}/README.md", f"{path}/index.md"):
        if candidate in elsewhere:
            return elsewhere[candidate]
        if candidate.startswith("docs/") and (ROOT / candidate).is_file():
            return candidate.removeprefix("docs/")
    return None
