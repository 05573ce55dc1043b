"""Log-probabilities, scores and batches, through both clients."""

import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import BadRequest, RequestInfo
from rhapsode.v1 import generation_pb2 as pb
from rhapsode_client import BatchItem, BatchResult, Candidate, InvalidRequest, Score, Timings, TokenLogprob

SEA = pb.TokenLogprob(
    token_id=5, logprob=-0.25, rank=2, text=b"\xc3", candidates=[pb.Candidate(token_id=6, logprob=-0.125, text=b" a")]
)
FIRST = pb.TokenLogprob(token_id=4, text=b"The")
SEA_VALUE = TokenLogprob(
    token_id=5, logprob=-0.25, rank=2, text=b"\xc3", candidates=(Candidate(token_id=6, logprob=-0.125, text=b" a"),)
)
FIRST_VALUE = TokenLogprob(token_id=4, logprob=None, rank=0, text=b"The")


async def test_a_score(client, server):
    server.scripts["Score"] = [
        pb.ScoreResponse(
            model="poems", version=3, tokens=[FIRST, SEA], sum_logprob=-0.25, perplexity=1.5, request_id="r"
        )
    ]
    score = await client.score("The", as_document=True, overlap=0, top_logprobs=1, alias="previous", request_id="r")
    assert score == Score(
        tokens=(FIRST_VALUE, SEA_VALUE),
        sum_logprob=-0.25,
        perplexity=1.5,
        model="poems",
        version=3,
        timings=Timings(queue=0.0, first_token=None, total=0.0),
        request_id="r",
    )
    assert server.requests == [
        pb.ScoreRequest(text="The", as_document=True, overlap=0, top_logprobs=1, alias="previous", request_id="r")
    ]


async def test_a_score_of_ids_without_a_perplexity(client, server):
    server.scripts["Score"] = [pb.ScoreResponse(tokens=[FIRST])]
    assert (await client.score([4])).perplexity is None
    assert server.requests == [pb.ScoreRequest(token_ids=pb.TokenIds(ids=[4]))]


async def test_log_probabilities_of_a_completion(client, server):
    server.scripts["Generate"] = [pb.GenerateResponse(logprobs=[SEA], prompt_logprobs=[FIRST, SEA])]
    completion = await client.generate("The", logprobs=True, prompt_logprobs=True, top_logprobs=1)
    assert (completion.logprobs, completion.prompt_logprobs) == ((SEA_VALUE,), (FIRST_VALUE, SEA_VALUE))


async def test_log_probabilities_of_a_stream(client, server):
    script = server.scripts["GenerateStream"]
    deltas = [pb.Delta(prompt_logprobs=[FIRST, SEA]), pb.Delta(text="Sea", logprobs=[SEA]), pb.Delta(logprobs=[SEA])]
    events = [pb.GenerateStreamResponse(delta=delta) for delta in deltas]
    server.scripts["GenerateStream"] = [script[0], *events, script[-1]]
    async with client.stream("The", logprobs=True, prompt_logprobs=True) as stream:
        got = [(delta.logprobs, delta.prompt_logprobs) async for delta in stream]
        completion = await stream.result()
    assert got == [((), (FIRST_VALUE, SEA_VALUE)), ((SEA_VALUE,), ()), ((SEA_VALUE,), ())]
    assert (completion.logprobs, completion.prompt_logprobs) == ((SEA_VALUE,) * 2, (FIRST_VALUE, SEA_VALUE))


async def test_a_batch(client, server):
    done = pb.GenerateBatchResponse(item=1, completion=2, response=pb.GenerateResponse(text="Sea"))
    server.scripts["GenerateBatch"] = [done, refused()]
    items = [BatchItem("The"), BatchItem([1, 2], {"seed": 3, "stop": "END"}, num_completions=3)]
    async with client.generate_batch(items, seed=7, request_id="r") as batch:
        first, second = [each async for each in batch]
    assert (first.item, first.completion, first.result.text) == (1, 2, "Sea")
    assert isinstance(second, BatchResult)
    assert isinstance(second.result, InvalidRequest)
    assert str(second.result) == "sampling.top_p: must be in (0, 1]"
    assert second.result.violations == (("sampling.top_p", "must be in (0, 1]"),)
    assert second.result.request_id == "r-9"
    request = pb.GenerateBatchRequest(seed=7, request_id="r")
    request.items.add(request=pb.GenerateRequest(prompt="The"), num_completions=1)
    sampled = pb.GenerateRequest(sampling={"seed": 3}, stopping={"stop_strings": ["END"]})
    sampled.prompt_token_ids.ids.extend([1, 2])
    request.items.add(request=sampled, num_completions=3)
    assert server.requests == [request]


def refused() -> pb.GenerateBatchResponse:
    status = pb.Status(code=3, message="sampling.top_p: must be in (0, 1]")
    violation = BadRequest.FieldViolation(field="sampling.top_p", description="must be in (0, 1]")
    for detail in (BadRequest(field_violations=[violation]), RequestInfo(request_id="r-9")):
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return pb.GenerateBatchResponse(error=status)


async def test_a_status_of_a_newer_server_is_an_error_still(client, server):
    server.scripts["GenerateBatch"] = [pb.GenerateBatchResponse(error=pb.Status(code=99, message="odd"))]
    async with client.generate_batch([BatchItem("The")]) as batch:
        assert repr((await anext(batch)).result) == "ServerError('odd')"


async def test_an_item_that_cannot_be_sent_is_named(client, server):
    with pytest.raises(InvalidRequest, match=r"items\[1\]\.request\.sampling\.seed: "):
        client.generate_batch([BatchItem("The"), BatchItem("The", {"seed": -1})])
    with pytest.raises(InvalidRequest, match=r"items\[0\]\.num_completions: "):
        client.generate_batch([BatchItem("The", num_completions=-1)])
    assert server.requests == []
