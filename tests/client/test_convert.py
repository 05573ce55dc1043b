"""Messages become values without loss, those of a newer server included."""

import struct

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1 import models_pb2
from rhapsode_client import FinishReason, VersionState, convert
from rhapsode_client.streaming import Gathered


def test_the_enums_are_those_of_the_wire():
    assert set(convert.FINISH_REASONS.values()) == set(FinishReason) - {FinishReason.UNKNOWN}
    assert set(convert.VERSION_STATES.values()) == set(VersionState) - {VersionState.UNKNOWN}


@pytest.mark.parametrize("number", [0, 99])
def test_numbers_of_a_newer_server_are_unknown(number):
    model = models_pb2.Model(versions=[models_pb2.ModelVersion(state=number)])
    assert convert.completion(pb.GenerateResponse(finish_reason=number)).finish_reason == "unknown"
    assert convert.model(models_pb2.GetModelResponse(model=model)).versions[0].state == "unknown"


@pytest.mark.parametrize(
    ("stop", "value"),
    [(None, None), (pb.MatchedStop(stop_string="END"), "END"), (pb.MatchedStop(token_id=0), 0)],
    ids=["none", "text", "token"],
)
def test_what_a_completion_ended_at(stop, value):
    assert convert.completion(pb.GenerateResponse(matched_stop=stop)).matched_stop == value


def test_no_first_token_is_not_zero_seconds():
    assert convert.completion(pb.GenerateResponse()).timings.first_token is None
    timings = pb.Timings(first_token=Duration(), total=Duration(seconds=2, nanos=5))
    assert convert.completion(pb.GenerateResponse(timings=timings)).timings.first_token == 0.0
    assert convert.completion(pb.GenerateResponse(timings=timings)).timings.total == 2.000000005


@given(st.floats(width=32, allow_nan=False))
def test_a_float_comes_back_the_same(value):
    sampling = convert.completion(pb.GenerateResponse(sampling={"temperature": value})).sampling
    assert struct.pack("f", sampling.temperature) == struct.pack("f", value)


@given(st.integers(0, 10**6).map(lambda number: number / 10**4))
def test_a_float_as_people_write_it_comes_back_as_written(value):
    sampling = convert.completion(pb.GenerateResponse(sampling={"temperature": value})).sampling
    assert sampling.temperature == value


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(0, 2**32 - 1)))))
def test_the_deltas_of_a_stream_make_up_the_unary_answer(deltas):
    who = {"request_id": "r", "model": "m", "version": 1, "seed": 2, "sampling": {"top_k": 3}}
    end = {"finish_reason": pb.FINISH_REASON_EOS, "matched_stop": {"token_id": 0}, "usage": {"completion_tokens": 9}}
    gathered = Gathered()
    gathered.take(pb.GenerateStreamResponse(started=pb.Started(**who)))
    for text, ids in deltas:
        gathered.take(pb.GenerateStreamResponse(delta=pb.Delta(text=text, token_ids=ids)))
    gathered.take(pb.GenerateStreamResponse(finished=pb.Finished(**end)))
    texts, ids = [text for text, _ in deltas], [each for _, ids in deltas for each in ids]
    assert gathered.completion() == convert.completion(
        pb.GenerateResponse(text="".join(texts), token_ids=ids, **who, **end)
    )
