"""Constraints: masks against oracles, forms that are refused, and the threads and processes that prepare them."""

import json
import queue
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import regex
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_server.engine import grammar as grammar_module
from rhapsode_server.engine import matcher as matcher_module
from rhapsode_server.engine import trial_process
from rhapsode_server.engine.grammar import Grammars
from rhapsode_server.engine.matcher import Matcher, Vocabulary, translate
from rhapsode_server.engine.refusal import BadConstraint, ConstraintsBusy
from rhapsode_server.engine.request import Constraint
from rhapsode_server.engine.trial import Failed
from rhapsode_server.text.tokenizer import Tokenizer
from support.checking_runner import Clock
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = ['{"name": "Zoe", "age": 31, "tags": ["a", "b"]}\n', "yes, yesterday; über größe 😀 abab abba true null"] * 5


def byte_level() -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(CORPUS, trainer)
    return library


def byte_fallback() -> tokenizers.Tokenizer:
    """The Llama kind; some characters have two tokens."""
    pieces = [
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "a",
        "b",
        "▁",
        "▁a",
        "es",
        '":',
        '▁"',
        "ü",
        "yesterday",
    ]
    vocab = {piece: token_id for token_id, piece in enumerate(pieces)}
    library = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    library.normalizer = normalizers.Replace(" ", "▁")
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    library.add_special_tokens(["<s>", "</s>"])
    return library


def metaspace() -> tokenizers.Tokenizer:
    """The T5 kind of decoder, and characters without any token."""
    pieces = ["</s>", "▁", *(chr(code) for code in range(33, 127)), "▁yes", "▁a", "ab", "aba", "ü", "größe", '{"', '":']
    library = tokenizers.Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    library.decoder = decoders.Metaspace()
    library.add_special_tokens(["</s>"])
    return library


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "metaspace": metaspace,
}


class Tokens:
    """A tokenizer in a file, what llguidance makes of it, and what the text package makes of it."""

    def __init__(self, folder: Path, library: tokenizers.Tokenizer) -> None:
        self.file = folder / "tokenizer.json"
        library.save(str(self.file))
        tokenizer = Tokenizer.load(folder)
        self.size = tokenizer.vocabulary_size
        self.vocabulary = Vocabulary(self.file, self.size)
        ids = tokenizer.visible_ids(sorted(library.get_vocab().values()), skip_special_tokens=True)
        self.texts = {i: tokenizer.token_bytes(i) for i in ids}
        [self.end_id] = [i for i in library.get_vocab().values() if library.id_to_token(i) in ("</s>", "<|endoftext|>")]

    @cache  # noqa: B019 - lives as long as the tests
    def grammar(self, kind: str, source: str) -> str:
        return translate(Constraint(kind, source))

    def matcher(self, kind: str, source: str) -> Matcher:
        return self.vocabulary.matcher(self.grammar(kind, source), {self.end_id})

    def spell(self, text: bytes) -> list[int]:
        """One token for each byte, or for each character where bytes have none."""
        ids = {data: i for i, data in self.texts.items()}
        if all(bytes([byte]) in ids for byte in text):
            return [ids[bytes([byte])] for byte in text]
        return [ids[character.encode()] for character in text.decode()]


@pytest.fixture(scope="module", params=KINDS)
def tokens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return Tokens(tmp_path_factory.mktemp("tokenizer"), KINDS[request.param]())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """With a token for every byte."""
    return Tokens(tmp_path_factory.mktemp("tokenizer"), byte_level())


