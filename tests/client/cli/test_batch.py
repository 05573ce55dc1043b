"""`rhapsode batch`."""

import asyncio
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_client import Client as RealClient
from rhapsode_client import Completion, Overloaded, Unauthenticated
from rhapsode_client.cli.batch.lines import lines_of
from rhapsode_client.cli.batch.output import done_ids
from rhapsode_client.cli.batch.run import Batch, Tally
from rhapsode_client.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Answers prompts with words that the test scripts."""
    with FakeServer() as server:
        yield server


@pytest.fixture
def write(tmp_path: Path):
    """Writes a file of prompts and returns its path."""

    def write(*lines: str | dict) -> str:
        path = tmp_path / "in.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return str(path)

    return write


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def prompts(*texts: str) -> list[dict]:
    return [{"prompt": text} for text in texts]


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def texts(path: Path) -> list[tuple[str | int, str]]:
    return [(record["id"], record["text"]) for record in records(path)]


def test_each_line_is_completed(rhapsode, server, write, out):
    server.reply("roars", prompt="The sea")
    server.reply("and good night", prompt=[{"role": "user", "content": "Sing"}])
    server.reply("three", prompt=[1, 2])
    source = write(
        {"prompt": "The sea", "id": "first"},
        "",
        {"prompt": [{"role": "user", "content": "Sing"}]},
        {"prompt": [1, 2], "id": 9},
    )
    result = rhapsode("batch", source, "-o", str(out))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("[3 done, 0 failed, 5 tokens in ")
    assert texts(out) == [("first", "roars"), (3, "and good night"), (9, "three")]
    assert records(out)[0] | {"request_id": "", "timings": {}} == {
        "id": "first",
        "text": "roars",
        "finish_reason": "eos",
        "matched_stop": None,
        "model": "fake",
        "version": 1,
        "seed": 0,
        "token_ids": [],
        "usage": {"prompt_tokens": 2, "cached_tokens": 0, "completion_tokens": 1},
        "timings": {},
        "sampling": {"temperature": None, "top_k": None, "top_p": None, "seed": 0},
        "request_id": "",
        "logprobs": [],
        "prompt_logprobs": [],
    }
    assert not out.with_name("out.failed.jsonl").exists()


def test_options_of_the_command_and_of_the_line_reach_the_server(rhapsode, server, write, out):
    server.reply("x")
    source = write({"prompt": "a", "seed": 1, "stop": "b", "logit_bias": {"5": 2}}, {"prompt": "c"})
    options = ["--seed", "7", "--max-new-tokens", "3", "--version", "2", "--concurrency", "1"]
    assert rhapsode("batch", source, "-o", str(out), *options).exit_code == 0
    first = pb.SamplingParameters(seed=1, logit_bias={5: 2})
    assert server.requests == [
        pb.GenerateRequest(
            prompt="a", version=2, sampling=first, stopping={"max_new_tokens": 3, "stop_strings": ["b"]}
        ),
        pb.GenerateRequest(prompt="c", version=2, sampling={"seed": 7}, stopping={"max_new_tokens": 3}),
    ]


def test_failures_are_kept_apart(rhapsode, server, write, out):
    server.reply("fine")
    server.fail(Overloaded("the queue is full"), prompt="too much", retry_after=0.0)
    source = write("not JSON", {"prompt": "too much", "id": "b"}, {"prompt": "a", "id": 7}, {"prompt": "c", "id": 7})
    result = rhapsode("batch", source, "-o", str(out), "--retries", "0")
    assert result.exit_code == 1
    assert "[1 done, 3 failed" in result.stderr
    assert texts(out) == [(7, "fine")]
    failures = records(out.with_name("out.failed.jsonl"))
    assert [(each["id"], each["line"], each["error"]["kind"]) for each in failures] == [
        (1, 1, "InvalidRequest"),
        ("b", 2, "Overloaded"),
        (7, 4, "InvalidRequest"),
    ]
    assert failures[0]["error"]["violations"][0]["field"] == "line"
    assert failures[1]["error"]["message"] == "the queue is full"
    assert failures[1]["error"]["request_id"]
    assert "an earlier line has 7 too" in failures[2]["error"]["message"]


def test_the_same_command_again_asks_for_what_is_missing(rhapsode, server, write, out):
    server.fail(Overloaded("not now"), prompt="b", retry_after=0.0)
    server.reply("later", prompt="b")
    server.reply("x")
    source, failed = write(*prompts("a", "b", "c")), out.with_name("apart.jsonl")
    command = ["batch", source, "-o", str(out), "--failed", str(failed), "--retries", "0", "--json"]
    first = rhapsode(*command)
    assert (first.exit_code, texts(out)) == (1, [(1, "x"), (3, "x")])
    assert [each["id"] for each in records(failed)] == [2]
    second = rhapsode(*command)
    assert (second.exit_code, texts(out)) == (0, [(1, "x"), (3, "x"), (2, "later")])
    assert not failed.exists()
    assert [request.prompt for request in server.requests[3:]] == ["b"]
    summary = json.loads(second.stdout)
    assert summary == {"done": 1, "done_before": 2, "failed": 0, "tokens": 1, "seconds": summary["seconds"]}


WRITTEN = b"".join(b'{"id": %d, "text": "s\xc3\xa9a", "finish_reason": "eos"}\n' % number for number in range(4))


@given(st.integers(0, len(WRITTEN)), st.sampled_from([0, 1, 4096]))
def test_wherever_a_crash_cuts_the_output_its_whole_lines_count(tmp_path_factory, length, unwritten):
    path = tmp_path_factory.mktemp("cut") / "out.jsonl"
    path.write_bytes(WRITTEN[:length] + bytes(unwritten))
    whole = WRITTEN[:length].count(b"\n")
    assert done_ids(path) == set(range(whole))
    assert path.read_bytes() == b"".join(WRITTEN.splitlines(keepends=True)[:whole])


@pytest.mark.parametrize(
    "content", [b"dear diary", b"dear diary\n", b'{"prompt": "a"}\n', b'{"id": 1, "prompt": "a"}\n', WRITTEN + b"X"]
)
def test_a_file_of_others_is_left_alone(rhapsode, server, write, out, content):
    out.write_bytes(content)
    result = rhapsode("batch", write(*prompts("a")), "-o", str(out))
    assert result.exit_code == 2
    assert "of a batch; name another file" in result.stderr
    assert out.read_bytes() == content
    assert server.requests == []


def test_failures_do_not_replace_a_file_of_others(rhapsode, write, out, tmp_path):
    source = write(*prompts("a"))
    before = Path(source).read_bytes()
    assert rhapsode("batch", source, "-o", str(out), "--failed", source).exit_code == 2
    assert Path(source).read_bytes() == before


def test_a_killed_run_is_gone_on_with(rhapsode, process, server, write, out):
    server.reply("never", prompt="c", delay=math.inf)
    server.reply("now", prompt="c")
    server.reply("x")
    command = ["batch", write(*prompts("a", "b", "c", "d")), "-o", str(out), "--concurrency", "1"]
    running = process(*command)
    server.wait_for_calls(3)
    running.send_signal(signal.SIGKILL)
    running.wait(10)
    assert texts(out) == [(1, "x"), (2, "x")]
    with out.open("ab") as file:
        file.write(b'{"id": 3, "text": "no')
    assert rhapsode(*command).exit_code == 0
    assert texts(out) == [(1, "x"), (2, "x"), (3, "now"), (4, "x")]


def test_ctrl_c_keeps_what_is_done_and_stops_the_server(process, interrupt, server, write, out):
    server.reply("never", prompt="b", delay=math.inf)
    server.reply("x")
    running = process("batch", write(*prompts("a", "b")), "-o", str(out), "--concurrency", "1")
    server.wait_for_calls(2)
    interrupt(running)
    assert running.wait(10) == 130
    assert server.calls[1].cancelled.wait(10)
    assert texts(out) == [(1, "x")]
    assert running.stderr.read().startswith(b"[1 done, 0 failed, 1 tokens")


def test_nobody_answers(rhapsode, free_address, write, out):
    many = write(*prompts(*map(str, range(100))))
    result = rhapsode("batch", many, "-o", str(out), "--address", free_address, "--retries", "0")
    assert result.exit_code == 4
    assert "no answer from a server" in result.stderr
    assert result.stderr.count("rhapsode:") == 1


def test_who_is_not_known_is_told_once(rhapsode, server, write, out):
    server.fail(Unauthenticated("who are you?"))
    result = rhapsode("batch", write(*prompts("a", "b", "c")), "-o", str(out))
    assert result.exit_code == 1
    assert result.stderr.count("who are you?") == 1
    assert texts(out) == []


def test_through_pipes_each_answer_comes_before_the_next_prompt(process, server):
    server.reply("x")
    server.fail(Overloaded("full"), prompt="b", retry_after=0.0)
    running = process("batch", "-", "--retries", "0")
    for number in (1, 2):
        running.stdin.write(b'{"prompt": "a"}\n')
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["id"] == number
    running.stdin.write(b'{"prompt": "b"}\n')
    running.stdin.flush()
    assert json.loads(running.stderr.readline())["error"]["kind"] == "Overloaded"
    running.stdin.close()
    assert running.wait(10) == 1
    assert running.stderr.read().startswith(b"[2 done, 1 failed")


def test_ctrl_c_while_standard_input_is_open(process, interrupt, server):
    server.reply("x")
    running = process("batch", "-")
    running.stdin.write(b'{"prompt": "a"}\n')
    running.stdin.flush()
    assert running.stdout.readline()
    interrupt(running)
    assert running.wait(10) == 130
    assert running.stderr.read().count(b"\n") == 1


def test_a_full_disk(process, server, write):
    server.reply("x")
    running = process("batch", write(*prompts("a")), "-o", "/dev/full")
    assert running.wait(10) == 1
    assert b"No space left on device" in running.stderr.read()


def test_a_bar_on_a_terminal(process, terminal, server, write, out):
    server.reply("x", prompt="a")
    server.reply("x", prompt="b", delay=math.inf)
    running = process("batch", write(*prompts("a", "b")), "-o", str(out), stderr=terminal.theirs)
    terminal.read_until(b"1/2")
    terminal.read_until(b"0 failed, 1 tokens")
    running.kill()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-file.jsonl"], "no-such-file.jsonl"),
        (["/dev/null", "--json"], "needs --output"),
        (["/dev/null", "--concurrency", "0"], "--concurrency"),
        (["/dev/null", "-o", "/no/such/folder/out.jsonl"], "No such file or directory"),
    ],
)
def test_bad_usage(rhapsode, arguments, said):
    result = rhapsode("batch", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


class Outputs:
    """Notes what is written, and tells."""

    def __init__(self) -> None:
        self.written: list[object] = []
        self.changed = asyncio.Event()

    def complete(self, id: object, _: object) -> None:
        self.written.append(id)
        self.changed.set()

    async def have(self, *ids: int) -> None:
        while self.written != list(ids):
            self.changed.clear()
            await self.changed.wait()


class Client:
    """Answers when it is told to."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self.asked: dict[str, asyncio.Event] = {}
        self._news = asyncio.Condition()

    async def generate(self, prompt: str) -> Completion:
        async with self._news:
            self.asked[prompt] = asyncio.Event()
            self._news.notify_all()
        await self.asked[prompt].wait()
        return self._completion

    async def has_been_asked(self, *prompts: str) -> None:
        async with self._news:
            await self._news.wait_for(lambda: sorted(self.asked) == sorted(prompts))


