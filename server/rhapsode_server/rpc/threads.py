"""Work on texts that takes too long for the event loop, in threads: long texts never keep short ones waiting."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

# A text of so many characters, or so many token ids, takes ten milliseconds or so.
_LONG = 2**14

_long_texts = ThreadPoolExecutor(max_workers=2, thread_name_prefix="long-texts")


async def in_thread(size: int, work: Callable[[], T]) -> T:
    """What `work` returns for a text of so many characters, or so many token ids."""
    executor = _long_texts if size > _LONG else None
    return await asyncio.get_running_loop().run_in_executor(executor, copy_context().run, work)
