"""`rhapsode generate`."""

import json
import threading

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from rhapsode.v1 import generation_pb2 as pb


def test_text_goes_to_stdout_and_nothing_else(rhapsode):
    result = rhapsode("generate", "The")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Sea, sea!\n", "")


def test_without_streaming_the_output_is_the_same(rhapsode, server):
    result = rhapsode("generate", "The", "--no-stream")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Sea, sea!\n", "")
    assert [type(request) for request in server.requests] == [pb.GenerateRequest]


def test_text_that_ends_its_line_gets_no_second_newline(rhapsode, server, stream_of):
    server.scripts["GenerateStream"] = stream_of("Sea\n", "")
    assert rhapsode("generate", "The").stdout == "Sea\n"


def test_options_reach_the_server(rhapsode, server):
    options = "--max-new-tokens 9 --temperature 0.5 --top-k 3 --top-p 0.25 --seed 7 --model poems --version 2"
    assert rhapsode("generate", "The", *options.split(), "--stop", "a", "--stop", "b").exit_code == 0
    sampling = pb.SamplingParameters(temperature=0.5, top_k=3, top_p=0.25, seed=7)
    stopping = pb.StoppingCriteria(max_new_tokens=9, stop_strings=["a", "b"])
    assert server.requests == [
        pb.GenerateRequest(prompt="The", model="poems", version=2, sampling=sampling, stopping=stopping)
    ]


@pytest.mark.parametrize(
    ("typed", "prompt"),
    [("The\n", "The"), ("The\n\n", "The\n"), ("", ""), ("a\r\nb", "a\r\nb"), ("sé\x00a", "sé\x00a")],
)
def test_the_prompt_may_come_from_stdin(rhapsode, server, typed, prompt):
    assert rhapsode("generate", "-", stdin=typed.encode()).exit_code == 0
    assert server.requests[0].prompt == prompt


def test_json_while_streaming_is_one_line_an_event(rhapsode):
    lines = [json.loads(line) for line in rhapsode("generate", "The", "--json").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["started", "delta", "delta", "delta", "finished"]
    assert lines[0]["seed"] == 2**64 - 1
    assert "".join(line["text"] for line in lines[1:-1]) == lines[-1]["text"] == "Sea, sea!"
    assert lines[-1]["finish_reason"] == "stop_string"
    assert lines[-1]["sampling"]["temperature"] == 0.8


def test_json_of_an_empty_completion(rhapsode, server, stream_of):
    server.scripts["GenerateStream"] = stream_of()
    lines = [json.loads(line) for line in rhapsode("generate", "The", "--json").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["started", "finished"]


def test_json_without_streaming_is_one_object(rhapsode):
    completion = json.loads(rhapsode("generate", "The", "--json", "--no-stream").stdout)
    assert completion["text"] == "Sea, sea!"
    assert completion["matched_stop"] == "END"
    assert completion["usage"] == {"prompt_tokens": 4, "cached_tokens": 1, "completion_tokens": 3}
    assert completion["timings"] == {"queue": 0.001, "first_token": 0.02, "total": 1.0}


def test_verbose_sums_up_on_stderr(rhapsode):
    result = rhapsode("generate", "The", "--verbose")
    assert result.stdout == "Sea, sea!\n"
    assert result.stderr == (
        "[poems version 3, 4 + 3 tokens, seed 18446744073709551615, stop_string, first token 20 ms, 3 tokens/s]\n"
    )


CODES = [
    (grpc.StatusCode.INTERNAL, 1),
    (grpc.StatusCode.UNAUTHENTICATED, 1),
    (grpc.StatusCode.INVALID_ARGUMENT, 2),
    (grpc.StatusCode.NOT_FOUND, 3),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, 4),
    (grpc.StatusCode.UNAVAILABLE, 4),
    (grpc.StatusCode.DEADLINE_EXCEEDED, 5),
]


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
@pytest.mark.parametrize(("code", "expected"), CODES, ids=lambda value: getattr(value, "name", ""))
def test_exit_codes(rhapsode, server, failure, how, code, expected):
    server.scripts["Generate"] = server.scripts["GenerateStream"] = [failure(code=code, message="[red]why[/red]")]
    result = rhapsode("generate", "The", how)
    assert (result.exit_code, result.stdout) == (expected, "")
    assert "[red]why[/red]" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_invalid_request_names_the_fields(rhapsode, server, failure):
    detail = BadRequest(field_violations=[{"field": "sampling.top_p", "description": "must be in (0, 1]"}])
    invalid = failure(code=grpc.StatusCode.INVALID_ARGUMENT, message="invalid request", details=[detail])
    server.scripts["GenerateStream"] = [invalid]
    result = rhapsode("generate", "The", "--top-p", "2")
    assert result.stderr == "rhapsode: invalid request\n  sampling.top_p: must be in (0, 1]\n"


def test_text_before_a_failure_stays_and_its_line_is_ended(rhapsode, server, failure):
    lost = failure(code=grpc.StatusCode.INTERNAL, message="lost")
    server.scripts["GenerateStream"] = [*server.scripts["GenerateStream"][:2], lost]
    result = rhapsode("generate", "The")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "Sea\n", "rhapsode: lost\n")


