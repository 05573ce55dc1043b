from typing import Any

import datasets
import pytest
from rhapsode_trainer.data.corpus import hash_inputs, load_corpus
from rhapsode_trainer.data.settings import DataConfig, SourceConfig
from rhapsode_trainer.errors import ConfigError, DataError, TrainerError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = SourceConfig(hub="owner/poems", hub_config="all", split="train[:90%]", revision=COMMIT)
CONFIG = DataConfig(sources=(HUB,), text_field="poem", held_out=0.3)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the hub: gives `rows`, or raises `error`, and notes what it was asked for."""
    answer: dict[str, Any] = {"rows": {"poem": [f"poem {number}" for number in range(30)], "poet": ["a"] * 30}}

    def load_dataset(*names: object, **options: object) -> datasets.Dataset:
        answer["asked"] = (names, options)
        if "error" in answer:
            raise answer["error"]
        return datasets.Dataset.from_dict(answer["rows"])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return answer


def test_rows_of_a_pinned_dataset_are_documents(hub: dict[str, Any]) -> None:
    corpus = load_corpus(CONFIG)
    assert hub["asked"] == (("owner/poems", "all"), {"split": "train[:90%]", "revision": COMMIT})
    assert len(corpus.train) + len(corpus.held_out) == 30
    assert corpus.files == hash_inputs(CONFIG) == {"hub:owner/poems:all:train[:90%]": COMMIT}


def test_a_bad_row_of_a_dataset_is_named(hub: dict[str, Any]) -> None:
    hub["rows"] = {"poem": ["a", None]}
    with pytest.raises(DataError, match=r"hub:owner/poems:.*, row 2: no text in the field 'poem'"):
        load_corpus(CONFIG)
    hub["rows"] = {"verse": ["a"]}
    with pytest.raises(DataError, match="no column 'poem'; there are: verse"):
        load_corpus(CONFIG)


@pytest.mark.parametrize(
    ("error", "offline", "kind", "complaint"),
    [
        (ConnectionError("no route"), False, TrainerError, "cannot be reached: no route"),
        (ConnectionError("no route"), True, ConfigError, "not in the cache, and HF_HUB_OFFLINE is set"),
        (datasets.exceptions.DatasetNotFoundError("there is none\nat all"), False, ConfigError, "there is none$"),
        (ValueError("Unknown split"), False, ConfigError, "Unknown split"),
    ],
)
def test_what_the_hub_refuses_is_told(
    hub: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    offline: bool,
    kind: type[TrainerError],
    complaint: str,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    hub["error"] = error
    with pytest.raises(kind, match=complaint) as raised:
        load_corpus(CONFIG)
    assert raised.value.exit_code == kind.exit_code


def test_offline_and_not_in_the_cache_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ConfigError, match="not in the cache, and HF_HUB_OFFLINE is set"):
        load_corpus(CONFIG)


def test_a_folder_of_the_same_name_is_not_read_by_accident(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "owner" / "poems").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'owner/poems' here, which would be read instead"):
        load_corpus(CONFIG)
