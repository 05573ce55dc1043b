"""What a request may ask: every length and count that a caller controls, in one place. GetModel shows them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """The limits that are the same for every version. Sizes are in bytes, token ids or characters, as named."""

    max_text_bytes: int = 2**20
    """Of a prompt, a conversation, a text to score; of a prompt in token ids that may be truncated, so many ids."""
    max_tokenize_bytes: int = 2**16
    """Of a text for Tokenize, whose answer is a message for each token."""
    max_detokenize_tokens: int = 2**16
    max_score_tokens: int = 2**17
    """Of a text for Score: with n candidates in each place, 1 + n times fewer."""
    max_messages: int = 1024
    """Turns of a conversation."""
    max_stop_strings: int = 16
    max_stop_string_characters: int = 256
    max_stop_token_ids: int = 64
    max_logit_biases: int = 1024
    max_banned_words: int = 128
    max_banned_word_characters: int = 64
    max_top_logprobs: int = 20
    max_constraint_bytes: int = 2**16
    max_choices: int = 1024
    max_batch_completions: int = 1024
    """Completions of all items of a GenerateBatch call together."""
    max_message_bytes: int = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(RequestLimits):
    """What a request may ask of one version."""

    context_length: int
    """Prompt and completion together, in tokens."""
    vocabulary_size: int
    """Token ids are below it."""
    max_sequences: int
    """Requests that run at the same time."""
    max_queued_requests: int
    max_queued_tokens: int
    """Tokens, of prompts and of completions still to come, that may queue."""


REQUEST_LIMITS = RequestLimits()
