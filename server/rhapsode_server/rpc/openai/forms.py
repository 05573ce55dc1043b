"""The two forms of an answer: that of /v1/completions, and that of /v1/chat/completions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.rpc.openai import logprobs
from rhapsode_server.rpc.openai.logprobs import TokenOffsets


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """`whole` says where the text of a choice stands, `piece` where that of a chunk does, the first of its choice or
    not."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    whole: Callable[[str], dict[str, Any]]
    piece: Callable[[str, bool], dict[str, Any]]
    logprobs: Callable[[Iterable[pb.TokenLogprob], TokenOffsets], dict[str, Any]]


def _message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, "refusal": None}}


def _delta(text: str, is_first: bool) -> dict[str, Any]:
    if is_first:
        return {"delta": {"role": "assistant", "content": text}}
    return {"delta": {"content": text} if text else {}}


COMPLETION = Form(
    id_prefix="cmpl-",
    whole_object="text_completion",
    chunk_object="text_completion",
    whole=lambda text: {"text": text},
    piece=lambda text, is_first: {"text": text},
    logprobs=logprobs.of_completion,
)
CHAT = Form(
    id_prefix="chatcmpl-",
    whole_object="chat.completion",
    chunk_object="chat.completion.chunk",
    whole=_message,
    piece=_delta,
    logprobs=lambda tokens, offsets: logprobs.of_chat(tokens),
)