def allowed(matcher: Matcher, size: int) -> set[int]:
    mask = matcher.allowed_mask()
    assert len(mask) == -(-size // 32) * 4
    found = {i for i in range(len(mask) * 8) if mask[i >> 3] >> (i & 7) & 1}
    assert all(i < size for i in found)
    return found


def check_walk(tokens: Tokens, kind: str, source: str, may_begin: Callable[[bytes], bool], seed: int) -> bytes:
    """A walk at random. In each place, the mask is what the oracle `may_begin` says of all tokens, one by one."""
    matcher, generator, text = tokens.matcher(kind, source), random.Random(seed), b""
    for _ in range(25):
        following = {i for i, data in tokens.texts.items() if data and may_begin(text + data)}
        found = allowed(matcher, tokens.size)
        assert found - {tokens.end_id} == following, text
        assert matcher.is_complete == (not following)
        if not following:
            assert tokens.end_id in found
            break
        token_id = generator.choice(sorted(following))
        matcher.accept(token_id)
        text += tokens.texts[token_id]
    return text


# Each as a regular expression over bytes too: the oracle for what may begin a text of the form.
REGEXES = {
    r"yes|yesterday|no": rb"yes|yesterday|no",
    r"(a|ab)(c|bcd)?x*": rb"(a|ab)(c|bcd)?x*",
    r"(a|b)*a(a|b){3}": rb"(a|b)*a(a|b){3}",
    r"-?(0|[1-9][0-9]{0,5})(\.[0-9]+)?": rb"-?(0|[1-9][0-9]{0,5})(\.[0-9]+)?",
    r" ?\{\"a\": \"[a-e/]{2,6}\"\}": rb' ?\{"a": "[a-e/]{2,6}"\}',
    r"^[a-c]{2}$": rb"[a-c]{2}",
}
BEYOND_ASCII = {
    r"(größe|ü)+ ": "(größe|ü)+ ".encode(),
    r"(😀|😂|é)*ü": "(😀|😂|é)*ü".encode(),
    r"[à-ü]x": b"(\xc3[\xa0-\xbc])x",
}
GRAMMARS = {
    'root ::= ("a" | "ab") ("b" | "bc")* # greedy would not do': rb"(a|ab)(b|bc)*",
    "root ::= item{2,3}\nitem ::= [a-c] | digit+\n  | ('x' y)?\ndigit ::= [0-1]\ny ::= \"/\"".replace("'", '"'): (
        rb"([a-c]|[01]+|(x/)?){2,3}"
    ),
    'root ::= word ("," word)*\nword ::= [a-z]+ "a"': rb"[a-z]+a(,[a-z]+a)*",
    'root ::= "\\x61\\u0062\\"" [^\\x00-a\\u0063-\\U0010FFFF]': rb'ab"b',
    'root ::= "a"{3} | "" | ("b" | )+ "]"': rb"a{3}||b*\]",
    "root ::= [x/-] [\\]^-] [a-]": rb"[x/-][]^-][a-]",
}
SEEDS = st.integers(0, 10**6)


def prefix_oracle(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = regex.compile(pattern, regex.DOTALL)
    return cache(lambda text: compiled.fullmatch(text, partial=True) is not None)


@pytest.mark.parametrize(
    ("kind", "source", "pattern"),
    [("regex", *pair) for pair in REGEXES.items()] + [("grammar", *pair) for pair in GRAMMARS.items()],
)
@settings(max_examples=6, deadline=None)
@given(seed=SEEDS)
def test_a_mask_holds_what_may_follow_and_nothing_else(
    tokens: Tokens, kind: str, source: str, pattern: bytes, seed: int
) -> None:
    check_walk(tokens, kind, source, prefix_oracle(pattern), seed)


@pytest.mark.parametrize(("source", "pattern"), BEYOND_ASCII.items())
@settings(max_examples=6, deadline=None)
@given(seed=SEEDS)
def test_characters_may_be_spelled_in_parts(tokens: Tokens, source: str, pattern: bytes, seed: int) -> None:
    oracle = prefix_oracle(pattern)
    if not all(bytes([byte]) in tokens.texts.values() for byte in "😀".encode()):
        # Without tokens for bytes there is not always a way on.
        assert {tokens.texts[i] for i in allowed(tokens.matcher("regex", "(größe|ü)+"), tokens.size)} == {
            "größe".encode(),
            "ü".encode(),
            b"g",
        }
        return
    check_walk(tokens, "regex", source, oracle, seed)


CHOICE_TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["yes", "yesterday", "ye", "a\\", "\n/", "[x-]{2}", "ü😀", " a", '"']), st.text(max_size=4)
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(texts=CHOICE_TEXTS.map(lambda texts: [text for text in texts if text] or ["."]), seed=SEEDS)
def test_choices_are_written_as_they_are(whole: Tokens, texts: list[str], seed: int) -> None:
    spelled = [text.encode() for text in texts]
    text = check_walk(
        whole, "choices", json.dumps(texts), lambda begun: any(text.startswith(begun) for text in spelled), seed
    )
    assert text in spelled


def test_a_choice_that_begins_another_may_end_or_go_on(whole: Tokens) -> None:
    matcher = whole.matcher("choices", '["yes", "yesterday"]')
    for token_id in whole.spell(b"yes"):
        assert whole.end_id not in allowed(matcher, whole.size)
        matcher.accept(token_id)
    assert not matcher.is_complete
    assert whole.end_id in allowed(matcher, whole.size)
    for token_id in whole.spell(b"terday"):
        matcher.accept(token_id)
    assert matcher.is_complete
    assert allowed(matcher, whole.size) == {whole.end_id}


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["a/b", "ü", 1, None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "inner": {"$ref": "#/$defs/inner"},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
    "$defs": {
        "inner": {
            "type": "object",
            "properties": {"again": {"anyOf": [{"$ref": "#/$defs/inner"}, {"type": "null"}]}},
            "required": ["again"],
            "additionalProperties": False,
        }
    },
}
# The library always writes DEL as an escape.
TEXTS = st.text(st.characters(exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=5)
INNER = st.recursive(st.none(), lambda inner: st.fixed_dictionaries({"again": inner}), max_leaves=4).filter(bool)
DOCUMENTS = st.fixed_dictionaries(
    {
        "name": TEXTS,
        "age": st.integers(0, 120),
        "tags": st.lists(st.booleans(), min_size=1, max_size=3),
    },
    optional={"inner": INNER},
).map(lambda document: {name: document[name] for name in ("name", "age", "tags", "inner") if name in document})


def fits_schema(document: Any) -> bool:
    tags = document["tags"]
    return (
        {"name", "age", "tags"} <= document.keys() <= SCHEMA["properties"].keys()  # type: ignore[attr-defined]
        and isinstance(document["name"], str)
        and len(document["name"]) <= 5
        and type(document["age"]) is int
        and 0 <= document["age"] <= 120
        and document.get("kind", 1) in ("a/b", "ü", 1, None)
        and 1 <= len(tags) <= 3
        and all(type(tag) is bool for tag in tags)
        and fits_inner(document.get("inner", {"again": None}))
    )


def fits_inner(inner: Any) -> bool:
    return inner.keys() == {"again"} and (inner["again"] is None or fits_inner(inner["again"]))


def walk_to_the_end(tokens: Tokens, matcher: Matcher, seed: int) -> bytes:
    """At random, away from white space and nesting where there is a choice."""
    generator, text = random.Random(seed), b""
    while not matcher.is_complete:
        ids = sorted(allowed(matcher, tokens.size) - {tokens.end_id})
        ids = [i for i in ids if tokens.texts[i].strip() and b"{" not in tokens.texts[i]] or ids
        matcher.accept(token_id := generator.choice(ids))
        text += tokens.texts[token_id]
    return text


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_a_walk_through_a_schema_ends_in_a_document_of_it(tokens: Tokens, seed: int) -> None:
    text = walk_to_the_end(tokens, tokens.matcher("json_schema", json.dumps(SCHEMA)), seed)
    assert fits_schema(json.loads(text)), text


@settings(max_examples=30, deadline=None)
@given(document=DOCUMENTS, indent=st.sampled_from([None, 2]))
def test_every_document_of_a_schema_may_be_written(whole: Tokens, document: Any, indent: int | None) -> None:
    matcher = whole.matcher("json_schema", json.dumps(SCHEMA))
    for token_id in whole.spell(json.dumps(document, indent=indent, ensure_ascii=False).encode()):
        assert not matcher.is_complete
        assert token_id in allowed(matcher, whole.size)
        matcher.accept(token_id)
    assert matcher.is_complete


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ANY_JSON = st.recursive(
    st.none() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(document=ANY_JSON)
def test_an_empty_schema_takes_any_json(whole: Tokens, document: Any) -> None:
    matcher = whole.matcher("json_schema", "{}")
    for token_id in whole.spell(json.dumps(document, ensure_ascii=False).encode()):
        matcher.accept(token_id)
    assert whole.end_id in allowed(matcher, whole.size)


RECURSIVE = 'root ::= "(" root ")" root | [a-c] | ""'


def balance(text: bytes) -> bool:
    depth = 0
    for before, byte in zip(b"(" + text, text, strict=False):
        depth += {40: 1, 41: -1}.get(byte, 0)
        if (
            depth < 0
            or (byte not in b"()" and (byte not in b"abc" or before not in b"()"))
            or (byte == 40 and before in b"abc")
        ):
            return False
    return True


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_a_recursive_grammar(tokens: Tokens, seed: int) -> None:
    check_walk(tokens, "grammar", RECURSIVE, balance, seed)


def test_a_token_outside_of_the_mask_is_refused_for_good(tokens: Tokens) -> None:
    refused = sorted(set(range(tokens.size)) - allowed(tokens.matcher("regex", "a+"), tokens.size))
    assert len(refused) > 50
    for token_id in refused[::7]:
        matcher = tokens.matcher("regex", "a+")
        with pytest.raises(BadConstraint):
            matcher.accept(token_id)
        with pytest.raises(BadConstraint):
            matcher.accept(tokens.spell(b"a")[0])


def test_a_token_that_takes_too_long_ends_it(whole: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    matcher = whole.matcher("regex", "a+")
    matcher.accept(whole.spell(b"a")[0])
    monkeypatch.setattr(matcher_module, "MAX_TOKEN_SECONDS", 0.0)
    with pytest.raises(BadConstraint, match="too complex: a token takes more than"):
        matcher.accept(whole.spell(b"a")[0])


def test_tokens_that_take_long_on_the_mean_end_it(whole: Tokens) -> None:
    matcher = whole.matcher("regex", "a+")
    for _ in range(500):
        matcher._note_time(0.9 * matcher_module.MAX_MEAN_SECONDS)
    matcher._note_time(0.99 * matcher_module.MAX_TOKEN_SECONDS - matcher_module.MAX_MEAN_SECONDS * 5)
    with pytest.raises(BadConstraint, match="tokens take more than 10 ms each"):
        exhaust(matcher)


def exhaust(matcher: Matcher) -> None:
    for _ in range(100):
        matcher._note_time(1.2 * matcher_module.MAX_MEAN_SECONDS)


def test_a_text_token_that_ends_the_completion_may_do_so_only_where_it_is_complete(whole: Tokens) -> None:
    [a, b, c] = whole.spell(b"abc")
    matcher = whole.vocabulary.matcher(whole.grammar("regex", "(ab)+"), {a, c, whole.end_id, 10**6})
    assert a not in allowed(matcher, whole.size)
    with_end = whole.vocabulary.matcher(whole.grammar("regex", "(ab)+"), {c})
    with_end.accept(a)
    assert c not in allowed(with_end, whole.size)
    with_end.accept(b)
    assert {a, c} <= allowed(with_end, whole.size)


def test_without_an_end_token_complete_means_complete(tokens: Tokens) -> None:
    matcher = tokens.vocabulary.matcher(tokens.grammar("regex", "ab"), ())
    for token_id in tokens.spell(b"ab"):
        assert not matcher.is_complete
        matcher.accept(token_id)
    assert matcher.is_complete
    assert allowed(matcher, tokens.size) == set()


def test_white_space_between_json_tokens_can_be_switched_off(whole: Tokens) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 2}
    compact = schema | {"x-guidance": {"whitespace_flexible": False}}
    for source, takes in ((schema, {b"[1, 2]": True, b"[1,2]": True}), (compact, {b"[1, 2]": False, b"[1,2]": True})):
        for document, fits in takes.items():
            assert follows(whole, whole.matcher("json_schema", json.dumps(source)), document) is fits


def follows(tokens: Tokens, matcher: Matcher, text: bytes) -> bool:
    for token_id in tokens.spell(text):
        if token_id not in allowed(matcher, tokens.size):
            return False
        matcher.accept(token_id)
    return tokens.end_id in allowed(matcher, tokens.size)


BAD = {
    ("json_schema", "{"): "line 1 column 2",
    ("json_schema", '{"const": NaN}'): "NaN is not JSON",
    ("json_schema", "[]"): "schema must be an object or boolean",
    ("json_schema", "false"): "schema is false",
    ("json_schema", '{"type": "strin"}'): "Invalid type: strin",
    ("json_schema", '{"$ref": "#/$defs/absent"}'): "Pointer '/$defs/absent' does not exist",
    ("json_schema", '{"$ref": "https://example.org/schema"}'): "example.org",
    ("json_schema", '{"not": {"type": "string"}}'): 'Unimplemented keys: ["not"]',
    ("json_schema", '{"type": "array", "uniqueItems": true}'): "uniqueItems",
    ("json_schema", '{"minimum": 5, "maximum": 3, "type": "integer"}'): "minimum (5) is greater than maximum (3)",
    ("json_schema", '{"type": "string", "pattern": "(a"}'): "unclosed group",
    ("json_schema", '{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}'): "",
    ("json_schema", '{"items":' * 3000 + "{}" + "}" * 3000): "nested too deep",
    ("json_schema", '{"type": "array", "minItems": 2000000}'): "MiB",
    ("json_schema", '{"type": "integer", "multipleOf": 999999937}'): "too complex: fuel exhausted",
    ("regex", "\\"): "escapes nothing",
    ("regex", "[a"): "unclosed character class",
    ("regex", "(?=a)b"): "look-ahead",
    ("regex", r"(a)\1"): "backreferences are not supported",
    ("regex", "a{3,2}"): "invalid repetition",
    ("regex", "(" * 500 + ")" * 500): "nested",
    ("grammar", ""): "no rule 'root'",
    ("grammar", 'start: "a"'): "line 1",
    ("grammar", 'root ::= "a"\n  | word'): "line 2: no rule 'word'",
    ("grammar", 'root ::= "a" |\n\n("b"'): "line 3: ) is missing before the end",
    ("grammar", 'root ::= "a"\nroot ::= "b"'): "line 2: the rule 'root' is defined twice",
    ("grammar", "root ::= [z-a]"): "the range z-a ends before it begins",
    ("grammar", "root ::= []"): "an empty class",
    ("grammar", 'root ::= "\\q"'): "is no escape",
    ("grammar", 'root ::= "\\uD800"'): "is no character",
    ("grammar", "root ::= *"): "is missing before '*'",
    ("grammar", "root ::= root"): "no text has this form",
    ("grammar", "root ::= " + "(" * 99 + '"a"' + ")" * 99): "nest deeper",
}
OVERFLOW = "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(20000)) + 'r20000 ::= "a"'
ENDLESS = json.dumps({"allOf": [{"type": "string", "pattern": f"a.{{{i}}}b"} for i in range(10, 40)]})


@pytest.fixture(scope="module")
def grammars(whole: Tokens) -> Iterator[Grammars]:
    with closing(Grammars(whole.file, vocabulary_size=whole.size)) as grammars:
        yield grammars


def refusal(future: "Future[Any]") -> str:
    error = future.exception(30)
    assert isinstance(error, BadConstraint)
    assert str(error) == error.detail
    return error.detail


@pytest.mark.parametrize(("kind", "source"), BAD, ids=[f"{kind} {source[:30]}" for kind, source in BAD])
def test_what_is_wrong_is_said(grammars: Grammars, kind: str, source: str) -> None:
    detail = refusal(grammars.prepare(Constraint(kind, source), ()))
    assert BAD[kind, source] in detail
    assert detail
    assert len(detail) < 400
    assert "\n" not in detail


def test_an_overflowing_stack_is_nobody_elses(grammars: Grammars, whole: Tokens) -> None:
    futures = [grammars.prepare(Constraint("grammar", OVERFLOW + "#" * i), ()) for i in range(2)]
    futures.append(grammars.prepare(Constraint("regex", "ok"), {whole.end_id}))
    assert all("nests too deep" in refusal(future) for future in futures[:2])
    matcher = futures[2].result(30)
    for token_id in whole.spell(b"ok"):
        matcher.accept(token_id)
    assert matcher.is_complete


def test_a_constraint_without_end_is_stopped_and_leaves_the_other_process_to_others(whole: Tokens) -> None:
    with closing(Grammars(whole.file, vocabulary_size=whole.size, time_limit=2.0)) as grammars:
        endless = grammars.prepare(Constraint("json_schema", ENDLESS), ())
        for number in range(5):
            assert grammars.prepare(Constraint("regex", f"a{{{number}}}b"), ()).result(30)
        assert refusal(endless) == "it takes longer than 2 s to prepare"
        assert grammars.prepare(Constraint("regex", "c"), ()).result(30)


def test_a_proof_is_remembered_and_a_matcher_is_not_shared(whole: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    class Counting(grammar_module.Trial):
        def prove(self, constraint: Constraint) -> str:
            tried.append(constraint.source)
            return super().prove(constraint)

    monkeypatch.setattr(grammar_module, "Trial", Counting)
    monkeypatch.setattr(grammar_module, "CACHE_SIZE", 2)
    with closing(Grammars(whole.file, vocabulary_size=whole.size)) as grammars:
        first, second, *_ = (
            grammars.prepare(Constraint("regex", source), ()).result(30)
            for source in ("a", "a", "b", "a", "c", "a", "b")
        )
    assert tried == ["a", "b", "c", "b"]
    first.accept(whole.spell(b"a")[0])
    assert first.is_complete
    assert not second.is_complete


class PanicException(BaseException):
    """What a panic of the library looks like."""


class Stuck(grammar_module.Trial):
    """Begins, says so, and does not end until told to."""

    begun: "queue.SimpleQueue[str]"
    go_on: threading.Event

    def prove(self, constraint: Constraint) -> str:
        self.begun.put(constraint.source)
        assert self.go_on.wait(30)
        raise PanicException("a bug")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> type[Stuck]:
    monkeypatch.setattr(grammar_module, "Trial", Stuck)
    monkeypatch.setattr(grammar_module, "NUM_THREADS", 1)
    Stuck.begun, Stuck.go_on = queue.SimpleQueue(), threading.Event()
    return Stuck


def test_what_waits_is_bounded_and_may_be_cancelled(
    whole: Tokens, stuck: type[Stuck], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "MAX_WAITING", 3)
    with closing(Grammars(whole.file, vocabulary_size=whole.size)) as grammars:
        running = grammars.prepare(Constraint("regex", "a"), ())
        assert stuck.begun.get(timeout=30) == "a"
        waiting = [grammars.prepare(Constraint("regex", source), ()) for source in "bcd"]
        for _ in range(2):
            busy = grammars.prepare(Constraint("regex", "e"), ()).exception(30)
            assert isinstance(busy, ConstraintsBusy)
            assert "too many" in str(busy)
        assert all(future.cancel() for future in waiting)
        stuck.go_on.set()
        assert refusal(running) == "it could not be prepared", "even after a panic"
    panicked = running.exception()
    assert isinstance(panicked, BadConstraint)
    assert repr(panicked.bug) == "PanicException('a bug')"
    assert stuck.begun.empty(), "what was cancelled is not tried"


def test_equal_constraints_are_tried_once_and_a_failure_is_remembered_for_a_while(
    whole: Tokens, stuck: type[Stuck], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(grammar_module, "MAX_WAITING", 1)
    with closing(Grammars(whole.file, vocabulary_size=whole.size, clock=clock)) as grammars:
        futures = [grammars.prepare(Constraint("regex", "a"), ())]
        assert stuck.begun.get(timeout=30) == "a"
        futures += [grammars.prepare(Constraint("regex", source), ()) for source in "aabbb"]
        assert futures[1].cancel()
        stuck.go_on.set()
        assert {refusal(future) for future in futures if not future.cancelled()} == {"it could not be prepared"}
        assert stuck.begun.get(timeout=30) == "b"
        clock.now += grammar_module.FAILURE_SECONDS - 1
        refusal(grammars.prepare(Constraint("regex", "a"), ()))
        assert stuck.begun.empty(), "it is remembered"
        clock.now += 1
        refusal(grammars.prepare(Constraint("regex", "a"), ()))
        assert stuck.begun.get(timeout=30) == "a", "and then tried again"


def test_a_panic_while_a_matcher_is_built_ends_its_own_request(whole: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Grammars(whole.file, vocabulary_size=whole.size)) as grammars:
        assert grammars.prepare(Constraint("regex", "a"), ()).result(30)
        with monkeypatch.context() as patched:
            patched.setattr(matcher_module, "LLMatcher", panic)
            assert refusal(grammars.prepare(Constraint("regex", "a"), ())) == "it could not be prepared"
        assert grammars.prepare(Constraint("regex", "a"), ()).result(30)


def panic(*_: Any, **__: Any) -> Any:
    raise PanicException("a bug")


def test_a_panic_in_a_trial_is_a_failure(whole: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher_module, "LLMatcher", panic)
    verdict = trial_process._try(Constraint("regex", "a"), whole.vocabulary)
    assert verdict == Failed("it is too complex: the library failed", spent=True)


def test_a_tokenizer_whose_tokens_are_no_bytes_is_said_so(tmp_path: Path) -> None:
    library = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    library.save(str(tmp_path / "tokenizer.json"))
    with closing(Grammars(tmp_path / "tokenizer.json", vocabulary_size=2)) as grammars:
        for _ in range(2):
            detail = refusal(grammars.prepare(Constraint("regex", "a"), ()))
            assert detail.startswith("the tokenizer of this version cannot follow a form")
