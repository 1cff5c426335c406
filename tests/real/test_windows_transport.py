"""What ssh and WinRM promise of a Windows machine, held against the Windows-like stand-in."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    UsageError,
    VerificationFailed,
)
from build_orchestrator.transport.windows import WindowsShell, WindowsSsh, batch
from build_orchestrator.transport.winrm import Winrm
from tests.conftest import require
from tests.standins import windows, winrm
from tests.standins.sshd import Sshd

FOLDER = PurePosixPath("/build/inputs")
PASSWORD = "a planted password of %Windows%"
VALUES = {
    "PLAIN": "plain",
    "STRANGE": "a%PATH%b & \"c\" | <d> !e! ^f (g) ; = %%h ~ 'i' ",
    "LETTERS": "\u00e9",
    "LONG": "x" * 1500,  # Wine's more shows longer ones by the page
}


def soon(limit_s: float = 120.0) -> Deadline:
    return Deadline("transfer", limit_s, "the test to end")


@dataclass
class Machine:
    """A machine that is logged in to."""

    shell: WindowsShell
    drive: Path

    def run(self, text: str, **variables: str) -> tuple[int, list[str]]:
        lines: list[str] = []
        status = self.shell.run(batch(variables, text), deadline=soon(), on_line=lines.append)
        return status, lines


@pytest.fixture(scope="module", params=["ssh", "winrm"])
def machine(request: pytest.FixtureRequest, windows_prefix: Path) -> Iterator[Machine]:
    require("wine64", "sshd", "ssh")
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        prefix = windows.copy_prefix(windows_prefix, folder / "wine")
        (folder / "machine").mkdir()
        connected = by_ssh if request.param == "ssh" else by_winrm
        with windows.started(prefix), connected(prefix, folder) as shell:
            yield Machine(shell, prefix / "drive_c")


@contextlib.contextmanager
def by_ssh(prefix: Path, folder: Path) -> Iterator[WindowsSsh]:
    settings = windows.write_shell(prefix, folder / "shell")
    with Sshd(folder / "sshd", settings) as sshd:
        ssh = WindowsSsh(
            folder / "machine",
            host=sshd.host,
            port=sshd.port,
            user=sshd.user,
            identity_file=sshd.identity_file,
        )
        ssh.pin(sshd.public_host_key)
        ssh.write_configuration()
        ssh.wait(soon(), NEVER, lambda: True)
        yield ssh
        ssh.close()


@contextlib.contextmanager
def by_winrm(prefix: Path, folder: Path) -> Iterator[Winrm]:
    wine = [windows.wine(), "cmd", "/d", "/c"]
    env, home = windows.environment(prefix), windows.home_of(prefix)
    certificate = winrm.prepare(folder, PASSWORD, wine, env, home)
    with winrm.serving(folder) as server:
        shell = winrm_to(server, certificate, folder / "machine")
        shell.wait(soon(), NEVER, lambda: True)
        yield shell
        shell.close()


def winrm_to(server: winrm.Server, certificate: str, folder: Path) -> Winrm:
    shell = Winrm(folder, host="127.0.0.1", port=server.server_port, user=winrm.USER)
    shell.pin(certificate)
    shell.password = PASSWORD
    return shell


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("exit /b 7", 7),
        ("exit 7", 7),
        ("exit /b 256", 254),
        ("exit /b -1073741819", 254),
    ],
)
def test_a_status_is_the_scripts_own(text: str, status: int, machine: Machine) -> None:
    """None is lost in the 8 bits that ssh hands on."""
    assert machine.run(text)[0] == status


def test_variables_arrive_as_they_are(machine: Machine) -> None:
    """And nothing of them is on the machine's disk, where the script itself was."""
    shown = "\n".join(f"set {name}" for name in VALUES)
    status, lines = machine.run(f"{shown}\nmore\necho told>&2", **VALUES)

    assert status == 0, lines
    assert lines == [*(f"{name}={value}" for name, value in VALUES.items()), "told"]
    home = next(each for each in (machine.drive / "users").iterdir() if each.name != "Public")
    scripts = b"".join(path.read_bytes() for path in home.glob("*.bat"))
    assert b"set STRANGE\r\n" in scripts
    assert not [value for value in VALUES.values() if f"={value}".encode() in scripts]
    assert not list(machine.shell.folder.glob("*.bat"))


def test_lines_arrive_while_the_script_runs(machine: Machine) -> None:
    heard: list[tuple[str, float]] = []

    def hear(line: str) -> None:
        heard.append((line, time.monotonic()))

    pause = "ping -n 3 127.0.0.1 >nul"
    script = batch({}, f"echo first\n{pause}\necho second 1>&2\n")
    assert machine.shell.run(script, deadline=soon(), on_line=hear) == 0
    (first, early), (second, late) = heard
    assert (first, second.strip()) == ("first", "second")
    assert late - early > 1


@pytest.mark.parametrize("value", ["two\nlines", "carriage\rreturn", "y" * 8001])
def test_what_cmd_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="TOKEN cannot be given"):
        batch({"TOKEN": value}, "echo")


def test_a_tree_goes_in_and_comes_out(machine: Machine, tmp_path: Path) -> None:
    """Every byte of every file, with both sides of one opinion about them."""
    source = tmp_path / "source"
    (source / "a folder/deep").mkdir(parents=True)
    (source / "a folder/deep/bytes").write_bytes(bytes(range(256)) * 500)
    (source / "empty").write_bytes(b"")

    sent = machine.shell.push(source, FOLDER, deadline=soon())
    received = machine.shell.pull(FOLDER, tmp_path / "target", deadline=soon())

    assert len(sent) == len(received) == 64
    back = tmp_path / "target"
    assert (back / "a folder/deep/bytes").read_bytes() == bytes(range(256)) * 500
    assert (back / "empty").read_bytes() == b""
    assert (machine.drive / "build/inputs/a folder/deep/bytes").is_file()
    assert not list(machine.shell.folder.glob("build-orchestrator-*"))


def test_what_arrives_damaged_is_not_believed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    monkeypatch.setattr(
        "build_orchestrator.transport.windows.PUSH", "@echo " + "0" * 64 + "\nrem {folder}{tar}\n"
    )
    with pytest.raises(EnvironmentFailure, match="arrived damaged"):
        machine.shell.push(tmp_path / "source", FOLDER, deadline=soon())


def test_no_folder_is_the_scripts_fault(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="no such folder in the machine"):
        machine.shell.pull(PurePosixPath("/build/none"), tmp_path, deadline=soon())


def test_a_script_that_does_not_end_is_given_up(machine: Machine) -> None:
    """The connection is as good as before."""
    endless = batch({}, ":again\ncmd /c ver >nul\ngoto again\n")
    with pytest.raises(DeadlineExceeded):
        machine.shell.run(endless, deadline=soon(2.0))
    assert machine.run("exit /b 3")[0] == 3
