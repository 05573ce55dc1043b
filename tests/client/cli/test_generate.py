"""`rhapsode generate`."""

import json
import threading

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_client.cli.settings import SETTINGS


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


EVERY_OPTION = """
--model poems --alias previous --temperature 0.5 --top-k 3 --top-p 0.25 --min-p 0.5 --typical-p 0.75
--repetition-penalty 1.5 --presence-penalty 0.5 --frequency-penalty 2 --logit-bias 3=-1.5,4=2 --allowed-token-ids 1,2,3
--banned-word rain --banned-word fog --seed 7 --max-new-tokens 9 --min-new-tokens 2 --stop a --stop b
--stop-token-ids 5,6 --include-stop --ignore-eos --time-limit 2.5 --choice yes --choice no --echo --postprocess
--keep-special-tokens --token-ids --logprobs --top-logprobs 2 --prompt-logprobs --truncate-prompt --priority -3
--request-id mine
"""


def test_every_option_reaches_the_server(rhapsode, server):
    result = rhapsode("generate", "The", *EVERY_OPTION.split())
    assert result.exit_code == 0, result.stderr
    sampling = pb.SamplingParameters(
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        min_p=0.5,
        typical_p=0.75,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=2,
        seed=7,
        logit_bias={3: -1.5, 4: 2},
        allowed_token_ids=[1, 2, 3],
        banned_words=["rain", "fog"],
    )
    stopping = pb.StoppingCriteria(
        max_new_tokens=9,
        min_new_tokens=2,
        stop_strings=["a", "b"],
        stop_token_ids=[5, 6],
        include_stop=True,
        ignore_eos=True,
        time_limit=Duration(seconds=2, nanos=500_000_000),
    )
    output = pb.OutputOptions(
        token_ids=True,
        logprobs=True,
        top_logprobs=2,
        prompt_logprobs=True,
        echo=True,
        skip_special_tokens=False,
        postprocess=True,
    )
    assert server.requests == [
        pb.GenerateRequest(
            prompt="The",
            model="poems",
            alias="previous",
            sampling=sampling,
            stopping=stopping,
            output=output,
            constraint=pb.Constraint(choices=pb.Choices(texts=["yes", "no"])),
            truncate_prompt=True,
            priority=-3,
            request_id="mine",
        )
    ]


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_every_setting_is_an_option_of_generate_and_repl(rhapsode, setting):
    option = (setting.flag or f"--{setting.name.replace('_', '-')}").partition("/")[0]
    assert option in rhapsode("generate", "--help").stdout
    assert option in rhapsode("repl", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [(["--chat"], [("user", "Who?")]), (["--system", "Be brief."], [("system", "Be brief."), ("user", "Who?")])],
)
def test_a_message_of_a_chat(rhapsode, server, arguments, messages):
    assert rhapsode("generate", "Who?", *arguments).exit_code == 0
    sent = server.requests[0].messages.messages
    assert [(message.role, message.content) for message in sent] == messages


@pytest.mark.parametrize("form", ["json_schema", "grammar"])
def test_a_form_may_come_from_a_file(rhapsode, server, tmp_path, form):
    (tmp_path / "form").write_text("é{}", "utf-8")
    assert rhapsode("generate", "x", f"--{form.replace('_', '-')}", f"@{tmp_path}/form").exit_code == 0
    assert getattr(server.requests[0].constraint, form) == "é{}"


def test_log_probabilities_are_a_table_below_the_text(rhapsode, server):
    first = pb.TokenLogprob(token_id=1, text=b"The")
    second = pb.TokenLogprob(token_id=2, logprob=-0.5, rank=2, text=b" s\xc3")
    second.candidates.add(token_id=3, logprob=-0.25, text="é".encode())
    events = server.scripts["GenerateStream"]
    delta = pb.Delta(text="!", prompt_logprobs=[first], logprobs=[second])
    server.scripts["GenerateStream"] = [events[0], pb.GenerateStreamResponse(delta=delta), events[-1]]
    shown = rhapsode("generate", "The", "--logprobs").stdout
    assert [line.rstrip() for line in shown.splitlines()] == [
        "!",
        "",
        "token of the prompt  probability  rank  likeliest there",
        '"The"',
        "",
        "token     probability  rank  likeliest there",
        r'" s\xc3"        60.7%     2  "é" 77.9%',
    ]
    finished = json.loads(rhapsode("generate", "The", "--logprobs", "--json").stdout.splitlines()[-1])
    assert finished["logprobs"][0]["text"] == " s\\xc3"
    assert finished["logprobs"][0]["candidates"][0]["text"] == "é"


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
        (["generate", "x", "--temperature", "hot"], b"", "'--temperature': must be a number, not 'hot'"),
        (["generate", "x", "--logit-bias", "3"], b"", "ID=BIAS"),
        (["generate", "x", "--grammar", "@/no/such"], b"", "cannot read /no/such"),
        (["generate", "x", "--regex", "a", "--choice", "b"], b"", "constraint"),
        (["generate", "x", "--version", "1", "--alias", "champion"], b"", "version"),
        (["generate", "x", "--retries", "9"], b"", "retries"),
        (["generate", "x", "--config", "/no/such"], b"", "--config: cannot read /no/such"),
        (["sing"], b"", "sing"),
    ],
)
def test_bad_usage(rhapsode, server, arguments, stdin, said):
    result = rhapsode(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert server.requests == []


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


@pytest.mark.parametrize("variable", ["NO_COLOR", ""])
def test_the_summary_is_faint_where_there_are_colours(process, terminal, monkeypatch, variable):
    if variable:
        monkeypatch.setenv(variable, "1")
    running = process("generate", "The", on=terminal)
    shown = terminal.read_until(b"tokens/s]")
    assert (b"\x1b[2m[poems version 3" in shown) is not bool(variable)
    assert (b"\x1b" in shown) is not bool(variable)
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
