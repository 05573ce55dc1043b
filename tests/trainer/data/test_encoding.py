import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.data import encoding
from rhapsode_trainer.data.assembly import Document
from rhapsode_trainer.data.cache import TokenCache
from rhapsode_trainer.data.encoding import Encoded, encode_documents
from rhapsode_trainer.data.settings import RowsConfig
from rhapsode_trainer.data.tokenizer import train_tokenizer
from rhapsode_trainer.errors import ConfigError, Interrupted
from tokenizers import Tokenizer

TOKENIZER: Tokenizer = train_tokenizer(["the thing that there is then"] * 20, 280).backend_tokenizer
ALL = RowsConfig(kind="packed", block_size=8)
STORY = RowsConfig(kind="packed", block_size=8, loss_on="story", separator="\n")
DOCUMENTS = [Document(text="the thing", prompt="what is there"), Document(text="that is then")]


def encode(documents: list[Document], config: RowsConfig = ALL, cache: Path | None = None) -> list[Encoded]:
    return encode_documents(TOKENIZER, documents, config, end_of_text=0, cache=cache)


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1, max_size=4))
def test_prompt_and_text_stand_between_two_ends_and_the_loss_is_on_what_was_asked(pairs: list[tuple[str, str]]) -> None:
    documents = [Document(text=text, prompt=prompt) for text, prompt in pairs]
    for document, everything, story in zip(documents, encode(documents), encode(documents, STORY), strict=True):
        assert everything.ids[0] == everything.ids[-1] == story.ids[-1] == 0
        assert everything.first_target == 1
        prompt = document.prompt + "\n" if document.prompt else ""
        assert _decode(story.ids[1 : story.first_target]) == prompt
        assert _decode(story.ids[story.first_target : -1]) == document.text
        assert _decode(everything.ids[1:-1]) == document.prompt + document.text


def _decode(ids: object) -> str:
    return TOKENIZER.decode(list(ids), skip_special_tokens=False)  # type: ignore[call-overload]


def test_what_is_learned_of_a_story_is_what_follows_the_ids_of_its_prompt_alone() -> None:
    """The server encodes a prompt without knowing the story: no merge may cross the boundary."""
    joined = Document(text="hing", prompt="t")
    encoded = encode([joined], RowsConfig(kind="packed", block_size=8, loss_on="story"))[0]
    assert list(encoded.ids[1 : encoded.first_target]) == TOKENIZER.encode("t").ids
    assert len(TOKENIZER.encode("thing").ids) < encoded.first_target - 1 + len(TOKENIZER.encode("hing").ids)


def test_a_tokenizer_that_cuts_and_pads_does_neither_here_and_stays_as_it_was() -> None:
    cutting = Tokenizer.from_str(TOKENIZER.to_str())
    cutting.enable_truncation(2)
    cutting.enable_padding(length=64)
    found = encode_documents(cutting, DOCUMENTS, ALL, end_of_text=0)
    assert [list(document.ids) for document in found] == [list(document.ids) for document in encode(DOCUMENTS)]
    assert cutting.truncation is not None


