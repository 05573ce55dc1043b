"""What callers give: prompts, and how each is to be completed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    """Who speaks, in the words of the model's chat template: usually `system`, `user` or `assistant`."""
    content: str


Prompt = str | Sequence[int] | Sequence[ChatMessage | Mapping[str, str]]
"""A text, token ids, or a conversation: turns of `ChatMessage`, or of mappings with its fields."""


class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of `generate` and its relatives. None, or left out: the server's default."""

    model: str
    """Name of the model. Empty: the only one served, else the server's default model."""
    version: int | None
    """An exact version. Neither version nor alias: the alias `champion`."""
    alias: str | None
    """An alias such as `champion` or `previous`."""
    request_id: str
    """Your name for the request, for logs and answers. Empty: the server makes one."""
    priority: int
    """Which waiting requests go first: the higher, -100 to 100."""
    truncate_prompt: bool
    """Cut a prompt that does not fit at its beginning, instead of refusing it."""

    temperature: float | None
    """Divides the logits; 0: always the most likely token."""
    top_k: int | None
    """Draw from the k most likely tokens; 0: off."""
    top_p: float | None
    """Draw from the most likely tokens that together have this probability, in (0, 1]; 1: off."""
    min_p: float | None
    """Draw from tokens at least so many times as probable as the likeliest, in [0, 1]; 0: off."""
    typical_p: float | None
    """Draw from the tokens of most typical information that together have this probability, in (0, 1]; 1: off."""
    repetition_penalty: float | None
    """Divides the positive logits of tokens that occurred, prompt included, and multiplies negative ones; 1: off."""
    presence_penalty: float | None
    """Subtracted from the logits of tokens that occurred in the completion; 0: off."""
    frequency_penalty: float | None
    """Subtracted from the logits of tokens for each time they occurred in the completion; 0: off."""
    seed: int | None
    """The same seed, prompt and parameters give the same tokens. None: drawn by the server and returned."""
    logit_bias: Mapping[int, float]
    """Added to the logits of token ids, -100 to 100 each."""
    allowed_token_ids: Sequence[int]
    """The only tokens that may be drawn. Empty: all."""
    banned_words: Sequence[str]
    """Texts that are never written."""

    max_new_tokens: int | None
    """The most tokens to generate."""
    min_new_tokens: int
    """No token that would end the completion is drawn before so many."""
    stop: str | Sequence[str]
    """Texts that end the completion; they are not part of it."""
    stop_token_ids: Sequence[int]
    """Tokens that end the completion; they are not part of its text."""
    include_stop: bool
    """Leave the stop that ended the completion in its text."""
    ignore_eos: bool
    """Generate on when the end-of-sequence token is drawn."""
    time_limit: float | None
    """Seconds after which the completion ends with what there is, finish reason `time_limit`."""

    token_ids: bool
    """Return the ids of the generated tokens too."""
    logprobs: bool
    """Return the log-probability of each generated token."""
    top_logprobs: int
    """Return so many of the likeliest tokens in each place too; needs `logprobs` or `prompt_logprobs`."""
    prompt_logprobs: bool
    """Return the log-probability of each token of the prompt but the first."""
    echo: bool
    """Begin the text with the prompt's."""
    skip_special_tokens: bool | None
    """Leave special tokens such as `<|endoftext|>` out of the text."""
    postprocess: bool
    """Apply the model's own post-processing to the completed text; a stream then has it in its last delta."""

    json_schema: str | Mapping[str, object] | None
    """The completion is a JSON document that this schema describes; `{}`: any. One form at most of these four."""
    regex: str | None
    """The completion matches this regular expression, from beginning to end."""
    choices: Sequence[str] | None
    """The completion is one of these texts."""
    grammar: str | None
    """The completion is a text of this grammar, in extended Backus-Naur form."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a batch. If `options` set a seed, the completion with index i uses that seed plus i."""

    prompt: Prompt
    options: GenerateOptions = field(default_factory=GenerateOptions)
    num_completions: int = 1
