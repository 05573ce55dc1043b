"""`rhapsode repl`, piped and on a terminal."""

import json
import threading

import grpc
from rhapsode.v1 import generation_pb2 as pb

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
    assert "/set NAME [VALUE]" in result.stderr


def test_bytes_that_are_no_text_end_the_loop(rhapsode):
    result = rhapsode("repl", stdin=b"The\n\xff\n")
    assert result.exit_code == 2
    assert result.stdout == "Sea, sea!\n"
    assert "not UTF-8" in result.stderr


def test_what_stands_between_two_marks_is_one_prompt(rhapsode, server):
    typed = [
        '"""/not a command',
        "",
        '  a "quote"',
        'end"""',
        '"""one"""',
        '"""',
        "two",
        "",
        '"""',
        '"""',
        "to the end",
    ]
    assert rhapsode("repl", stdin="\n".join(typed)).exit_code == 0
    prompts = [request.prompt for request in server.requests]
    assert prompts == ['/not a command\n\n  a "quote"\nend', "one", "two\n", "to the end"]


def test_options_are_the_first_settings(rhapsode, server):
    assert rhapsode("repl", "--temperature", "0.5", "--stop", "a", stdin="one\n/reset\ntwo\n").exit_code == 0
    one, two = server.requests
    assert one == pb.GenerateRequest(prompt="one", sampling={"temperature": 0.5}, stopping={"stop_strings": ["a"]})
    assert two == pb.GenerateRequest(prompt="two")


def test_json_is_one_object_for_each_prompt(rhapsode):
    lines = rhapsode("repl", "--json", stdin="one\ntwo\n").stdout.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["Sea, sea!", "Sea, sea!"]


def test_more_goes_on_where_the_text_ended(rhapsode, server):
    result = rhapsode("repl", stdin="/more\nThe \n/more\n")
    assert result.exit_code == 2
    assert result.stderr == "nothing is written yet\n"
    assert [request.prompt for request in server.requests] == ["The ", "The Sea, sea!"]


def test_a_conversation_remembers_what_was_said(rhapsode, server):
    typed = ["/chat Be brief.", "Hello", "Who?", "/more", "/chat", "Again", "/chat off", "The"]
    result = rhapsode("repl", stdin="\n".join(typed))
    assert "in a conversation, ask for more" in result.stderr
    hello, who, again, text = server.requests
    system, answer = ("system", "Be brief."), ("assistant", "Sea, sea!")
    assert said(hello) == [system, ("user", "Hello")]
    assert said(who) == [system, ("user", "Hello"), answer, ("user", "Who?")]
    assert said(again) == [("user", "Again")]
    assert text == pb.GenerateRequest(prompt="The")


def said(request):
    return [(message.role, message.content) for message in request.messages.messages]


def test_what_was_refused_is_no_part_of_the_conversation(rhapsode, server, failure):
    server.refusals = [failure(code=grpc.StatusCode.INVALID_ARGUMENT, message="no chat template")]
    result = rhapsode("repl", stdin="/chat\nHello\nAgain\n")
    assert (result.exit_code, result.stdout) == (2, "Sea, sea!\n")
    assert said(server.requests[1]) == [("user", "Again")]


def test_a_session_is_saved_and_gone_on_with(rhapsode, server, tmp_path):
    file = tmp_path / "session.json"
    first = ["/set temperature 0.5", "/chat", "Hello", f"/save {file}"]
    assert f"saved to {file}" in rhapsode("repl", stdin="\n".join(first)).stderr
    shown = rhapsode("repl", stdin=f"/load {file}\nWho?\n").stderr
    assert "1 turns from" in shown
    assert "temperature = 0.5" in shown
    assert server.requests[1].sampling.temperature == 0.5
    assert len(server.requests[1].messages.messages) == 3


def test_log_probabilities_are_a_table(rhapsode, server):
    place = pb.TokenLogprob(token_id=1, logprob=-0.5, rank=2, text=b" s\xc3")
    place.candidates.add(token_id=2, logprob=-0.25, text="é".encode())
    events = server.scripts["GenerateStream"]
    with_logprobs = pb.GenerateStreamResponse(delta=pb.Delta(text="!", logprobs=[place]))
    server.scripts["GenerateStream"] = [events[0], with_logprobs, events[-1]]
    result = rhapsode("repl", stdin="/set logprobs on\nThe\n")
    assert result.stdout.splitlines()[0] == "!"
    assert '" s\\xc3"' in result.stdout
    assert '60.7%     2  "é" 77.9%' in result.stdout
    assert server.requests[0].output.logprobs


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
    running = process("repl", on=terminal)
    terminal.read_until(b"/help lists the commands")
    terminal.read_until(PROMPT)
    terminal.type(b"/set temp\t")
    terminal.read_until(b"erature")
    terminal.type(b" 0.5\r")
    terminal.read_until(PROMPT)
    terminal.type(b"The\r")
    terminal.read_until(b"Sea, sea!\r\n")
    terminal.read_until(b"tokens/s]")
    terminal.read_until(PROMPT)
    terminal.type(b"half a line\x03")
    terminal.read_until(PROMPT)
    terminal.type(b"two\x1b\rlines\r")
    terminal.read_until(b"tokens/s]")
    terminal.read_until(PROMPT)
    terminal.type(b"\x1b[A\r")
    terminal.read_until(b"tokens/s]")
    terminal.read_until(PROMPT)
    terminal.type(b"\x04")
    assert running.wait(10) == 0
    assert [request.prompt for request in server.requests] == ["The", "two\nlines", "two\nlines"]
    assert all(request.sampling.temperature == 0.5 for request in server.requests)
    history = (tmp_path / "rhapsode" / "history").read_text()
    assert "+/set temperature 0.5\n" in history
    assert "+two\n+lines\n" in history


def test_ctrl_c_on_a_terminal_stops_the_stream_and_not_the_program(process, terminal, server):
    script = server.scripts["GenerateStream"]
    server.scripts["GenerateStream"] = [*script[:2], threading.Event()]
    running = process("repl", on=terminal)
    terminal.read_until(PROMPT)
    terminal.type(b"The\r")
    terminal.read_until(b"Sea")
    terminal.type(b"\x03")
    terminal.read_until(b"[stopped]")
    assert server.cancelled.wait(10)
    server.scripts["GenerateStream"] = script
    terminal.read_until(PROMPT)
    terminal.type(b"Night\r")
    terminal.read_until(b"Sea, sea!\r\n")
    terminal.read_until(PROMPT)
    terminal.type(b"/quit\r")
    assert running.wait(10) == 0


def test_a_home_that_cannot_be_written_is_no_reason_not_to_begin(process, terminal, tmp_path):
    (tmp_path / "rhapsode").write_text("in the way")
    running = process("repl", on=terminal)
    terminal.read_until(PROMPT)
    terminal.type(b"\x04")
    assert running.wait(10) == 0
