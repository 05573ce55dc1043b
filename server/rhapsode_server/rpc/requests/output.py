"""OutputOptions: what the answer contains besides text."""

from dataclasses import dataclass

from rhapsode.v1.generation_pb2 import OutputOptions as Message

from rhapsode_server.errors import FieldViolation
from rhapsode_server.models.limits import Limits
from rhapsode_server.rpc.requests import fields
from rhapsode_server.rpc.requests.fields import Violations


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """`top_logprobs` and `prompt_top_logprobs` count candidates; None: no log-probabilities at all."""

    token_ids: bool
    top_logprobs: int | None
    prompt_top_logprobs: int | None
    echo: bool
    skip_special_tokens: bool
    postprocess: bool


def violations(message: Message, limits: Limits) -> Violations:
    yield from top_violations(message.top_logprobs, "output.top_logprobs", limits)
    if message.top_logprobs and not (message.logprobs or message.prompt_logprobs):
        yield FieldViolation("output.top_logprobs", "needs logprobs or prompt_logprobs")


def top_violations(count: int, field: str, limits: Limits) -> Violations:
    yield from fields.too_many(field, count, limits.max_top_logprobs)


def output(message: Message) -> Output:
    return Output(
        token_ids=message.token_ids,
        top_logprobs=message.top_logprobs if message.logprobs else None,
        prompt_top_logprobs=message.top_logprobs if message.prompt_logprobs else None,
        echo=message.echo,
        skip_special_tokens=message.skip_special_tokens if message.HasField("skip_special_tokens") else True,
        postprocess=message.postprocess,
    )
