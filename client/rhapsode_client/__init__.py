"""Client library of Rhapsode: text generation over gRPC.

    from rhapsode_client import Client

    with Client("127.0.0.1:50051") as client, client.stream("The sea", seed=7) as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
        print(stream.result().finish_reason)

`AsyncClient` is the same for asyncio, `rhapsode_client.admin` is for operators, and `rhapsode_client.testing` has a
server for unit tests. Every failure is a `RhapsodeError`; `errors` draws the tree.
"""

from rhapsode_client.arguments import BatchItem, ChatMessage, GenerateOptions, Prompt
from rhapsode_client.async_client import AsyncClient
from rhapsode_client.async_streams import AsyncBatch, AsyncStream
from rhapsode_client.client import Client
from rhapsode_client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Retryable,
    RhapsodeError,
    ServerError,
    Unauthenticated,
    Unavailable,
    Violation,
)
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
from rhapsode_client.streams import Batch, Stream

__version__ = "0.1.0"

__all__ = [
    "AsyncBatch",
    "AsyncClient",
    "AsyncStream",
    "Batch",
    "BatchItem",
    "BatchResult",
    "Cancelled",
    "Candidate",
    "ChatMessage",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "Delta",
    "Evaluation",
    "FailedPrecondition",
    "FinishReason",
    "GenerateOptions",
    "InvalidRequest",
    "Limits",
    "Model",
    "ModelVersion",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Prompt",
    "Retryable",
    "RhapsodeError",
    "Sampling",
    "Score",
    "ServerError",
    "Started",
    "Stream",
    "Timings",
    "Token",
    "TokenLogprob",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "VersionState",
    "Violation",
]
