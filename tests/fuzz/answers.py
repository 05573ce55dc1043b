"""What any answer must be, whatever was asked."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from rhapsode.v1 import generation_pb2 as pb

from .cases import Case
from .decoding import fault_of_text

Code = grpc.StatusCode

_CALLERS_FAULT = {Code.INVALID_ARGUMENT, Code.NOT_FOUND}
_ALWAYS_ALLOWED = {Code.OK, Code.RESOURCE_EXHAUSTED, *_CALLERS_FAULT}
_INNARDS = ("Traceback", "Error:", "Exception", ".py", "object at 0x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a call ended."""

    code: Code
    message: str = ""
    details: Sequence[Packed] = ()
    responses: Sequence[Message] = field(default_factory=list)


def fault(case: Case, answer: Answer) -> str | None:
    """What is wrong with the answer, if anything."""
    return next(_faults(case, answer), None)


def _faults(case: Case, answer: Answer) -> Iterator[str]:
    allowed = set(_ALWAYS_ALLOWED)
    if case.is_impatient:
        allowed.add(Code.DEADLINE_EXCEEDED)
    if case.cancel_after is not None:
        allowed.add(Code.CANCELLED)
    if answer.code not in allowed:
        yield f"{answer.code.name}: {answer.message}"
    elif answer.code is Code.OK:
        yield from _faults_of_success(case, answer.responses)
    elif answer.code in _ALWAYS_ALLOWED and not case.is_impatient:
        yield from _faults_of_failure(answer.code, answer.message, answer.details)


def _faults_of_failure(code: Code, message: str, details: Sequence[Packed]) -> Iterator[str]:
    if any(innards in message for innards in _INNARDS):
        yield f"{code.name} tells of the inside: {message}"
    info, request, retry, bad = ErrorInfo(), RequestInfo(), RetryInfo(), BadRequest()
    found = {each.DESCRIPTOR.name for each in (info, request, retry, bad) if any(map_unpack(details, each))}
    needed = {"ErrorInfo", "RequestInfo"}
    needed |= {"BadRequest"} if code is Code.INVALID_ARGUMENT else set()
    needed |= {"RetryInfo"} if code is Code.RESOURCE_EXHAUSTED else set()
    if missing := needed - found:
        yield f"{code.name} without {', '.join(sorted(missing))}: {message}"
    elif code is Code.INVALID_ARGUMENT and not all(each.field and each.description for each in bad.field_violations):
        yield f"a violation without field or description: {bad}"


def map_unpack(details: Sequence[Packed], message: Message) -> list[bool]:
    return [packed.Unpack(message) for packed in details]


def _faults_of_success(case: Case, responses: Sequence[Message]) -> Iterator[str]:
    request = case.request
    if request is None:
        yield "OK for bytes that are no message"
    elif isinstance(request, pb.GenerateBatchRequest):
        yield from _faults_of_batch(request, responses)
    elif isinstance(request, pb.GenerateRequest) and not case.method.server_streaming:
        yield from _faults_of_completion(request, responses[0])
    elif isinstance(request, pb.GenerateRequest):
        yield from _faults_of_stream(request, responses)
    elif isinstance(request, pb.ScoreRequest):
        yield from _faults_of_score(responses[0])


def _faults_of_stream(request: pb.GenerateRequest, responses: Sequence[pb.GenerateStreamResponse]) -> Iterator[str]:
    kinds = [response.WhichOneof("event") for response in responses]
    if kinds[:1] != ["started"] or kinds[-1:] != ["finished"] or set(kinds[1:-1]) - {"delta"}:
        yield f"events out of order: {kinds}"
        return
    yield from _faults_of_completion(request, joined(responses))


def joined(responses: Sequence[pb.GenerateStreamResponse]) -> pb.GenerateResponse:
    """The events of a stream as the answer of Generate, but for times."""
    started, finished = responses[0].started, responses[-1].finished
    deltas = [response.delta for response in responses[1:-1]]
    return pb.GenerateResponse(
        model=started.model,
        version=started.version,
        text="".join(delta.text for delta in deltas),
        token_ids=[token_id for delta in deltas for token_id in delta.token_ids],
        logprobs=[score for delta in deltas for score in delta.logprobs],
        prompt_logprobs=[score for delta in deltas for score in delta.prompt_logprobs],
        finish_reason=finished.finish_reason,
        matched_stop=finished.matched_stop if finished.HasField("matched_stop") else None,
        seed=started.seed,
        sampling=started.sampling,
        usage=finished.usage,
    )


