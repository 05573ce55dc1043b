from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rhapsode_trainer.data.assembly import Document
from rhapsode_trainer.data.corpus import load_corpus
from rhapsode_trainer.data.settings import DataConfig, SourceConfig


@pytest.fixture
def make_config() -> Callable[..., DataConfig]:
    """A DataConfig of one source; half of the documents are held out unless told otherwise."""

    def make(path: Path | str, *, format: str = "auto", heading: str = "", **options: Any) -> DataConfig:
        source = SourceConfig(path=str(path), format=format, heading=heading)
        return DataConfig(**{"sources": (source,), "held_out": 0.5, **options})

    return make


@pytest.fixture
def read_all(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., DataConfig]) -> Callable[..., Any]:
    """All documents of one source in their order: the held-out part comes from elsewhere."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "held_out.jsonl"
    elsewhere.write_text('{"text": "held out", "prompt": "held"}\n')
    held_out = (SourceConfig(path=str(elsewhere)),)

    def read(path: Path | str, **options: Any) -> tuple[Document, ...]:
        return load_corpus(make_config(path, held_out=0.0, held_out_sources=held_out, **options)).train

    return read
