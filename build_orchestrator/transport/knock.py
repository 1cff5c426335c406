"""Wait until something greets as ssh on a TCP port, without getting in its way.

QEMU's user network accepts a connection long before the machine listens, and offers it to the
machine at ever longer intervals. So a connection that was opened too early answers late or never,
and a new one finds the moment at which the machine is up.

But every connection that reaches sshd costs the machine a process, and newer ones (OpenSSH 9.8)
shut out who opens many without logging in. So there is one at a time, and each may take longer
than the one before: a machine that has been slow to start will be slow to greet.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable

from build_orchestrator.deadline import Cancel

GREETING = b"SSH-"
PATIENCE = 0.15
"""How long one connection may take, as a share of the time waited so far."""


def knock(
    host: str,
    port: int,
    *,
    cancel: Cancel,
    check: Callable[[], None],
    probe_s: float,
    pause_s: float,
) -> None:
    """Open one connection after the other, each for ``probe_s`` or longer, until one is greeted.

    ``check`` is called every ``pause_s``, and ends the wait by raising.
    """
    started = time.monotonic()
    while True:
        window_s = max(probe_s, PATIENCE * (time.monotonic() - started))
        if _greets(host, port, window_s, cancel, check, pause_s):
            return
        check()
        cancel.sleep(pause_s)


def _greets(
    host: str,
    port: int,
    window_s: float,
    cancel: Cancel,
    check: Callable[[], None],
    pause_s: float,
) -> bool:
    """Whether one connection is greeted within its time; a refused one is not, at once."""
    end = time.monotonic() + window_s
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        try:
            probe = stack.enter_context(_opened(host, port))
        except OSError:  # Such as a name that is not known yet.
            return False
        selector.register(cancel, selectors.EVENT_READ)
        selector.register(probe, selectors.EVENT_READ)
        while time.monotonic() < end:
            check()
            for key, _ in selector.select(pause_s):
                if key.fileobj is probe:
                    return _greeted(probe)
    return False


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
