import errno
import json
import math
import os
import re
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
    files,
    publish,
)
from rhapsode_trainer.commands.aliases import pin, promote, render_move, render_pin, rollback, unpin
from rhapsode_trainer.commands.compare import compare, render_comparison
from rhapsode_trainer.commands.evaluate import evaluate_version, render_evaluation
from rhapsode_trainer.commands.garbage import collect, render_collected
from rhapsode_trainer.commands.listing import list_versions, render_list
from rhapsode_trainer.commands.traffic import parse_weights, render_split, split_traffic
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


def screen(renderable: Any, width: int = 160) -> str:
    console = Console(file=StringIO(), width=width, force_terminal=False)
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


def test_a_decision_does_not_wait_for_a_run_to_end(folder: ModelFolder) -> None:
    for bits in (2.0, 1.9):
        put(folder, records(bits))
    with Lease.acquire(folder, owner="a trainer") as lease:
        assert rollback(folder).after == 1
        pin(folder, 1)
        split_traffic(folder, {1: 1, 2: 1})
        lease.check()
        with pytest.raises(LeaseHeld, match="a trainer"):
            collect(folder, keep=1, grace=timedelta())


def test_a_folder_that_cannot_be_written_is_named(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, records(2.0))

    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(files, "replace_file", refuse)
    for decide in (lambda: pin(folder, 1), lambda: split_traffic(folder, {1: 1})):
        with pytest.raises(ConfigError, match=r"--models: cannot write in .*poems: Permission denied"):
            decide()


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


def test_a_pin_holds_servers_until_it_is_taken_away(folder: ModelFolder) -> None:
    for bits in (2.0, 1.9, 1.8):
        put(folder, records(bits))
    undo = "`rhapsode-train unpin poems` lets them go on"
    assert screen(render_pin(pin(folder, 1, reason="holidays"))) == (
        "poems: pinned to version 1; `rhapsode-train unpin poems` lets servers go on\n"
    )
    assert "pinned to version 1 already" in screen(render_pin(pin(folder, 1)))
    for move in (rollback(folder), promote(folder, 3), promote(folder, 3)):
        assert move.holding == f"servers stay on version 1, which is pinned; {undo}"
        assert "poems: servers stay on version 1" in screen(render_move(move)).splitlines()[1]
    assert promote(folder, 1).holding == "", "they are there already"
    assert screen(render_pin(unpin(folder))) == "poems: no longer pinned to version 1\n"
    assert screen(render_pin(unpin(folder))) == "poems: was not pinned\n"
    moves = [move for move in folder.history() if move["alias"] == "pinned"]
    assert [(move["from"], move["to"]) for move in moves] == [(None, 1), (1, None)]
    assert [move["reason"] for move in moves] == ["pinned by hand: holidays", "unpinned by hand"]


def test_requests_are_split_until_the_split_is_cleared(folder: ModelFolder) -> None:
    for bits in (2.0, 1.9, 1.8):
        put(folder, records(bits))
    split = split_traffic(folder, parse_weights(["3=90", "2=10", "1=0"]), reason="try")
    assert screen(render_split(split)) == "poems: requests: split by weight, 1=0 2=10 3=90\n"
    assert folder.traffic() == {1: 0, 2: 10, 3: 90}
    assert folder.history()[-1]["reason"] == "split by hand: try"
    assert promote(folder, 1).holding.startswith("servers split requests by weight, 2=10 3=90; ")
    pin(folder, 2)
    assert "servers stay on version 2 meanwhile" in screen(render_split(split_traffic(folder, {3: 1})))
    assert unpin(folder).holding.startswith("servers split requests by weight, 3=1; ")
    assert promote(folder, 3).holding == "", "all requests go there already"
    assert screen(render_split(split_traffic(folder, {}))) == "poems: requests: all go to the champion, version 3\n"
    assert (folder.traffic(), folder.history()[-1]["reason"]) == ({}, "split ended by hand")


