"""The settings and the commands of a session."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from rhapsode_client import GenerateOptions
from rhapsode_client.cli.kinds import BIASES, IDS, INTEGER, NUMBER, SECONDS, SOURCE, SWITCH, TEXTS, WORD
from rhapsode_client.cli.session import Session
from rhapsode_client.cli.settings import SETTINGS
from rhapsode_client.cli.slash import COMMANDS, carried_out
from rhapsode_client.cli.slash_completer import SlashCompleter
from rhapsode_client.requests import generate_request

words = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs"]), min_size=1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
VALUES = {
    NUMBER: numbers,
    SECONDS: st.floats(min_value=1e-3, max_value=1e9),
    INTEGER: st.integers(),
    SWITCH: st.booleans(),
    WORD: words,
    TEXTS: st.lists(st.text(), min_size=1).map(tuple),
    IDS: st.lists(st.integers(min_value=0), min_size=1).map(tuple),
    BIASES: st.dictionaries(st.integers(min_value=0), numbers, min_size=1),
    SOURCE: words.filter(lambda text: not text.startswith("@")),
}
TYPED = {SWITCH: "on", BIASES: "3=1.5", TEXTS: "and so", WORD: "word", SOURCE: "{}"}


@given(st.data())
def test_a_value_that_is_shown_may_be_typed_again(data):
    kind = data.draw(st.sampled_from(list(VALUES)))
    value = data.draw(VALUES[kind])
    assert kind.parse(kind.show(value)) == value


def test_every_option_of_a_completion_is_a_setting():
    assert set(SETTINGS) == set(GenerateOptions.__annotations__)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_taken_shown_understood_and_taken_back(name, capsys):
    session = Session()
    typed = TYPED.get(SETTINGS[name].kind, "1")
    carried_out(session, f"/set {name.replace('_', '-')} {typed}")
    carried_out(session, "/show")
    assert f"{name} = {typed}" in capsys.readouterr().err.replace("1.0\n", "1\n")
    assert generate_request("x", **session.generate_options).ByteSize() > 3
    carried_out(session, f"/set {name}")
    assert session.options == {}


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("/model poems", {"model": "poems"}),
        ("/model poems@3", {"model": "poems", "version": 3}),
        ("/model poems:previous", {"model": "poems", "alias": "previous"}),
        ("/model @3", {"version": 3}),
        ("/model", {}),
        ("/seed 8", {"seed": 8, "model": "odes", "version": 1}),
        ("/set alias previous", {"model": "odes", "alias": "previous"}),
        ('/set stop "\\n\\n"', {"model": "odes", "version": 1, "stop": ("\n\n",)}),
        ('/set stop ["a", " b"]', {"model": "odes", "version": 1, "stop": ("a", " b")}),
        ('/set stop "', {"model": "odes", "version": 1, "stop": ('"',)}),
        ("/set stop [1]", {"model": "odes", "version": 1, "stop": ("[1]",)}),
    ],
)
def test_commands_that_set(typed, options):
    session = Session(GenerateOptions(model="odes", version=1))
    carried_out(session, typed)
    assert session.options == options


def test_one_form_takes_the_place_of_the_other():
    session = Session()
    for typed in ("/set regex [a-z]+", "/set json_schema {}"):
        carried_out(session, typed)
    assert session.options == {"json_schema": "{}"}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/sing", "no such command: /sing; /help lists them"),
        ("/", "no such command: /"),
        ("/set warmth 1", "no such setting: warmth; /help set lists them"),
        ("/set temperature hot", "temperature must be a number, not 'hot'"),
        ("/set temperature nan", "temperature must be a number"),
        ("/set top_k 1.5", "top_k must be a whole number, not '1.5'"),
        ("/set echo maybe", "echo must be on or off, not 'maybe'"),
        ("/set logit_bias 3", "logit_bias must be ID=BIAS"),
        ("/set logit_bias 3=x", "logit_bias must be ID=BIAS"),
        ("/set allowed_token_ids 1,x", "allowed_token_ids must be a whole number, not 'x'"),
        ("/set time_limit 0", "time_limit must be above 0"),
        ("/set grammar @/no/such", "grammar cannot read /no/such: No such file or directory"),
        ("/model poems@new", "version must be a whole number, not 'new'"),
        ("/help nothing", "no such setting: nothing"),
        ("/save", "say which file"),
        ("/save /no/such/file", "cannot write /no/such/file: No such file or directory"),
        ("/load /no/such/file", "cannot read /no/such/file: No such file or directory"),
        ("/more", "nothing is written yet"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(typed, said):
    session = Session(GenerateOptions(model="odes", seed=1))
    with pytest.raises(ValueError, match=re.escape(said)):
        carried_out(session, typed)
    assert session.options == {"model": "odes", "seed": 1}


SAVED = {"settings": {"seed": "2"}, "messages": None, "turns": []}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        json.dumps({**SAVED, "settings": {"warmth": "1"}}).encode(),
        json.dumps({**SAVED, "messages": [{"role": "user"}]}).encode(),
        json.dumps({**SAVED, "turns": [3]}).encode(),
    ],
)
def test_a_file_that_is_no_session_is_told_and_changes_nothing(tmp_path, content):
    path = tmp_path / "session.json"
    path.write_bytes(content)
    session = Session(GenerateOptions(seed=1))
    with pytest.raises(ValueError, match="is no session that /save wrote"):
        session.load(path)
    assert session.options == {"seed": 1}


def test_a_text_may_come_from_a_file(tmp_path):
    (tmp_path / "poem.gbnf").write_text('root ::= "sé"', "utf-8")
    (tmp_path / "bytes").write_bytes(b"\xff")
    session = Session()
    session.set("grammar", f"@{tmp_path}/poem.gbnf")
    assert session.options == {"grammar": 'root ::= "sé"'}
    with pytest.raises(ValueError, match="is not UTF-8"):
        session.set("grammar", f"@{tmp_path}/bytes")


def test_help_names_every_command_and_setting(capsys):
    carried_out(Session(), "/help")
    carried_out(Session(), "/help set")
    shown = capsys.readouterr().err
    assert all(f"/{name} " in shown for name in COMMANDS)
    assert all(f"  {name} " in shown for name in SETTINGS)


@pytest.mark.parametrize("topic", ["seed", "/seed", "top_k", "--top-k"])
def test_help_about_one_thing(capsys, topic):
    carried_out(Session(), f"/help {topic}")
    shown = capsys.readouterr().err
    assert "the same text each time" in shown or "K most likely" in shown


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/s", ["/set", "/seed", "/show", "/save"]),
        ("/set top_", ["top_k", "top_p", "top_logprobs"]),
        ("/set echo ", ["on", "off"]),
        ("/set model p", ["poems"]),
        ("/set seed ", []),
        ("/model p", ["poems"]),
        ("/help gra", ["grammar"]),
        ("/chat o", ["off"]),
        ("a prompt /s", []),
        ("The", []),
    ],
)
def test_completion(typed, offered):
    completer = SlashCompleter(lambda: ["odes", "poems"])
    completions = completer.get_completions(Document(typed), CompleteEvent())
    assert [completion.text for completion in completions] == offered


def test_completion_of_files(tmp_path):
    (tmp_path / "session.json").touch()
    completions = SlashCompleter(list).get_completions(Document(f"/load {tmp_path}/se"), CompleteEvent())
    assert ["".join(text for _, text in completion.display) for completion in completions] == ["session.json"]


def test_infinity_is_no_number():
    with pytest.raises(ValueError, match="must be a number"):
        NUMBER.parse(str(math.inf))
