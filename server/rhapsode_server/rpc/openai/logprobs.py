"""Log-probabilities in the two forms that OpenAI's clients read: that of completions, and that of chats."""

import codecs
from collections.abc import Iterable
from typing import Any

from rhapsode.v1 import generation_pb2 as pb

# JSON has no infinities.
_LEAST = -9999.0


class TokenOffsets:
    """Where the tokens of one completion begin in its text, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._next = 0

    def follow(self, token: bytes) -> int:
        """Where the next token begins."""
        begin = self._next
        self._next += len(self._decoder.decode(token))
        return begin


def of_completion(tokens: Iterable[pb.TokenLogprob], offsets: TokenOffsets) -> dict[str, list[Any]]:
    """Lists of what belongs to each token. The token itself is always among the likeliest that are shown."""
    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        spelled = _spelled(token.text)
        found["tokens"].append(spelled)
        found["text_offset"].append(offsets.follow(token.text))
        # Nothing predicts the first token of a prompt.
        logprob = _finite(token.logprob) if token.HasField("logprob") else None
        found["token_logprobs"].append(logprob)
        top = {_spelled(each.text): _finite(each.logprob) for each in token.candidates}
        found["top_logprobs"].append(None if logprob is None else {**top, spelled: logprob})
    return found


def of_chat(tokens: Iterable[pb.TokenLogprob]) -> dict[str, Any]:
    """An object for each token."""
    content = [{**_entry(token), "top_logprobs": [_entry(each) for each in token.candidates]} for token in tokens]
    return {"content": content, "refusal": None}


def _entry(token: pb.TokenLogprob | pb.Candidate) -> dict[str, Any]:
    return {"token": _spelled(token.text), "logprob": _finite(token.logprob), "bytes": [*token.text]}


def _spelled(token: bytes) -> str:
    """Part of a character is spelled as OpenAI does, such as `bytes:\\xe2\\x80`."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
