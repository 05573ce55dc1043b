import json
import math
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rhapsode_contract.model_directory import (
    Lease,
    LeaseHeld,
    ModelDirectory,
    ModelFolder,
    NoSuchAlias,
    NoSuchModel,
    NoSuchVersion,
    VerificationError,
    publish,
)
from rhapsode_trainer.commands.aliases import promote, render_move, rollback
from rhapsode_trainer.commands.compare import compare, render_comparison
from rhapsode_trainer.commands.evaluate import evaluate_version, render_evaluation
from rhapsode_trainer.commands.garbage import collect, render_collected
from rhapsode_trainer.commands.listing import list_versions, render_list
from rhapsode_trainer.data.assembly import Document
from rhapsode_trainer.data.settings import RowsConfig
from rhapsode_trainer.data.tokenizer import train_tokenizer
from rhapsode_trainer.errors import ConfigError, DataError, GateRejected, SourceError
from rhapsode_trainer.evaluation.likelihood import score_documents, total
from rhapsode_trainer.evaluation.quality import measure_quality
from rhapsode_trainer.evaluation.record import Measured, documents_sha256, likelihoods_record, model_record
from rhapsode_trainer.evaluation.scores import Likelihood
from rich.console import Console

DOCUMENTS = [
    Document(text="O, how the moon is pale tonight"),
    Document(text="a summer's day", prompt="A prompt"),
    Document(text="short"),
]
ROWS = RowsConfig(kind="packed", block_size=32, loss_on="all", separator=": ")


