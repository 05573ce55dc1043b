"""The heartbeat of the event loop."""

import asyncio
import logging
from typing import NoReturn, Protocol

from rhapsode_server.models.served import Trouble
from rhapsode_server.rpc.health import HealthService

logger = logging.getLogger("rhapsode.rpc")

INTERVAL = 1.0
# Seconds too late: a probe of Kubernetes waits as long by default.
LATE = 1.0


class MayBeInTrouble(Protocol):
    """Whoever runs the models."""

    @property
    def trouble(self) -> Trouble: ...


async def beat(health: HealthService, models: MayBeInTrouble, interval: float = INTERVAL) -> NoReturn:
    """Again and again, tell the health what is wrong, and the log when the loop stood still."""
    loop = asyncio.get_running_loop()
    while True:
        health.note(models.trouble)
        due = loop.time() + interval
        await asyncio.sleep(interval)
        if (late := loop.time() - due) > LATE:
            logger.warning(
                "the event loop stood still for %.1f s: nobody was answered meanwhile, no probe either", late
            )
