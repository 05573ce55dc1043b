"""One completion as it grows: tokens of the engine in, messages out, until something ends it."""

from collections.abc import Sequence

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.engine.request import FinishReason
from rhapsode_server.errors import Unavailable
from rhapsode_server.models.served import ServedVersion
from rhapsode_server.rpc.convert import GenerationRequest
from rhapsode_server.rpc.errors import NotFiniteLogits
from rhapsode_server.text.stream import TextDelta, TextStream
from rhapsode_server.workers.stream import TokenChunk


class Completion:
    """`max_new_tokens` is what was asked for, cut to what the context has room for.

    `finish_reason` is set once it has ended, `matched_stop` with it where a stop ended it. `num_tokens` counts what was
    generated, the stop token or the token that completed a stop string included.
    """

    def __init__(self, request: GenerationRequest, version: ServedVersion, prompt_ids: Sequence[int]) -> None:
        self._request = request
        self._text = TextStream(
            version.tokenizer, prompt_ids, request.stop_strings, skip_special_tokens=request.skip_special_tokens
        )
        self.max_new_tokens = min(request.max_new_tokens, version.limits.context_length - len(prompt_ids))
        self.num_tokens = 0
        self.finish_reason: pb.FinishReason | None = None
        self.matched_stop: pb.MatchedStop | None = None
        if self.max_new_tokens == 0:
            self.finish_reason = self._limit_reason

    def push(self, chunk: TokenChunk) -> pb.Delta:
        """What the chunk adds. Raises NotFiniteLogits, Unavailable when the engine gave up."""
        ended_by_token = chunk.finish_reason is FinishReason.STOP_TOKEN
        visible_ids = chunk.token_ids[:-1] if ended_by_token else chunk.token_ids
        delta = self._text.push(visible_ids)
        ids = chunk.token_ids
        if delta.matched_stop is not None:
            ids = ids[: delta.num_tokens_used]
            self._end_with_string(delta.matched_stop)
        text = delta.text
        if self.finish_reason is None and chunk.finish_reason is not None:
            text += self._end(chunk.finish_reason, ids)
        self.num_tokens += len(ids)
        return pb.Delta(text=text, token_ids=ids if self._request.returns_token_ids else ())

    @property
    def _limit_reason(self) -> pb.FinishReason:
        is_clamped = self.max_new_tokens < self._request.max_new_tokens
        return pb.FINISH_REASON_CONTEXT_FULL if is_clamped else pb.FINISH_REASON_LENGTH

    def _end(self, reason: FinishReason, ids: Sequence[int]) -> str:
        """The engine ended it; returns the text that was held back."""
        if reason is FinishReason.NOT_FINITE:
            raise NotFiniteLogits("the model produced logits that are not finite")
        if reason is FinishReason.CANCELLED:
            raise Unavailable("the engine gave the request up; send it again")
        rest: TextDelta = self._text.finish()
        if rest.matched_stop is not None:
            self._end_with_string(rest.matched_stop)
        elif reason is FinishReason.STOP_TOKEN:
            self._end_with_token(ids[-1])
        else:
            self.finish_reason = self._limit_reason
        return rest.text

    def _end_with_string(self, stop: str) -> None:
        self.finish_reason = pb.FINISH_REASON_STOP_STRING
        self.matched_stop = pb.MatchedStop(stop_string=stop)

    def _end_with_token(self, token_id: int) -> None:
        is_eos = token_id in self._request.eos_token_ids
        self.finish_reason = pb.FINISH_REASON_EOS if is_eos else pb.FINISH_REASON_STOP_TOKEN
        self.matched_stop = pb.MatchedStop(token_id=token_id)