@pytest.fixture
def completion(server: FakeServer) -> Completion:
    server.reply("x")
    with RealClient(server.address) as client:
        return client.generate("a")


@pytest.mark.parametrize("in_order", [True, False])
async def test_so_many_at_a_time_in_the_order_of_the_prompts_or_of_the_answers(write, completion, in_order):
    outputs, client, tally = Outputs(), Client(completion), Tally()
    work = Batch(outputs=outputs, options={}, done=set(), concurrency=2, in_order=in_order, tally=tally)
    running = asyncio.create_task(work.run(client, lines_of(Path(write(*prompts("a", "b", "c"))))))
    async with asyncio.timeout(10):
        await client.has_been_asked("a", "b")
        client.asked["b"].set()
        await client.has_been_asked("a", "b", "c")
        client.asked["c"].set()
        if not in_order:
            await outputs.have(2, 3)
        client.asked["a"].set()
        await running
    assert outputs.written == ([1, 2, 3] if in_order else [2, 3, 1])
    assert tally.lines == 3


async def test_what_is_held_back_for_the_first_is_bounded(write, completion):
    outputs, client, tally = Outputs(), Client(completion), Tally()
    work = Batch(outputs=outputs, options={}, done=set(), concurrency=2, in_order=True, tally=tally)
    names = [f"{number:02}" for number in range(20)]
    running = asyncio.create_task(work.run(client, lines_of(Path(write(*prompts(*names))))))
    async with asyncio.timeout(10):
        for number in range(1, 8):
            await client.has_been_asked(*names[: number + 1])
            client.asked[names[number]].set()
        assert outputs.written == []
        client.asked[names[0]].set()
        await outputs.have(*range(1, 9))
        await client.has_been_asked(*names[:10])
        assert len(client.asked) == 10
    running.cancel()
    await asyncio.wait([running])
