"""`rhapsode score`: perplexity and bits per byte of texts, and where they surprise."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from rhapsode_client import Score
from rhapsode_client.cli.failures import connected
from rhapsode_client.cli.files import STDIN
from rhapsode_client.cli.options import Json, Model, Version
from rhapsode_client.cli.score import arguments
from rhapsode_client.cli.score.figures import Likelihood, likelihood, total
from rhapsode_client.cli.score.heat_map import print_heat_map
from rhapsode_client.cli.tables import print_table
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import note, write_json

# About two screens.
_MOST_COLOURED = 1000


def score(
    files: arguments.Files,
    is_document: arguments.IsDocument = True,
    overlap: arguments.Overlap = None,
    heat_map: arguments.HeatMap = None,
    top_logprobs: arguments.TopLogprobs = 0,
    model: Model = "",
    version: Version = None,
    json: Json = False,
    *,
    target: Target,
) -> None:
    """Show how likely a model finds texts.

    Prints the perplexity per token and the bits per byte of UTF-8. Fewer bits per byte are better, whatever the
    tokenizer; of whole documents they are those of the trainer.

    --json prints one object for each text, with its tokens.
    """
    texts = [_read(path) for path in files]
    parts = []
    with connected(target) as client:
        for path, text in zip(files, texts, strict=True):
            scored = client.score(
                text,
                model=model,
                version=version,
                as_document=is_document,
                overlap=overlap,
                top_logprobs=top_logprobs if json else 0,
            )
            parts.append(likelihood(text, scored, is_document=is_document))
            if json:
                write_json(_record(path, parts[-1], scored))
            else:
                _colour(scored, heat_map, is_document=is_document, is_alone=len(files) == 1)
        if not json:
            _print(files, parts)


def _read(path: Path) -> str:
    """The whole text, its line ends as they are."""
    data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    if not data:
        raise typer.BadParameter(f"{path} is empty", param_hint="FILE")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}", param_hint="FILE"
        ) from None


def _colour(scored: Score, heat_map: bool | None, *, is_document: bool, is_alone: bool) -> None:
    tokens = scored.tokens[1:-1] if is_document else scored.tokens
    if heat_map:
        print_heat_map(tokens)
    elif heat_map is None and is_alone and sys.stdout.isatty():
        print_heat_map(tokens[:_MOST_COLOURED])
        if len(tokens) > _MOST_COLOURED:
            note(f"[{len(tokens) - _MOST_COLOURED:,} more tokens; --heat-map shows all]")


def _print(files: Sequence[Path], parts: Sequence[Likelihood]) -> None:
    rows = [(str(path), part) for path, part in zip(files, parts, strict=True)]
    if len(rows) > 1:
        rows.append(("total", total(parts)))
    header = ("text", "bytes", "tokens", "bits per byte", "perplexity")
    print_table(header, [(name, *_cells(part)) for name, part in rows])


def _cells(part: Likelihood) -> Sequence[str]:
    bits, perplexity = part.bits_per_byte, part.perplexity
    return (
        f"{part.bytes:,}",
        f"{part.tokens:,}",
        f"{bits:.4f}" if bits is not None else "-",
        f"{perplexity:,.2f}" if perplexity is not None else "-",
    )


def _record(path: Path, part: Likelihood, scored: Score) -> dict[str, object]:
    figures = {"bytes": part.bytes, "num_tokens": part.tokens, "bits_per_byte": part.bits_per_byte}
    return {"file": str(path), **figures, **asdict(scored), "perplexity": part.perplexity}
