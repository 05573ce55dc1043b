"""Reading and writing where a mount may hang: in threads of their own, which neither callers nor the end wait for."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


async def on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns or raises. When cancelled, the thread goes on by itself.

    Not asyncio's own threads: these are few, tokenise for callers, and a process waits for them when it ends.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(set_outcome: Callable[..., None], outcome: object) -> None:
        if not done.done():
            set_outcome(outcome)

    def run() -> None:
        outcome: tuple[Callable[..., None], object]
        try:
            outcome = (done.set_result, work(*args, **kwargs))
        except Exception as error:
            outcome = (done.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, *outcome)

    threading.Thread(target=run, name="disk", daemon=True).start()
    return await done
