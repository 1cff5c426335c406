"""Talk to a Windows machine by WinRM over HTTPS, where it has no OpenSSH.

Each command line has a connection and a remote shell of its own, and a thread that speaks with it:
whoever waits for the command can then give it up at once. The server proves itself by the one
certificate that was pinned, never by an authority; the user by a password, which goes nowhere but
through that connection. Files travel as base64, since WinRM promises text alone.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build_orchestrator.command import TAIL_BYTES, Consumer, Finished, Lines
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    MachineLost,
    OrchestratorError,
)
from build_orchestrator.transport.windows import WindowsShell, kept_here

PORT = 5986
OPERATION_S = 10
"""The longest that the server waits for output before it says that there is none."""
READ_S = 30
"""After so long without an answer, the connection counts as broken."""
LOGIN_S = 60.0
THREAD = "winrm"
"""The name of those that speak."""
LOOK_S = 0.1
PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
SEND_BYTES = 256 << 10
"""In one message, which may have 500 KiB once it is base64."""
ENCODED_BYTES = 57
"""Of a file in one line of base64, which then has 76 characters."""
UTF_8 = 65001

PUT = "findstr . >{name}.b64 && certutil -f -decode {name}.b64 {name} >nul && del {name}.b64"
TAKE = """\
@echo off
certutil -f -encode {name} {name}.b64 >nul
if not "%ERRORLEVEL%"=="0" exit 74
type {name}.b64
del {name}.b64
del {name}
exit 0
"""


@dataclass(frozen=True, slots=True)
class _Ended:
    """The command's own status, or why nobody knows it."""

    status: int = 0
    error: OrchestratorError | None = None


@dataclass(slots=True)
class _Talk:
    """One command: what the thread that speaks with the machine has heard, and whether to stop."""

    heard: queue.SimpleQueue[tuple[bytes, bytes] | _Ended] = field(
        default_factory=queue.SimpleQueue
    )
    given_up: threading.Event = field(default_factory=threading.Event)


