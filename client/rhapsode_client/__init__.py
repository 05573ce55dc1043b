"""Client library of Rhapsode: text generation over gRPC.

    from rhapsode_client import Client

    with Client("127.0.0.1:50051") as client, client.stream("The sea", seed=7) as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
        print(stream.result().finish_reason)

`AsyncClient` is the same for asyncio, and `rhapsode_client.admin` is for operators. Every failure is a
`RhapsodeError`; `errors` draws the tree.
"""

from rhapsode_client.async_client import AsyncClient, AsyncStream
from rhapsode_client.client import Client, Stream
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
from rhapsode_client.requests import GenerateOptions
from rhapsode_client.results import (
    Completion,
    Delta,
    Evaluation,
    FinishReason,
    Limits,
    Model,
    ModelVersion,
    Sampling,
    Started,
    Timings,
    Token,
    Usage,
    VersionState,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
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
    "Retryable",
    "RhapsodeError",
    "Sampling",
    "ServerError",
    "Started",
    "Stream",
    "Timings",
    "Token",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "VersionState",
    "Violation",
]
