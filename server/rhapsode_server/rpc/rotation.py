"""Whether this server takes new calls."""

from rhapsode_server.errors import NotPossible
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.open_calls import OpenCalls

DRAINED = "the server is drained"
ENDING = "the server is shutting down"


class Rotation:
    """An operator takes the server out of rotation and puts it back; a shutdown is final."""

    def __init__(self, health: HealthService, open_calls: OpenCalls) -> None:
        self._health = health
        self._open_calls = open_calls
        self._is_ending = False

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused."""
        return self._open_calls.is_draining

    @property
    def not_ready_because(self) -> str:
        """Empty while the server is ready."""
        return self._health.not_ready_because

    @property
    def num_open_calls(self) -> int:
        return self._open_calls.count

    def drain(self) -> None:
        """New calls get UNAVAILABLE, health is NOT_SERVING; open calls, models and operators are served."""
        if not self._is_ending:
            self._health.drain(DRAINED)
            self._open_calls.drain(DRAINED)

    def resume(self) -> None:
        """Raises NotPossible during a shutdown."""
        if self._is_ending:
            raise NotPossible(ENDING)
        self._open_calls.resume()
        self._health.resume()

    def begin_shutdown(self) -> None:
        """Health is NOT_SERVING, so that callers turn to others; calls of those who have not heard are still taken."""
        self._is_ending = True
        self._health.drain(ENDING)

    def refuse_new_calls(self) -> None:
        """The shutdown's second step: health, models and operators are still served."""
        self._open_calls.drain(ENDING)

    async def calls_finished(self) -> None:
        """Wait until no call is open. A watcher of the health, or an operator, is no reason to wait."""
        await self._open_calls.finished()
