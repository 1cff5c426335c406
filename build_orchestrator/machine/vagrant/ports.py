"""Ports of this host that lead to a machine's ssh, for providers that forward one.

Two processes of Vagrant's that look for a free port at the same time find the same one. So a port
is chosen here, and held by a lock until the provider itself listens on it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.locks import state_home, try_lock

FORWARDING = frozenset({"virtualbox"})
PORTS = range(22200, 22700)


@contextlib.contextmanager
def port_of(provider: str, *, deadline: Deadline, cancel: Cancel) -> Iterator[int]:
    """A free port that no other build of this host is given; 0 where the provider needs none."""
    if provider not in FORWARDING:
        yield 0
        return
    cancel.check()
    deadline.check()
    for port in PORTS:
        if (lock := try_lock(state_home() / "locks" / f"port-{port}")) is None:
            continue
        try:
            if _is_free(port):
                yield port
                return
        finally:
            lock.release()
    raise EnvironmentFailure(f"no port of {PORTS.start} to {PORTS.stop - 1} is free on this host")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
