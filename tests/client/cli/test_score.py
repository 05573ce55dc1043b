"""`rhapsode score`: its figures and its map. tests/end_to_end compares with transformers."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_client import TokenLogprob
from rhapsode_client.cli.score.figures import Likelihood, total
from rhapsode_client.cli.score.heat_map import LEVELS, level_of, pieces
from rhapsode_client.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Words are tokens, of 1 nat each unless the test says otherwise."""
    with FakeServer() as server:
        yield server


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "text.txt") -> str:
        (tmp_path / name).write_bytes(text.encode())
        return str(tmp_path / name)

    return write


def test_several_texts_and_their_total(rhapsode, write):
    texts = write("a b c"), write("d e f g h", "other.txt")
    result = rhapsode("score", *texts, "--fragment")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines == [
        ["text", "bytes", "tokens", "bits", "per", "byte", "perplexity"],
        [texts[0], "4", "2", f"{2 / math.log(2) / 4:.4f}", "2.72"],
        [texts[1], "8", "4", f"{4 / math.log(2) / 8:.4f}", "2.72"],
        ["total", "12", "6", f"{6 / math.log(2) / 12:.4f}", "2.72"],
    ]
    assert result.stderr == ""


def test_options_reach_the_server(rhapsode, server, write):
    options = "--model fake --version 3 --overlap 7 --top-logprobs 2 --json"
    result = rhapsode("score", write("a b"), *options.split())
    [call] = server.calls
    assert (call.request.model, call.request.version, call.request.as_document) == ("fake", 3, True)
    assert (call.request.overlap, call.request.top_logprobs) == (7, 2)
    assert json.loads(result.stdout)["tokens"][1]["candidates"][0]["text"] == " b"


def test_what_cannot_be_told(rhapsode, write):
    [_, cells] = rhapsode("score", write("a"), "--fragment").stdout.splitlines()
    assert cells.split()[1:] == ["0", "0", "-", "-"]
    assert json.loads(rhapsode("score", write("a"), "--fragment", "--json").stdout)["bits_per_byte"] is None


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"a\xff", "is not UTF-8: invalid start byte at byte 1")]
)
def test_a_file_that_is_no_text(rhapsode, server, tmp_path, content, said):
    path = tmp_path / "file"
    path.write_bytes(content)
    result = rhapsode("score", str(path))
    assert result.exit_code == 2
    assert f"{path} {said}" in result.stderr
    assert server.calls == []


def test_a_terminal_shows_where_a_text_surprises(process, terminal, server, write, monkeypatch):
    monkeypatch.setenv("COLORTERM", "truecolor")
    server.logprobs.update({" b": -0.1, " c\x1b[2J": -5.0, "\nd": -9.0})
    process("score", write("a b c\x1b[2J\nd"), "--fragment", stdout=terminal.theirs)
    shown = terminal.read_until(b"perplexity")
    orange, red = b"\x1b[30;48;2;252;201;107m", b"\x1b[1;37;48;2;179;32;44m"
    assert shown.startswith(b"a b" + orange + b" c[2J\x1b[0m" + red + "\u21b5".encode())
    assert orange + b" 6 to 9 \x1b[0m" in shown


def test_without_colours_the_most_surprising_stands_out(process, terminal, server, write, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    server.logprobs[" b"] = -9.0
    process("score", write("a b c"), "--fragment", stdout=terminal.theirs)
    shown = terminal.read_until(b"perplexity")
    assert b"a\x1b[7m b\x1b[0m c" in shown
    assert b"\x1b[7m 12 and more \x1b[0m" in shown


def test_the_map_of_a_long_text_is_cut_unless_it_is_asked_for(process, terminal, write):
    path = write(" ".join(["word"] * 1500))
    running = process("score", path, "--fragment", stdout=terminal.theirs, stderr=terminal.theirs)
    assert terminal.read_until(b"500 more tokens; --heat-map shows all]").count(b"word") == 1000
    assert running.wait(10) == 0


def test_a_map_through_a_pipe_is_plain(rhapsode, write):
    assert rhapsode("score", write("a b\nc"), "--fragment", "--heat-map").stdout.startswith(
        "a b\nc\n\nbits of surprise"
    )


@given(st.text(min_size=1), st.lists(st.integers(1, 5), min_size=1), st.lists(st.floats(-30, 0), min_size=1))
def test_the_map_holds_the_text_however_its_characters_are_cut(text, lengths, surprises):
    data, tokens, place = text.encode(), [], 0
    while place < len(data):
        length = lengths[len(tokens) % len(lengths)]
        logprob = surprises[len(tokens) % len(surprises)]
        tokens.append(TokenLogprob(token_id=1, logprob=logprob, rank=1, text=data[place : place + length]))
        place += length
    shown = list(pieces(tokens))
    assert "".join(piece for piece, _ in shown).replace("\u21b5\n", "\n") == text.replace("\u21b5\n", "\n")
    assert max(level for _, level in shown) == max(level_of(-each.logprob / math.log(2)) for each in tokens)


def test_the_surprise_of_a_cut_character_is_that_of_its_worst_part():
    logprobs_of_parts = [(b"a", -0.1), (b"\xf0\x9f", -9.0), (b"\x8c\x8a", -0.1), (b"b", -0.1), (b"\xc3", -0.1)]
    tokens = [TokenLogprob(token_id=1, logprob=each, rank=1, text=text) for text, each in logprobs_of_parts]
    assert list(pieces(tokens)) == [("a", 0), ("\U0001f30a", 4), ("b", 0), ("\ufffd", 0)]


def test_levels_begin_where_the_legend_says():
    assert [level_of(level.least) for level in LEVELS] == list(range(len(LEVELS)))
    assert level_of(LEVELS[2].least - 1e-9) == 1


def test_likelihoods_add_up_by_what_they_count():
    parts = [Likelihood(bits=8, tokens=4, bytes=2), Likelihood(bits=2, tokens=1, bytes=8)]
    assert total(parts) == Likelihood(bits=10, tokens=5, bytes=10)
    assert (total(parts).bits_per_byte, total(parts).perplexity) == (1.0, 4.0)
    assert Likelihood(bits=1e6, tokens=1, bytes=1).perplexity is None
