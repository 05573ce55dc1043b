import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rhapsode_trainer.data.assembly import Document
from rhapsode_trainer.data.corpus import Corpus, hash_inputs, load_corpus
from rhapsode_trainer.data.settings import DataConfig, SourceConfig
from rhapsode_trainer.errors import DataError, Interrupted

Make = Callable[..., DataConfig]
POEMS = DataConfig(sources=(SourceConfig(path="package:poems/poems.jsonl"),), held_out=0.1)


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_shipped_poems_are_all_there_and_split_by_poem() -> None:
    corpus = load_corpus(POEMS)
    assert len(corpus.train) + len(corpus.held_out) == 709
    assert not {poem.text for poem in corpus.train} & {poem.text for poem in corpus.held_out}
    assert 0.08 < len(corpus.held_out) / 709 < 0.12
    assert corpus.held_out_bytes == sum(len(poem.text.encode()) for poem in corpus.held_out)
    assert corpus.validation == ()
    assert corpus.skipped == {}
    assert corpus.train[0].where == "package:poems/poems.jsonl, line 1"


def test_adding_documents_moves_none_of_the_others(tmp_path: Path, make_config: Make) -> None:
    rows = [{"text": f"poem {number}"} for number in range(200)]
    config = make_config(tmp_path / "poems.jsonl", held_out=0.3, validation=0.3)
    write_rows(tmp_path / "poems.jsonl", rows[:100])
    before = load_corpus(config)
    write_rows(tmp_path / "poems.jsonl", rows[::-1])
    after = load_corpus(config)
    for part in ("train", "validation", "held_out"):
        assert _set(before, part) < _set(after, part)
    assert before.files != after.files


def _set(corpus: Corpus, part: str) -> set[str]:
    return {document.text for document in getattr(corpus, part)}


@settings(deadline=None)
@given(data=st.data())
def test_duplicates_stay_on_one_side_and_are_counted(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    numbers = data.draw(st.lists(st.integers(0, 30), min_size=5, max_size=60))
    fixed = [{"text": f"always {number}"} for number in range(20)]
    path = write_rows(tmp_path_factory.mktemp("rows") / "a.jsonl", [{"text": f"poem {n}"} for n in numbers] + fixed)
    config = DataConfig(sources=(SourceConfig(path=str(path)),), held_out=0.4, deduplicate=data.draw(st.booleans()))
    corpus = load_corpus(config)
    assert not _set(corpus, "train") & _set(corpus, "held_out")
    repeated = len(numbers) - len(set(numbers))
    assert corpus.skipped == ({"duplicate": repeated} if config.deduplicate and repeated else {})
    kept = len(corpus.train) + len(corpus.held_out)
    assert kept == len(set(numbers)) + 20 if config.deduplicate else len(numbers) + 20


def test_a_story_told_for_two_prompts_is_two_documents_on_one_side(tmp_path: Path, make_config: Make) -> None:
    rows = [{"p": f"prompt {number}", "text": f"story {number // 2}"} for number in range(80)]
    corpus = load_corpus(make_config(write_rows(tmp_path / "a.jsonl", rows), prompt_field="p"))
    assert len(corpus.train) + len(corpus.held_out) == 80
    assert not _set(corpus, "train") & _set(corpus, "held_out")


def test_sources_of_their_own_are_validation_and_held_out_and_never_trained_on(tmp_path: Path) -> None:
    for name, numbers in {"train": range(10), "valid": range(8, 14), "test": range(12, 16)}.items():
        write_rows(tmp_path / f"{name}.jsonl", [{"text": f"poem {number}"} for number in numbers])
    train, valid, test = (SourceConfig(path=str(tmp_path / f"{name}.jsonl")) for name in ("train", "valid", "test"))
    corpus = load_corpus(DataConfig(sources=(train,), validation_sources=(valid,), held_out_sources=(test,)))
    assert _set(corpus, "train") == {f"poem {number}" for number in range(8)}
    assert _set(corpus, "validation") == {f"poem {number}" for number in range(8, 12)}
    assert _set(corpus, "held_out") == {f"poem {number}" for number in range(12, 16)}
    assert corpus.skipped == {"in a part that is measured on, too": 4}
    assert len(corpus.files) == 3


def test_part_is_the_leading_share_of_the_documents(tmp_path: Path, make_config: Make) -> None:
    rows = [{"text": f"poem {number}"} for number in range(41)]
    corpus = load_corpus(make_config(write_rows(tmp_path / "a.jsonl", rows), part=0.5))
    assert _set(corpus, "train") | _set(corpus, "held_out") == {f"poem {number}" for number in range(21)}


def test_a_folder_that_grows_keeps_its_order_and_names_every_file(
    tmp_path: Path, make_config: Make, read_all: Callable[..., tuple[Document, ...]]
) -> None:
    for name in ("b", "d", "c"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    (tmp_path / ".a.txt").write_text("half copied")
    (tmp_path / "notes.md").write_text("not of a known format")
    before = [document.text for document in read_all(tmp_path)]
    assert before == ["text b\n", "text c\n", "text d\n"]
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "a.txt").write_text("text e")
    assert [document.text for document in read_all(tmp_path)] == [*before, "text e\n"]
    files = hash_inputs(make_config(tmp_path))
    assert files[str(tmp_path / "b.txt")] == hashlib.sha256(b"text b").hexdigest()
    assert [Path(name).relative_to(tmp_path).as_posix() for name in files] == ["b.txt", "c.txt", "d.txt", "e/a.txt"]


def test_cleaning_comes_before_the_split_and_the_search_for_duplicates(tmp_path: Path, make_config: Make) -> None:
    rows = [{"text": f"{space}POEM {number}"} for number in range(20) for space in ("", "  ")]
    config = make_config(write_rows(tmp_path / "a.jsonl", rows), cleaning=("lowercase", "strip"))
    corpus = load_corpus(config)
    assert _set(corpus, "train") | _set(corpus, "held_out") == {f"poem {number}" for number in range(20)}
    assert corpus.skipped == {"duplicate": 20}


def test_what_cleaning_empties_is_a_bad_row(tmp_path: Path, make_config: Make) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "poem"}, {"text": "[ WP ]"}, {"text": "verse"}])
    with pytest.raises(DataError, match="line 2: empty text after cleaning"):
        load_corpus(make_config(path, cleaning=("bracket_tags",)))


