"""Sends cases to a server, a bounded number at a time, and gathers what is wrong with the answers."""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from rhapsode.v1 import generation_pb2 as pb

from .answers import Answer, details_of, fault, joined
from .cases import METHODS, PATIENCE, Case

_STREAM = next(method for method in METHODS if method.name == "GenerateStream")
_NUM_CALLS = 24
_MAX_SHOWN = 20
_MIB = 2**20


@dataclass
class Report:
    """Answers by RPC and status, and the faults among them, each with its case."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, Case]] = field(default_factory=list)

    def text(self, log: str) -> str:
        """One fault of each kind, with what the server's log says of it."""
        kinds = defaultdict[str, list[tuple[str, Case]]](list)
        for wrong, case in self.faults:
            tale = _tale(log, wrong)
            last = tale[-1] if tale else re.sub(r"[0-9a-f]{32}|-?[0-9.]+", "#", wrong[:60])
            kinds[last].append((wrong + "".join(f"\n    {line}" for line in tale[-9:]), case))
        shown = [f"{len(kind)} times:\n{kind[0][0]}\n  {kind[0][1]}" for kind in kinds.values()]
        return "\n\n".join([f"{len(self.faults)} faults in {self.counts.total()} calls", *shown[:_MAX_SHOWN]])


def _tale(log: str, wrong: str) -> list[str]:
    """The traceback that the log has under the request id in `wrong`."""
    request_id = re.search(r"request id (\w+)", wrong)
    if request_id is None or (start := log.find(f"unexpected failure request_id={request_id[1]}")) < 0:
        return []
    return re.split(r"^\d{4}-", log[start:], maxsplit=1, flags=re.M)[0].splitlines()[1:]


async def perform(channel: grpc.aio.Channel, case: Case) -> Answer:
    """Make the call as the case says. Only what the server sends is judged here, so bytes go out as they are."""
    parse = GetMessageClass(case.method.output_type).FromString
    responses: list[Message] = []
    try:
        if case.method.server_streaming:
            call = channel.unary_stream(case.path, None, parse)(case.raw, timeout=case.timeout)
            await _read(call, responses, case.cancel_after)
        else:
            responses.append(await channel.unary_unary(case.path, None, parse)(case.raw, timeout=case.timeout))
    except grpc.aio.AioRpcError as error:
        return Answer(code=error.code(), message=error.details() or "", details=details_of(error), responses=responses)
    except asyncio.CancelledError:
        if case.cancel_after is None:
            raise
        return Answer(code=grpc.StatusCode.CANCELLED)
    return Answer(code=grpc.StatusCode.OK, responses=responses)


async def _read(call: grpc.aio.UnaryStreamCall, responses: list[Message], cancel_after: int | None) -> None:
    while cancel_after is None or len(responses) < cancel_after:
        if (response := await call.read()) is grpc.aio.EOF:
            return
        responses.append(response)
    call.cancel()
    raise asyncio.CancelledError


async def run(address: str, cases: Iterable[Case]) -> Report:
    """All `cases`, so many at a time as a busy server has open."""
    report, queue = Report(), iter(cases)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", 64 * _MIB)]

    async def work() -> None:
        async with grpc.aio.insecure_channel(
            address, options=[*options, ("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            for case in queue:
                await _try(channel, case, report)

    async with asyncio.TaskGroup() as group:
        for _ in range(_NUM_CALLS):
            group.create_task(work())
    return report


async def _try(channel: grpc.aio.Channel, case: Case, report: Report) -> None:
    answer = await perform(channel, case)
    report.counts[f"{case.method.name} {answer.code.name}"] += 1
    wrong = fault(case, answer)
    if wrong is None and case.method.name == "Generate" and answer.code is grpc.StatusCode.OK:
        wrong = await _fault_of_repetition(channel, case, answer.responses[0])
    if wrong is not None:
        report.faults.append((wrong, case))


async def _fault_of_repetition(channel: grpc.aio.Channel, case: Case, response: pb.GenerateResponse) -> str | None:
    """The same request with the seed used, as a stream, has the same text and the same end."""
    request = case.request
    assert isinstance(request, pb.GenerateRequest)
    if request.stopping.HasField("time_limit"):
        return None
    request.sampling.seed = response.seed
    repetition = replace(case, method=_STREAM, raw=request.SerializeToString(), timeout=PATIENCE)
    answer = await perform(channel, repetition)
    if (wrong := fault(repetition, answer)) or answer.code is not grpc.StatusCode.OK:
        return wrong or f"{answer.code.name} as a stream: {answer.message}"
    again = joined(answer.responses)
    for name in ("text", "token_ids", "finish_reason", "matched_stop", "sampling"):
        if getattr(again, name) != getattr(response, name):
            return f"{name} of Generate: {getattr(response, name)!r}, of GenerateStream: {getattr(again, name)!r}"
    return None
