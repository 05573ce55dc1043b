"""A request made ready for the engine: tokenised, cut to the context, words banned."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.engine.request import SamplingParameters
from rhapsode_server.errors import InvalidRequest
from rhapsode_server.models.served import ServedVersion
from rhapsode_server.rpc.call import Call
from rhapsode_server.rpc.requests import sampling
from rhapsode_server.rpc.requests.banned import banned_sequences
from rhapsode_server.rpc.requests.generate import GenerationRequest, generation_request
from rhapsode_server.rpc.requests.prompt import prompt_token_ids
from rhapsode_server.workers.stream import TokenStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`prompt_ids` are those that the model sees. Completions of one `group` share the work of the prompt.

    `tokenising` is when that of the prompt began and ended, `time.monotonic()` seconds.
    """

    request: GenerationRequest
    version: ServedVersion
    prompt_ids: tuple[int, ...]
    parameters: SamplingParameters
    tokenising: tuple[float, float]
    group: int | None = None

    @property
    def max_new_tokens(self) -> int:
        """What was asked for, cut to what the context has room for."""
        return min(self.request.stopping.max_new_tokens, self.version.limits.context_length - len(self.prompt_ids))

    @property
    def needs_engine(self) -> bool:
        scores_prompt = self.request.output.prompt_top_logprobs is not None and len(self.prompt_ids) > 1
        return self.max_new_tokens > 0 or scores_prompt

    @property
    def constraint_field(self) -> str:
        return f"constraint.{self.request.constraint.kind}" if self.request.constraint else "constraint"

    def with_seed(self, seed: int) -> "Prepared":
        used = pb.SamplingParameters()
        used.CopyFrom(self.request.sampling)
        used.seed = seed
        return replace(
            self, request=replace(self.request, sampling=used), parameters=replace(self.parameters, seed=seed)
        )

    def submit(self, call: Call) -> TokenStream:
        """Queue it. Raises Overloaded, Unavailable."""
        return self.version.engine.submit(**self._fields(call))

    def _fields(self, call: Call) -> dict[str, Any]:
        request, stopping = self.request, self.request.stopping
        return {
            "prompt_ids": self.prompt_ids,
            "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": min(stopping.min_new_tokens, self.max_new_tokens),
            "sampling": self.parameters,
            "stop_token_ids": stopping.all_token_ids,
            "constraint": request.constraint,
            "top_logprobs": request.output.top_logprobs,
            "prompt_top_logprobs": request.output.prompt_top_logprobs,
            "priority": request.priority,
            "group": self.group,
            "deadline": call.deadline,
            "ends_at": None if stopping.time_limit is None else call.arrived_at + stopping.time_limit,
        }


async def prepare(message: pb.GenerateRequest, version: ServedVersion, default_max_new_tokens: int) -> Prepared:
    """Raises InvalidRequest with all fields at fault."""
    request = generation_request(message, version, default_max_new_tokens)
    room = max(1, version.limits.context_length - request.stopping.max_new_tokens)
    began_at = time.monotonic()
    prompt_ids = await prompt_token_ids(request.prompt, version, most=room if request.truncates_prompt else None)
    tokenising = began_at, time.monotonic()
    banned = await _banned(request, version)
    parameters = sampling.engine_parameters(request.sampling, banned)
    _check_something_left(parameters)
    return Prepared(
        request=request, version=version, prompt_ids=tuple(prompt_ids), parameters=parameters, tokenising=tokenising
    )


async def _banned(request: GenerationRequest, version: ServedVersion) -> tuple[tuple[int, ...], ...]:
    words = request.sampling.banned_words
    return await asyncio.to_thread(banned_sequences, list(words), version.tokenizer) if words else ()


def _check_something_left(parameters: SamplingParameters) -> None:
    banned = {sequence[0] for sequence in parameters.banned_sequences if len(sequence) == 1}
    if parameters.allowed_token_ids and banned.issuperset(parameters.allowed_token_ids):
        raise InvalidRequest.of("sampling.allowed_token_ids", "has only tokens that banned_words bans")
