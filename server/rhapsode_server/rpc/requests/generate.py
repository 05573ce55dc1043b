"""From a GenerateRequest to what is to be done, with every default filled in and every field at fault named."""

from dataclasses import dataclass

from rhapsode.v1 import generation_pb2 as pb

from rhapsode_server.engine.request import Constraint
from rhapsode_server.errors import FieldViolation
from rhapsode_server.models.served import ServedVersion
from rhapsode_server.rpc.call import is_request_id
from rhapsode_server.rpc.requests import constraint, output, prompt, sampling, stopping
from rhapsode_server.rpc.requests.fields import Range, Violations, raise_if_any
from rhapsode_server.rpc.requests.output import Output
from rhapsode_server.rpc.requests.prompt import Prompt
from rhapsode_server.rpc.requests.stopping import Stopping

_PRIORITIES = Range(-100, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A completion to generate. `sampling` has every field filled in, as the answer shows it."""

    prompt: Prompt
    truncates_prompt: bool
    sampling: pb.SamplingParameters
    stopping: Stopping
    output: Output
    constraint: Constraint | None
    priority: int


def generation_request(
    message: pb.GenerateRequest, version: ServedVersion, default_max_new_tokens: int
) -> GenerationRequest:
    """Raises InvalidRequest with the fields at fault."""
    raise_if_any(_violations(message, version, default_max_new_tokens))
    raise_if_any(_nothing_left(message, version))
    defaults = version.defaults
    return GenerationRequest(
        prompt=prompt.prompt(message, version.limits),
        truncates_prompt=message.truncate_prompt,
        sampling=sampling.effective(message.sampling, defaults),
        stopping=stopping.stopping(message.stopping, defaults.eos_token_ids, default_max_new_tokens),
        output=output.output(message.output),
        constraint=constraint.constraint(message.constraint),
        priority=message.priority,
    )


def request_id_violations(request_id: str) -> Violations:
    if request_id and not is_request_id(request_id):
        yield FieldViolation("request_id", "must be at most 128 printable ASCII characters")


def _violations(message: pb.GenerateRequest, version: ServedVersion, default_max_new_tokens: int) -> Violations:
    limits = version.limits
    yield from request_id_violations(message.request_id)
    yield from prompt.violations(message, version)
    yield from sampling.violations(message.sampling, limits)
    yield from stopping.violations(message.stopping, limits, default_max_new_tokens)
    yield from output.violations(message.output, limits)
    yield from _PRIORITIES.check("priority", message.priority)
    if message.HasField("constraint"):
        yield from constraint.violations(message.constraint, limits)


def _nothing_left(message: pb.GenerateRequest, version: ServedVersion) -> Violations:
    """Of the allowed tokens some must not be those that may not be drawn yet."""
    if message.stopping.min_new_tokens and (allowed := set(message.sampling.allowed_token_ids)):
        suppressed = {*message.stopping.stop_token_ids}
        if not message.stopping.ignore_eos:
            suppressed |= {*version.defaults.eos_token_ids}
        if allowed <= suppressed:
            yield FieldViolation("sampling.allowed_token_ids", "has only tokens that min_new_tokens holds back")
