"""The first request of an engine: nobody is sent to one that has not answered. Imports no torch.

Proof and canary call the runner. This goes through all that the request of a caller will go through: the queue, the
scheduler, the blocks of the cache, the runner that serves, and the sampler.
"""

from rhapsode_server.engine.engine import Engine
from rhapsode_server.engine.events import TokenEvent
from rhapsode_server.engine.refusal import NO_ANSWER, NON_FINITE_LOGITS, ModelRefused
from rhapsode_server.engine.request import EngineRequest, FinishReason

_REQUEST = EngineRequest(request_id=-1, prompt_ids=(0,), max_new_tokens=1)


def answer_once(engine: Engine, vocabulary_size: int) -> None:
    """Generate one token with an engine that is idle. Raises ModelRefused."""
    engine.submit(_REQUEST)
    events: list[TokenEvent] = []
    while engine.has_work:
        events += engine.step().events
    if [event.finish_reason for event in events] == [FinishReason.NOT_FINITE]:
        raise ModelRefused(NON_FINITE_LOGITS, "those of the first token that it was asked for are not finite")
    if len(events) != 1 or events[0].token_id not in range(vocabulary_size):
        raise ModelRefused(NO_ANSWER, f"asked for one token, it gave {events}")
