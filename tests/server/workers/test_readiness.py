"""A worker is ready only once its engine has answered a request."""

from pathlib import Path
from typing import Any, cast

import pytest
from rhapsode_server.engine import first_answer
from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.refusal import NO_ANSWER, ModelRefused
from rhapsode_server.workers import process
from rhapsode_server.workers.messages import Ready, Stage, Start
from support.tiny_models import VOCABULARY_SIZE, tiny_model


class Sent(list[Any]):
    """Takes the place of the outbox."""

    def send(self, message: object) -> None:
        self.append(message)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    tiny_model("gpt2").save_pretrained(tmp_path)
    options = EngineOptions(path=str(tmp_path), vocabulary_size=VOCABULARY_SIZE, device="cpu", threads=1)
    return Start(options, gives_way=False)


def test_it_answers_before_it_is_ready(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, answer_once = Sent(), first_answer.answer_once

    def noted(engine: Engine, vocabulary_size: int) -> None:
        answer_once(engine, vocabulary_size)
        sent.append(engine)

    monkeypatch.setattr(first_answer, "answer_once", noted)
    process._build(start, cast(Any, sent))
    assert sent[:2] == [Stage("warming"), Stage("canary")]
    assert [type(each) for each in sent[2:]] == [Engine, Ready]
    assert not sent[2].has_work


def test_without_an_answer_it_never_is(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(engine: Engine, vocabulary_size: int) -> None:
        raise ModelRefused(NO_ANSWER, "nothing came")

    sent = Sent()
    monkeypatch.setattr(first_answer, "answer_once", silent)
    with pytest.raises(ModelRefused, match="no_answer: nothing came"):
        process._build(start, cast(Any, sent))
    assert sent == [Stage("warming"), Stage("canary")]
