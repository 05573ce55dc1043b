"""Response messages -> results."""

import struct
from collections.abc import Iterable, Mapping

from google.protobuf.duration_pb2 import Duration
from rhapsode.v1 import generation_pb2, models_pb2

from rhapsode_client.results import (
    BatchResult,
    Candidate,
    Completion,
    Delta,
    Evaluation,
    FinishReason,
    Limits,
    Model,
    ModelVersion,
    Sampling,
    Score,
    Started,
    Timings,
    Token,
    TokenLogprob,
    Usage,
    VersionState,
)
from rhapsode_client.statuses import error_of

FINISH_REASONS: Mapping[int, FinishReason] = {
    number: FinishReason(name.removeprefix("FINISH_REASON_").lower())
    for name, number in generation_pb2.FinishReason.items()
    if number != generation_pb2.FINISH_REASON_UNSPECIFIED
}
VERSION_STATES: Mapping[int, VersionState] = {
    number: VersionState(name.removeprefix("VERSION_STATE_").lower())
    for name, number in models_pb2.VersionState.items()
    if number != models_pb2.VERSION_STATE_UNSPECIFIED
}


def completion(message: generation_pb2.GenerateResponse) -> Completion:
    return Completion(
        text=message.text,
        finish_reason=FINISH_REASONS.get(message.finish_reason, FinishReason.UNKNOWN),
        matched_stop=_matched_stop(message.matched_stop),
        model=message.model,
        version=message.version,
        seed=message.seed,
        token_ids=tuple(message.token_ids),
        usage=_usage(message.usage),
        timings=_timings(message.timings),
        sampling=_sampling(message.sampling),
        request_id=message.request_id,
        logprobs=_logprobs(message.logprobs),
        prompt_logprobs=_logprobs(message.prompt_logprobs),
    )


def batch_result(message: generation_pb2.GenerateBatchResponse) -> BatchResult:
    result = completion(message.response) if message.HasField("response") else error_of(message.error)
    return BatchResult(item=message.item, completion=message.completion, result=result)


def score(message: generation_pb2.ScoreResponse) -> Score:
    return Score(
        tokens=_logprobs(message.tokens),
        sum_logprob=message.sum_logprob,
        perplexity=message.perplexity if message.HasField("perplexity") else None,
        model=message.model,
        version=message.version,
        timings=_timings(message.timings),
        request_id=message.request_id,
    )


def started(message: generation_pb2.Started) -> Started:
    return Started(
        request_id=message.request_id,
        model=message.model,
        version=message.version,
        seed=message.seed,
        usage=_usage(message.usage),
        sampling=_sampling(message.sampling),
    )


def delta(message: generation_pb2.Delta) -> Delta:
    return Delta(
        text=message.text,
        token_ids=tuple(message.token_ids),
        logprobs=_logprobs(message.logprobs),
        prompt_logprobs=_logprobs(message.prompt_logprobs),
    )


def tokens(message: generation_pb2.TokenizeResponse) -> list[Token]:
    return [Token(id=each.id, piece=each.piece, start=each.start, end=each.end) for each in message.tokens]


def text(message: generation_pb2.DetokenizeResponse) -> str:
    return message.text


def models(message: models_pb2.ListModelsResponse) -> list[Model]:
    return [served_model(each) for each in message.models]


def model(message: models_pb2.GetModelResponse) -> Model:
    return served_model(message.model)


def served_model(message: models_pb2.Model) -> Model:
    return Model(
        name=message.name,
        aliases=dict(sorted(message.aliases.items())),
        versions=tuple(_model_version(each) for each in message.versions),
        traffic=dict(sorted(message.traffic.items())),
    )


def _model_version(message: models_pb2.ModelVersion) -> ModelVersion:
    return ModelVersion(
        version=message.version,
        state=VERSION_STATES.get(message.state, VersionState.UNKNOWN),
        reason=message.reason,
        dtype=message.dtype,
        device=message.device,
        parameter_count=message.parameter_count,
        limits=_limits(message.limits) if message.HasField("limits") else None,
        evaluation=_evaluation(message.evaluation) if message.HasField("evaluation") else None,
    )


def _evaluation(message: models_pb2.Evaluation) -> Evaluation:
    return Evaluation(
        bits_per_byte=message.bits_per_byte if message.HasField("bits_per_byte") else None,
        perplexity=message.perplexity if message.HasField("perplexity") else None,
        accepted=message.accepted if message.HasField("accepted") else None,
    )


def _limits(message: models_pb2.Limits) -> Limits:
    return Limits(
        context_length=message.context_length,
        vocabulary_size=message.vocabulary_size,
        max_sequences=message.max_sequences,
        max_queued_requests=message.max_queued_requests,
    )


def _logprobs(messages: Iterable[generation_pb2.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            token_id=each.token_id,
            logprob=each.logprob if each.HasField("logprob") else None,
            rank=each.rank,
            text=each.text,
            candidates=tuple(map(_candidate, each.candidates)),
        )
        for each in messages
    )


def _candidate(message: generation_pb2.Candidate) -> Candidate:
    return Candidate(token_id=message.token_id, logprob=message.logprob, text=message.text)


def _matched_stop(message: generation_pb2.MatchedStop) -> str | int | None:
    match message.WhichOneof("stop"):
        case "stop_string":
            return message.stop_string
        case "token_id":
            return message.token_id
    return None


def _usage(message: generation_pb2.Usage) -> Usage:
    return Usage(
        prompt_tokens=message.prompt_tokens,
        cached_tokens=message.cached_tokens,
        completion_tokens=message.completion_tokens,
    )


def _timings(message: generation_pb2.Timings) -> Timings:
    return Timings(
        queue=_seconds(message.queue),
        first_token=_seconds(message.first_token) if message.HasField("first_token") else None,
        total=_seconds(message.total),
    )


def _sampling(message: generation_pb2.SamplingParameters) -> Sampling:
    return Sampling(
        temperature=_shortest(message.temperature) if message.HasField("temperature") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        top_p=_shortest(message.top_p) if message.HasField("top_p") else None,
        seed=message.seed if message.HasField("seed") else None,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _shortest(single: float) -> float:
    """The shortest decimal with the same float32 value: 0.8 comes back as 0.8, not 0.800000011920929."""
    rounded = (float(f"{single:.{digits}g}") for digits in range(6, 9))
    return next((each for each in rounded if struct.pack("f", each) == struct.pack("f", single)), single)
