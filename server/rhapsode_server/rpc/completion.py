"""One completion as it grows: tokens of the engine in, messages out, until something ends it."""

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.engine.request import FinishReason
from rhapsode_server.errors import DeadlinePassed, InvalidRequest, NotFiniteLogits, Overloaded, Unavailable
from rhapsode_server.rpc.completion_text import CompletionText
from rhapsode_server.rpc.prepare import Prepared
from rhapsode_server.rpc.scores import token_logprobs, unscored
from rhapsode_server.workers.stream import TokenChunk

_REASONS = {
    FinishReason.CONSTRAINT: pb.FINISH_REASON_EOS,
    FinishReason.TIME_LIMIT: pb.FINISH_REASON_TIME_LIMIT,
}


class Completion:
    """`finish_reason` is set once it has ended, `matched_stop` with it where a stop ended it.

    `num_tokens` counts what was generated, the stop token or the token that completed a stop string included.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._text = CompletionText(prepared)
        self.num_tokens = 0
        self.finish_reason: pb.FinishReason | None = None
        self.matched_stop: pb.MatchedStop | None = None
        if not prepared.needs_engine:
            self.finish_reason = self._limit_reason

    def begin(self) -> pb.Delta:
        """What is known before the engine says anything: the echo, and the prompt's first token, which has no score."""
        delta = pb.Delta(text=self._text.begin())
        if self._prepared.request.output.prompt_top_logprobs is not None:
            delta.prompt_logprobs.append(unscored(self._prepared.prompt_ids[0], self._prepared.version.tokenizer))
        return delta

    def push(self, chunk: TokenChunk) -> pb.Delta:
        """What the chunk adds.

        Raises NotFiniteLogits, InvalidRequest for a constraint that cannot be used or that leaves nothing to draw,
        Overloaded when too many constraints wait, DeadlinePassed, Unavailable when the engine gave up.
        """
        ids, text = self._push_text(chunk)
        self.num_tokens += len(ids)
        output, tokenizer = self._prepared.request.output, self._prepared.version.tokenizer
        return pb.Delta(
            text=text,
            token_ids=ids if output.token_ids else (),
            logprobs=token_logprobs(chunk.scores[: len(ids)], tokenizer),
            prompt_logprobs=token_logprobs(chunk.prompt_scores, tokenizer),
        )

    def finish(self) -> str:
        """The text that was kept to the end: all of it where it is post-processed."""
        return self._text.finish()

    def _push_text(self, chunk: TokenChunk) -> tuple[list[int], str]:
        """The ids up to the one that ended it, and the text that may go out."""
        ids, reason = chunk.token_ids, chunk.finish_reason
        ended_by_token = reason is FinishReason.STOP_TOKEN
        hidden = ended_by_token and not self._prepared.request.stopping.include_stop
        delta = self._text.push(ids[:-1] if hidden else ids)
        text = delta.text
        if delta.matched_stop is None and reason is not None:
            self._check(reason, chunk.detail)
            delta = self._text.end()
            text += delta.text
        elif delta.matched_stop is not None:
            ids = ids[: delta.num_tokens_used]
        if delta.matched_stop is not None:
            self._end(pb.FINISH_REASON_STOP_STRING, pb.MatchedStop(stop_string=delta.matched_stop))
        elif ended_by_token:
            self._end_with_token(ids[-1])
        elif reason is not None:
            self._end(_REASONS.get(reason, self._limit_reason))
        return ids, text

    @property
    def _limit_reason(self) -> pb.FinishReason:
        is_clamped = self._prepared.max_new_tokens < self._prepared.request.stopping.max_new_tokens
        return pb.FINISH_REASON_CONTEXT_FULL if is_clamped else pb.FINISH_REASON_LENGTH

    def _check(self, reason: FinishReason, detail: str) -> None:
        """Raises for the reasons that are failures."""
        match reason:
            case FinishReason.NOTHING_LEFT:
                raise InvalidRequest.of("sampling", "leaves no token to draw, or makes the logits overflow")
            case FinishReason.NOT_FINITE:
                raise NotFiniteLogits("the model produced logits that are not finite")
            case FinishReason.BAD_CONSTRAINT:
                raise InvalidRequest.of(self._prepared.constraint_field, detail or "cannot be used")
            case FinishReason.CONSTRAINT_BUSY:
                raise Overloaded("too many constraints wait to be prepared; try again later")
            case FinishReason.EXPIRED:
                raise DeadlinePassed("the deadline passed before the completion ended")
            case FinishReason.CANCELLED:
                raise Unavailable("the engine gave the request up; send it again")

    def _end_with_token(self, token_id: int) -> None:
        is_eos = token_id in self._prepared.request.stopping.eos_token_ids
        reason = pb.FINISH_REASON_EOS if is_eos else pb.FINISH_REASON_STOP_TOKEN
        self._end(reason, pb.MatchedStop(token_id=token_id))

    def _end(self, reason: pb.FinishReason, stop: pb.MatchedStop | None = None) -> None:
        self.finish_reason, self.matched_stop = reason, stop
