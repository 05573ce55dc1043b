"""llama.cpp: its own server, with as many slots as there are callers, over HTTP with server-sent events.

It is measured where LLAMA_SERVER names a `llama-server`, or PATH has one, and the package gguf is there.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.figures import Measured
from benchmarks.serving.meter import Meter, tree
from benchmarks.serving.processes import apart
from benchmarks.serving.recorder import Plan, Recorder
from benchmarks.serving.systems import Setting, UnavailableError
from benchmarks.serving.workload import Request

try:
    import gguf
except ImportError:
    gguf = None

START_SECONDS = 120.0
TOKENS_PER_SLOT = 512


class Server:
    """The prompts go as token ids; prompt caching is off, as no prompt comes twice."""

    def __init__(self, setting: Setting) -> None:
        program = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
        if program is None or gguf is None:
            raise UnavailableError("not installed: see benchmarks/README.md for how to have it measured too")
        self._port = free_port()
        command = [program, "--model", str(converted(setting)), "--port", str(self._port), "--host", "127.0.0.1"]
        command += ["--threads", str(setting.cores), "--parallel", str(setting.max_callers), "--cont-batching"]
        command += ["--ctx-size", str(setting.max_callers * TOKENS_PER_SLOT), "--no-webui", "--log-disable"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        asyncio.run(self._wait_ready())

    def run(self, plan: Plan) -> Measured:
        return asyncio.run(self._run(plan))

    def processes(self) -> Sequence[psutil.Process]:
        return tree(psutil.Process(self._process.pid))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    async def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if b"200 OK" in answer:
                return
            await asyncio.sleep(0.1)
        raise UnavailableError("llama-server does not come up")

    async def _run(self, plan: Plan) -> Measured:
        assert not plan.arrivals, "it is measured in closed loops only"
        recorder = Recorder(plan, Meter(self.processes))
        await asyncio.gather(*(self._call_on(recorder) for _ in range(plan.callers)))
        return recorder.result()

    async def _call_on(self, recorder: Recorder) -> None:
        while not recorder.is_closed and (request := recorder.next_request()) is not None:
            timeline = recorder.submitted(request)
            async for event in self._stream(request):
                if tokens := event.get("tokens"):
                    recorder.arrived(timeline, len(tokens))
                if recorder.is_closed:
                    return
            assert timeline.num_tokens == request.num_tokens, "llama-server gave another number of tokens"

    async def _stream(self, request: Request) -> AsyncIterator[dict[str, list[int]]]:
        """Leaving it early hangs up, which ends the request."""
        body = json.dumps(
            {
                "prompt": request.prompt_ids,
                "n_predict": request.num_tokens,
                "stream": True,
                "ignore_eos": True,
                "return_tokens": True,
                "cache_prompt": False,
                "temperature": 0,
                "samplers": ["top_k"],
                "top_k": 1,
            }
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = f"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\nContent-Type: application/json\r\n\r\n{body}".encode())
            # Lines that begin so are events; the others belong to HTTP.
            async for line in reader:
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])
        finally:
            writer.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def converted(setting: Setting) -> Path:
    """The model as GGUF: F32, or Q8_0 for int8."""
    path = setting.folder.parent / f"llama-{setting.precision}.gguf"
    if not path.exists():
        apart(write_gguf, setting, path)  # which needs torch, and its memory, here alone
    return path


def write_gguf(setting: Setting, path: Path) -> None:
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(setting.folder)
    config, writer = model.config, gguf.GGUFWriter(str(path), "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    add_tokenizer(writer, AutoTokenizer.from_pretrained(setting.folder))
    add_tensors(writer, model, quantized=setting.precision == "int8")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: "gguf.GGUFWriter", tokenizer: Any) -> None:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    end = tokenizer.eos_token_id
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([gguf.TokenType.CONTROL if i == end else gguf.TokenType.NORMAL for i in range(len(pieces))])
    writer.add_token_merges([" ".join(pair) for pair in backend["model"]["merges"]])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)


# transformers' Conv1D keeps its matrices as [in, out], GGUF as [out, in].
TENSORS = {
    "ln_1": ("attn_norm", False),
    "attn.c_attn": ("attn_qkv", True),
    "attn.c_proj": ("attn_output", True),
    "ln_2": ("ffn_norm", False),
    "mlp.c_fc": ("ffn_up", True),
    "mlp.c_proj": ("ffn_down", True),
}


def add_tensors(writer: "gguf.GGUFWriter", model: Any, *, quantized: bool) -> None:
    weights = model.transformer.state_dict()
    names = {"wte.weight": ("token_embd.weight", False), "wpe.weight": ("position_embd.weight", False)}
    names |= {f"ln_f.{kind}": (f"output_norm.{kind}", False) for kind in ("weight", "bias")}
    for layer in range(model.config.n_layer):
        for ours, (theirs, transposed) in TENSORS.items():
            names[f"h.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight", transposed
            names[f"h.{layer}.{ours}.bias"] = f"blk.{layer}.{theirs}.bias", False
    for ours, (theirs, transposed) in names.items():
        values = weights[ours].float().numpy()
        values = values.T.copy() if transposed else values
        if quantized and values.ndim == 2 and ours != "wpe.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(theirs, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs, values)