def test_traffic_that_cannot_be_understood_is_told_and_written_anew(folder: ModelFolder) -> None:
    for bits in (2.0, 1.9):
        put(folder, records(bits))
    (folder.path / "traffic.json").write_text("{")
    assert re.match(r"servers stay where they are: .*traffic\.json: .* set the traffic anew", rollback(folder).holding)
    assert split_traffic(folder, {}).weights == {}
    assert rollback(folder).holding == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["12"], "'12' is not a version and its weight, such as 12=90"),
        (["champion=1"], "'champion=1' is not a version"),
        (["1=-1"], "'1=-1' is not a version"),
        (["1=0.5"], "'1=0.5' is not a version"),
        (["1=50%"], "'1=50%' is not a version"),
        (["1=\u0663"], "is not a version"),
        (["1=1", "1=2"], "'1=2': version 1 has a weight already"),
    ],
)
def test_weights_that_are_none_are_named(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_weights(arguments)


def test_servers_are_sent_only_to_what_verifies_and_what_the_gate_let_pass(folder: ModelFolder) -> None:
    put(folder, records(2.0))
    put(folder, records(2.5, accepted=False), alias="candidate")
    for decide in (lambda: pin(folder, 2), lambda: split_traffic(folder, {1: 9, 2: 1})):
        with pytest.raises(GateRejected, match="--force"):
            decide()
    assert pin(folder, 2, force=True).after == 2
    assert folder.history()[-1]["reason"] == "pinned by hand, forced: its gate refused it"
    assert split_traffic(folder, {1: 9, 2: 1}, force=True).weights == {1: 9, 2: 1}
    assert folder.history()[-1]["reason"] == "split by hand, forced: its gate refused it"
    (folder.path / "1" / "lineage.json").write_text("{}")
    for decide in (lambda: pin(folder, 1), lambda: split_traffic(folder, {1: 1})):
        with pytest.raises(VerificationError):
            decide()
    for weights, complaint in (({2: 0}, "all of them are 0"), ({2: 2**32}, "weight of version 2: 4294967296")):
        with pytest.raises(ConfigError, match=complaint):
            split_traffic(folder, weights, force=True)
    assert (folder.aliases()["pinned"], folder.traffic()) == (2, {1: 9, 2: 1})


def test_decisions_about_what_is_not_there_leave_nothing_behind(folder: ModelFolder) -> None:
    for decide in (
        lambda: pin(folder, 1),
        lambda: unpin(folder),
        lambda: split_traffic(folder, {1: 1}),
        lambda: split_traffic(folder, {}),
    ):
        with pytest.raises(NoSuchModel):
            decide()
    assert not folder.path.exists()
    put(folder, records(2.0))
    for decide in (lambda: pin(folder, 2), lambda: split_traffic(folder, {1: 1, 2: 1})):
        with pytest.raises(NoSuchVersion, match="no version 2; it has 1"):
            decide()


def test_garbage_keeps_what_people_decided_and_passes_over_what_servers_refused(
    folder: ModelFolder, tmp_path: Path
) -> None:
    for _ in range(7):
        put(folder, records(2.0), alias=None)
    promote(folder, 1)
    pin(folder, 2)
    split_traffic(folder, {3: 1})
    feedback = tmp_path / "feedback"
    (feedback / "poems").mkdir(parents=True)
    for file, verdict in (("1.a", "rolled_back"), ("5.a", "serving"), ("6.a", "quarantined"), ("7.b", "quarantined")):
        document = {"schema_version": 1, "verdict": verdict, "reason": "canary_off", "server": file[-1]}
        (feedback / "poems" / f"{file}.json").write_text(json.dumps(document))
    collected = collect(folder, keep=1, grace=timedelta(hours=1), feedback=feedback)
    assert (collected.removed, collected.kept) == ((4, 6), (1, 2, 3, 5, 7)), "5 is the newest that serves, 7 the newest"
    (feedback / "poems" / "5.a.json").write_text("{")
    with pytest.raises(ConfigError, match=r"--feedback-dir: .*5\.a\.json"):
        collect(folder, keep=1, grace=timedelta(), feedback=feedback)
    with pytest.raises(ConfigError, match="no such folder"):
        collect(folder, keep=1, grace=timedelta(), feedback=tmp_path / "elsewhere")


def test_the_list_shows_pins_and_weights_in_a_narrow_terminal(folder: ModelFolder, tmp_path: Path) -> None:
    for bits in (2.0, 1.9, 1.8):
        put(folder, records(bits))
    pin(folder, 3)
    split_traffic(folder, {2: 90, 3: 10})
    versions = list_versions(ModelDirectory(tmp_path / "models"))
    assert [(each.aliases, each.weight) for each in versions] == [
        ((), None),
        (("previous",), 90),
        (("champion", "pinned"), 10),
    ]
    shown = screen(render_list(versions), width=70)
    for part in ("poems", "champion", "pinned", "previous", "90", "10"):
        assert part in shown


def test_a_model_that_cannot_be_read_is_named(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, records(2.0))

    def fail(folder: ModelFolder) -> list[int]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder.path))

    monkeypatch.setattr(ModelFolder, "versions", fail)
    with pytest.raises(SourceError, match="poems: Permission denied"):
        list_versions(ModelDirectory(tmp_path / "models"))


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
