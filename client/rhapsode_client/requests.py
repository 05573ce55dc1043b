"""Arguments -> request messages. A value that a field cannot hold is an InvalidRequest that names the field."""

from collections.abc import Sequence
from typing import TypedDict, TypeVar

from google.protobuf.message import Message
from rhapsode.v1.generation_pb2 import (
    DetokenizeRequest,
    GenerateRequest,
    TokenIds,
    TokenizeRequest,
)

from rhapsode_client.errors import InvalidRequest

MessageT = TypeVar("MessageT", bound=Message)


class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of `generate` and `stream`. None, or left out: the server's default."""

    model: str
    """Name of the model. Empty: the only one served, else the server's default model."""
    version: int | None
    """An exact version. Neither version nor alias: the alias `champion`."""
    alias: str | None
    """An alias such as `champion` or `previous`."""
    max_new_tokens: int | None
    """The most tokens to generate."""
    temperature: float | None
    """Divides the logits; 0: always the most likely token."""
    top_k: int | None
    """Draw from the k most likely tokens; 0: off."""
    top_p: float | None
    """Draw from the most likely tokens that together have this probability, in (0, 1]; 1: off."""
    seed: int | None
    """The same seed, prompt and parameters give the same tokens. None: drawn by the server and returned."""
    stop: str | Sequence[str]
    """Texts that end the completion; they are not part of it."""
    stop_token_ids: Sequence[int]
    """Tokens that end the completion; they are not part of its text."""
    ignore_eos: bool
    """Generate on when the end-of-sequence token is drawn."""
    token_ids: bool
    """Return the ids of the generated tokens too."""
    skip_special_tokens: bool | None
    """Leave special tokens such as `<|endoftext|>` out of the text."""
    request_id: str
    """Your name for the request, for logs and answers. Empty: the server makes one."""


def generate_request(
    prompt: str | Sequence[int],
    *,
    model: str = "",
    version: int | None = None,
    alias: str | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
    ignore_eos: bool = False,
    token_ids: bool = False,
    skip_special_tokens: bool | None = None,
    request_id: str = "",
) -> GenerateRequest:
    """The request for one completion of `prompt`, a text or token ids. See GenerateOptions."""
    request = filled(GenerateRequest(), model=model, request_id=request_id, **_selector(version, alias))
    if isinstance(prompt, str):
        filled(request, prompt=prompt)
    else:
        request.prompt_token_ids.CopyFrom(_token_ids(prompt, "prompt_token_ids"))
    stop_strings = [stop] if isinstance(stop, str) else stop
    filled(request.sampling, "sampling.", temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    filled(
        request.stopping,
        "stopping.",
        max_new_tokens=max_new_tokens,
        stop_strings=stop_strings,
        stop_token_ids=stop_token_ids,
        ignore_eos=ignore_eos,
    )
    filled(request.output, "output.", token_ids=token_ids, skip_special_tokens=skip_special_tokens)
    return request


def tokenize_request(text: str, *, model: str, version: int | None, alias: str | None) -> TokenizeRequest:
    """The request for the tokens of `text`."""
    return filled(TokenizeRequest(), model=model, text=text, **_selector(version, alias))


def detokenize_request(
    ids: Sequence[int], *, model: str, version: int | None, alias: str | None, skip_special_tokens: bool | None
) -> DetokenizeRequest:
    """The request for the text of `ids`."""
    request = filled(DetokenizeRequest(), model=model, **_selector(version, alias))
    request.token_ids.CopyFrom(_token_ids(ids, "token_ids"))
    return filled(request, skip_special_tokens=skip_special_tokens)


def _token_ids(ids: Sequence[int], field: str) -> TokenIds:
    if isinstance(ids, str | bytes):
        raise InvalidRequest.of(field, f"must be a sequence of token ids, not {type(ids).__name__}")
    return filled(TokenIds(), f"{field}.", ids=ids)


def _selector(version: int | None, alias: str | None) -> dict[str, object]:
    if version is not None and alias is not None:
        raise InvalidRequest.of("alias", "give a version or an alias, not both")
    return {"version": version, "alias": alias}


def filled(message: MessageT, path: str = "", /, **fields: object) -> MessageT:
    """`message` with those of `fields` that are not None; `path` is where the message stands in the request."""
    for name, value in fields.items():
        if value is None:
            continue
        try:
            part = type(message)(**{name: value})
        except (TypeError, ValueError) as error:
            raise InvalidRequest.of(path + name, str(error)) from None
        # Merging nothing would still mark a nested message as present.
        if part.ByteSize():
            message.MergeFrom(part)
    return message