def screen(renderable: Any) -> str:
    console = Console(file=StringIO(), width=120, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def put(
    folder: ModelFolder,
    records: dict[str, Any],
    *,
    alias: str | None = "champion",
    write: Callable[[Path], None] = lambda path: None,
) -> int:
    def write_all(path: Path) -> None:
        for name, document in records.items():
            rows = document if isinstance(document, list) else [document]
            (path / name).write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        write(path)

    folder.path.mkdir(parents=True, exist_ok=True)
    with Lease.acquire(folder, owner="test") as lease:
        options: dict[str, Any] = {"dtype": "float32", "parameter_count": 1, "actor": "test", "reason": "test"}
        return publish(folder, lease, write=write_all, alias=alias, **options)


def records(bits: float, *, held_out: str = "abc", accepted: bool = True, **training: Any) -> dict[str, Any]:
    parts = [
        Likelihood(nats=size * (bits + 0.2 * (size % 3)) * math.log(2), tokens=size, bytes=size)
        for size in range(50, 90)
    ]
    measured = Measured(documents=parts, quality=measure_quality(["[red]four words[/red] are here"]))
    sample = {"stage": "after", "prompt": "[bold]O", "seed": 1, "index": 0, "text": f" text of {bits}\x1b[31m"}
    return {
        "evaluation.json": {
            "after": model_record(measured),
            "verdict": {"passed": accepted, "accepted": accepted, "rules": []},
        },
        "likelihoods.json": likelihoods_record(held_out, parts),
        "lineage.json": {"created": "2026-01-02", "recipe": "poetry", "config": {"seed": 0, "training": training}},
        "samples.jsonl": [{**sample, "stage": "before"}, sample],
    }


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelDirectory(tmp_path / "models").model("poems")


def test_two_versions_side_by_side(folder: ModelFolder) -> None:
    put(folder, records(2.0, rate=0.1, steps=10))
    put(folder, records(1.9, rate=0.2, steps=10))
    comparison = compare(folder, 1, 2)
    assert comparison.difference is not None
    assert comparison.difference.estimate == pytest.approx(-0.1)
    assert comparison.difference.high < 0
    assert [(each.name, each.a, each.b) for each in comparison.settings] == [("training.rate", 0.1, 0.2)]
    metrics = {metric.name: metric for metric in comparison.metrics}
    assert metrics["bits per byte"].b_bounds is not None
    assert metrics["distinct-1"].a == metrics["distinct-1"].b
    assert "rhyme" not in metrics, "measured for neither"
    assert [(pair.a, pair.b) for pair in comparison.samples] == [(" text of 2.0\x1b[31m", " text of 1.9\x1b[31m")]
    shown = screen(render_comparison(comparison))
    assert "version 2 minus version 1: -0.1000 bits per byte" in shown
    assert ": better" in shown
    assert "[bold]O text of 1.9" in shown, "texts are no markup"
    assert "\x1b" not in shown


def test_versions_measured_on_other_documents_have_no_difference(folder: ModelFolder) -> None:
    put(folder, records(2.0))
    put(folder, records(1.9, held_out="other"))
    put(folder, {"evaluation.json": {"measured": False}})
    assert compare(folder, 1, 2).difference is None
    imported = compare(folder, 1, 3)
    assert (imported.difference, imported.samples) == (None, ())
    assert imported.metrics[0].b is None
    assert "not measured" in screen(render_comparison(imported))


def test_a_record_that_cannot_be_read_is_named(folder: ModelFolder) -> None:
    put(folder, {"evaluation.json": [1, 2]})
    put(folder, {"likelihoods.json": {"nats": [1]}})
    for version, file in ((1, "evaluation.json"), (2, "likelihoods.json")):
        with pytest.raises(SourceError, match=file):
            compare(folder, version, version)


def test_promote_and_rollback_are_on_record(folder: ModelFolder) -> None:
    for bits in (2.0, 1.9, 1.8):
        put(folder, records(bits))
    move = promote(folder, 1, reason="it reads better")
    assert (move.before, move.after) == (3, 1)
    assert screen(render_move(move)) == "poems: the champion is version 1 (was version 3)\n"
    assert folder.history()[-1]["reason"] == "promoted by hand: it reads better"
    assert folder.history()[-1]["actor"].startswith("rhapsode-train ")
    assert rollback(folder).after == 3
    assert folder.aliases() == {"champion": 3, "previous": 1}
    assert folder.history()[-1]["reason"] == "rolled back by hand"
    assert "already" in screen(render_move(promote(folder, 3)))


def test_what_the_gate_refused_is_promoted_by_force_alone(folder: ModelFolder) -> None:
    put(folder, records(2.0))
    put(folder, records(2.5, accepted=False), alias="candidate")
    with pytest.raises(GateRejected, match="--force"):
        promote(folder, 2)
    assert folder.aliases()["champion"] == 1
    assert promote(folder, 2, force=True, reason="we know").after == 2
    assert folder.history()[-1]["reason"] == "promoted by hand, forced: its gate refused it: we know"


def test_a_version_that_does_not_verify_is_never_promoted(folder: ModelFolder) -> None:
    for bits in (2.0, 1.9):
        put(folder, records(bits))
    (folder.path / "1" / "lineage.json").write_text("{}")
    for move in (lambda: promote(folder, 1), lambda: rollback(folder)):
        with pytest.raises(VerificationError):
            move()
    assert folder.aliases()["champion"] == 2


def test_moves_that_are_impossible_say_so(folder: ModelFolder) -> None:
    with pytest.raises(NoSuchModel):
        promote(folder, 1)
    with pytest.raises(NoSuchModel):
        rollback(folder)
    with pytest.raises(NoSuchModel):
        collect(folder, keep=1, grace=timedelta())
    assert not folder.path.exists(), "a name mistyped leaves nothing behind"
    put(folder, records(2.0), alias=None)
    with pytest.raises(NoSuchAlias):
        rollback(folder)
    with pytest.raises(NoSuchVersion):
        promote(folder, 7)
    promote(folder, 1)
    with pytest.raises(ConfigError, match="no champion before version 1"):
        rollback(folder)
    with Lease.acquire(folder, owner="a trainer"), pytest.raises(LeaseHeld, match="a trainer"):
        promote(folder, 1)


def test_garbage_keeps_what_has_an_alias(folder: ModelFolder) -> None:
    for bits in (2.0, 1.9, 1.8, 1.7):
        put(folder, records(bits))
    promote(folder, 1)
    collected = collect(folder, keep=1, grace=timedelta(hours=1))
    assert (collected.removed, collected.kept) == ((2, 3), (1, 4))
    assert "to the trash for 1:00:00: 2, 3; kept: 1, 4" in screen(render_collected(collected))
    for keep, grace, field in ((0, 1, "--keep"), (1, -1, "--grace")):
        with pytest.raises(ConfigError, match=field):
            collect(folder, keep=keep, grace=timedelta(hours=grace))


def test_the_list_has_metrics_and_aliases(folder: ModelFolder, tmp_path: Path) -> None:
    put(folder, records(2.0))
    put(folder, records(1.9))
    put(folder, records(2.5, accepted=False), alias="candidate")
    put(ModelDirectory(tmp_path / "models").model("gpt2"), {"evaluation.json": {"measured": False}})
    imported, first, champion, candidate = list_versions(ModelDirectory(tmp_path / "models"))
    assert (imported.model, imported.bits_per_byte, imported.verdict) == ("gpt2", None, "")
    assert (first.aliases, champion.aliases, candidate.aliases) == (("previous",), ("champion",), ("candidate",))
    assert champion.bits_per_byte == pytest.approx(2.1, abs=0.01)
    assert champion.low is not None
    assert champion.low < 2.1 < (champion.high or 0)
    assert (champion.verdict, candidate.verdict) == ("passed", "failed")
    shown = screen(render_list([imported, first, champion, candidate]))
    for part in ("candidate", "champion", "poetry", "2026-01-02", "2.1"):
        assert part in shown
    assert list_versions(ModelDirectory(tmp_path / "none")) == []


def test_evaluate_gives_the_numbers_of_the_run(folder: ModelFolder, make_model: Callable[..., Any]) -> None:
    tokenizer = train_tokenizer([document.text for document in DOCUMENTS], 300)
    model = make_model("gpt2", vocab_size=len(tokenizer))
    ends = tokenizer.eos_token_id
    prompts = [tokenizer.encode(document.prompt + ": " if document.prompt else "") for document in DOCUMENTS]
    texts = [tokenizer.encode(document.text) for document in DOCUMENTS]
    parts = score_documents(
        model,
        [[ends, *prompt, *text, ends] for prompt, text in zip(prompts, texts, strict=True)],
        [len(document.text.encode()) for document in DOCUMENTS],
        context=32,
        stride=10,
        batch_size=2,
        first_targets=[1 + len(prompt) for prompt in prompts],
    )

    def write(path: Path) -> None:
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)

    record = {
        "evaluation.json": {"after": model_record(Measured(documents=parts))},
        "likelihoods.json": likelihoods_record(documents_sha256(DOCUMENTS), parts),
        "lineage.json": {"config": {"evaluation": {"stride": 10}}},
    }
    put(folder, record, write=write)
    version = folder.version_path(1)
    for batch_size in (1, 8):
        evaluation = evaluate_version(version, DOCUMENTS, rows=ROWS, batch_size=batch_size)
        assert evaluation.likelihood.nats == pytest.approx(total(parts).nats, rel=1e-5)
        assert evaluation.likelihood.tokens == total(parts).tokens
        assert evaluation.recorded == pytest.approx(evaluation.likelihood.bits_per_byte, rel=1e-5)
    assert "bits per byte on record" in screen(render_evaluation(evaluation))
    assert evaluate_version(version, DOCUMENTS[:2], rows=ROWS).recorded is None, "other documents"
    with pytest.raises(DataError, match="no documents"):
        evaluate_version(version, [], rows=ROWS)


def test_evaluate_verifies_first(folder: ModelFolder) -> None:
    put(folder, records(2.0))
    with pytest.raises(SourceError, match=r"config\.json"):
        evaluate_version(folder.version_path(1), DOCUMENTS, rows=ROWS)
    (folder.path / "1" / "lineage.json").write_text("{}")
    with pytest.raises(VerificationError):
        evaluate_version(folder.version_path(1), DOCUMENTS, rows=ROWS)
