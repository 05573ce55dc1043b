"""The judge of answers finds fault where there is one."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo
from rhapsode.v1 import generation_pb2 as pb

from .answers import Answer, Code, fault
from .cases import METHODS, Case

OK = Code.OK


def case(name: str, request: object = None, **more: object) -> Case:
    method = next(method for method in METHODS if method.name == name)
    return Case(number=0, method=method, raw=request.SerializeToString() if request else b"", **more)


def completion(**more: object) -> pb.GenerateResponse:
    usage = pb.Usage(prompt_tokens=2, completion_tokens=1)
    return pb.GenerateResponse(**{"model": "gpt2", "version": 1, "finish_reason": 1, "usage": usage, **more})


def packed(*messages: object) -> list[Packed]:
    details = [Packed() for _ in messages]
    for detail, message in zip(details, messages, strict=True):
        detail.Pack(message)
    return details


VIOLATIONS = BadRequest(field_violations=[BadRequest.FieldViolation(field="sampling.top_p", description="is 2")])
PROPER = packed(ErrorInfo(reason="INVALID_FIELD"), RequestInfo(request_id="a"), VIOLATIONS)
WITH_IDS = pb.GenerateRequest(prompt_token_ids={"ids": [5, 6]}, output={"token_ids": True})
STREAM = [pb.GenerateStreamResponse(started={"model": "gpt2"}), pb.GenerateStreamResponse(delta={"text": "a"})]
HALF = [pb.GenerateBatchResponse(response=completion())]
BATCH = pb.GenerateBatchRequest(items=[pb.GenerateBatchItem(request={"prompt": "a"}, num_completions=2)])


@pytest.mark.parametrize(
    ("case", "answer", "wrong"),
    [
        (case("Generate"), Answer(code=Code.INTERNAL, message="no"), "INTERNAL: no"),
        (case("Generate"), Answer(code=Code.UNKNOWN), "UNKNOWN"),
        (case("Generate"), Answer(code=Code.DEADLINE_EXCEEDED), "DEADLINE_EXCEEDED"),
        (case("Generate", timeout=0.1), Answer(code=Code.DEADLINE_EXCEEDED), None),
        (case("GenerateStream"), Answer(code=Code.CANCELLED), "CANCELLED"),
        (case("GenerateStream", cancel_after=1), Answer(code=Code.CANCELLED), None),
        (case("Generate"), Answer(code=Code.INVALID_ARGUMENT), "without BadRequest, ErrorInfo, RequestInfo"),
        (case("Generate"), Answer(code=Code.INVALID_ARGUMENT, details=PROPER), None),
        (case("Generate"), Answer(code=Code.INVALID_ARGUMENT, message="KeyError: 1", details=PROPER), "the inside"),
        (case("Generate"), Answer(code=OK, responses=[completion()]), None),
        (case("Generate"), Answer(code=OK, responses=[completion(finish_reason=0)]), "finish reason 0"),
        (case("Generate", WITH_IDS), Answer(code=OK, responses=[completion()]), "0 ids for 1 tokens"),
        (case("Generate", WITH_IDS), Answer(code=OK, responses=[completion(token_ids=[7], text="x")]), "decode to"),
        (case("GenerateStream"), Answer(code=OK, responses=STREAM), "out of order"),
        (case("GenerateBatch", BATCH), Answer(code=OK, responses=HALF), "(0, 1)"),
        (case("Score"), Answer(code=OK, responses=[pb.ScoreResponse()]), "0 tokens"),
    ],
)  # fmt: skip
def test_a_fault_is_found(case: Case, answer: Answer, wrong: str | None) -> None:
    found = fault(case, answer)
    assert (found is None) if wrong is None else (found is not None and wrong in found), found


def test_bytes_that_are_no_message_must_not_succeed() -> None:
    junk = Case(number=0, method=METHODS[0], raw=b"\xff")
    assert fault(junk, Answer(code=grpc.StatusCode.OK)) == "OK for bytes that are no message"
