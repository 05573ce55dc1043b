"""The engine alone, in the calling process: what the server would do without a wire, a front-end and a worker."""

from collections.abc import Sequence

import psutil
from rhapsode_server.engine.build import build_engine
from rhapsode_server.engine.options import EngineOptions
from rhapsode_server.engine.request import EngineRequest
from transformers import AutoConfig

from benchmarks.serving.figures import Measured, Timeline
from benchmarks.serving.meter import Meter
from benchmarks.serving.recorder import Plan, Recorder
from benchmarks.serving.systems import Setting


def engine_options(setting: Setting) -> EngineOptions:
    return EngineOptions(
        path=str(setting.folder),
        vocabulary_size=AutoConfig.from_pretrained(setting.folder).vocab_size,
        device=setting.device,
        dtype="bfloat16" if setting.precision == "bfloat16" else "float32",
        quantization="int8" if setting.precision == "int8" else "none",
        threads=setting.threads,
        max_sequences=max(64, setting.max_callers),
        prefix_cache=False,
    )


class Engine:
    def __init__(self, setting: Setting) -> None:
        self._engine = build_engine(engine_options(setting)).engine
        self._next_id = 0

    def run(self, plan: Plan) -> Measured:
        assert not plan.arrivals, "the engine alone has closed loops only"
        recorder, running = Recorder(plan, Meter(self.processes)), dict[int, Timeline]()
        for _ in range(plan.callers):
            self._submit(recorder, running)
        while running and not recorder.is_closed:
            self._step(recorder, running)
        for request_id in running:
            self._engine.cancel(request_id)
        while self._engine.has_work:
            self._engine.step()
        return recorder.result()

    def processes(self) -> Sequence[psutil.Process]:
        return [psutil.Process()]

    def close(self) -> None:
        pass

    def _submit(self, recorder: Recorder, running: dict[int, Timeline]) -> None:
        if (request := recorder.next_request()) is None:
            return
        self._next_id += 1
        running[self._next_id] = recorder.submitted(request)
        self._engine.submit(
            EngineRequest(request_id=self._next_id, prompt_ids=request.prompt_ids, max_new_tokens=request.num_tokens)
        )

    def _step(self, recorder: Recorder, running: dict[int, Timeline]) -> None:
        for event in self._engine.step().events:
            timeline = running.get(event.request_id)
            if timeline is None:
                continue
            if event.token_id is not None:
                recorder.arrived(timeline, 1)
            if event.finish_reason is not None:
                del running[event.request_id]
                self._submit(recorder, running)
