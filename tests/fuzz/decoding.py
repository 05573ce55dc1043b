"""The text of an answer against the library's decoding of its tokens, all at once."""

from rhapsode.v1 import generation_pb2 as pb
from support.publishing import tiny_tokenizer

_TOKENIZER = tiny_tokenizer()
_CUT_BY_NOTHING = {pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_CONTEXT_FULL, pb.FINISH_REASON_TIME_LIMIT}


def fault_of_text(request: pb.GenerateRequest, response: pb.GenerateResponse) -> str | None:
    """What is wrong with the text, where prompt and completion are known by their ids and no stop cuts the text."""
    prompt_ids = _prompt_ids(request)
    is_known = len(prompt_ids) == response.usage.prompt_tokens and request.output.token_ids
    if not is_known or request.output.postprocess or response.finish_reason not in _CUT_BY_NOTHING:
        return None
    skips = request.output.skip_special_tokens or not request.output.HasField("skip_special_tokens")
    whole = _TOKENIZER.decode([*prompt_ids, *response.token_ids], skip_special_tokens=skips)
    prompt = _TOKENIZER.decode(prompt_ids, skip_special_tokens=skips)
    if not request.output.echo and prompt.endswith("\ufffd"):
        return None  # perhaps part of a character, which the text then does not begin with
    text = response.text if request.output.echo else prompt + response.text
    return None if text == whole else f"the text with its prompt is {text!r}, its tokens decode to {whole!r}"


def _prompt_ids(request: pb.GenerateRequest) -> list[int]:
    if request.WhichOneof("input") == "prompt":
        return _TOKENIZER.encode(request.prompt).ids
    return list(request.prompt_token_ids.ids)
