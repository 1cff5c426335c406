"""QEMU's machine protocol over a socket that we share with one QEMU process.

The socket is one end of a pair: no path on disk, no limit on its length, nobody else can connect,
and it ends with us. (The library ``qemu.qmp`` is built on asyncio and cannot be handed from one
thread to another; see docs/adr/0003-speak-qmp-ourselves.md.)
Source: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import json
import socket
from typing import Any

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, MachineLost

POLL_S = 0.02


class Qmp:
    """A conversation with one QEMU. Not thread-safe."""

    def __init__(self, ours: socket.socket, *, deadline: Deadline) -> None:
        self._socket = ours
        self._file = ours.makefile("rb")
        self._receive(deadline)  # the greeting
        self.execute("qmp_capabilities", deadline=deadline)

    def execute(self, command: str, /, *, deadline: Deadline, **arguments: Any) -> Any:
        """Run one command and return its answer; events that arrive meanwhile are dropped.

        Raises:
            MachineLost: QEMU ended.
            EnvironmentFailure: QEMU refused the command.
        """
        request = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        try:
            self._socket.sendall(request)
        except OSError as error:
            raise MachineLost("QEMU ended", details=str(error)) from error
        while True:
            answer = self._receive(deadline)
            if "error" in answer:
                raise EnvironmentFailure(f"QEMU refused {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def wait_for_status(self, status: str, *, deadline: Deadline, cancel: Cancel) -> None:
        """Wait until the machine's run state is ``status`` (such as ``running``)."""
        while self.execute("query-status", deadline=deadline)["status"] != status:
            deadline.check()
            cancel.sleep(POLL_S)

    def forwarded_port(self, *, deadline: Deadline) -> int:
        """The port of 127.0.0.1 that QEMU itself chose for the machine's port 22."""
        table = self.execute(
            "human-monitor-command", deadline=deadline, **{"command-line": "info usernet"}
        )
        for line in table.splitlines():
            fields = line.split()
            if fields[:1] == ["TCP[HOST_FORWARD]"] and fields[5] == "22":
                return int(fields[3])
        raise EnvironmentFailure("QEMU forwards no port to the machine", details=table)

    def save(self, *, deadline: Deadline, cancel: Cancel) -> None:
        """Stop the machine and write its RAM and devices to the file ``state`` in QEMU's folder.

        It is stopped first because QEMU's own emulation (TCG) now and then misses a page that a
        running machine writes while it is copied: what is restored from that crashes.
        """
        self.execute("stop", deadline=deadline)
        self.execute("migrate", deadline=deadline, uri="exec:cat > state")
        while True:
            progress = self.execute("query-migrate", deadline=deadline)
            if progress.get("status") == "completed":
                return
            if progress.get("status") == "failed":
                raise EnvironmentFailure(
                    "QEMU could not save the machine's RAM",
                    details=progress.get("error-desc", "no reason given"),
                )
            deadline.check()
            cancel.sleep(POLL_S)

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _receive(self, deadline: Deadline) -> dict[str, Any]:
        self._socket.settimeout(max(0.001, deadline.remaining_s))
        try:
            line = self._file.readline()
        except TimeoutError as error:
            raise deadline.exceeded() from error
        except OSError as error:
            raise MachineLost("QEMU ended", details=str(error)) from error
        if not line:
            raise MachineLost("QEMU ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Our end and QEMU's end of a conversation."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
