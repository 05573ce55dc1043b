"""How the events of a stream become the response that Generate would have returned."""

from rhapsode.v1.generation_pb2 import Delta as DeltaMessage
from rhapsode.v1.generation_pb2 import GenerateResponse, GenerateStreamResponse

from rhapsode_client import convert
from rhapsode_client.errors import ServerError
from rhapsode_client.results import Completion, Delta, Started


class Gathered:
    """The events so far: a `Started`, then `Delta`s, then the `Completion`."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self._texts: list[str] = []
        self._response = GenerateResponse()
        self._completion: Completion | None = None

    def take(self, event: GenerateStreamResponse) -> Delta | None:
        """Note an event and return its delta, if it is one."""
        match event.WhichOneof("event"):
            case "started":
                self._start(event)
            case "delta":
                return self._extend(event.delta)
            case "finished":
                self._finish(event)
        return None

    def completion(self) -> Completion:
        """The completion, once every event has been taken."""
        if self.started is None or self._completion is None:
            raise ServerError("the server ended the stream before the completion was finished")
        return self._completion

    def _start(self, event: GenerateStreamResponse) -> None:
        started, response = event.started, self._response
        response.request_id, response.model = started.request_id, started.model
        response.version, response.seed = started.version, started.seed
        response.sampling.CopyFrom(started.sampling)
        self.started = convert.started(started)

    def _extend(self, delta: DeltaMessage) -> Delta:
        if self.started is None:
            raise ServerError("the server sent text before it said who answers")
        self._texts.append(delta.text)
        self._response.token_ids.extend(delta.token_ids)
        self._response.logprobs.extend(delta.logprobs)
        self._response.prompt_logprobs.extend(delta.prompt_logprobs)
        return convert.delta(delta)

    def _finish(self, event: GenerateStreamResponse) -> None:
        finished, response = event.finished, self._response
        response.text = "".join(self._texts)
        response.finish_reason = finished.finish_reason
        response.matched_stop.CopyFrom(finished.matched_stop)
        response.usage.CopyFrom(finished.usage)
        response.timings.CopyFrom(finished.timings)
        self._completion = convert.completion(response)
