"""Wait until something greets as ssh on a TCP port.

QEMU's user network accepts a connection long before the machine listens, and forwards it once,
into the void. So a connection that was opened too early never answers, and only opening new ones
at a quick pace finds the moment at which the machine is up.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Iterable

from build_orchestrator.deadline import Cancel

GREETING = b"SSH-"


def knock(
    host: str,
    port: int,
    *,
    cancel: Cancel,
    check: Callable[[], None],
    probe_s: float,
    pause_s: float,
) -> None:
    """Open a connection every ``pause_s``, each for ``probe_s``, until one of them is greeted.

    ``check`` is called at least as often, and ends the wait by raising.
    """
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        selector.register(cancel, selectors.EVENT_READ)
        ends: dict[socket.socket, float] = {}
        stack.callback(_close, ends)
        next_at = 0.0
        while True:
            check()
            now = time.monotonic()
            for probe in [probe for probe, end in ends.items() if end <= now]:
                _drop(selector, ends, probe)
            if now >= next_at:
                next_at = now + pause_s
                with contextlib.suppress(OSError):  # Such as a name that is not known yet.
                    probe = _opened(host, port)
                    ends[probe] = now + probe_s
                    selector.register(probe, selectors.EVENT_READ)
            for key, _ in selector.select(next_at - now):
                if isinstance(key.fileobj, socket.socket):
                    if _greeted(key.fileobj):
                        return
                    _drop(selector, ends, key.fileobj)


def _close(probes: Iterable[socket.socket]) -> None:
    for probe in probes:
        probe.close()


def _opened(host: str, port: int) -> socket.socket:
    """A connection on its way; whether it gets there shows when it is read."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    probe = socket.socket(family, kind, protocol)
    probe.setblocking(False)
    probe.connect_ex(address)
    return probe


def _greeted(probe: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return probe.recv(256).startswith(GREETING)
    return False


def _drop(
    selector: selectors.BaseSelector, ends: dict[socket.socket, float], probe: socket.socket
) -> None:
    selector.unregister(probe)
    del ends[probe]
    probe.close()
