"""From a prompt to token ids, or the reason why it does not fit, without keeping the event loop from its streams."""

import asyncio
from collections.abc import Sequence

from rhapsode_server.errors import FieldViolation, InvalidRequest
from rhapsode_server.models.served import ServedVersion
from rhapsode_server.rpc.convert import too_long
from rhapsode_server.text.tokenizer import Tokenizer

# More would keep a thread busy for seconds.
MAX_TEXT_BYTES = 2**20

# A text of so many characters is tokenised within a millisecond or two; longer ones go to a thread.
_QUICK_LENGTH = 2000


async def prompt_token_ids(prompt: str | Sequence[int], version: ServedVersion) -> list[int]:
    """The ids that the model sees, at least one. Raises InvalidRequest if they do not fit the context."""
    if not isinstance(prompt, str):
        return list(prompt) or [_first_token(version, "prompt_token_ids")]
    limits, tokenizer = version.limits, version.tokenizer
    if (size := len(prompt.encode())) > MAX_TEXT_BYTES:
        raise InvalidRequest([FieldViolation("prompt", f"has {size} bytes; at most {MAX_TEXT_BYTES}")])
    if (least := _fewest_tokens(prompt, tokenizer)) > limits.context_length:
        raise InvalidRequest([too_long("prompt", least, limits, at_least=True)])
    ids = await _encode(prompt, tokenizer)
    if len(ids) > limits.context_length:
        raise InvalidRequest([too_long("prompt", len(ids), limits)])
    return ids or [_first_token(version, "prompt")]


def _fewest_tokens(text: str, tokenizer: Tokenizer) -> int:
    """A lower bound that costs nothing, so that hopeless texts are not tokenised."""
    if tokenizer.max_token_bytes is None:
        return 0
    return -(-len(text.encode()) // tokenizer.max_token_bytes)


async def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    if len(text) <= _QUICK_LENGTH:
        return tokenizer.encode(text)
    return await asyncio.to_thread(tokenizer.encode, text)


def _first_token(version: ServedVersion, field: str) -> int:
    """What an empty prompt begins with."""
    defaults = version.defaults
    candidates = [token_id for token_id in (defaults.bos_token_id, *defaults.eos_token_ids) if token_id is not None]
    if not candidates:
        description = f"is empty, and {version.model} has no beginning-of-sequence or end token to start from"
        raise InvalidRequest([FieldViolation(field, description)])
    return candidates[0]
