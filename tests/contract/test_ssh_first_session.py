"""The session that holds an ssh connection can run scripts before anything else is started."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import DeadlineExceeded, MachineLost
from build_orchestrator.transport.ssh import Ssh
from tests.conftest import require
from tests.standins.sshd import Sshd, free_port

pytestmark = pytest.mark.real  # an sshd answers


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    require("ssh", "sshd", "ssh-keygen")
    with Sshd(tmp_path / "sshd") as sshd:
        yield sshd


@pytest.fixture
def ssh(server: Sshd, tmp_path: Path) -> Iterator[Ssh]:
    connection = ssh_to(server, tmp_path / "own", server.port)
    connection.wait(soon(), NEVER, lambda: True, listening=True)
    yield connection
    connection.close()


def ssh_to(server: Sshd, folder: Path, port: int) -> Ssh:
    folder.mkdir()
    ssh = Ssh(
        folder,
        host=server.host,
        port=port,
        user=server.user,
        identity_file=server.identity_file,
    )
    ssh.pin(server.public_host_key)
    ssh.write_configuration()
    return ssh


def soon(limit_s: float = 20.0) -> Deadline:
    return Deadline("boot", limit_s, "the test to end")


def test_the_first_session_runs_scripts_and_still_holds_the_connection(ssh: Ssh) -> None:
    """Status and output come back, whatever the script does to its own shell."""
    script = b"set -eu\ncat\nprintf one\necho two >&2\nfalse"

    assert ssh.run_first(script, deadline=soon(), cancel=NEVER) == (1, "onetwo")
    assert ssh.run_first(b"echo ended 7; exit 3", deadline=soon(), cancel=NEVER) == (3, "ended 7")
    assert ssh.run(b"exit 4", deadline=soon()) == 4


def test_a_first_session_that_breaks_is_a_lost_machine(ssh: Ssh, server: Sshd) -> None:
    """Nobody takes the end of the connection for the script's own."""
    server.cut()

    with pytest.raises(MachineLost, match="the connection to the machine broke"):
        ssh.run_first(b"true", deadline=soon(), cancel=NEVER)


def test_a_first_session_has_a_deadline(ssh: Ssh) -> None:
    """What hangs there does not hang us."""
    with pytest.raises(DeadlineExceeded):
        ssh.run_first(b"sleep 60", deadline=soon(0.1), cancel=NEVER)


def test_a_machine_that_listens_is_not_knocked_at(server: Sshd, tmp_path: Path) -> None:
    """The first connection is ssh's own: a knock, which says nothing, costs one more sshd."""
    said: list[bytes] = []
    with socket.create_server((server.host, 0)) as silent:
        silent.settimeout(5)

        def alive() -> bool:
            connection, _ = silent.accept()
            with connection:
                connection.settimeout(5)
                said.append(connection.recv(4))
            return False

        ssh = ssh_to(server, tmp_path / "own", silent.getsockname()[1])
        with pytest.raises(MachineLost):
            ssh.wait(soon(), NEVER, alive, listening=True)
    assert said == [b"SSH-"]


def test_a_machine_that_was_said_to_listen_and_does_not_is_waited_for(
    server: Sshd, tmp_path: Path
) -> None:
    """A first login that fails is followed by knocking, as ever."""
    port, started = free_port(), time.monotonic()
    ssh = ssh_to(server, tmp_path / "late", port)

    def alive() -> bool:
        if server.port != port and time.monotonic() - started > 0.3:
            server.stop()
            server.start(port)
        return True

    ssh.wait(soon(), NEVER, alive, listening=True)
    assert ssh.run(b"exit 5", deadline=soon()) == 5
    ssh.close()
