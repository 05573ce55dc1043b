"""Request and scripted reply -> the messages of the answer."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_client.convert import FINISH_REASONS
from rhapsode_client.testing import words
from rhapsode_client.testing.script import Reply
from rhapsode_client.testing.statuses import duration
from rhapsode_client.testing.words import Vocabulary

LOGPROB = -1.0
"""Of a token of which nothing else was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Who answers."""

    model: str
    version: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """The vocabulary, and how likely its words are."""

    logprobs: Mapping[str, float]
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def scored(self, word: str, *, first: bool = False, candidates: int = 0) -> pb.TokenLogprob:
        """A token with its log-probability; the first of a text has none. Its only candidate is itself."""
        number, logprob = self.vocabulary.id_of(word), self.logprobs.get(word, LOGPROB)
        if first:
            return pb.TokenLogprob(token_id=number, text=word.encode())
        candidate = pb.Candidate(token_id=number, logprob=logprob, text=word.encode())
        return pb.TokenLogprob(
            token_id=number, logprob=logprob, rank=1, text=word.encode(), candidates=[candidate] if candidates else []
        )

    def text_scored(self, text: str, candidates: int) -> list[pb.TokenLogprob]:
        """The tokens of a text with their log-probabilities."""
        return [
            self.scored(word, first=index == 0, candidates=candidates) for index, word in enumerate(words.split(text))
        ]


class Answer:
    """One completion: events that a stream carries, or a response put together from them. An unset seed is 0."""

    def __init__(self, request: pb.GenerateRequest, reply: Reply, served: Served, tokens: Tokens) -> None:
        self._request, self._reply, self._served, self._tokens = request, reply, served, tokens
        self._began = time.monotonic()
        self._first_token: float | None = None

    def started(self) -> pb.Started:
        """The first event."""
        return pb.Started(
            request_id=self._served.request_id,
            model=self._served.model,
            version=self._served.version,
            seed=self._request.sampling.seed,
            usage=pb.Usage(prompt_tokens=self._prompt_tokens),
            sampling=self._sampling,
        )

    def deltas(self, wait: Callable[[], None]) -> Iterator[pb.Delta]:
        """One for each token, after a `wait`; before them one for the prompt, if asked for its log-probabilities."""
        output = self._request.output
        if output.prompt_logprobs:
            yield pb.Delta(prompt_logprobs=self._tokens.text_scored(prompt_text(self._request), output.top_logprobs))
        for word in self._reply.tokens:
            wait()
            if self._first_token is None:
                self._first_token = self._elapsed
            yield pb.Delta(
                text=word,
                token_ids=[self._tokens.vocabulary.id_of(word)] if output.token_ids else [],
                logprobs=[self._tokens.scored(word, candidates=output.top_logprobs)] if output.logprobs else [],
            )

    def finished(self) -> pb.Finished:
        """The last event."""
        return pb.Finished(
            finish_reason=_REASONS.get(self._reply.finish_reason), usage=self._usage, timings=self._timings
        )

    def response(self, wait: Callable[[], None]) -> pb.GenerateResponse:
        """The same in one message."""
        deltas = list(self.deltas(wait))
        return pb.GenerateResponse(
            request_id=self._served.request_id,
            model=self._served.model,
            version=self._served.version,
            text="".join(delta.text for delta in deltas),
            token_ids=[number for delta in deltas for number in delta.token_ids],
            logprobs=[each for delta in deltas for each in delta.logprobs],
            prompt_logprobs=[each for delta in deltas for each in delta.prompt_logprobs],
            finish_reason=_REASONS.get(self._reply.finish_reason),
            seed=self._request.sampling.seed,
            sampling=self._sampling,
            usage=self._usage,
            timings=self._timings,
        )

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    @property
    def _prompt_tokens(self) -> int:
        return len(self._request.prompt_token_ids.ids) or len(words.split(prompt_text(self._request)))

    @property
    def _sampling(self) -> pb.SamplingParameters:
        sampling = pb.SamplingParameters(seed=0)
        sampling.MergeFrom(self._request.sampling)
        return sampling

    @property
    def _usage(self) -> pb.Usage:
        return pb.Usage(prompt_tokens=self._prompt_tokens, completion_tokens=len(self._reply.tokens))

    @property
    def _timings(self) -> pb.Timings:
        timings = pb.Timings(queue=duration(0), total=duration(self._elapsed))
        if self._first_token is not None:
            timings.first_token.CopyFrom(duration(self._first_token))
        return timings


def score(request: pb.ScoreRequest, served: Served, tokens: Tokens) -> pb.ScoreResponse:
    """The tokens of a text or ids with their log-probabilities."""
    text = request.text or tokens.vocabulary.text(request.token_ids.ids)
    scored = tokens.text_scored(text, request.top_logprobs)
    logprobs = [each.logprob for each in scored if each.HasField("logprob")]
    return pb.ScoreResponse(
        request_id=served.request_id,
        model=served.model,
        version=served.version,
        tokens=scored,
        sum_logprob=sum(logprobs),
        perplexity=math.exp(-sum(logprobs) / len(logprobs)) if logprobs else None,
    )


def prompt_text(request: pb.GenerateRequest) -> str:
    """The prompt, or all that was said in a conversation; empty for token ids."""
    return request.prompt or " ".join(message.content for message in request.messages.messages)


_REASONS = {reason: pb.FinishReason.Name(number) for number, reason in FINISH_REASONS.items()}
