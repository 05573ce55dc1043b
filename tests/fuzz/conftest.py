"""A live server with two tiny models, and what must hold again after each test."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from support.publishing import publish_model
from support.servers import ServerProcess, running_server
from support.tiny_models import VOCABULARY_SIZE, tiny_model

CONTEXT = 128
_CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
_PATIENCE = 60.0
_MAX_GROWTH = 200 * 2**20  # bytes of resident memory; a module may set a MAX_GROWTH of its own


@dataclass(frozen=True)
class Held:
    """What a process holds of the machine."""

    files: int
    resident_bytes: int

    @classmethod
    def by(cls, pid: int) -> "Held":
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(len(os.listdir(f"/proc/{pid}/fd")), pages * os.sysconf("SC_PAGE_SIZE"))

    def is_near(self, before: "Held", max_growth: int) -> bool:
        return self.files < before.files + 10 and self.resident_bytes < before.resident_bytes + max_growth


@dataclass(frozen=True)
class Target:
    """The server under test."""

    process: ServerProcess

    @property
    def address(self) -> str:
        return self.process.address

    @property
    def pids(self) -> list[int]:
        return [self.process.process.pid, *self.process.worker_processes()]

    @property
    def busy(self) -> dict[str, float]:
        """What runs, waits or holds KV blocks."""
        names = ("rhapsode_requests_running", "rhapsode_requests_waiting", "rhapsode_kv_blocks_used")
        return {name: value for name in names if (value := self.process.metric(name))}

    def held(self) -> list[Held]:
        return [Held.by(pid) for pid in self.pids]

    def usual_answers(self) -> list[str]:
        """Text and ids of requests that any caller might make."""
        with grpc.insecure_channel(self.address) as channel:
            stub = GenerationServiceStub(channel)
            answers = [
                stub.Generate(
                    pb.GenerateRequest(
                        model=model,
                        prompt="the sea",
                        sampling={"temperature": temperature, "seed": 7},
                        stopping={"max_new_tokens": 30},
                        output={"token_ids": True},
                    ),
                    timeout=_PATIENCE,
                )
                for model in ("gpt2", "llama")
                for temperature in (0.0, 1.0)
            ]
        return [f"{answer.text} {answer.token_ids}" for answer in answers]


def _add_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": _CHAT_TEMPLATE}))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    root = tmp_path_factory.mktemp("fuzzed")
    publish_model(root, "gpt2", tiny_model("gpt2", n_positions=CONTEXT), spoil=_add_chat_template)
    # More embeddings than the tokenizer has tokens, as padded vocabularies have.
    llama = tiny_model("llama", max_position_embeddings=CONTEXT, vocab_size=VOCABULARY_SIZE + 32)
    publish_model(root, "llama", llama)
    with running_server(root, "--default-model", "gpt2", "--threads", "1", "--standby", "off") as process:
        for model in ("gpt2", "llama"):
            process.wait_serving(f"model/{model}")
        yield Target(process)
        process.terminate()
        assert process.wait() == 0, process.output[-5000:]
        assert "Traceback" not in process.output


@pytest.fixture(scope="module")
def target(served: Target, request: pytest.FixtureRequest) -> Iterator[Target]:
    """After all tests of a module the same processes give the same answers and hold hardly more."""
    max_growth = getattr(request.module, "MAX_GROWTH", _MAX_GROWTH)
    answers, pids, before = served.usual_answers(), served.pids, served.held()
    yield served
    _wait_until(lambda: not served.busy, lambda: f"it does not let go: {served.busy}")
    assert served.usual_answers() == answers
    assert served.pids == pids, "a worker was lost"
    _wait_until(
        lambda: all(now.is_near(held, max_growth) for now, held in zip(served.held(), before, strict=True)),
        lambda: f"more is held than before: {served.held()} after {before}",
    )
    print("held before and after:", *before, *served.held(), sep="\n  ")


def _wait_until(condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.05)
