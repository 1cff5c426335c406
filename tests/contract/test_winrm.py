"""What WinRM promises beside what any Windows machine does (tests/real/test_windows_transport.py):
whom it believes, and what becomes of it when something goes wrong. Its commands run in sh here."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from build_orchestrator.command import Finished
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    Interrupted,
    MachineLost,
)
from build_orchestrator.transport import winrm as transport
from build_orchestrator.transport.winrm import Winrm
from tests.standins import winrm
from tests.standins.sshd import free_port

# Each waits for seconds, so they are none of the fast tests. What breaks a connection in the middle
# leaves it to the garbage collector, which tells of it.
pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PASSWORD = "a planted password"
SH = ["sh", "-c", 'eval "$*"', "sh"]
"""As cmd does, it takes all words for one line."""


def soon(limit_s: float = 20.0) -> Deadline:
    return Deadline("transfer", limit_s, "the test to end")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("winrm")


@pytest.fixture(scope="module")
def certificate(folder: Path) -> str:
    return winrm.prepare(folder, PASSWORD, SH, {"PATH": "/usr/bin:/bin"}, folder)


@pytest.fixture
def server(folder: Path, certificate: str) -> Iterator[winrm.Server]:
    assert certificate
    with winrm.serving(folder) as started:
        yield started
        wait_for_threads()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread and no connection outlives its test."""
    yield
    wait_for_threads()
    gc.collect()


def wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == transport.THREAD:
            thread.join(timeout=15)


def to(port: int, certificate: str, folder: Path) -> Winrm:
    shell = Winrm(folder, host="127.0.0.1", port=port, user=winrm.USER)
    shell.password = PASSWORD
    shell.pin(certificate)
    return shell


@pytest.fixture
def shell(server: winrm.Server, certificate: str, tmp_path: Path) -> Winrm:
    return to(server.server_port, certificate, tmp_path)


def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_what_goes_in_comes_out_with_the_status(shell: Winrm, server: winrm.Server) -> None:
    """Every byte, in several messages each way; and no shell stays open."""
    sent = bytes(range(256)) * 4096
    chunks = (sent[at : at + 300_000] for at in range(0, len(sent), 300_000))
    ended = shell._execute(
        "cat; echo gone >&2; exit 7", deadline=soon(), cancel=NEVER, stdin=chunks
    )

    assert (ended.status, ended.stderr) == (7, b"gone\n")
    assert ended.stdout == sent
    assert server.service.shells == {}


def test_who_reads_nothing_of_its_input_has_its_own_status(shell: Winrm) -> None:
    ended = shell._execute("exit 3", deadline=soon(), cancel=NEVER, stdin=(b"x" * 100_000,) * 3)
    assert ended.status == 3