def test_a_timeout(rhapsode, server):
    server.scripts["GenerateStream"] = [threading.Event()]
    assert rhapsode("generate", "The", "--timeout", "0.1").exit_code == 5
    assert server.cancelled.wait(10)


def test_nobody_listens(rhapsode, free_address):
    result = rhapsode("generate", "The", "--address", free_address)
    assert result.exit_code == 4
    assert f"no answer from a server at {free_address}" in result.stderr
    assert "rhapsode-serve --models ./models" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["generate"], b"", "Missing argument"),
        (["generate", "x", "--seed", "many"], b"", "--seed"),
        (["generate", "x", "--seed", "-1"], b"", "sampling.seed"),
        (["generate", "x", "--timeout", "nan"], b"", "positive number of seconds"),
        (["generate", "x", "--timeout", "soon"], b"", "positive number of seconds"),
        (["generate", "x", "--warmth", "1"], b"", "--warmth"),
        (["generate", "-"], b"\xff", "not UTF-8"),
        (["sing"], b"", "sing"),
    ],
)
def test_bad_usage(rhapsode, server, arguments, stdin, said):
    result = rhapsode(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert server.requests == []


def test_help_documents_the_exit_codes(rhapsode):
    shown = rhapsode("--help").stdout
    for line in ("0    ok", "4    overloaded, unavailable or not reachable", "130  interrupted"):
        assert line in shown


def test_text_comes_through_a_pipe_as_it_is_produced_and_raw(process, server, stream_of):
    gate = threading.Event()
    first, last = "\x1b[31mSé\r", "sea"
    script = stream_of(first, last)
    server.scripts["GenerateStream"] = [*script[:2], gate, *script[2:]]
    running = process("generate", "The")
    assert running.stdout.read(len(first.encode())) == first.encode()
    gate.set()
    assert running.stdout.read() == b"sea\n"
    assert running.wait(10) == 0
    assert running.stderr.read() == b""


def test_a_terminal_is_not_driven_by_the_text(process, terminal, server, stream_of):
    server.scripts["GenerateStream"] = stream_of("\x1b[31mred\x07\r\x9b2J", "\ttab\nline\x7f")
    running = process("generate", "The", stdout=terminal.theirs, stderr=terminal.theirs)
    assert terminal.read_until(b"line\r\n") == b"[31mred2J\ttab\r\nline\r\n"
    assert b"seed 18446744073709551615, stop_string" in terminal.read_until(b"tokens/s]")
    assert running.wait(10) == 0


def test_ctrl_c_stops_the_server_too(process, interrupt, server):
    server.scripts["GenerateStream"] = [*server.scripts["GenerateStream"][:2], threading.Event()]
    running = process("generate", "The")
    assert running.stdout.read(3) == b"Sea"
    interrupt(running)
    assert running.wait(10) == 130
    assert server.cancelled.wait(10)
    assert running.stderr.read() == b""


def test_a_reader_that_leaves_stops_the_server_too(process, server, stream_of):
    gate = threading.Event()
    script = stream_of("Sea", ", ", "sea!")
    server.scripts["GenerateStream"] = [*script[:2], gate, *script[2:-1], threading.Event()]
    running = process("generate", "The")
    assert running.stdout.read(3) == b"Sea"
    running.stdout.close()
    gate.set()
    assert running.wait(10) == 0
    assert server.cancelled.wait(10)
    assert running.stderr.read() == b""


def test_an_output_that_cannot_be_written(process):
    with open("/dev/full", "wb") as full:
        running = process("generate", "The", stdout=full)
        assert running.stderr.read() == b"rhapsode: standard input or output failed: No space left on device\n"
        assert running.wait(10) == 1


def test_an_output_that_knows_only_ascii(process, server, stream_of, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    server.scripts["GenerateStream"] = stream_of("Sé")
    running = process("generate", "The")
    assert running.stdout.read() == b"S?\n"
    assert running.wait(10) == 0
