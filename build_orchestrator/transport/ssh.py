"""Talk to a machine through the system's ``ssh``, over one connection.

Everything of it lies in the machine's folder: ``ssh_config`` and ``known_hosts``, which also
serve people (``ssh -F <folder>/ssh_config machine``), ``ssh.log`` with ssh's complaints, and
``ssh.mux``, the socket on which every operation joins the connection.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import shlex
from collections.abc import Callable
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.command import TAIL_BYTES, Finished
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    MachineLost,
    OrchestratorError,
)
from build_orchestrator.transport.knock import knock
from build_orchestrator.transport.shell import Shell

CONFIGURATION = "ssh_config"
KNOWN_HOSTS = "known_hosts"
LOG = "ssh.log"
SOCKET = "ssh.mux"
"""Relative to the folder: the path of a socket may have 104 characters, that of a folder more."""
ALIAS = "machine"
LOGIN_S = 60
"""How long one login may take; an emulated machine that is still booting needs many seconds."""
CHECK_S = 5.0
PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
SSH_FAILED = 255

# ssh itself says when others may join, so nobody waits for the machine to start a shell first.
ANNOUNCE = ("-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo ready")
READY = re.compile(rb"ready\n")

FIXED = f"""\
    HostKeyAlias {ALIAS}
    IdentitiesOnly yes
    IdentityAgent none
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    BatchMode yes
    PreferredAuthentications publickey
    PasswordAuthentication no
    KbdInteractiveAuthentication no
    GSSAPIAuthentication no
    ForwardAgent no
    ForwardX11 no
    ClearAllForwardings yes
    AddressFamily any
    ConnectTimeout {LOGIN_S}
    ServerAliveInterval 15
    ServerAliveCountMax 4
    LogLevel ERROR
