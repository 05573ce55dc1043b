"""From values to messages."""

from google.protobuf.duration_pb2 import Duration
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1 import models_pb2

from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.models.served import Limits, ModelStatus, VersionStatus
from rhapsode_server.rpc.call import Call
from rhapsode_server.text.tokenizer import Piece


def sampling(used: SamplingParameters) -> pb.SamplingParameters:
    return pb.SamplingParameters(temperature=used.temperature, top_k=used.top_k, top_p=used.top_p, seed=used.seed)


def usage(call: Call) -> pb.Usage:
    return pb.Usage(prompt_tokens=call.num_prompt_tokens, completion_tokens=call.num_generated_tokens)


def timings(call: Call) -> pb.Timings:
    return pb.Timings(queue=_duration(call.queue), first_token=_duration(call.first_token), total=_duration(call.total))


def token(piece: Piece) -> pb.Token:
    return pb.Token(id=piece.id, piece=piece.piece, start=piece.start, end=piece.end)


def model(status: ModelStatus) -> models_pb2.Model:
    versions = [_model_version(version) for version in status.versions]
    return models_pb2.Model(name=status.name, aliases=status.aliases, versions=versions)


def _model_version(status: VersionStatus) -> models_pb2.ModelVersion:
    return models_pb2.ModelVersion(
        version=status.version,
        state=f"VERSION_STATE_{status.state.name}",
        reason=status.reason,
        dtype=status.dtype,
        device=status.device,
        parameter_count=status.parameter_count,
        limits=_limits(status.limits) if status.limits else None,
    )


def _limits(limits: Limits) -> models_pb2.Limits:
    return models_pb2.Limits(
        context_length=limits.context_length,
        vocabulary_size=limits.vocabulary_size,
        max_sequences=limits.max_sequences,
        max_queued_requests=limits.max_queued_requests,
    )


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
