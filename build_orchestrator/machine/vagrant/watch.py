"""See that a machine lives while something waits for it over a network that would never say."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from build_orchestrator.errors import OrchestratorError

EVERY_S = 3.0


@contextlib.contextmanager
def watched(alive: Callable[[], bool], give_up: Callable[[], None]) -> Iterator[None]:
    """During the block, call ``give_up`` as soon as the machine does not live any more."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(EVERY_S):
            with contextlib.suppress(OrchestratorError):  # Who cannot say has not said no.
                if not alive():
                    give_up()
                    return

    watcher = threading.Thread(target=look, name="watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
