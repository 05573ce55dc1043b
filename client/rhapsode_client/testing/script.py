"""What the server is to answer, by prompt."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from rhapsode.v1.generation_pb2 import GenerateRequest

from rhapsode_client.arguments import Prompt
from rhapsode_client.errors import FailedPrecondition, RhapsodeError
from rhapsode_client.requests import generate_request
from rhapsode_client.results import FinishReason

PromptPattern = Prompt | re.Pattern[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Tokens, and how they end: with `finish_reason`, or with an error."""

    tokens: Sequence[str] = ()
    finish_reason: FinishReason = FinishReason.EOS
    error: RhapsodeError | None = None
    delay: float = 0.0
    """Seconds before the first event; infinite: until the caller goes away."""
    token_delay: float = 0.0
    """Seconds before each token."""

    def __post_init__(self) -> None:
        for name in ("delay", "token_delay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be a number of seconds from 0, not {getattr(self, name)}")


@dataclass(slots=True)
class _Line:
    prompt: PromptPattern | None
    reply: Reply
    used: bool = False

    def answers(self, request: GenerateRequest) -> bool:
        if isinstance(self.prompt, re.Pattern):
            return self.prompt.search(last_text(request)) is not None
        return self.prompt is None or _input(generate_request(self.prompt)) == _input(request)


@dataclass(slots=True)
class Script:
    """Replies, in the order in which they were given."""

    _lines: list[_Line] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, prompt: PromptPattern | None, reply: Reply) -> None:
        """Answer `prompt`, or whatever is asked, with `reply`."""
        if prompt is not None and not isinstance(prompt, re.Pattern):
            generate_request(prompt)  # raises here, and not in the middle of a call
        with self._lock:
            self._lines.append(_Line(prompt, reply))

    def reply_to(self, request: GenerateRequest) -> Reply:
        """The first reply for this prompt that was not used yet, else the last; then those for any prompt."""
        with self._lock:
            fitting = [line for line in self._lines if line.answers(request)]
            lines = [line for line in fitting if line.prompt is not None] or fitting
            if not lines:
                return Reply(error=_unscripted(request))
            line = next((line for line in lines if not line.used), lines[-1])
            line.used = True
            return line.reply


def last_text(request: GenerateRequest) -> str:
    """The prompt, or what was said last in a conversation; empty for token ids."""
    messages = request.messages.messages
    return messages[-1].content if messages else request.prompt


def _input(request: GenerateRequest) -> object:
    kind = request.WhichOneof("input") or "prompt"
    return kind, getattr(request, kind)


def _unscripted(request: GenerateRequest) -> RhapsodeError:
    asked = list(request.prompt_token_ids.ids) or last_text(request)
    return FailedPrecondition(f"nothing is scripted for the prompt {asked!r}: say FakeServer.reply(text, prompt=...)")
