"""What the engine tells of its requests. Imports no torch."""

from dataclasses import dataclass, field
from typing import NamedTuple

from rhapsode_server.engine.request import FinishReason, TokenScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The engine began with the prompt, whose first `num_cached_tokens` it had computed before."""

    request_id: int
    num_cached_tokens: int


class TokenEvent(NamedTuple):
    """News of one request: a token, or its end, or both. `token_id` is None when it ended without one.

    `score` is that of the token, if asked for; `detail` says why a constraint is bad.
    """

    request_id: int
    token_id: int | None
    finish_reason: FinishReason | None = None
    score: TokenScore | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScores:
    """Scores of the next tokens of a prompt, in order from the first that was asked for."""

    request_id: int
    scores: tuple[TokenScore, ...]


@dataclass(slots=True)
class News:
    """What has happened since the engine last told of it. Scores of a prompt come before its request's events."""

    started: list[Started] = field(default_factory=list)
    prompt_scores: list[PromptScores] = field(default_factory=list)
    events: list[TokenEvent] = field(default_factory=list)
