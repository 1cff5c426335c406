"""Talk to a Windows machine, and do so through its OpenSSH server.

Windows has no ``sh``, no ``tee``, and a quoting that differs from shell to shell. So each command
line is ``cmd /d /q /c NAME``, which every shell reads alike, and NAME is a batch file of ours that
was copied there. Trees go the same way, as tar files whose checksum both sides take. The machine
needs what Windows has had since Server 2019: tar and certutil, and for ssh an sshd with its sftp
server. Files are copied to the home folder, where cmd starts, so no name of ours holds a path.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from build_orchestrator import command
from build_orchestrator.command import CHUNK, Consumer, Finished, Lines
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, UsageError, VerificationFailed
from build_orchestrator.transport.shell import NO_FOLDER, OnLine, agree, ignore
from build_orchestrator.transport.ssh import ALIAS, CONFIGURATION, SOCKET, Ssh
from build_orchestrator.transport.tree import Digest, Unpacker, pack

LONGEST_LINE = 8000
"""cmd and findstr take lines of 8191 bytes."""

# Nothing of the head is parsed again, whatever it holds: it is set as it was read. ssh hands on the
# last 8 bits of a status, of which 256 would be none and 255 its own.
RUN = """\
@echo off
setlocal EnableExtensions DisableDelayedExpansion
chcp 65001 >nul
for /f "delims=" %%L in ('findstr "^"') do set "%%L"
call :script <nul 2>&1
set "STATUS=%ERRORLEVEL%"
if %STATUS% LSS 0 exit 254
if %STATUS% GTR 254 exit 254
exit %STATUS%
:script
"""
PUSH = """\
@echo off
md "{folder}" 2>nul
if not exist "{folder}\\" exit 73
certutil -hashfile {tar} SHA256 <nul
if not "%ERRORLEVEL%"=="0" exit 74
tar -xf {tar} -C "{folder}" <nul
if not "%ERRORLEVEL%"=="0" exit 75
del {tar}
exit 0
"""
PULL = """\
@echo off
if not exist "{folder}\\" exit {missing}
tar -cf {tar} -C "{folder}" . <nul
if not "%ERRORLEVEL%"=="0" exit 75
certutil -hashfile {tar} SHA256 <nul
if not "%ERRORLEVEL%"=="0" exit 74
exit 0
"""


def batch(variables: Mapping[str, str], text: str) -> bytes:
    """What ``WindowsSsh.run`` takes: a head of variables, an empty line, and a batch file.

    The head travels over standard input alone; only the batch file is written to the machine's
    disk.

    Raises:
        UsageError: cmd cannot hold one of the values; its name is told, never the value.
    """
    for name, value in variables.items():
        size = len(name) + len(value.encode(errors="surrogateescape"))
        if set(value) & set("\r\n\0") or size > LONGEST_LINE:
            raise UsageError(
                f"{name} cannot be given to a script on Windows",
                details=f"It has more than one line, or more than {LONGEST_LINE} bytes.",
                resolution="Encode it, for instance as base64, or give it as an input.",
            )
    head = "".join(f"{name}={value}\n" for name, value in variables.items())
    return f"{head}\n{text}".encode(errors="surrogateescape")


def in_windows(path: PurePosixPath) -> str:
    """A path of the machine, which counts from its system drive, as Windows writes it."""
    assert path.is_absolute(), f"{path} is relative to nothing"
    return "C:" + str(path).replace("/", "\\")


class WindowsShell(abc.ABC):
    """Something that runs command lines of ``cmd``, and copies files to and from the home folder.

    Whoever can do these three has what ``Shell`` promises of any machine.
    """

    folder: Path
    """Ours, on this host: for files on their way."""
    _files = 0

    @abc.abstractmethod
    def _execute(
        self,
        line: str,
        *,
        deadline: Deadline,
        cancel: Cancel,
        stdin: Iterable[bytes] = (),
        to: Consumer | None = None,
    ) -> Finished:
        """Run one command line that every shell reads alike; ``to`` takes its output.

        Raises:
            MachineLost, DeadlineExceeded, Interrupted
        """

    @abc.abstractmethod
    def _put(self, file: Path, *, deadline: Deadline, cancel: Cancel) -> None:
        """Copy a file to the machine's home folder, under its own name."""

    @abc.abstractmethod
    def _take(self, file: Path, *, deadline: Deadline, cancel: Cancel) -> None:
        """Copy a file of this name out of the machine's home folder, and remove it there."""

    def run(
        self,
        script: bytes,
        *,
        deadline: Deadline,
        cancel: Cancel = NEVER,
        on_line: OnLine | None = None,
    ) -> int:
        """Run what ``batch`` made; return its exit status, 254 where that is no byte."""
        head, _, text = (b"\n" + script).partition(b"\n\n")
        lines = Lines(on_line or ignore)
        finished = self._batch(
            RUN.encode() + text,
            deadline=deadline,
            cancel=cancel,
            stdin=(head[1:] + b"\n",),
            to=lines,
        )
        lines.close()
        return finished.status

    def push(
        self, source: Path, target: PurePosixPath, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        sent = Digest()
        with self._scratch("tar") as tar:
            with kept_here(tar), tar.open("wb") as file:
                file.writelines(sent.through(pack(source)))
            self._put(tar, deadline=deadline, cancel=cancel)
            text = PUSH.format(folder=in_windows(target), tar=tar.name)
            finished = self._batch(text.encode(), deadline=deadline, cancel=cancel)
        finished.check(f"{source}: could not be copied to {target} in the machine")
        agree(sent.sha256, finished.stdout, f"{source}: arrived damaged at {target}")
        return sent.sha256

    def pull(
        self, source: PurePosixPath, target: Path, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        received = Digest()
        with self._scratch("tar") as tar:
            text = PULL.format(folder=in_windows(source), tar=tar.name, missing=NO_FOLDER)
            finished = self._batch(text.encode(), deadline=deadline, cancel=cancel)
            if finished.status == NO_FOLDER:
                raise VerificationFailed(f"{source}: no such folder in the machine")
            finished.check(f"{source}: could not be copied out of the machine")
            self._take(tar, deadline=deadline, cancel=cancel)
            with Unpacker(target) as unpack:
                consume = received.into(unpack)
                with tar.open("rb") as file:
                    while chunk := file.read(CHUNK):
                        consume(chunk)
                        deadline.check()
                        cancel.check()
                unpack.close()
        agree(received.sha256, finished.stdout, f"{source}: arrived damaged at {target}")
        return received.sha256

    def _batch(
        self,
        text: bytes,
        *,
        deadline: Deadline,
        cancel: Cancel,
        stdin: Iterable[bytes] = (),
        to: Consumer | None = None,
    ) -> Finished:
        """Run a batch file to its end."""
        with self._scratch("bat") as file:
            with kept_here(file):
                file.write_bytes(text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
            self._put(file, deadline=deadline, cancel=cancel)
            line = f"cmd /d /q /c {file.name}"
            return self._execute(line, deadline=deadline, cancel=cancel, stdin=stdin, to=to)

    @contextlib.contextmanager
    def _scratch(self, kind: str) -> Iterator[Path]:
        """A file of our folder, gone afterwards. A batch file that still runs, after a deadline,
        is never written to: the next one has another name."""
        self._files += 1
        place = self.folder / f"build-orchestrator-{self._files}.{kind}"
        try:
            yield place
        finally:
            place.unlink(missing_ok=True)


@contextlib.contextmanager
def kept_here(place: Path) -> Iterator[None]:
    """Tell as the environment's what keeps a file of ours from being written."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(f"{place}: cannot be written", details=str(error)) from error


class WindowsSsh(WindowsShell, Ssh):
    """One Windows machine's ssh; its user is an administrator."""

    # It reads commands until its standard input ends.
    hold = "cmd /d /q"

    def _execute(
        self,
        line: str,
        *,
        deadline: Deadline,
        cancel: Cancel,
        stdin: Iterable[bytes] = (),
        to: Consumer | None = None,
    ) -> Finished:
        finished = command.run(
            self.argv(line),
            deadline=deadline,
            cancel=cancel,
            stdin=stdin,
            stdout=to,
            cwd=self.folder,
        )
        self._check_link(finished)
        return finished

    def _put(self, file: Path, *, deadline: Deadline, cancel: Cancel) -> None:
        self._sftp(f"put {file.name}", deadline=deadline, cancel=cancel)

    def _take(self, file: Path, *, deadline: Deadline, cancel: Cancel) -> None:
        self._sftp(f"get {file.name}", f"rm {file.name}", deadline=deadline, cancel=cancel)

    def _sftp(self, *commands: str, deadline: Deadline, cancel: Cancel) -> None:
        """Move files between our folder and the machine's home, over the same connection."""
        joined = ("-o", f"ControlPath={SOCKET}", "-o", "ProxyCommand=false")
        finished = command.run(
            ["sftp", "-q", "-F", CONFIGURATION, *joined, "-b", "-", ALIAS],
            deadline=deadline,
            cancel=cancel,
            stdin="".join(f"{each}\n" for each in commands).encode(),
            cwd=self.folder,
        )
        self._check_link(finished)
        finished.check("a file could not be copied by sftp")
