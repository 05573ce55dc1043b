"""The file of tokens, and the command that makes its lines."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_server import tokens
from rhapsode_server.tokens import Rate, Scope, Token, digest_of, parse_tokens, read_tokens

DIGEST = digest_of("rhp_secret")
HASH = f"sha256:{DIGEST.hex()}"


def test_a_line_in_full() -> None:
    [token] = parse_tokens(f"search {HASH} scopes=generate,score rate=10/s concurrency=4")
    scopes = frozenset({Scope.GENERATE, Scope.SCORE})
    assert token == Token(name="search", digest=DIGEST, scopes=scopes, rate=Rate(calls=10, seconds=1), concurrency=4)


def test_what_may_be_left_out() -> None:
    [token] = parse_tokens(f"# of the search team\n\n  search\t{HASH} \r\n")
    assert token == Token(name="search", digest=DIGEST)


def test_two_tokens_of_one_name_while_one_takes_the_place_of_the_other() -> None:
    other = digest_of("rhp_other")
    found = parse_tokens(f"search {HASH}\nsearch sha256:{other.hex()}")
    assert [token.digest for token in found] == [DIGEST, other]


@pytest.mark.parametrize(("text", "rate"), [("5/s", (5, 1)), ("100/m", (100, 60)), ("1000/h", (1000, 3600))])
def test_rates(text: str, rate: tuple[int, int]) -> None:
    [token] = parse_tokens(f"a {HASH} rate={text}")
    assert token.rate is not None
    assert (token.rate.calls, token.rate.seconds) == rate


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search", "after the name search belongs sha256: and 64 hexadecimal digits"),
        ("search rhp_secret scopes=generate", "after the name search belongs sha256:"),
        (f"search {HASH[:-1]}", "64 hexadecimal digits"),
        (f"search {HASH}0", "64 hexadecimal digits"),
        (f"search {HASH.upper()}", "64 hexadecimal digits"),
        (HASH, "does not begin with a name"),
        (f"-x {HASH}", "does not begin with a name"),
        (f"{'n' * 64} {HASH}", "does not begin with a name"),
        (f"search {HASH} generate", "'generate' is not one of scopes=, rate= and concurrency="),
        (f"search {HASH} scope=generate", "'scope' is not one of"),
        (f"search {HASH} scopes=admin scopes=score", "each at most once"),
        (f"search {HASH} scopes=all", "scopes: 'all' is not one of generate, score, admin"),
        (f"search {HASH} scopes=", "scopes: '' is not one of"),
        (f"search {HASH} scopes=generate,", "scopes: '' is not one of"),
        (f"search {HASH} rate=10", "rate: '10' is not calls a second, minute or hour"),
        (f"search {HASH} rate=0/s", "rate: '0/s'"),
        (f"search {HASH} rate=-1/s", "rate: '-1/s'"),
        (f"search {HASH} concurrency=0", "concurrency: 0 is less than 1"),
        (f"search {HASH} concurrency=many", "concurrency: 'many' is not a whole number"),
        (f"other {HASH}", "the same token as that of first further up"),
    ],
)
def test_a_broken_line_is_named_and_never_shown(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_tokens(f"# all of them\nfirst {HASH}\n{line}\n")
    assert str(caught.value).startswith("line 3: ")
    assert "rhp_secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_a_file_without_a_token_is_one_that_is_just_being_written(text: str) -> None:
    with pytest.raises(ValueError, match="holds no token"):
        parse_tokens(text)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_whatever_it_holds_nothing_else_is_raised(text: str) -> None:
    try:
        found = parse_tokens(text)
    except ValueError:
        return
    assert found


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with pytest.raises(ValueError, match=f"--tokens-file: cannot read {path}: No such file or directory"):
        read_tokens(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=f"--tokens-file: {path}: 'utf-8' codec"):
        read_tokens(path)
    path.write_text(f"search {HASH}\nother")
    with pytest.raises(ValueError, match=f"--tokens-file: {path}: line 2: after the name other"):
        read_tokens(path)


def test_a_token_is_made_and_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert tokens.main(["search", "--scopes", "generate,score", "--rate", "10/s", "--concurrency", "4"]) == 0
    shown = capsys.readouterr()
    match = re.fullmatch(r"The token of search, shown this once: (rhp_[\w-]{43})\n", shown.err)
    assert match
    scopes, rate = frozenset({Scope.GENERATE, Scope.SCORE}), Rate(calls=10, seconds=1)
    expected = Token(name="search", digest=digest_of(match[1]), scopes=scopes, rate=rate, concurrency=4)
    assert parse_tokens(shown.out) == (expected,)
    assert match[1] not in shown.out


def test_every_token_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(20):
        tokens.main(["search"])
    assert len(parse_tokens(capsys.readouterr().out)) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["se arch"], "does not begin with a name"),
        (["search", "--scopes", "all"], "scopes: 'all' is not one of generate, score, admin"),
        (["search", "--rate", "fast"], "rate: 'fast'"),
        (["search", "--concurrency", "0"], "concurrency: 0 is less than 1"),
        (["search", "x y"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_a_line_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tokens.main(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert (shown.out, message in shown.err) == ("", True)


def test_the_command_needs_no_torch() -> None:
    script = "import sys; from rhapsode_server import tokens; tokens.main(['a']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