class Winrm(WindowsShell):
    """One Windows machine's WinRM: ``pin``, set ``password``, ``wait``, use it, ``close``."""

    def __init__(self, folder: Path, *, host: str, port: int, user: str) -> None:
        self.folder = folder
        self.host = host
        self.port = port
        self.user = user
        self.password = ""
        self._certificate = ""
        self._closed = threading.Event()

    def pin(self, certificate: str) -> None:
        """Accept the certificate with this SHA-256 (of its DER form; 64 hex digits), and no other.

        Raises:
            EnvironmentFailure: that is none.
        """
        if len(certificate) != 64 or set(certificate) - set("0123456789abcdef"):
            raise EnvironmentFailure(f"not the SHA-256 of a certificate: {certificate!r}")
        self._certificate = certificate

    def wait(self, deadline: Deadline, cancel: Cancel, alive: Callable[[], bool]) -> None:
        """Return as soon as the machine runs a command.

        Raises:
            MachineLost: ``alive`` said no.
            EnvironmentFailure: the machine shows another certificate than the pinned one.
            DeadlineExceeded, Interrupted
        """
        self._closed.clear()
        words, pause_s = "nothing", PAUSE_S
        while True:
            if not alive():
                raise MachineLost("the machine ended before WinRM answered", details=words)
            if deadline.passed:
                raise DeadlineExceeded(
                    deadline.stage,
                    deadline.limit_s,
                    f"WinRM on {self.host}:{self.port} to answer (does launch.allow_from let us "
                    f"in?); the last that it said: {words}",
                )
            try:
                login = Deadline("login", min(LOGIN_S, deadline.remaining_s), "an answer")
                self._execute("exit 0", deadline=login, cancel=cancel)
                return
            except MachineLost as error:
                words = error.details or error.brief
            except DeadlineExceeded:  # It says less than what came before it.
                pass
            cancel.sleep(min(pause_s, deadline.remaining_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def check(self) -> bool:
        """Whether it has what it needs to connect: there is no connection that would last."""
        return bool(self._certificate and self.password)

    def close(self) -> None:
        """Give up whatever waits for the machine. Twice is harmless."""
        self._closed.set()

    # --- what a Windows machine is asked for ----------------------------------------------------

    def _execute(
        self,
        line: str,
        *,
        deadline: Deadline,
        cancel: Cancel,
        stdin: Iterable[bytes] = (),
        to: Consumer | None = None,
    ) -> Finished:
        started, talk = time.monotonic(), _Talk()
        collected, tail = bytearray(), bytearray()
        consume = to or collected.extend
        speaking = (line, stdin, talk)
        threading.Thread(target=self._speak, args=speaking, name=THREAD, daemon=True).start()
        try:
            while True:
                cancel.check()
                deadline.check()
                if self._closed.is_set():
                    raise MachineLost("the connection to the machine was closed")
                try:
                    heard = talk.heard.get(timeout=LOOK_S)
                except queue.Empty:
                    continue
                if isinstance(heard, _Ended):
                    break
                consume(heard[0])
                tail.extend(heard[1])
                del tail[:-TAIL_BYTES]
        finally:
            talk.given_up.set()
        if heard.error is not None:
            raise heard.error
        return Finished(
            argv=(line,),
            status=heard.status,
            seconds=time.monotonic() - started,
            stdout=bytes(collected),
            stderr=bytes(tail),
        )

    def _put(self, file: Path, *, deadline: Deadline, cancel: Cancel) -> None:
        line = PUT.format(name=file.name)
        self._execute(line, deadline=deadline, cancel=cancel, stdin=_encoded(file)).check(
            "a file could not be copied by WinRM"
        )

    def _take(self, file: Path, *, deadline: Deadline, cancel: Cancel) -> None:
        with kept_here(file), file.open("wb") as content:

            def decode(line: str) -> None:
                try:
                    content.write(b"" if line.startswith("-----") else base64.b64decode(line))
                except binascii.Error as error:
                    raise EnvironmentFailure(f"{file.name}: arrived damaged") from error

            lines = Lines(decode)
            text = TAKE.format(name=file.name).encode()
            finished = self._batch(text, deadline=deadline, cancel=cancel, to=lines)
            lines.close()
        finished.check("a file could not be copied by WinRM")

    # --- the thread -----------------------------------------------------------------------------

    def _speak(self, line: str, stdin: Iterable[bytes], talk: _Talk) -> None:
        """Run one command line to its end, or until it is given up; then end what is left of it."""
        import requests

        ended = _Ended(error=MachineLost("the connection to the machine broke"))
        try:
            protocol = self._protocol()
            try:
                ended = _Ended(_converse(protocol, line, stdin, talk))
            finally:
                protocol.transport.close_session()
        except requests.exceptions.SSLError as error:
            ended = _Ended(error=self._not_trusted(error))
        # pywinrm trips over an answer that it cannot read with errors of any kind.
        except Exception as error:  # noqa: BLE001
            details = f"{type(error).__name__}: {error}"
            ended = _Ended(
                error=MachineLost("the connection to the machine broke", details=details)
            )
        finally:
            talk.heard.put(ended)

    def _protocol(self) -> Any:
        from winrm.protocol import Protocol

        protocol = Protocol(
            f"https://{_in_address(self.host)}:{self.port}/wsman",
            transport="basic",
            username=self.user,
            password=self.password,
            read_timeout_sec=READ_S,
            operation_timeout_sec=OPERATION_S,
        )
        protocol.transport.session = _session(self.user, self.password, self._certificate)
        return protocol

    def _not_trusted(self, error: Exception) -> OrchestratorError:
        if "Fingerprint" not in str(error):  # Such as a server that is about to restart.
            return MachineLost("the connection to the machine broke", details=str(error))
        return EnvironmentFailure(
            f"{self.host}:{self.port} does not show the certificate that was pinned",
            details=str(error),
            resolution="Something else answers there, or the machine changed its certificate.",
        )


def _converse(protocol: Any, line: str, stdin: Iterable[bytes], talk: _Talk) -> int:
    """One shell, one command in it; returns its status. Raises what pywinrm and requests raise."""
    from winrm.exceptions import WinRMOperationTimeoutError, WSManFaultError

    shell = protocol.open_shell(codepage=UTF_8)
    try:
        command = protocol.run_command(shell, line, console_mode_stdin=False)
        try:
            for chunk in itertools.chain(stdin, (b"",)):
                if not talk.given_up.is_set():
                    protocol.send_command_input(shell, command, chunk, end=not chunk)
        except WSManFaultError:  # It has ended, and wants no more: its status says why.
            pass
        while not talk.given_up.is_set():
            try:
                out, err, status, is_done = protocol.get_command_output_raw(shell, command)
            except WinRMOperationTimeoutError:  # It has said nothing for so long.
                continue
            talk.heard.put((out, err))
            if is_done:
                return int(status)
        return 0
    finally:
        # It ends what still runs in it. What the command said counts, not this farewell.
        with contextlib.suppress(Exception):
            protocol.close_shell(shell, close_session=False)


def _session(user: str, password: str, certificate: str) -> Any:
    """What sends the messages: straight to the machine, and only to the one with the certificate.

    Nothing of this host's settings counts: no proxy, no authority, no ``.netrc``.
    """
    import requests
    from requests.adapters import HTTPAdapter

    class Pinned(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, **options, assert_fingerprint=certificate)

    if not certificate:  # No assert, which -O leaves out: urllib3 would believe anybody.
        raise RuntimeError("pin comes first")
    session = requests.Session()
    session.trust_env = False
    session.verify = False  # No authority has signed it. What counts is the fingerprint.
    session.auth = (user, password)
    session.headers["Content-Type"] = "application/soap+xml;charset=UTF-8"
    session.mount("https://", Pinned())
    return session


def _encoded(file: Path) -> Iterator[bytes]:
    """A file as lines of base64, in chunks that one message can carry."""
    with file.open("rb") as content:
        while piece := content.read(SEND_BYTES // 78 * ENCODED_BYTES):
            yield b"".join(
                base64.b64encode(piece[at : at + ENCODED_BYTES]) + b"\r\n"
                for at in range(0, len(piece), ENCODED_BYTES)
            )


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
