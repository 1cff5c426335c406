"""Do the same to many things at once, and hear signals meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

LOOK_S = 0.2
"""How often the main thread wakes up: a signal that arrives just before it waits is only handled
when it runs again."""


def at_once(one: Callable[[Item], Made], items: Iterable[Item], *, jobs: int) -> list[Made]:
    """What ``one`` makes of each item, in their order; at most ``jobs`` at a time.

    Raises:
        Whatever ``one`` raises first, once all have ended.
    """
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="build") as pool:
        futures = [pool.submit(one, item) for item in items]
        while wait(futures, timeout=LOOK_S).not_done:
            pass
        return [future.result() for future in futures]
