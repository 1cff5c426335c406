"""What every way of talking to a machine shares: a script, a tree in, a tree out.

Each of the three is one child process of this host, which runs one command line in the machine.
Whoever can name that child's arguments (``Shell.argv``) has all three.
"""

from __future__ import annotations

import abc
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from build_orchestrator import command
from build_orchestrator.command import Finished, Lines
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, MachineLost, VerificationFailed
from build_orchestrator.transport.tree import Digest, Unpacker, pack

RUN = "sh -s 2>&1; exit $?"
"""Read a script and run it. The first ``sh`` lives on to say 128 + n where signal n ends it."""

# Both take the checksum of what is on its way with tee, and need no temporary file.
# A shell that reopens /dev/fd/3 needs a pipe there: sshd gives it a socket as standard output.
PUSH = """\
mkdir -p -- {folder} && cd -- {folder} || exit 73
exec 4>&1
{{ tee /dev/fd/3 3>&1 >&5 | sha256sum >&4; }} 5>&1 | {{ tar -xpf - && cat >/dev/null; }}"""
PULL = """\
cd -- {folder} || exit 66
exec 4>&1
status=$({{ {{ tar -cf - .; echo $? >&5; }} | tee /dev/fd/3 3>&1 >&4 | sha256sum >&2; }} 5>&1)
exit $status"""
NO_FOLDER = 66

CHECKSUM = re.compile(rb"^([0-9a-f]{64})\b", re.MULTILINE)

OnLine = Callable[[str], None]


def wrapped(script: bytes) -> bytes:
    """The script as ``sh -s`` should read it on its standard input.

    It becomes one compound command, which a shell reads to its end before it starts any of it;
    so the script's own commands find an empty standard input instead of the script's rest, and a
    syntax error anywhere runs nothing and gives status 2. Line numbers stay what they are.
    """
    return b"{ :; " + script + b"\n\n} </dev/null 2>&1\n"


class Shell(abc.ABC):
    """Something that runs ``sh`` command lines, as a child process of this host."""

    cwd: Path
    """Where the child starts."""
    env: Mapping[str, str] | None = None
    """The child's environment; None is ours."""

    @abc.abstractmethod
    def argv(self, line: str) -> list[str]:
        """The child that runs this command line with ``sh``."""

    def lost(self, finished: Finished) -> MachineLost | None:  # noqa: ARG002 (for those who can)
        """Why the child's status is not the command line's own, if it is not."""
        return None

    def place(self, path: PurePosixPath) -> PurePosixPath:
        """Where a path of the machine is for a command line."""
        return path

    def run(
        self,
        script: bytes,
        *,
        deadline: Deadline,
        cancel: Cancel = NEVER,
        on_line: OnLine | None = None,
    ) -> int:
        """Run a shell script; return its exit status, 128 + n where signal n ended it.

        The script may hold any bytes. It passes through standard input only: no argument list
        shows it, no disk keeps it. Both outputs arrive as lines, in the order in which they were
        written, until everything that holds them open has ended: a daemon that a script starts
        must redirect its own.

        Raises:
            MachineLost: the connection broke, so there is no status.
            DeadlineExceeded, Interrupted: the child was killed.
        """
        lines = Lines(on_line or ignore)
        finished = command.run(
            self.argv(RUN),
            deadline=deadline,
            cancel=cancel,
            stdin=wrapped(script),
            stdout=lines,
            env=self.env,
            cwd=self.cwd,
        )
        lines.close()
        self._check_link(finished)
        return finished.status

    def push(
        self, source: Path, target: PurePosixPath, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        """Copy the content of a folder into a folder of the machine, made where it is missing.

        Returns the SHA-256 of the tar stream, on which both sides agree. Where the machine's
        user is root, everything belongs to root.

        Raises:
            EnvironmentFailure: it did not arrive as it was sent, or cannot be read here.
            MachineLost, DeadlineExceeded, Interrupted
        """
        sent = Digest()
        finished = command.run(
            self.argv(PUSH.format(folder=self._quoted(target))),
            deadline=deadline,
            cancel=cancel,
            stdin=sent.through(pack(source)),
            env=self.env,
            cwd=self.cwd,
        )
        self._check_link(finished)
        finished.check(f"{source}: could not be copied to {target} in the machine")
        agree(sent.sha256, finished.stdout, f"{source}: arrived damaged at {target}")
        return sent.sha256

    def pull(
        self, source: PurePosixPath, target: Path, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        """Copy the content of a folder of the machine into a folder here, made where missing.

        Returns the SHA-256 of the tar stream, on which both sides agree. After an error what
        arrived by then stays in ``target``, unverified.

        Raises:
            VerificationFailed: there is no such folder, or what it holds may not leave a machine
                (see ``Unpacker``).
            EnvironmentFailure: it did not arrive as it was sent, or cannot be written here.
            MachineLost, DeadlineExceeded, Interrupted
        """
        received = Digest()
        line = PULL.format(folder=self._quoted(source))
        with Unpacker(target) as unpack:
            finished = command.run(
                self.argv(line),
                deadline=deadline,
                cancel=cancel,
                stdout=received.into(unpack),
                env=self.env,
                cwd=self.cwd,
            )
            self._check_link(finished)
            if finished.status == NO_FOLDER:
                raise VerificationFailed(f"{source}: no such folder in the machine")
            finished.check(f"{source}: could not be copied out of the machine")
            unpack.close()
        agree(received.sha256, finished.stderr, f"{source}: arrived damaged at {target}")
        return received.sha256

    def _check_link(self, finished: Finished) -> None:
        lost = self.lost(finished)
        if lost is not None:
            raise lost

    def _quoted(self, path: PurePosixPath) -> str:
        assert path.is_absolute(), f"{path} is relative to nothing"
        return shlex.quote(str(self.place(path)))


def ignore(line: str) -> None:
    """What becomes of a line that nobody wants."""


def agree(ours: str, said: bytes, brief: str) -> None:
    """Compare our checksum with the machine's, the last one that it said."""
    found = CHECKSUM.findall(said)
    theirs = found[-1].decode() if found else "nothing"
    if theirs != ours:
        raise EnvironmentFailure(
            brief, details=f"SHA-256 of the stream: here {ours}, in the machine {theirs}."
        )
