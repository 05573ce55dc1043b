"""Tokenize and Detokenize: the tokenizer's two directions."""

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.errors import InvalidRequest
from rhapsode_server.models.served import ServedVersion
from rhapsode_server.rpc import messages
from rhapsode_server.rpc.requests import fields
from rhapsode_server.rpc.requests.fields import raise_if_any


def check_text(request: pb.TokenizeRequest, version: ServedVersion) -> None:
    """Raises InvalidRequest."""
    size = len(request.text.encode())
    raise_if_any(fields.too_many("text", size, version.limits.max_tokenize_bytes, " bytes"))


def check_ids(request: pb.DetokenizeRequest, version: ServedVersion) -> None:
    """Raises InvalidRequest."""
    ids, limits = request.token_ids.ids, version.limits
    raise_if_any(fields.too_many("token_ids", len(ids), limits.max_detokenize_tokens, " ids"))
    raise_if_any(fields.unknown_token_id(ids, "token_ids.ids", limits.vocabulary_size))


def tokenized(request: pb.TokenizeRequest, version: ServedVersion) -> pb.TokenizeResponse:
    pieces = [messages.token(piece) for piece in version.tokenizer.encode_pieces(request.text)]
    return pb.TokenizeResponse(model=version.model, version=version.version, tokens=pieces)


def detokenized(request: pb.DetokenizeRequest, version: ServedVersion) -> pb.DetokenizeResponse:
    """Raises InvalidRequest for an id between others that no token has."""
    skips = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
    try:
        text = version.tokenizer.decode(list(request.token_ids.ids), skip_special_tokens=skips)
    except ValueError as error:
        raise InvalidRequest.of("token_ids.ids", str(error)) from None
    return pb.DetokenizeResponse(model=version.model, version=version.version, text=text)
