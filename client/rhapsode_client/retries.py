"""Calls that the server could not take are tried again, by gRPC itself.

Such a call has delivered nothing: gRPC gives it up only after the first event of a stream. The server says with each
refusal when to come back (`grpc-retry-pushback-ms`), or that the call's deadline leaves no time for it; where nobody
answers, the waits are drawn at random below a bound that doubles.
"""

import json
from collections.abc import Sequence

MAX_RETRIES = 4
"""gRPC's own bound."""
DEFAULT_RETRIES = MAX_RETRIES

# Operators decide for themselves, and health is asked to be known now.
_SERVICES = ("rhapsode.v1.GenerationService", "rhapsode.v1.ModelService")
# gRPC keeps a request until it is answered, to send it again; larger ones would be sent once.
_BUFFERED_BYTES = 64 * 1024 * 1024


def check_retries(retries: int) -> None:
    """Raises ValueError unless gRPC does so many."""
    if not 0 <= retries <= MAX_RETRIES:
        raise ValueError(f"retries must be 0 to {MAX_RETRIES}, not {retries}")


def retry_options(retries: int) -> Sequence[tuple[str, int | str]]:
    """What gRPC is told: so many tries after the first. None for 0."""
    if not retries:
        return ()
    return (
        ("grpc.service_config", json.dumps(_service_config(retries))),
        ("grpc.per_rpc_retry_buffer_size", _BUFFERED_BYTES),
    )


def _service_config(retries: int) -> object:
    policy = {
        "maxAttempts": 1 + retries,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    return {"methodConfig": [{"name": [{"service": each} for each in _SERVICES], "retryPolicy": policy}]}