@pytest.mark.parametrize(
    ("shares", "part"),
    [({"held_out": 0.5}, "held_out"), ({"held_out": 0.999999}, "train"), ({"validation": 0.1}, "validation")],
)
def test_too_few_documents_for_a_part_is_an_error(
    tmp_path: Path, make_config: Make, shares: dict[str, float], part: str
) -> None:
    rows = [{"text": f"poem {number}"} for number in range(1 if "validation" not in shares else 2)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    salt = next(
        salt for salt in map(str, range(100)) if _is_missing(make_config(path, **shares, split_salt=salt), part)
    )
    with pytest.raises(DataError, match=f"{len(rows)} documents are too few: none is left for {part}"):
        load_corpus(make_config(path, **shares, split_salt=salt))


def _is_missing(config: DataConfig, part: str) -> bool:
    try:
        load_corpus(config)
    except DataError as error:
        return str(error).endswith(part)
    return False


def test_a_signal_ends_the_reading(tmp_path: Path, make_config: Make) -> None:
    def check() -> None:
        raise Interrupted("now")

    with pytest.raises(Interrupted):
        load_corpus(make_config(write_rows(tmp_path / "a.jsonl", [{"text": "a"}])), check=check)


def test_several_sources_are_read_in_their_order(tmp_path: Path, make_config: Make) -> None:
    for name in ("b", "a"):
        write_rows(tmp_path / f"{name}.jsonl", [{"text": f"{name} {number}"} for number in range(10)])
    sources = tuple(SourceConfig(path=str(tmp_path / f"{name}.jsonl")) for name in ("b", "a"))
    corpus = load_corpus(dataclasses.replace(POEMS, sources=sources, held_out=0.2))
    assert [document.text[0] for document in corpus.train] == sorted(
        (document.text[0] for document in corpus.train), reverse=True
    )