"""


class Ssh(Shell):
    """One machine's ssh: ``write_configuration``, ``pin``, ``wait``, use it, ``close``."""

    hold = "exec sh -s 2>&1"
    """The first session, as long as which the connection lives: a shell that waits for something to
    run (see ``run_first``). It ends when our end of its standard input is closed: by ``close``, or
    by the kernel if we are killed."""

    def __init__(
        self,
        folder: Path,
        *,
        host: str,
        port: int,
        user: str,
        identity_file: Path,
        options: tuple[str, ...] = (),
        become_root: bool = False,
    ) -> None:
        """``options`` are further ``Key=value`` lines; they cannot override the fixed ones.

        ``become_root`` runs everything through ``sudo``, for a user who need not say a password.
        """
        self.folder = self.cwd = folder
        self.host = host
        self.port = port
        self.user = user
        self.identity_file = identity_file
        self.options = options
        self.become_root = become_root
        self._master: command.Child | None = None

    # --- what is known of the machine -----------------------------------------------------------

    def write_configuration(self) -> None:
        """Write ``ssh_config``. It alone counts: neither the user's nor the host's is read."""
        given = "".join(f"    {_one_line(option)}\n" for option in self.options)
        _replace(
            self.folder / CONFIGURATION,
            f"Host {ALIAS}\n"
            f"    HostName {self.host}\n"
            f"    Port {self.port}\n"
            f"    User {self.user}\n"
            f"    IdentityFile {_quoted(self.identity_file)}\n"
            f"    UserKnownHostsFile {_quoted(self.folder / KNOWN_HOSTS)}\n" + FIXED + given,
        )

    def pin(self, public_key_line: str) -> None:
        """Accept this host key from now on (``ssh-ed25519 AAAA...``; several lines: any of them).

        An open connection is not touched.
        """
        keys = [line.split()[:2] for line in public_key_line.splitlines() if line.strip()]
        if not keys or any(len(key) != 2 for key in keys):
            raise EnvironmentFailure(f"not a public host key: {public_key_line!r}")
        text = "".join(f"{ALIAS} {kind} {key}\n" for kind, key in keys)
        _replace(self.folder / KNOWN_HOSTS, text)

    # --- the connection -------------------------------------------------------------------------

    def wait(
        self,
        deadline: Deadline,
        cancel: Cancel,
        alive: Callable[[], bool],
        *,
        listening: bool = False,
        probe_s: float = 2.0,
        pause_s: float = PAUSE_S,
    ) -> None:
        """Open the connection as soon as the machine answers.

        Args:
            alive: whether the machine itself is there; asked every ``pause_s``.
            listening: ssh is known to listen, so the first login needs no knock on the port, for
                which the machine would start one more sshd.
            probe_s: how long one knock on the port may take, at first.

        Raises:
            MachineLost: ``alive`` said no.
            EnvironmentFailure: the machine shows another host key than the pinned one.
            DeadlineExceeded, Interrupted
        """
        words, tries = "", 0

        def check() -> None:
            cancel.check()
            if not alive():
                raise MachineLost("the machine ended before ssh answered", details=words)
            if deadline.passed:
                raise self._not_answered(deadline, words)

        while True:
            if not listening:
                knock(
                    self.host,
                    self.port,
                    cancel=cancel,
                    check=check,
                    probe_s=probe_s,
                    pause_s=pause_s,
                )
            if self._open(cancel, check, pause_s):
                return
            listening = False
            words = self._last_words()
            if "Host key verification failed" in words:
                raise EnvironmentFailure(
                    f"{self.host}:{self.port} does not show the host key that was pinned",
                    details=words,
                    resolution="Something else answers there, or the machine changed its key.",
                )
            # A sshd that has had enough of us wants to be left alone for a while.
            tries += 1
            cancel.sleep(min(pause_s * 2**tries, LONGEST_PAUSE_S, deadline.remaining_s))

    def run_first(self, script: bytes, *, deadline: Deadline, cancel: Cancel) -> tuple[int, str]:
        """Run a short script in the session that holds the connection; return status and output.

        That session is there anyway: an emulated machine needs 0.2 s less than for ``run``.

        Raises:
            MachineLost, DeadlineExceeded, Interrupted
        """
        assert self._master is not None and self._master.stdin is not None, "wait comes first"
        # A word that the script cannot know, or its own output might end with the same.
        word = b"ended-" + secrets.token_hex(8).encode()
        ended = re.compile(rb"\n" + word + rb" (\d+)\n\Z")
        line = b"( :; " + script + b"\n) </dev/null; status=$?; echo; echo " + word + b" $status\n"

        def check() -> None:
            cancel.check()
            deadline.check()

        with contextlib.suppress(BrokenPipeError):  # The end of its output says that, too.
            self._master.stdin.write(line)
            self._master.stdin.flush()
        said, found = _said(self._master, ended, cancel, check, PAUSE_S, deadline)
        if found is None:
            raise MachineLost("the connection to the machine broke", details=self._last_words())
        return int(found[1]), said[: found.start()].decode(errors="replace").strip()

    def check(self) -> bool:
        """Whether the connection is there."""
        if self._master is None or self._master.poll() is not None:
            return False
        deadline = Deadline("check", CHECK_S, "ssh to speak of its connection")
        try:
            argv = [*self._client(), "-O", "check", ALIAS]
            return command.run(argv, deadline=deadline, cancel=NEVER, cwd=self.folder).status == 0
        except OrchestratorError:
            return False

    def close(self) -> None:
        """End the connection, and with it whatever still uses it. Twice is harmless."""
        if self._master is not None:
            command.kill_group(self._master)
            self._master = None
        for path in self.folder.glob(f"{SOCKET}*"):
            if path.is_socket():
                path.unlink(missing_ok=True)

    # --- the shell ------------------------------------------------------------------------------

    def argv(self, line: str) -> list[str]:
        # Without the connection ssh would make one of its own; a proxy that fails prevents that.
        return [*self._client(), "-T", "-o", "ProxyCommand=false", ALIAS, self._as_root(line)]

    def lost(self, finished: Finished) -> MachineLost | None:
        """255 is ssh's own status or the script's: it is ssh's if the connection is gone."""
        if finished.status != SSH_FAILED or self.check():
            return None
        own = finished.stderr.decode(errors="replace").strip()
        words = "\n".join(part for part in (self._last_words(), own) if part)
        return MachineLost("the connection to the machine broke", details=words)

    # --- inside ---------------------------------------------------------------------------------

    def _as_root(self, line: str) -> str:
        return f"exec sudo -n -H sh -c {shlex.quote(line)}" if self.become_root else line

    def _client(self) -> list[str]:
        return ["ssh", "-F", CONFIGURATION, "-S", SOCKET]

    def _open(self, cancel: Cancel, check: Callable[[], None], pause_s: float) -> bool:
        """Try once to log in; whether the connection is there."""
        self.close()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        log = os.open(self.folder / LOG, flags, 0o600)
        try:
            self._master = command.spawn(
                [*self._client(), *ANNOUNCE, "-M", "-T", ALIAS, self._as_root(self.hold)],
                cwd=self.folder,
                env={**os.environ, "SHELL": "/bin/sh"},  # What runs ssh's LocalCommand.
                stdin=command.PIPE,
                stdout=command.PIPE,
                stderr=log,
            )
        finally:
            os.close(log)
        try:
            limit = Deadline("login", LOGIN_S)
            ready = _said(self._master, READY, cancel, check, pause_s, limit)[1] is not None
        except BaseException:
            self.close()
            raise
        if not ready:
            self.close()
        return ready

    def _last_words(self) -> str:
        """The end of ssh's complaints."""
        with contextlib.suppress(OSError):
            return (self.folder / LOG).read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
        return ""

    def _not_answered(self, deadline: Deadline, words: str) -> DeadlineExceeded:
        last = words.splitlines()[-1] if words else "nothing"
        return DeadlineExceeded(
            deadline.stage,
            deadline.limit_s,
            f"ssh on {self.host}:{self.port} to answer; the last that it said: {last}",
        )


def _said(
    master: command.Child,
    pattern: re.Pattern[bytes],
    cancel: Cancel,
    check: Callable[[], None],
    pause_s: float,
    limit: Deadline,
) -> tuple[bytes, re.Match[bytes] | None]:
    """Read what ssh and its first session say until the pattern is found, they end, or the limit.

    Args:
        check: called every ``pause_s``; ends the wait by raising.
    """
    assert master.stdout is not None
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(cancel, selectors.EVENT_READ)
        selector.register(master.stdout, selectors.EVENT_READ)
        while (found := pattern.search(said)) is None:
            check()
            if limit.passed:
                break
            for key, _ in selector.select(pause_s):
                if key.fileobj is master.stdout:
                    chunk = os.read(key.fd, command.CHUNK)
                    if not chunk:
                        return said, None
                    said += chunk
    return said, found


def _quoted(path: Path) -> str:
    """A path as ssh's configuration takes it: quoted, and with nothing left to expand."""
    text = _one_line(str(path.absolute()))
    if "${" in text:
        raise EnvironmentFailure(f"{path}: ssh would take ${{...}} for a variable")
    for character in ("\\", '"'):
        text = text.replace(character, f"\\{character}")
    return '"' + text.replace("%", "%%") + '"'


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise EnvironmentFailure(f"{text!r}: ssh's configuration cannot hold a line break")
    return text


def _replace(path: Path, text: str) -> None:
    """Write a file that is whole at every moment."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(text)
    scratch.chmod(0o600)
    scratch.replace(path)
