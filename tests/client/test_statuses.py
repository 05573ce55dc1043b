"""Statuses and their details become typed errors, whichever client, whichever call."""

import pickle

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo
from rhapsode_client import InvalidRequest, Overloaded, Retryable, RhapsodeError, ServerError, Unavailable, errors
from rhapsode_client.statuses import ERRORS

FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
async def test_every_status_is_a_typed_error(client, server, failure, code):
    server.scripts["Generate"] = server.scripts["GenerateStream"] = [failure(code=code, message="why")]
    with pytest.raises(RhapsodeError, match=r"^why$") as of_call:
        await client.generate("The")
    with pytest.raises(RhapsodeError, match=r"^why$") as of_stream:
        await client.stream("The").result()
    assert type(of_call.value) is type(of_stream.value) is ERRORS[code]
    assert ERRORS[code] not in (RhapsodeError, Retryable)


def test_every_error_of_the_tree_is_raised_for_some_status():
    leaves = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RhapsodeError)}
    assert set(ERRORS) == set(FAILURES)
    assert set(ERRORS.values()) == leaves - {RhapsodeError, Retryable}


@pytest.mark.parametrize("name", [name for name in vars(errors) if name in errors.__doc__])
def test_the_drawn_tree_holds_every_error(name):
    assert issubclass(getattr(errors, name), RhapsodeError)


async def test_violations_name_the_fields(client, server, failure):
    violations = [("sampling.top_p", "must be in (0, 1]"), ("prompt", "is too long")]
    detail = BadRequest(field_violations=[{"field": field, "description": text} for field, text in violations])
    server.scripts["Generate"] = [failure(code=grpc.StatusCode.INVALID_ARGUMENT, details=[detail])]
    with pytest.raises(InvalidRequest) as caught:
        await client.generate("The", top_p=2)
    assert caught.value.violations == tuple(violations)
    assert caught.value.violations[0].description == "must be in (0, 1]"


@pytest.mark.parametrize(
    ("code", "kind"),
    [(grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded), (grpc.StatusCode.UNAVAILABLE, Unavailable)],
    ids=["overloaded", "unavailable"],
)
async def test_the_server_says_when_to_try_again(client, server, failure, code, kind):
    wait = RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    server.scripts["GenerateStream"] = [failure(code=code, details=[wait])]
    with pytest.raises(kind) as caught:
        await client.stream("The").result()
    assert caught.value.retry_after == 1.5


@pytest.mark.parametrize(
    "said",
    [{"details": [RequestInfo(request_id="r-7")]}, {"metadata": (("x-request-id", "r-7"),)}],
    ids=["details", "metadata"],
)
async def test_a_server_error_names_the_request(client, server, failure, said):
    server.scripts["Generate"] = [failure(code=grpc.StatusCode.INTERNAL, **said)]
    with pytest.raises(ServerError) as caught:
        await client.generate("The")
    assert caught.value.request_id == "r-7"


async def test_details_that_cannot_be_read_hide_nothing(client, server, failure):
    broken = (("grpc-status-details-bin", b"\xff\xff\xff"),)
    server.scripts["Generate"] = [failure(code=grpc.StatusCode.INVALID_ARGUMENT, message="why", metadata=broken)]
    with pytest.raises(InvalidRequest, match="why") as caught:
        await client.generate("The")
    assert caught.value.violations == ()


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(InvalidRequest.of("prompt", "is too long")))
    assert str(error) == "prompt: is too long"
    assert error.violations == (("prompt", "is too long"),)
