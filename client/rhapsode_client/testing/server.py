"""The server that a test starts, scripts and asks what it was asked."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from rhapsode.v1.generation_pb2 import GenerateRequest

from rhapsode_client.errors import Retryable, RhapsodeError
from rhapsode_client.results import FinishReason
from rhapsode_client.testing import words
from rhapsode_client.testing.answers import Tokens
from rhapsode_client.testing.calls import Call
from rhapsode_client.testing.script import PromptPattern, Reply, Script
from rhapsode_client.testing.servicer import Servicer
from rhapsode_client.testing.statuses import CODES

_THREADS = 64  # calls at a time; one that waits holds one


class FakeServer:
    """A server on a free port of this machine, while its `with` block lasts. Use it from any thread.

    `models` maps names to the versions that answer, by default one model `fake`, version 1; the first is the default
    model. Change `models` in between, and other versions answer.

    Of the replies for a prompt each is used once, in the order in which they were given, and the last one again and
    again; those for a prompt go before those for any. What nothing is scripted for is FailedPrecondition. Tokens are
    words with the white space before them; each has the log-probability that `logprobs` gives it, else -1.
    """

    def __init__(self, models: Mapping[str, int] | None = None) -> None:
        self.models = dict(models or {"fake": 1})
        self.logprobs: dict[str, float] = {}
        """Natural, by token, for example `{" sea": -7.5}`: wherever it stands."""
        self.address = ""
        """What to give to a client; empty outside of the `with` block."""
        self._script = Script()
        self._servicer = Servicer(self.models, Tokens(self.logprobs), self._script)
        self._health = health.HealthServicer()
        self.serving = True

    def reply(
        self,
        text: str | Sequence[str],
        *,
        prompt: PromptPattern | None = None,
        finish_reason: FinishReason = FinishReason.EOS,
        delay: float = 0.0,
        token_delay: float = 0.0,
    ) -> None:
        """Answer `prompt` with `text`: a stream has one delta a word, or the pieces of a sequence as they are.

        `prompt` is what a client gives to `generate`, a compiled pattern to be found in the text or the last turn of
        a conversation, or None for any. `delay` is seconds before the answer begins, `math.inf` until the caller gives
        up; `token_delay` those before each token.
        """
        tokens = words.split(text) if isinstance(text, str) else tuple(text)
        self._script.add(
            prompt, Reply(tokens=tokens, finish_reason=finish_reason, delay=delay, token_delay=token_delay)
        )

    def fail(
        self,
        error: RhapsodeError,
        *,
        prompt: PromptPattern | None = None,
        retry_after: float | None = None,
        after: str | Sequence[str] = (),
        delay: float = 0.0,
    ) -> None:
        """End a call for `prompt` with `error`, its violations and `retry_after`; a stream after the text `after`."""
        if type(error) not in CODES:
            raise ValueError(f"error must be one of {', '.join(kind.__name__ for kind in CODES)}, not {error!r}")
        tokens = words.split(after) if isinstance(after, str) else tuple(after)
        self._script.add(prompt, Reply(tokens=tokens, error=_with_delay(error, retry_after), delay=delay))

    @property
    def requests(self) -> Sequence[GenerateRequest]:
        """What was to be generated, in order, that of batches item by item: the messages of the wire contract."""
        return self._servicer.requests

    @property
    def calls(self) -> Sequence[Call]:
        """Every call but those for health, with its metadata and time."""
        return self._servicer.calls

    def wait_for_calls(self, count: int = 1, *, timeout: float = 10.0) -> None:
        """Wait until so many calls have come. Raises TimeoutError."""
        with self._servicer.arrival:
            if not self._servicer.arrival.wait_for(lambda: len(self.calls) >= count, timeout):
                raise TimeoutError(f"{len(self.calls)} of {count} calls came within {timeout:g} s")

    @property
    def serving(self) -> bool:
        """What it says of its health; calls are answered all the same."""
        return self._serving

    @serving.setter
    def serving(self, serving: bool) -> None:
        self._serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *(f"model/{name}" for name in self.models)):
            self._health.set(service, status)

    def __enter__(self) -> Self:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="fake-server")
        self._server = grpc.server(self._executor, self._servicer.handlers())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self._executor.shutdown()
        self.address = ""


def _with_delay(error: RhapsodeError, retry_after: float | None) -> RhapsodeError:
    if retry_after is None:
        return error
    if not isinstance(error, Retryable):
        raise ValueError(f"retry_after is for Overloaded and Unavailable, not {type(error).__name__}")
    delayed = copy(error)
    delayed.retry_after = retry_after
    return delayed
