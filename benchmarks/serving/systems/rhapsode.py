"""This server, as an operator starts it, and its engine alone, without a wire."""

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import grpc
import psutil
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub

from benchmarks.serving.figures import Measured
from benchmarks.serving.meter import Meter, tree
from benchmarks.serving.recorder import Plan, Recorder
from benchmarks.serving.systems import Setting, UnavailableError
from benchmarks.serving.workload import Request

START_SECONDS = 300.0
DEFAULT_MAX_SEQUENCES = 64
PRECISIONS = {"float32": "float32", "int8": "float32", "bfloat16": "bfloat16"}


def server_flags(setting: Setting) -> list[str]:
    """What differs from the defaults."""
    flags = ["--address", "127.0.0.1:0", "--metrics-port", "off", "--admin-address", "off", "--standby", "off"]
    flags += ["--device", setting.device, "--dtype", PRECISIONS[setting.precision], "--threads", str(setting.threads)]
    flags += ["--quantization", "int8" if setting.precision == "int8" else "none"]
    if setting.max_callers > 64:
        flags += [
            "--max-sequences",
            str(setting.max_callers),
            "--max-batch-tokens",
            str(max(512, 2 * setting.max_callers)),
        ]
    return [*flags, *setting.server_flags]


class Server:
    """`rhapsode-serve` and, in the calling process, the load: streams over one channel."""

    def __init__(self, setting: Setting) -> None:
        command = [sys.executable, "-m", "rhapsode_server", "--models", str(setting.models), *server_flags(setting)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        self._root = psutil.Process(self._process.pid)
        self._log: list[str] = []
        self._address = self._wait_listening()
        self._reader = threading.Thread(target=self._log.extend, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        self._wait_serving()

    def run(self, plan: Plan) -> Measured:
        try:
            return asyncio.run(self._run(plan))
        except grpc.RpcError as error:
            raise UnavailableError(f"{error}\n{self._last_words()}") from error

    def processes(self) -> Sequence[psutil.Process]:
        return tree(self._root)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _wait_listening(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line)
            if match := re.search(r"gRPC on ([^\s,]+)", line):
                return match[1]
        raise UnavailableError(f"rhapsode-serve has ended:\n{self._last_words()}")

    def _wait_serving(self) -> None:
        with grpc.insecure_channel(self._address) as channel, suppress(grpc.RpcError):
            for answer in HealthStub(channel).Watch(HealthCheckRequest(), timeout=START_SECONDS):
                if answer.status == HealthCheckResponse.SERVING:
                    return
        raise UnavailableError(f"rhapsode-serve does not come to SERVING:\n{self._last_words()}")

    def _last_words(self) -> str:
        return "".join(self._log[-5:]).strip()

    async def _run(self, plan: Plan) -> Measured:
        recorder = Recorder(plan, Meter(self.processes))
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = GenerationServiceStub(channel)
            if plan.arrivals:
                await open_loop(stub, plan, recorder)
            else:
                await asyncio.gather(*(call_on(stub, recorder) for _ in range(plan.callers)))
        return recorder.result()


async def call_on(stub: GenerationServiceStub, recorder: Recorder) -> None:
    """One caller of a closed loop."""
    while not recorder.is_closed and (request := recorder.next_request()) is not None:
        await call(stub, request, recorder, until_closed=True)


async def open_loop(stub: GenerationServiceStub, plan: Plan, recorder: Recorder) -> None:
    assert plan.seconds is not None
    async with asyncio.TaskGroup() as calls:
        began = time.perf_counter()
        calls.create_task(keep_window(plan, recorder))
        for when in plan.arrivals:
            await asyncio.sleep(max(0.0, began + when - time.perf_counter()))
            request = recorder.next_request()
            assert request is not None, "more arrivals than requests"
            calls.create_task(call(stub, request, recorder, until_closed=False))


async def keep_window(plan: Plan, recorder: Recorder) -> None:
    assert plan.seconds is not None
    await asyncio.sleep(plan.warm_up)
    recorder.open()
    await asyncio.sleep(plan.seconds)
    recorder.close()


async def call(stub: GenerationServiceStub, request: Request, recorder: Recorder, *, until_closed: bool) -> None:
    """One stream, to its end or, if so said, to that of the window. What it brings must be what was asked for."""
    timeline = recorder.submitted(request)
    stream = stub.GenerateStream(message(request))
    async for answer in stream:
        match answer.WhichOneof("event"):
            case "started":
                assert answer.started.usage.prompt_tokens == len(request.prompt_ids), "tokenised in another way"
            case "delta":
                recorder.arrived(timeline, len(answer.delta.token_ids))
            case "finished":
                timeline.num_cached_tokens = answer.finished.usage.cached_tokens
                assert answer.finished.usage.completion_tokens == timeline.num_tokens == request.num_tokens
        if until_closed and recorder.is_closed:
            stream.cancel()
            return


def message(request: Request) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        prompt=request.prompt,
        sampling=pb.SamplingParameters(temperature=0),
        stopping=pb.StoppingCriteria(max_new_tokens=request.num_tokens, ignore_eos=True),
        output=pb.OutputOptions(token_ids=True),
    )
