"""From values to messages."""

from collections.abc import Sequence
from dataclasses import asdict

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rhapsode.v1 import admin_pb2, models_pb2
from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.models.limits import Limits
from rhapsode_server.models.served import EvaluationSummary, ModelStatus, TrafficOverride, TrafficSource, VersionStatus
from rhapsode_server.rpc.call import Call
from rhapsode_server.text.tokenizer import Piece

Event = pb.Started | pb.Delta | pb.Finished


def started(call: Call, sampling: pb.SamplingParameters) -> pb.Started:
    return pb.Started(
        request_id=call.request_id,
        model=call.model,
        version=call.version,
        seed=sampling.seed,
        usage=usage(call),
        sampling=sampling,
    )


def finished(call: Call, reason: pb.FinishReason, stop: pb.MatchedStop | None) -> pb.Finished:
    return pb.Finished(finish_reason=reason, matched_stop=stop, usage=usage(call), timings=timings(call))


def stream_response(event: Event) -> pb.GenerateStreamResponse:
    match event:
        case pb.Started():
            return pb.GenerateStreamResponse(started=event)
        case pb.Delta():
            return pb.GenerateStreamResponse(delta=event)
    return pb.GenerateStreamResponse(finished=event)


def whole_response(events: Sequence[Event]) -> pb.GenerateResponse:
    """The answer that says at once what the events say one by one."""
    started, finished = events[0], events[-1]
    assert isinstance(started, pb.Started)
    assert isinstance(finished, pb.Finished)
    deltas = [event for event in events if isinstance(event, pb.Delta)]
    return pb.GenerateResponse(
        request_id=started.request_id,
        model=started.model,
        version=started.version,
        text="".join(delta.text for delta in deltas),
        token_ids=[token_id for delta in deltas for token_id in delta.token_ids],
        logprobs=[each for delta in deltas for each in delta.logprobs],
        prompt_logprobs=[each for delta in deltas for each in delta.prompt_logprobs],
        finish_reason=finished.finish_reason,
        matched_stop=finished.matched_stop if finished.HasField("matched_stop") else None,
        seed=started.seed,
        sampling=started.sampling,
        usage=finished.usage,
        timings=finished.timings,
    )


def usage(call: Call) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=call.num_prompt_tokens,
        cached_tokens=call.tokens.num_cached_tokens if call.tokens else 0,
        completion_tokens=call.num_generated_tokens,
    )


def timings(call: Call) -> pb.Timings:
    return pb.Timings(queue=_duration(call.queue), first_token=_duration(call.first_token), total=_duration(call.total))


def token(piece: Piece) -> pb.Token:
    return pb.Token(id=piece.id, piece=piece.piece, start=piece.start, end=piece.end)


def model(status: ModelStatus) -> models_pb2.Model:
    versions = [_model_version(version) for version in status.versions]
    return models_pb2.Model(name=status.name, aliases=status.aliases, versions=versions, traffic=status.traffic)


def model_admin(status: ModelStatus) -> admin_pb2.ModelAdminStatus:
    return admin_pb2.ModelAdminStatus(
        model=model(status),
        traffic_source=_traffic_source(status.source),
        override=_override(status.override) if status.override else None,
        replicas=[
            admin_pb2.Replica(version=version.version, **asdict(replica))
            for version in status.versions
            for replica in version.replicas
        ],
    )


def timestamp(seconds: float) -> Timestamp:
    """Of Unix time."""
    made = Timestamp()
    made.FromNanoseconds(round(seconds * 1e9))
    return made


def _model_version(status: VersionStatus) -> models_pb2.ModelVersion:
    return models_pb2.ModelVersion(
        version=status.version,
        state=f"VERSION_STATE_{status.state.name}",
        reason=status.reason,
        dtype=status.dtype,
        device=status.device,
        parameter_count=status.parameter_count,
        limits=_limits(status.limits) if status.limits else None,
        evaluation=_evaluation(status.evaluation) if status.evaluation else None,
    )


def _limits(limits: Limits) -> models_pb2.Limits:
    return models_pb2.Limits(**asdict(limits))


def _evaluation(summary: EvaluationSummary) -> models_pb2.Evaluation:
    return models_pb2.Evaluation(**asdict(summary))


def _traffic_source(source: TrafficSource) -> str:
    return f"TRAFFIC_SOURCE_{'UNSPECIFIED' if source is TrafficSource.NOTHING else source.name}"


def _override(override: TrafficOverride) -> admin_pb2.TrafficOverride:
    return admin_pb2.TrafficOverride(
        weights=override.weights,
        until_fleet_decides=override.based_on is not None,
        expires_at=timestamp(override.expires_at),
        reason=override.reason,
    )


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
