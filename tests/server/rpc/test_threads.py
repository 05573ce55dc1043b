"""Long texts wait for each other, short ones for none of them."""

import asyncio
import threading

from rhapsode_server.rpc.threads import in_thread
from support.fake_models import PATIENCE


async def test_long_texts_keep_no_short_ones_waiting() -> None:
    may_end, count = threading.Event(), threading.Semaphore(0)

    def work() -> bool:
        count.release()
        return may_end.wait(PATIENCE)

    long = [asyncio.create_task(in_thread(2**20, work)) for _ in range(100)]
    assert await in_thread(3000, lambda: all(count.acquire(timeout=PATIENCE) for _ in range(2)))
    assert not count.acquire(blocking=False)
    may_end.set()
    assert all(await asyncio.gather(*long))
