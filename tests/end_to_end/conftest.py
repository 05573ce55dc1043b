"""One server for the whole folder: a GPT-2 and a grouped-query Llama, small enough to compare with transformers."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import grpc
import pytest
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode_client import AsyncClient
from support.publishing import publish_tiny
from support.servers import ServerProcess, running_server
from transformers import PreTrainedModel

MODELS = ("gpt2", "llama")


@dataclass(frozen=True)
class Serving:
    process: ServerProcess
    models: dict[str, PreTrainedModel]

    @property
    def address(self) -> str:
        return self.process.address

    async def engine_lets_go(self) -> None:
        """The metrics are all that tells from outside; they follow within a step."""
        deadline = time.monotonic() + 20
        while self.process.metric("rhapsode_kv_blocks_used") or self.process.metric("rhapsode_requests_waiting"):
            assert time.monotonic() < deadline, "blocks stay in use"
            await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("served")
    models = {name: publish_tiny(root, name, name) for name in MODELS}
    flags = ("--default-model", "gpt2", "--threads", "1", "--max-batch-tokens", "128", "--standby", "off")
    with running_server(root, *flags) as process:
        for name in MODELS:
            process.wait_serving(f"model/{name}")
        yield Serving(process, models)
        process.terminate()
        assert process.wait() == 0, process.output
        assert "Traceback" not in process.output


@pytest.fixture
async def client(serving: Serving) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(serving.address, timeout=60) as client:
        yield client


@pytest.fixture
async def stub(serving: Serving) -> AsyncIterator[GenerationServiceStub]:
    async with grpc.aio.insecure_channel(serving.address) as channel:
        yield GenerationServiceStub(channel)
