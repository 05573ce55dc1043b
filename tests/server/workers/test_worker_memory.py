"""What a real worker process takes, with its weights packed and after traffic."""

import asyncio
import random
from pathlib import Path

import pytest
import torch
from rhapsode_server.engine.kernels.linear import linear_kernel
from rhapsode_server.engine.linears import can_pack
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.workers.stream import TokenStream
from rhapsode_server.workers.worker import Worker
from support.workers import make_worker
from transformers import GPT2Config, GPT2LMHeadModel

MEBIBYTE = 1 << 20
CACHE = 32 * MEBIBYTE
# torch and transformers themselves, kernels for the sizes of batches, what one step needs.
BESIDES = 600 * MEBIBYTE
VOCABULARY_SIZE = 8192


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("version")
    config = GPT2Config(n_embd=512, n_head=8, n_layer=4, vocab_size=VOCABULARY_SIZE, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantization", ["none", "int8"])
async def test_it_is_weights_and_cache_and_little_besides(version: Path, quantization: str) -> None:
    options = EngineOptions(
        path=str(version),
        vocabulary_size=VOCABULARY_SIZE,
        device="cpu",
        threads=1,
        quantization=quantization,
        max_sequences=8,
        kv_cache_memory=CACHE,
    )
    worker = make_worker(options)
    try:
        ready = await worker.start()
        embeddings, blocks = (VOCABULARY_SIZE + 1024) * 512, 4 * 12 * 512 * 512
        weights = ready.memory_bytes - CACHE
        if quantization == "int8":
            assert weights == pytest.approx(4 * embeddings + VOCABULARY_SIZE * 512 + blocks, rel=0.02)
        else:
            copy_of_head = 0 if linear_kernel() else can_pack() * VOCABULARY_SIZE * 512
            assert weights == pytest.approx(4 * (embeddings + blocks + copy_of_head), rel=0.02)
        await traffic(worker)
        process = Path("/proc") / str(worker.process_id)
        assert resident_bytes(process) <= ready.memory_bytes + BESIDES
        assert ".safetensors" not in (process / "maps").read_text(), "files are left when their weights are packed"
    finally:
        await worker.stop()


async def traffic(worker: Worker) -> None:
    lengths = random.Random(0)
    streams = [
        worker.submit(prompt_ids=range(1, lengths.randint(2, 80)), max_new_tokens=lengths.randint(2, 12))
        for _ in range(8)
    ]
    await asyncio.gather(*(finish(stream) for stream in streams))


async def finish(stream: TokenStream) -> None:
    async for _ in stream:
        pass


def resident_bytes(process: Path) -> int:
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))
