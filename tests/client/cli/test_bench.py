"""`rhapsode bench` against a scripted server."""

import json
import math
from collections.abc import Iterator

import pytest
from rhapsode_client import Overloaded
from rhapsode_client.testing import FakeServer

BRIEF = ("--warm-up", "0s", "--requests", "6", "--concurrency", "2")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def measured(result) -> dict:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_so_many_requests_are_measured(rhapsode, server):
    server.reply("one two three")
    figures = measured(rhapsode("bench", *BRIEF, "--json"))
    assert (figures["requests"], figures["failed"], figures["error_rate"]) == (6, 0, 0.0)
    assert figures["tokens"] == 18
    assert figures["tokens_per_second"] == pytest.approx(18 / figures["seconds"])
    assert figures["answered_by"] == {"fake version 1": 6}
    counts = [figures[name]["count"] for name in ("first_token", "between_tokens", "total")]
    assert counts == [6, 12, 6]
    percentiles = figures["total"]["percentiles"]
    assert list(percentiles) == ["p50", "p90", "p95", "p99", "max"]
    assert sorted(percentiles.values()) == list(percentiles.values())
    assert sum(bucket["count"] for bucket in figures["total"]["histogram"]) == 6
    assert len(server.requests) == 6


def test_requests_are_made_up_and_the_same_for_the_same_seed(rhapsode, server):
    server.reply("x")
    options = ("--prompt-tokens", "3:9", "--max-new-tokens", "5:7", "--concurrency", "1", "--requests", "8")
    for seed in ("1", "1", "2"):
        assert rhapsode("bench", "--warm-up", "0s", *options, "--seed", seed).exit_code == 0
    first, again, other = (server.requests[place : place + 8] for place in (0, 8, 16))
    assert first == again
    assert first != other
    assert {len(each.prompt_token_ids.ids) for each in first} <= set(range(3, 10))
    assert all(5 <= each.stopping.max_new_tokens <= 7 and each.stopping.ignore_eos for each in first)
    assert all(each.sampling.HasField("seed") for each in first)
    assert len({each.sampling.seed for each in first}) == 8


@pytest.mark.parametrize(
    ("name", "content"),
    [("p.txt", "The sea\n\nThe moon\n"), ("p.jsonl", '{"prompt": "The sea"}\n{"prompt": "The moon"}')],
)
def test_prompts_of_a_file_are_asked_in_turn(rhapsode, server, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    server.reply("x")
    options = ("--prompts", str(tmp_path / name), "--stop-at-eos", "--model", "fake", "--version", "4")
    result = rhapsode("bench", "--warm-up", "0s", "--requests", "3", "--concurrency", "1", *options)
    assert "1 callers, 2 prompts, 64 new tokens" in result.stderr
    assert [each.prompt for each in server.requests] == ["The sea", "The moon", "The sea"]
    assert not server.requests[0].stopping.ignore_eos
    assert (server.requests[0].model, server.requests[0].version) == ("fake", 4)


def test_arrivals_do_not_wait_for_answers(rhapsode, server):
    # With callers that wait, the second would never come.
    server.reply("x", delay=math.inf)
    options = ("--rate", "200", "--requests", "5", "--timeout", "1", "--warm-up", "0s")
    result = rhapsode("bench", *options, "--json")
    figures = measured(result)
    assert figures["failed"] == 5
    assert figures["errors"]["DeadlineExceeded"]["count"] == 5
    assert figures["seconds"] < 2
    assert all(call.cancelled.wait(10) for call in server.calls[1:])  # the first asks for the model


def test_errors_are_counted_by_kind_and_not_tried_again(rhapsode, server):
    server.fail(Overloaded("the queue is full"), retry_after=0.0)
    server.fail(Overloaded("still full"), retry_after=0.0)
    server.reply("x")
    result = rhapsode("bench", *BRIEF, "--concurrency", "1")
    assert result.exit_code == 0
    assert "requests      6 in " in result.stdout
    assert ", 2 failed" in result.stdout
    assert "errors\n  2 Overloaded: the queue is full\n" in result.stdout
    assert len(server.requests) == 6


def test_objectives_decide_the_exit_code(rhapsode, server):
    server.reply("x")
    met = rhapsode("bench", *BRIEF, "--slo", "ttft_p99=10s", "--slo", "error_rate=0%")
    assert met.exit_code == 0
    assert "  met     ttft_p99=10s, measured " in met.stdout
    missed = rhapsode("bench", *BRIEF, "--json", "--slo", "requests_per_second=1000000", "--slo", "total_p50=10s")
    assert missed.exit_code == 1
    verdicts = json.loads(missed.stdout)["objectives"]
    assert [(each["objective"], each["met"]) for each in verdicts] == [
        ("requests_per_second=1000000", False),
        ("total_p50=10s", True),
    ]


def test_nothing_measured_misses_an_objective(rhapsode, server):
    server.fail(Overloaded("full"), retry_after=0.0)
    result = rhapsode("bench", *BRIEF, "--slo", "ttft_p50=10s")
    assert result.exit_code == 1
    assert "  MISSED  ttft_p50=10s, measured nothing\n" in result.stdout
    assert "answered by   none\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slo", "speed=1"], "'speed' is none of ttft_p50"),
        (["--slo", "ttft_p99=200"], "needs a number and its unit: 200ms or 1.5s, not '200'"),
        (["--slo", "error_rate=1"], "needs a percentage"),
        (["--slo", "tokens_per_second=fast"], "needs a number: 500"),
        (["--prompt-tokens", "9:3"], "'9:3' is not a number of tokens"),
        (["--max-new-tokens", "many"], "not a number of tokens"),
        (["--duration", "30"], "write a number with its unit"),
        (["--duration", "0s"], "--duration"),
        (["--concurrency", "0"], "--concurrency"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--prompts", "/dev/null"], "/dev/null holds no prompt"),
        (["--prompts", "nowhere.txt"], "nowhere.txt does not exist"),
    ],
)
def test_bad_usage(rhapsode, server, arguments, said):
    result = rhapsode("bench", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert server.requests == []


def test_a_bad_line_of_a_file_is_named(rhapsode, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": 5}\n')
    result = rhapsode("bench", "--prompts", str(path))
    assert result.exit_code == 2
    assert f"{path}:2: prompt: must be a text" in result.stderr


def test_nobody_answers(rhapsode, free_address):
    result = rhapsode("bench", "--address", free_address, "--retries", "0")
    assert result.exit_code == 4
    assert "no answer from a server" in result.stderr


def test_no_such_version_is_loaded(rhapsode, server):
    result = rhapsode("bench", "--version", "9")
    assert result.exit_code == 4
    assert result.stderr == "rhapsode: version 9 of fake is not loaded; `rhapsode models` shows why\n"


def test_a_terminal_shows_how_far_it_is_and_ctrl_c_ends_it(process, terminal, interrupt, server):
    server.reply("x", delay=math.inf)
    running = process("bench", "--warm-up", "0s", "--concurrency", "3", stderr=terminal.theirs)
    server.wait_for_calls(4)  # one asks for the model
    terminal.read_until(b"0 done, 3 under way, 0 failed]")
    interrupt(running)
    assert running.wait(10) == 130
    assert running.stdout.read() == b""
    assert all(call.cancelled.wait(10) for call in server.calls[1:])
