"""The first request of an engine whose steps overlap, and run by graph."""

import pytest
from rhapsode_server.engine.first_answer import answer_once
from support.tiny_models import VOCABULARY_SIZE

from .conftest import Load, make_engine


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_it_answers(load: Load, architecture: str) -> None:
    engine = make_engine(load(architecture))
    answer_once(engine, VOCABULARY_SIZE)
    assert not engine.has_work
