"""A real ``sshd`` on loopback, run by the current user: what a machine's ssh is to the transport.

It stands in for the machine, not for ssh: host key, login, sessions and lost connections are the
real thing. Everything of it lies in one folder, and nothing of it lives after ``stop``.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 10.0


class Sshd:
    """Use as a context manager. ``shims`` is first in the PATH of whoever logs in; ``settings`` are
    further lines of its configuration."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.settings = settings
        self.user = getpass.getuser()
        self.host = "127.0.0.1"
        self.port = 0
        self.shims = folder / "shims"
        self.shims.mkdir()
        self.identity_file = new_key(folder / "user_key")
        self.public_host_key = new_key(folder / "host_key").with_suffix(".pub").read_text()
        self._listener: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, port: int = 0) -> None:
        """Listen on this port, or on any free one; return when it greets."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it.
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self.port = port or free_port()
            self._listener = subprocess.Popen(
                [_program(), "-D", "-f", self._write_configuration(), "-E", self.folder / "log"],
                start_new_session=True,
            )
            while self._listener.poll() is None:
                if greets(self.port):
                    return
                time.sleep(0.01)
        raise RuntimeError(f"sshd does not start: {(self.folder / 'log').read_text()}")

    def cut(self) -> int:
        """Kill every connection, so that the kernel resets them; return how many there were."""
        assert self._listener is not None
        connections = _children(self._listener.pid)
        for pid in connections:
            _kill_tree(pid)
        return len(connections)

    def stop(self) -> None:
        """Kill the listener and everything that it started."""
        if self._listener is not None:
            _kill_tree(self._listener.pid)
            self._listener.wait()
            self._listener = None

    def _write_configuration(self) -> Path:
        path = self.folder / "sshd_config"
        path.write_text(
            f"ListenAddress {self.host}\n"
            f"Port {self.port}\n"
            f"HostKey {self.folder / 'host_key'}\n"
            f"AuthorizedKeysFile {self.folder / 'user_key.pub'}\n"
            # A home of its own too: what the user's .bashrc says is no business of a test.
            f"SetEnv HOME={self.folder} PATH={self.shims}:{os.environ['PATH']}\n"
            "PidFile none\n"
            "StrictModes no\n"
            "UsePAM no\n"
            "PermitRootLogin yes\n"
            "PasswordAuthentication no\n"
            "MaxStartups 100\n"
            "MaxSessions 100\n" + self.settings
        )
        return path


def new_key(path: Path) -> Path:
    """Make an ed25519 key pair; return the private one."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True
    )
    return path


def free_port() -> int:
    """A TCP port of loopback that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def greets(port: int) -> bool:
    """Whether something on this port speaks ssh."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection,
    ):
        return connection.recv(4) == b"SSH-"
    return False


def _program() -> str:
    """sshd insists on being called by its absolute path, and lies where only root looks."""
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found is not None, "no sshd on this host"
    return found


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def _kill_tree(pid: int) -> None:
    children = _children(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for child in children:
        _kill_tree(child)
