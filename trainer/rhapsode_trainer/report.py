"""The one screen at the end of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .publish.printable import printable

if TYPE_CHECKING:
    from .run import Result


def print_report(console: Console, result: "Result", models: Path) -> None:
    """Numbers before and after beside a compressor's, samples, the version, and what to type next."""
    console.print()
    console.print(_numbers(result))
    for sample in result.samples:
        body = Text.assemble((sample.prompt, "bold"), printable(sample.text))
        console.print(Panel(body, title=f"{sample.stage} training, seed {sample.seed}", title_align="left"))
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    console.print(f"Time:      {phases}", highlight=False, soft_wrap=True)
    console.print(Text.assemble("Gate:      ", result.verdict.summary), soft_wrap=True)
    console.print(Text.assemble("Report:    ", str(result.version / "report.html")), soft_wrap=True)
    if not result.verdict.accepted:
        return
    console.print(
        Text.assemble("Published: ", (str(result.version), "bold"), ", loaded back and verified"), soft_wrap=True
    )
    console.print(Text.assemble("Next:      ", (f"rhapsode-serve --models {models}", "bold")), soft_wrap=True)


def _numbers(result: "Result") -> Table:
    table = Table(title=f"{result.after.bytes:,} bytes of held-out text", title_justify="left")
    table.add_column("")
    for name in ("bits per byte", "perplexity per token"):
        table.add_column(name, justify="right")
    for label, value in (("before training", result.before), ("after training", result.after)):
        table.add_row(label, f"{value.bits_per_byte:.3f}", f"{value.perplexity:,.1f}")
    table.add_row("xz -9e, having seen the training text", f"{result.xz_bits_per_byte:.3f}", "")
    return table
