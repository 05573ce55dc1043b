"""Scores, log-probabilities and batches of a real server, with the plain forward and the trainer as oracles."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import torch
from rhapsode.v1 import generation_pb2 as pb
from rhapsode.v1 import models_pb2
from rhapsode.v1.generation_pb2_grpc import GenerationServiceStub
from rhapsode.v1.models_pb2_grpc import ModelServiceStub
from rhapsode_trainer.evaluation.likelihood import score_documents
from support.publishing import publish_model, tiny_tokenizer
from support.servers import running_server
from support.tiny_models import tiny_model
from transformers import PreTrainedModel

CONTEXT, EOS = 64, 0
TEXT = "the sea, the sea and the stars above it, where the winds are singing still. " * 12
MODELS = {"gpt2": {"n_positions": CONTEXT}, "llama": {"max_position_embeddings": CONTEXT}}


@dataclass(frozen=True)
class Serving:
    channel: grpc.Channel
    models: dict[str, PreTrainedModel]

    @property
    def stub(self) -> GenerationServiceStub:
        return GenerationServiceStub(self.channel)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("served")
    models = {name: tiny_model(name, **settings) for name, settings in MODELS.items()}
    for name, model in models.items():
        publish_model(root, name, model, spoil=write_pipeline)
    flags = ("--threads", "1", "--max-sequences", "8", "--max-queued-requests", "4", "--default-model", "gpt2")
    flags = (*flags, "--standby", "off")
    with running_server(root, *flags) as process:
        for name in models:
            process.wait_serving(f"model/{name}")
        with grpc.insecure_channel(process.address) as channel:
            yield Serving(channel, models)
        process.terminate()
        assert process.wait() == 0, process.output
        assert "Traceback" not in process.output


def write_pipeline(folder: Path) -> None:
    (folder / "postprocess.json").write_text('{"schema_version": 1, "steps": ["whitespace", "last_sentence"]}')


def logprobs_of(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Of every token in each place after the first, by the plain forward: [T - 1, V]."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("overlap", [None, 0, CONTEXT - 1])
def test_the_perplexity_of_a_document_is_the_trainers(serving: Serving, name: str, overlap: int | None) -> None:
    text = TEXT if overlap != CONTEXT - 1 else TEXT[:500]
    ids = [EOS, *tiny_tokenizer().encode(text).ids, EOS]
    assert len(ids) > 2 * CONTEXT
    stride = CONTEXT - (CONTEXT // 2 if overlap is None else overlap)
    [theirs] = score_documents(serving.models[name], [ids], [len(text)], context=CONTEXT, stride=stride, batch_size=4)
    ours = serving.stub.Score(pb.ScoreRequest(model=name, text=text, as_document=True, overlap=overlap))
    assert [token.token_id for token in ours.tokens] == ids
    assert ours.perplexity == pytest.approx(math.exp(theirs.nats / theirs.tokens), rel=1e-5)
    mean = sum(token.logprob for token in ours.tokens[1:]) / (len(ids) - 1)
    assert math.exp(-mean) == pytest.approx(math.exp(theirs.nats / theirs.tokens), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_scores_and_candidates_are_those_of_the_plain_forward(serving: Serving, name: str) -> None:
    ids = tiny_tokenizer().encode(TEXT).ids[:CONTEXT]
    answer = serving.stub.Score(pb.ScoreRequest(model=name, token_ids=pb.TokenIds(ids=ids), top_logprobs=3))
    expected = logprobs_of(serving.models[name], ids)
    for token, row, token_id in zip(answer.tokens[1:], expected, ids[1:], strict=True):
        assert token.logprob == pytest.approx(float(row[token_id]), abs=1e-4)
        assert token.rank == int((row >= row[token_id]).sum())
        values, _ = row.topk(3)
        assert [each.logprob for each in token.candidates] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_logprobs_of_prompt_and_completion_are_those_of_the_plain_forward(serving: Serving, name: str) -> None:
    prompt = tiny_tokenizer().encode(TEXT).ids[:20]
    request = pb.GenerateRequest(
        model=name,
        prompt_token_ids=pb.TokenIds(ids=prompt),
        sampling=pb.SamplingParameters(temperature=1, seed=3, repetition_penalty=1.5),
        stopping=pb.StoppingCriteria(max_new_tokens=12, ignore_eos=True),
        output=pb.OutputOptions(token_ids=True, logprobs=True, prompt_logprobs=True, top_logprobs=2),
    )
    answer = serving.stub.Generate(request)
    assert len(answer.token_ids) == 12
    expected = logprobs_of(serving.models[name], [*prompt, *answer.token_ids])
    scored = [*answer.prompt_logprobs[1:], *answer.logprobs]
    assert [each.token_id for each in scored] == [*prompt[1:], *answer.token_ids]
    for each, row in zip(scored, expected, strict=True):
        assert each.logprob == pytest.approx(float(row[each.token_id]), abs=1e-4)
        assert len(each.candidates) == 2


def test_max_new_tokens_0_scores_a_prompt_as_long_as_the_context(serving: Serving) -> None:
    ids = tiny_tokenizer().encode(TEXT).ids[:CONTEXT]
    request = pb.GenerateRequest(
        prompt_token_ids=pb.TokenIds(ids=ids),
        stopping=pb.StoppingCriteria(max_new_tokens=0),
        output=pb.OutputOptions(prompt_logprobs=True),
    )
    answer = serving.stub.Generate(request)
    expected = logprobs_of(serving.models["gpt2"], ids)
    found = [each.logprob for each in answer.prompt_logprobs[1:]]
    assert found == pytest.approx([float(row[i]) for row, i in zip(expected, ids[1:], strict=True)], abs=1e-4)
    assert (answer.text, answer.finish_reason) == ("", pb.FINISH_REASON_LENGTH)


def test_a_batch_gives_what_single_calls_give(serving: Serving) -> None:
    """40 completions where 8 run and 4 queue: it waits for itself."""
    stopping = pb.StoppingCriteria(max_new_tokens=6, ignore_eos=True)
    items = [
        pb.GenerateBatchItem(
            request=pb.GenerateRequest(
                model=name, prompt=prompt, stopping=stopping, sampling=pb.SamplingParameters(temperature=1)
            ),
            num_completions=10,
        )
        for name in MODELS
        for prompt in ("the sea", "no star is alone")
    ]
    request = pb.GenerateBatchRequest(items=items, seed=100)
    answers = {(each.item, each.completion): each.response for each in serving.stub.GenerateBatch(request)}
    assert len(answers) == 40
    for index, item in enumerate(items):
        for completion in (0, 9):
            alone = pb.GenerateRequest()
            alone.CopyFrom(item.request)
            alone.sampling.seed = 100 + 10 * index + completion
            expected = serving.stub.Generate(alone)
            assert answers[index, completion].text == expected.text
            assert answers[index, completion].seed == expected.seed
    assert len({answer.text for answer in answers.values()}) > 30


def test_echo_is_the_decoding_of_all(serving: Serving) -> None:
    request = pb.GenerateRequest(
        prompt="the \U0001f600 sea",
        sampling=pb.SamplingParameters(temperature=1.5, seed=1),
        stopping=pb.StoppingCriteria(max_new_tokens=30, ignore_eos=True),
        output=pb.OutputOptions(token_ids=True, echo=True, skip_special_tokens=False),
    )
    answer = serving.stub.Generate(request)
    ids = [*tiny_tokenizer().encode(request.prompt).ids, *answer.token_ids]
    detokenize = pb.DetokenizeRequest(token_ids=pb.TokenIds(ids=ids), skip_special_tokens=False)
    assert answer.text == serving.stub.Detokenize(detokenize).text


def test_the_versions_own_pipeline_is_applied(serving: Serving) -> None:
    request = pb.GenerateRequest(
        prompt="the sea",
        sampling=pb.SamplingParameters(allowed_token_ids=tiny_tokenizer().encode(" .a\n").ids, temperature=1, seed=5),
        stopping=pb.StoppingCriteria(max_new_tokens=40),
    )
    plain = serving.stub.Generate(request).text
    request.output.postprocess = True
    tidy = serving.stub.Generate(request).text
    assert "  " in plain or " \n" in plain
    assert "  " not in tidy
    assert " \n" not in tidy
    assert tidy.endswith(".")


def test_get_model_shows_every_limit(serving: Serving) -> None:
    model = ModelServiceStub(serving.channel).GetModel(models_pb2.GetModelRequest(model="gpt2")).model
    limits = model.versions[0].limits
    assert [field.name for field, _ in limits.ListFields()] == [field.name for field in limits.DESCRIPTOR.fields]
    assert (limits.context_length, limits.max_sequences, limits.max_queued_requests) == (CONTEXT, 8, 4)
    assert (limits.max_queued_tokens, limits.max_message_bytes) == (2**18, 2**22)
