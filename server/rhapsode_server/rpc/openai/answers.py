"""From the events of completions to what OpenAI's clients read: one object, or the chunks of a stream."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.rpc import messages
from rhapsode_server.rpc.messages import Event
from rhapsode_server.rpc.openai.forms import CHAT, COMPLETION, Form
from rhapsode_server.rpc.openai.logprobs import TokenOffsets
from rhapsode_server.rpc.openai.parameters import Asked

_CUT_OFF = (pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_CONTEXT_FULL, pb.FINISH_REASON_TIME_LIMIT)


@dataclass(slots=True)
class _Choice:
    """A completion as its stream grows."""

    seed: int = 0
    has_begun: bool = False
    offsets: TokenOffsets = field(default_factory=TokenOffsets)


class Answer:
    """Of one call; its completions are numbered through all prompts. `model` in it is the version that answers."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._form: Form = CHAT if asked.is_chat else COMPLETION
        self._created = int(time.time())
        self._choices = [_Choice() for _ in range(asked.num_completions * asked.num_prompts)]
        self._usages: dict[int, pb.Usage] = {}
        self._id = self._model = ""

    def whole(self, completions: Sequence[Sequence[Event]]) -> dict[str, Any]:
        """Of the events of each completion."""
        self._note(completions[0][0])
        responses = [messages.whole_response(events) for events in completions]
        self._usages = {index: response.usage for index, response in enumerate(responses)}
        choices = [self._whole_choice(index, response) for index, response in enumerate(responses)]
        return {**self._head(self._form.whole_object), "choices": choices, "usage": self._usage()}

    def chunks(self, index: int, event: Event) -> Iterator[dict[str, Any]]:
        """What an event adds to a stream."""
        self._note(event)
        choice = self._choices[index]
        match event:
            case pb.Started():
                choice.seed = event.seed
            case pb.Delta():
                scores = self._logprobs((*event.prompt_logprobs, *event.logprobs), choice)
                yield self._chunk(index, event.text, scores, {"finish_reason": None})
            case pb.Finished():
                self._usages[index] = event.usage
                yield self._chunk(index, "", None, _end(event.finish_reason, choice.seed))

    def last_chunk(self) -> dict[str, Any]:
        """What follows the last completion where the usage is asked for."""
        return {**self._head(self._form.chunk_object), "choices": [], "usage": self._usage()}

    def _note(self, event: Event) -> None:
        if isinstance(event, pb.Started):
            self._id = self._form.id_prefix + event.request_id
            self._model = f"{event.model}@{event.version}"

    def _whole_choice(self, index: int, response: pb.GenerateResponse) -> dict[str, Any]:
        scores = self._logprobs((*response.prompt_logprobs, *response.logprobs), self._choices[index])
        text = self._form.whole(response.text)
        return {"index": index, **text, "logprobs": scores, **_end(response.finish_reason, response.seed)}

    def _chunk(self, index: int, text: str, scores: dict[str, Any] | None, end: dict[str, Any]) -> dict[str, Any]:
        choice = self._choices[index]
        piece = self._form.piece(text, not choice.has_begun)
        choice.has_begun = True
        usage = {"usage": None} if self._asked.includes_usage else {}
        choices = [{"index": index, **piece, "logprobs": scores, **end}]
        return {**self._head(self._form.chunk_object), "choices": choices, **usage}

    def _logprobs(self, tokens: Sequence[pb.TokenLogprob], choice: _Choice) -> dict[str, Any] | None:
        return self._form.logprobs(tokens, choice.offsets) if self._asked.returns_logprobs else None

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _usage(self) -> dict[str, Any]:
        """A prompt counts once, however many completions it has."""
        prompts = [usage for index, usage in self._usages.items() if index % self._asked.num_completions == 0]
        prompt = sum(usage.prompt_tokens for usage in prompts)
        completion = sum(usage.completion_tokens for usage in self._usages.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
        }


def _end(reason: pb.FinishReason, seed: int) -> dict[str, Any]:
    """The seed is ours: sent again, it gives the same tokens."""
    return {"finish_reason": "length" if reason in _CUT_OFF else "stop", "seed": seed}
