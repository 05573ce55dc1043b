"""`rhapsode tokenize`."""

import json

import pytest
from rhapsode.v1 import generation_pb2 as pb

TEXT = "Sé a\nbird"


@pytest.fixture
def tokens(server):
    """Those of TEXT: one for each byte of its `é`, one that holds the line break."""
    ends = [1, 2, 3, 5, 7, 10]
    cuts = zip([0, *ends], ends, strict=False)
    made = [pb.Token(id=9 * start, piece=f"p{start}", start=start, end=end) for start, end in cuts]
    server.scripts["Tokenize"] = [pb.TokenizeResponse(tokens=made)]
    return made


def test_a_pipe_gets_a_table(rhapsode, server):
    result = rhapsode("tokenize", "séa", "--version", "2")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["id", "piece", "start", "end"],
        ["5", "Ġséa", "0", "5"],
    ]
    assert server.requests == [pb.TokenizeRequest(text="séa", version=2)]


def test_json(rhapsode):
    assert json.loads(rhapsode("tokenize", "séa", "--json").stdout) == [
        {"id": 5, "piece": "Ġséa", "start": 0, "end": 5}
    ]


def test_the_text_may_come_from_stdin(rhapsode, server):
    assert rhapsode("tokenize", "-", stdin="sea\n\n").exit_code == 0
    assert server.requests[0].text == "sea\n"


def test_a_terminal_gets_each_token_on_a_ground_of_its_own(process, terminal, tokens):
    running = process("tokenize", TEXT, on=terminal)
    shown = terminal.read_until(b"6 tokens, 10 bytes").decode()
    assert running.wait(10) == 0
    grounds = ["106", "103", "102", "105", "106", "103"]
    parts = ["S", "\ufffd", "\ufffd", " a", "\\n", "bird"]
    coloured = [f"\x1b[30;{ground}m{part}\x1b[0m" for ground, part in zip(grounds, parts, strict=True)]
    assert "".join(coloured[:4]) in shown
    # The line goes on below, in the colour of the same token.
    assert f"{coloured[4]}\r\n" in shown
    assert "\x1b[30;106mb\x1b[0m\x1b[30;103mird\x1b[0m\r\n" in shown


@pytest.mark.parametrize("why", ["--table", "NO_COLOR"])
def test_a_terminal_gets_the_table_if_asked_or_without_colours(process, terminal, tokens, monkeypatch, why):
    if why == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    running = process("tokenize", TEXT, *[why][: why == "--table"], on=terminal)
    shown = terminal.read_until(b"p7")
    assert b"piece" in shown
    assert b"m\\n" not in shown
    assert running.wait(10) == 0


@pytest.mark.parametrize("arguments", [(), ("--table",)])
def test_a_terminal_is_not_driven_by_a_token(process, terminal, server, arguments):
    text = "\x1b[2Jsea[red]"
    token = pb.Token(id=1, piece=text, end=len(text))
    server.scripts["Tokenize"] = [pb.TokenizeResponse(tokens=[token])]
    running = process("tokenize", text, *arguments, stdout=terminal.theirs)
    shown = terminal.read_until(b"[red]")
    assert b"[2Jsea[red]" in shown
    assert b"\x1b[2J" not in shown
    assert running.wait(10) == 0
