"""transformers itself: `generate()` with static batches, and its continuous batching."""

import logging
from collections import deque
from collections.abc import Sequence

import psutil
import torch
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from benchmarks.serving.figures import Measured, Timeline
from benchmarks.serving.meter import Meter
from benchmarks.serving.recorder import Plan, Recorder, now
from benchmarks.serving.systems import Setting
from benchmarks.serving.systems.batches import run_batches
from benchmarks.serving.workload import Request

Running = dict[str, tuple[Request, Timeline]]

PAGE_SIZE = 32  # tokens; larger ones, such as the default 256, have more places that nobody fills
MAX_BATCH_TOKENS = 512


def load(setting: Setting) -> PreTrainedModel:
    torch.set_num_threads(setting.cores)
    dtype = torch.bfloat16 if setting.precision == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(setting.folder, dtype=dtype, attn_implementation="sdpa")
    return model.to(setting.device).eval()


class StaticBatches:
    """Prompts padded on the left; a batch lasts as long as its longest completion."""

    def __init__(self, setting: Setting) -> None:
        self._model = load(setting)

    def run(self, plan: Plan) -> Measured:
        return run_batches(plan, Meter(self.processes), self._generate)

    def processes(self) -> Sequence[psutil.Process]:
        return [psutil.Process()]

    def close(self) -> None:
        pass

    def _generate(self, requests: Sequence[Request], timelines: Sequence[Timeline], recorder: Recorder) -> None:
        longest = max(len(request.prompt_ids) for request in requests)
        padding = [longest - len(request.prompt_ids) for request in requests]
        ids = torch.tensor([[0] * pad + list(r.prompt_ids) for pad, r in zip(padding, requests, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
        most = max(request.num_tokens for request in requests)
        self._model.generate(
            ids.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            generation_config=GenerationConfig(
                max_new_tokens=most, min_new_tokens=most, do_sample=False, pad_token_id=0, eos_token_id=None
            ),
            stopping_criteria=StoppingCriteriaList([Watch(requests, timelines, recorder)]),
        )


class Watch(StoppingCriteria):
    """Notes the tokens of rows that still want some; stops nothing."""

    def __init__(self, requests: Sequence[Request], timelines: Sequence[Timeline], recorder: Recorder) -> None:
        self._wanted = [request.num_tokens for request in requests]
        self._timelines, self._recorder = timelines, recorder

    def __call__(self, input_ids: torch.Tensor, scores: object, **others: object) -> torch.Tensor:
        for wanted, timeline in zip(self._wanted, self._timelines, strict=True):
            if timeline.num_tokens < wanted:
                self._recorder.arrived(timeline, 1)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class ContinuousBatching:
    """`callers` requests in flight at a time; tokens are streamed."""

    def __init__(self, setting: Setting) -> None:
        logging.getLogger("transformers").setLevel(logging.ERROR)
        model = load(setting)
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=128),
            continuous_batching_config=batching_config(setting),
        )
        self._manager.start()
        self._next_id = 0

    def run(self, plan: Plan) -> Measured:
        recorder, running = Recorder(plan, Meter(self.processes)), Running()
        if plan.arrivals:
            self._run_open(plan, recorder, running)
        else:
            self._run_closed(plan, recorder, running)
        result = recorder.result()
        self._cancel(running)
        return result

    def _run_closed(self, plan: Plan, recorder: Recorder, running: Running) -> None:
        for _ in range(plan.callers):
            self._submit(recorder, running)
        while running and not recorder.is_closed:
            finished = self._take(recorder, running, timeout=1)
            if finished:
                self._submit(recorder, running)

    def _run_open(self, plan: Plan, recorder: Recorder, running: Running) -> None:
        """Requests come when they come; after the window those that came in it are still waited for."""
        assert plan.seconds is not None
        began, arrivals = now(), deque(plan.arrivals)
        opens, closes = began + plan.warm_up, began + plan.warm_up + plan.seconds
        while not recorder.is_closed or any(not timeline.arrivals for _, timeline in running.values()):
            if not recorder.is_open and now() >= opens:
                recorder.open()
            if now() >= closes:
                recorder.close()
            while arrivals and now() >= began + arrivals[0]:
                arrivals.popleft()
                self._submit(recorder, running)
            soon = min([closes, *(began + when for when in arrivals)]) - now()
            self._take(recorder, running, timeout=min(max(soon, 0.001), 0.1))

    def processes(self) -> Sequence[psutil.Process]:
        return [psutil.Process()]

    def close(self) -> None:
        self._manager.stop(block=True)

    def _submit(self, recorder: Recorder, running: Running) -> None:
        if (request := recorder.next_request()) is None:
            return
        self._next_id += 1
        name = str(self._next_id)
        running[name] = request, recorder.submitted(request)
        self._manager.add_request(
            list(request.prompt_ids),
            request_id=name,
            max_new_tokens=request.num_tokens,
            streaming=True,
            eos_token_id=-1,
        )

    def _take(self, recorder: Recorder, running: Running, timeout: float) -> bool:
        """Whether a request has come to its end."""
        output = self._manager.get_result(timeout=timeout)
        if output is None:
            assert self._manager.is_running(), "its generation thread has ended"
            return False
        if output.request_id not in running:
            return False
        assert output.error is None, output.error
        request, timeline = running[output.request_id]
        if (news := len(output.generated_tokens) - timeline.num_tokens) > 0:
            recorder.arrived(timeline, news)
        if not output.is_finished():
            return False
        assert timeline.num_tokens == request.num_tokens
        del running[output.request_id]
        return True

    def _cancel(self, running: Running) -> None:
        for name in running:
            self._manager.cancel_request(name)
        # A cancelled request says nothing more; the next run passes over what was under way.
        while self._manager.get_result(timeout=0.3) is not None:
            pass


def batching_config(setting: Setting) -> ContinuousBatchingConfig:
    """On CUDA as it configures itself; on the CPU, where that would take most of the memory, what the load needs."""
    if setting.device != "cpu":
        return ContinuousBatchingConfig()
    return ContinuousBatchingConfig(
        page_size=PAGE_SIZE,
        num_blocks=setting.max_callers * MAX_BATCH_TOKENS // PAGE_SIZE,
        max_batch_tokens=MAX_BATCH_TOKENS,
        max_requests_per_batch=setting.max_callers,
        allow_block_sharing=False,
    )
