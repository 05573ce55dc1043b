"""A batch job: sorts the texts of a CSV file into categories, with how sure the model is.

    python classify.py reviews.csv labelled.csv --label good --label bad

Prompts are read as they are needed, sixteen are under way at a time, and rows keep their order. A row that fails says
so in its own `error` column, and the job ends with 1.
"""

import argparse
import csv
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path

from rhapsode_client import Client, Completion, RhapsodeError

PROMPT = "Review: {text}\nThis review is"
COLUMNS = ("label", "probability", "error")
Row = dict[str, str]


def classified(client: Client, rows: Iterable[Row], labels: Sequence[str]) -> Iterator[Row]:
    """Each row with its label: the likeliest one, since nothing is drawn at temperature 0."""
    asked, kept = tee(rows)
    answers = client.generate_many(
        (PROMPT.format(text=row["text"]) for row in asked),
        concurrency=16,
        return_errors=True,
        choices=[f" {label}" for label in labels],
        temperature=0,
        logprobs=True,
    )
    for row, answer in zip(kept, answers, strict=True):
        yield row | dict(zip(COLUMNS, columns(answer), strict=True))


def columns(answer: Completion | RhapsodeError) -> tuple[str, str, str]:
    """Label, probability of its text and error."""
    if isinstance(answer, RhapsodeError):
        return "", "", str(answer)
    logprob = sum(token.logprob for token in answer.logprobs if token.logprob is not None)
    return answer.text.strip(), f"{math.exp(logprob):.3g}", ""


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Sort the texts of a CSV file into categories.")
    parser.add_argument("input", type=Path, help="CSV with a column `text`")
    parser.add_argument("output", type=Path)
    parser.add_argument("--label", action="append", required=True, help="a category; give two or more")
    arguments = parser.parse_args()
    failed = 0
    with arguments.input.open(newline="") as source, arguments.output.open("w", newline="") as target:
        reader = csv.DictReader(source)
        writer = csv.DictWriter(target, [*(reader.fieldnames or ()), *COLUMNS])
        writer.writeheader()
        with Client(timeout=60) as client:
            for row in classified(client, reader, arguments.label):
                writer.writerow(row)
                failed += bool(row["error"])
    print(f"{failed} rows failed" if failed else "every row has its label", file=sys.stderr)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