def _faults_of_completion(request: pb.GenerateRequest, response: pb.GenerateResponse) -> Iterator[str]:
    usage, output = response.usage, request.output
    if response.finish_reason not in pb.FinishReason.values()[1:]:
        yield f"finish reason {response.finish_reason}"
    if not response.model or not response.version or usage.prompt_tokens < 1:
        yield "no model, version or prompt tokens"
    if request.stopping.HasField("max_new_tokens") and usage.completion_tokens > request.stopping.max_new_tokens:
        yield f"{usage.completion_tokens} tokens, {request.stopping.max_new_tokens} asked for"
    if len(response.token_ids) != output.token_ids * usage.completion_tokens:
        yield f"{len(response.token_ids)} ids for {usage.completion_tokens} tokens"
    if len(response.logprobs) != output.logprobs * usage.completion_tokens:
        yield f"{len(response.logprobs)} log-probabilities for {usage.completion_tokens} tokens"
    is_cut_short = response.finish_reason == pb.FINISH_REASON_TIME_LIMIT
    num_scored, num_wanted = len(response.prompt_logprobs), output.prompt_logprobs * usage.prompt_tokens
    if num_scored > num_wanted or (num_scored < num_wanted and not is_cut_short):
        yield f"{num_scored} log-probabilities for {usage.prompt_tokens} tokens of prompt"
    for scores in (response.logprobs, response.prompt_logprobs):
        yield from _faults_of_logprobs(scores, output.top_logprobs)
    if wrong := fault_of_text(request, response):
        yield wrong


def _faults_of_logprobs(scores: Sequence[pb.TokenLogprob], num_candidates: int) -> Iterator[str]:
    for place, score in enumerate(scores):
        if not score.HasField("logprob"):
            if place or score.rank or score.candidates:
                yield f"no log-probability in place {place}"
        elif not -math.inf < score.logprob <= 1e-5 or score.rank < 1 or len(score.candidates) != num_candidates:
            yield f"log-probability {score.logprob}, rank {score.rank}, {len(score.candidates)} candidates"


def _faults_of_batch(request: pb.GenerateBatchRequest, responses: Sequence[pb.GenerateBatchResponse]) -> Iterator[str]:
    answered = Counter((response.item, response.completion) for response in responses)
    refused = {response.item for response in responses if response.WhichOneof("result") == "error"}
    wanted = Counter(
        (item, completion)
        for item, asked in enumerate(request.items)
        for completion in range(max(asked.num_completions, 1))
        if item not in refused
    )
    if {key: count for key, count in answered.items() if key[0] not in refused} != wanted or max(answered.values()) > 1:
        yield f"completions {sorted(answered)} where {sorted(wanted)} were asked for, {sorted(refused)} refused"
    for response in responses:
        if response.WhichOneof("result") == "response":
            yield from _faults_of_completion(request.items[response.item].request, response.response)
        else:
            yield from _faults_of_status(response.error)


def _faults_of_status(status: pb.Status) -> Iterator[str]:
    codes = {code.value[0]: code for code in _ALWAYS_ALLOWED - {Code.OK}}
    if status.code not in codes:
        yield f"an item ended with {status.code}: {status.message}"
    else:
        yield from _faults_of_failure(codes[status.code], status.message, status.details)


def _faults_of_score(response: pb.ScoreResponse) -> Iterator[str]:
    total = sum(token.logprob for token in response.tokens)
    if not response.tokens or not math.isclose(total, response.sum_logprob, rel_tol=1e-4, abs_tol=1e-3):
        yield f"{len(response.tokens)} tokens, sum {response.sum_logprob}, which is {total}"
    yield from _faults_of_logprobs(response.tokens, len(response.tokens[-1].candidates))


def details_of(error: grpc.RpcError) -> Sequence[Packed]:
    """The google.rpc details of a status."""
    metadata = dict(error.trailing_metadata() or ())
    return Status.FromString(metadata.get("grpc-status-details-bin", b"")).details
