"""The calls that the client makes: path on the wire, type of the response, result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckResponse
from rhapsode.v1.generation_pb2 import (
    DetokenizeResponse,
    GenerateBatchResponse,
    GenerateResponse,
    GenerateStreamResponse,
    ScoreResponse,
    TokenizeResponse,
)
from rhapsode.v1.models_pb2 import GetModelResponse, ListModelsResponse

from rhapsode_client import convert

ResponseT = TypeVar("ResponseT", bound=Message)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Method(Generic[ResponseT, ResultT]):
    """A call with one response, and what the caller gets of it."""

    path: str
    response: type[ResponseT]
    result: Callable[[ResponseT], ResultT]


@dataclass(frozen=True, slots=True)
class StreamMethod(Generic[ResponseT]):
    """A call with many responses."""

    path: str
    response: type[ResponseT]


def serialized(request: Message) -> bytes:
    """A request as it goes on the wire."""
    return request.SerializeToString()


def _health(message: HealthCheckResponse) -> str:
    return str(HealthCheckResponse.ServingStatus.Name(message.status))


_GENERATION = "/rhapsode.v1.GenerationService"
_MODELS = "/rhapsode.v1.ModelService"

GENERATE = Method(f"{_GENERATION}/Generate", GenerateResponse, convert.completion)
SCORE = Method(f"{_GENERATION}/Score", ScoreResponse, convert.score)
TOKENIZE = Method(f"{_GENERATION}/Tokenize", TokenizeResponse, convert.tokens)
DETOKENIZE = Method(f"{_GENERATION}/Detokenize", DetokenizeResponse, convert.text)
LIST_MODELS = Method(f"{_MODELS}/ListModels", ListModelsResponse, convert.models)
GET_MODEL = Method(f"{_MODELS}/GetModel", GetModelResponse, convert.model)
HEALTH = Method("/grpc.health.v1.Health/Check", HealthCheckResponse, _health)

GENERATE_STREAM = StreamMethod(f"{_GENERATION}/GenerateStream", GenerateStreamResponse)
GENERATE_BATCH = StreamMethod(f"{_GENERATION}/GenerateBatch", GenerateBatchResponse)
