"""`rhapsode repl`, piped and on a terminal."""

import threading

import grpc
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_client import GenerateOptions
from rhapsode_client.cli.session import PARSERS, Session

# Bracketed paste is switched on when a prompt begins to read.
PROMPT = b"\x1b[?2004h"


def test_piped_lines_are_prompts(rhapsode, server):
    result = rhapsode("repl", "--model", "poems", stdin="The\n\n  Night \n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Sea, sea!\nSea, sea!\n", "")
    assert server.requests == [
        pb.GenerateRequest(model="poems", prompt="The"),
        pb.GenerateRequest(model="poems", prompt="  Night "),
    ]


def test_settings_hold_until_changed(rhapsode, server):
    lines = [
        "/set temperature 0.5",
        "/seed 7",
        "/model poems",
        "one",
        "/seed",
        "/set stop and so",
        "two",
        "/quit",
        "no",
    ]
    result = rhapsode("repl", stdin="\n".join(lines))
    assert result.exit_code == 0
    one, two = server.requests
    assert one == pb.GenerateRequest(prompt="one", model="poems", sampling={"temperature": 0.5, "seed": 7})
    assert two.sampling == pb.SamplingParameters(temperature=0.5)
    assert list(two.stopping.stop_strings) == ["and so"]


def test_mistakes_are_told_and_the_loop_goes_on(rhapsode, server):
    result = rhapsode("repl", stdin="/set temperature hot\n/set warmth 1\n/sing\n/set seed -1\nx\n/seed 1\ny\n")
    assert result.stdout == "Sea, sea!\n"
    for said in ("temperature must be a number, not 'hot'", "no such setting: warmth", "no such command: /sing"):
        assert said in result.stderr
    assert "sampling.seed: Value out of range: -1" in result.stderr
    assert [request.prompt for request in server.requests] == ["y"]
    assert result.exit_code == 2


def test_a_failure_is_told_and_the_exit_code_remembers_it(rhapsode, server, failure):
    server.scripts["GenerateStream"] = [failure(code=grpc.StatusCode.NOT_FOUND, message="no model `odes`")]
    result = rhapsode("repl", stdin="/model odes\nThe\n/help\n")
    assert result.exit_code == 3
    assert "rhapsode: no model `odes`\n" in result.stderr
    assert "/set NAME VALUE" in result.stderr


def test_bytes_that_are_no_text_end_the_loop(rhapsode):
    result = rhapsode("repl", stdin=b"The\n\xff\n")
    assert result.exit_code == 2
    assert result.stdout == "Sea, sea!\n"
    assert "not UTF-8" in result.stderr


def test_every_setting_is_an_option():
    assert set(PARSERS) < set(GenerateOptions.__annotations__)


@pytest.mark.parametrize("name", PARSERS)
def test_a_setting_is_shown_and_taken_back(name):
    session = Session(GenerateOptions())
    assert session.command(f"/set {name} 1") == ""
    assert session.options == {name: PARSERS[name]("1")}
    assert session.command("/set") == f"{name} = {PARSERS[name]('1')}"
    assert session.command(f"/set {name}") == ""
    assert session.options == {}


def test_ctrl_c_stops_the_stream_and_not_the_program(process, interrupt, server):
    script = server.scripts["GenerateStream"]
    server.scripts["GenerateStream"] = [*script[:2], threading.Event()]
    running = process("repl")
    running.stdin.write(b"The\n")
    running.stdin.flush()
    assert running.stdout.read(3) == b"Sea"
    interrupt(running)
    assert server.cancelled.wait(10)
    server.scripts["GenerateStream"] = script
    out, err = running.communicate(b"Night\n", timeout=10)
    assert out == b"\nSea, sea!\n"
    assert err == b"[stopped]\n"
    assert running.returncode == 0


def test_a_person_types(process, terminal, server, tmp_path):
    running = process("repl", stdin=terminal.theirs, stdout=terminal.theirs, stderr=terminal.theirs)
    terminal.read_until(b"/help lists the commands")
    terminal.read_until(PROMPT)
    terminal.type(b"/set temperature 0.5\r")
    terminal.read_until(PROMPT)
    terminal.type(b"The\r")
    terminal.read_until(b"Sea, sea!\r\n")
    terminal.read_until(b"tokens/s]")
    terminal.read_until(PROMPT)
    terminal.type(b"half a line\x03")
    terminal.read_until(PROMPT)
    terminal.type(b"\x04")
    assert running.wait(10) == 0
    assert server.requests == [pb.GenerateRequest(prompt="The", sampling={"temperature": 0.5})]
    history = (tmp_path / "rhapsode" / "history").read_text()
    assert "+/set temperature 0.5\n" in history
    assert "+The\n" in history