def test_merge_dropout_is_drawn_anew_and_never_cached(tmp_path: Path) -> None:
    many = [Document(text="the thing there")] * 20
    plain, first, second = (
        [list(document.ids) for document in encode_documents(TOKENIZER, many, ALL, end_of_text=0, dropout=dropout)]
        for dropout in (0.0, 0.5, 0.5)
    )
    assert plain != first != second
    encode_documents(TOKENIZER, many, ALL, end_of_text=0, dropout=0.5, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_signal_ends_the_encoding() -> None:
    def check() -> None:
        raise Interrupted("now")

    with pytest.raises(Interrupted):
        encode_documents(TOKENIZER, DOCUMENTS, ALL, end_of_text=0, check=check)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often documents were really encoded."""
    calls = []
    encode_all = encoding._encode_all
    monkeypatch.setattr(encoding, "_encode_all", lambda *some: calls.append(1) or encode_all(*some))
    return lambda: len(calls)


def same(some: list[Encoded], other: list[Encoded]) -> bool:
    return [(list(document.ids), document.first_target) for document in some] == [
        (list(document.ids), document.first_target) for document in other
    ]


def test_a_second_run_takes_the_ids_from_the_cache(tmp_path: Path, count: Callable[[], int]) -> None:
    first = encode(DOCUMENTS, STORY, tmp_path)
    assert same(encode(DOCUMENTS, STORY, tmp_path), first)
    assert same(encode(DOCUMENTS, STORY), first)
    assert count() == 2, "one of the two with a cache"
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_whatever_decides_the_ids_decides_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(documents: list[Document] = DOCUMENTS, config: RowsConfig = STORY, end: int = 0) -> str:
        return encoding._key(TOKENIZER, documents, config, end)

    moved = [Document(text=DOCUMENTS[0].text + DOCUMENTS[0].prompt), DOCUMENTS[1]]
    changed = [
        key(DOCUMENTS[::-1]),
        key(moved),
        key(DOCUMENTS[:1]),
        key(config=dataclasses.replace(STORY, loss_on="all")),
        key(config=dataclasses.replace(STORY, separator=" ")),
        key(end=1),
        encoding._key(train_tokenizer(["other words"], 260).backend_tokenizer, DOCUMENTS, STORY, 0),
    ]
    same_ids = [key(), key(config=dataclasses.replace(STORY, kind="blocks", block_size=99))]
    monkeypatch.setattr(encoding.tokenizers, "__version__", "0")
    changed.append(key())
    monkeypatch.undo()
    source = tmp_path / "encoding.py"
    source.write_text(Path(encoding.__file__).read_text() + "# changed\n")
    source.with_name("cache.py").write_bytes(Path(encoding.__file__).with_name("cache.py").read_bytes())
    monkeypatch.setattr(encoding, "__file__", str(source))
    changed.append(key())
    assert same_ids[0] == same_ids[1], "rows are made of the ids, not kept with them"
    assert len({*changed, same_ids[0]}) == len(changed) + 1


@given(st.data())
def test_a_damaged_cache_is_never_trusted(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("cache")
    truth = encode(DOCUMENTS, STORY, folder)
    path = next(folder.iterdir())
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[place] ^= data.draw(st.integers(1, 255))
    else:
        del raw[place:]
    path.write_bytes(raw)
    assert same(encode(DOCUMENTS, STORY, folder), truth)
    assert same(encode(DOCUMENTS, STORY, folder), truth)


def test_a_whole_file_under_the_key_of_another_is_damage(tmp_path: Path) -> None:
    TokenCache(tmp_path, "a").save([([1, 2], 1)])
    (tmp_path / "tokens-a.safetensors").rename(tmp_path / "tokens-b.safetensors")
    assert TokenCache(tmp_path, "b").load() is None
    TokenCache(tmp_path, "c").save([])
    assert TokenCache(tmp_path, "c").load() == []


def test_the_oldest_files_are_deleted(tmp_path: Path) -> None:
    for number in range(15):
        TokenCache(tmp_path, str(number)).save([([number], 1)])
        os.utime(tmp_path / f"tokens-{number}.safetensors", (number, number))
    assert TokenCache(tmp_path, "3").load() is not None
    TokenCache(tmp_path, "new").save([([1], 1)])
    assert TokenCache(tmp_path, "3").load() is not None, "it was used last"
    assert TokenCache(tmp_path, "4").load() is None
    assert len(list(tmp_path.iterdir())) == 12


def test_a_cache_that_cannot_be_written_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the token cache"):
        encode(DOCUMENTS, cache=tmp_path / "file" / "cache")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match=r"cannot write the token cache: No space left"):
        encode(DOCUMENTS, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