def test_silence_is_no_end(shell: Winrm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service answers that it has nothing to tell, and is asked again."""
    monkeypatch.setattr(transport, "OPERATION_S", 1)
    heard: list[tuple[bytes, float]] = []
    line = "echo first; sleep 2.5; echo second"
    shell._execute(
        line,
        deadline=soon(),
        cancel=NEVER,
        to=lambda chunk: heard.append((chunk, time.monotonic())),
    )
    said = [each for each in heard if each[0]]
    assert [chunk for chunk, _ in said] == [b"first\n", b"second\n"]
    assert said[1][1] - said[0][1] > 2


def test_another_certificate_is_refused_before_anything_is_said(
    server: winrm.Server, tmp_path: Path
) -> None:
    """The password least of all. Nobody waits for it to become the right one."""
    shell = to(server.server_port, "0" * 64, tmp_path)
    started = time.monotonic()
    with pytest.raises(EnvironmentFailure, match="does not show the certificate that was pinned"):
        shell.wait(soon(), NEVER, lambda: True)
    assert time.monotonic() - started < 10
    assert server.requests == 0


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (b"-----BEGIN-----\r\nAAEC\r\nAwQ=\r\n-----END-----\r\n", bytes(range(5))),
        (b"AAECA\r\n", None),
    ],
    ids=["whole", "cut"],
)
def test_a_file_that_was_cut_on_its_way_is_no_bug(
    said: bytes, taken: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = to(1, "0" * 64, tmp_path)

    def batch(*_: object, to: Callable[[bytes], None], **__: object) -> Finished:
        to(said)
        return Finished(argv=(), status=0, seconds=0, stdout=b"", stderr=b"")

    monkeypatch.setattr(shell, "_batch", batch)
    if taken is None:
        with pytest.raises(EnvironmentFailure, match="arrived damaged"):
            shell._take(tmp_path / "made.tar", deadline=soon(), cancel=NEVER)
    else:
        shell._take(tmp_path / "made.tar", deadline=soon(), cancel=NEVER)
        assert (tmp_path / "made.tar").read_bytes() == taken
    with pytest.raises(EnvironmentFailure, match="cannot be written"):
        shell._take(tmp_path / "none/made.tar", deadline=soon(), cancel=NEVER)


@pytest.mark.parametrize("given", ["", "0" * 63, "G" * 64, "A" * 64])
def test_what_is_no_checksum_cannot_be_pinned(given: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="not the SHA-256 of a certificate"):
        to(1, given, tmp_path)


def test_without_a_pinned_certificate_nothing_is_sent(server: winrm.Server, tmp_path: Path) -> None:
    shell = Winrm(tmp_path, host="127.0.0.1", port=server.server_port, user=winrm.USER)
    shell.password = PASSWORD
    with pytest.raises(MachineLost) as refused:
        shell._execute("exit 0", deadline=soon(), cancel=NEVER)
    assert refused.value.details == "RuntimeError: pin comes first", "an assert is gone with -O"
    assert server.requests == 0


def test_nothing_of_this_hosts_settings_counts(
    shell: Winrm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy stands between us, and no authority speaks for the machine."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    assert shell._execute("exit 5", deadline=soon(), cancel=NEVER).status == 5


def test_a_wrong_password_is_told_and_never_shown(shell: Winrm) -> None:
    """It may become the right one while the machine starts."""
    shell.password = "another planted password"
    with pytest.raises(DeadlineExceeded) as late:
        shell.wait(soon(6), NEVER, lambda: True)
    assert "credentials were rejected" in str(late.value)
    assert "planted" not in str(late.value)


def test_a_machine_that_listens_late_is_waited_for(
    folder: Path, certificate: str, tmp_path: Path
) -> None:
    port = free_port()
    shell = to(port, certificate, tmp_path)
    waiting = threading.Thread(target=shell.wait, args=(soon(), NEVER, lambda: True))
    waiting.start()
    time.sleep(0.5)
    assert waiting.is_alive()
    with process(folder, port):
        waiting.join(timeout=15)
        assert not waiting.is_alive()


def process(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A service that can be killed."""
    argv = [sys.executable, winrm.__file__, str(folder), "127.0.0.1", str(port)]
    return _Killed(argv, start_new_session=True)


class _Killed(subprocess.Popen[bytes]):
    def __exit__(self, *why: object) -> None:
        self.kill()
        self.wait()


def test_a_machine_that_dies_is_lost(folder: Path, certificate: str, tmp_path: Path) -> None:
    """At once, where its kernel says so."""
    port = free_port()
    shell = to(port, certificate, tmp_path)
    with process(folder, port) as machine:
        shell.wait(soon(), NEVER, lambda: True)

        def hear(chunk: bytes) -> None:
            if chunk:
                machine.kill()

        with pytest.raises(MachineLost, match="broke"):
            shell._execute("echo here; sleep 60", deadline=soon(), cancel=NEVER, to=hear)


def test_who_waits_for_a_dead_machine_is_told(tmp_path: Path, certificate: str) -> None:
    shell = to(free_port(), certificate, tmp_path)
    with pytest.raises(MachineLost, match="ended before WinRM answered"):
        shell.wait(soon(), NEVER, lambda: False)


def test_closing_gives_up_at_once(shell: Winrm, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS says that the machine has ended: nobody waits for its network to notice."""
    monkeypatch.setattr(transport, "OPERATION_S", 4)
    started = time.monotonic()
    threading.Timer(0.5, shell.close).start()
    with pytest.raises(MachineLost, match="closed"):
        shell._execute("sleep 60", deadline=soon(), cancel=NEVER)
    assert time.monotonic() - started < 3
    shell.close()


@pytest.mark.parametrize("why", ["deadline", "signal"])
def test_what_is_given_up_is_ended(
    why: str, shell: Winrm, server: winrm.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We go on at once; the command is ended as soon as the service listens again."""
    monkeypatch.setattr(transport, "OPERATION_S", 1)
    cancel, started = Cancel(), time.monotonic()
    if why == "signal":
        threading.Timer(1.0, cancel.set, (signal.SIGTERM,)).start()
    with pytest.raises(Interrupted if why == "signal" else DeadlineExceeded):
        shell._execute("sleep 60", deadline=soon(5 if why == "signal" else 1), cancel=cancel)
    assert time.monotonic() - started < 4
    children = [each for shells in server.service.shells.values() for each in shells.values()]
    assert len(children) == 1
    until(lambda: server.service.shells == {})
    until(lambda: children[0].child.poll() is not None)
