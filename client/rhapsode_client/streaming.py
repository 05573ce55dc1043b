"""What both kinds of stream share: events become the response that Generate would have returned."""

from typing import Generic, Protocol, TypeVar

from rhapsode.v1.generation_pb2 import GenerateResponse, GenerateStreamResponse

from rhapsode_client import convert
from rhapsode_client.errors import ServerError
from rhapsode_client.results import Completion, Delta, Started


class Cancellable(Protocol):
    """A gRPC call in progress."""

    def cancel(self) -> bool: ...


CallT = TypeVar("CallT", bound=Cancellable)


class BaseStream(Generic[CallT]):
    """A completion as it is produced: a `Started`, then `Delta`s, then the `Completion`."""

    def __init__(self, call: CallT) -> None:
        self._call = call
        self._started: Started | None = None
        self._texts: list[str] = []
        self._response = GenerateResponse()
        self._completion: Completion | None = None

    @property
    def started(self) -> Started | None:
        """Who answers and with which seed; None until the first event has been read."""
        return self._started

    def cancel(self) -> None:
        """End the call. Reading on raises Cancelled; a stream that has already ended stays as it is."""
        self._call.cancel()

    def _take(self, event: GenerateStreamResponse) -> Delta | None:
        """Note an event and return its delta, if it is one."""
        match event.WhichOneof("event"):
            case "started":
                self._start(event)
            case "delta":
                if self._started is None:
                    raise ServerError("the server sent text before it said who answers")
                self._texts.append(event.delta.text)
                self._response.token_ids.extend(event.delta.token_ids)
                return convert.delta(event.delta)
            case "finished":
                self._finish(event)
        return None

    def _start(self, event: GenerateStreamResponse) -> None:
        started, response = event.started, self._response
        response.request_id, response.model = started.request_id, started.model
        response.version, response.seed = started.version, started.seed
        response.sampling.CopyFrom(started.sampling)
        self._started = convert.started(started)

    def _finish(self, event: GenerateStreamResponse) -> None:
        finished, response = event.finished, self._response
        response.text = "".join(self._texts)
        response.finish_reason = finished.finish_reason
        response.matched_stop.CopyFrom(finished.matched_stop)
        response.usage.CopyFrom(finished.usage)
        response.timings.CopyFrom(finished.timings)
        self._completion = convert.completion(response)

    def _finished(self) -> Completion:
        """The completion, once every event has been taken."""
        if self._started is None or self._completion is None:
            raise ServerError("the server ended the stream before the completion was finished")
        return self._completion
