"""Windows machines of Vagrant's: a key that is the machine's own, and a batch file that Vagrant's
connection (WinRM, or ssh) carries in and runs once. All else is our own ssh."""

from __future__ import annotations

import secrets
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.machine.windows import KEYS, setup
from build_orchestrator.render.vagrantfile import SETUP
from build_orchestrator.transport.windows import WindowsSsh, batch

USER_KEY = "id_ed25519"
SSH_PORT = 22

END = """\
rem Whichever of two files this sshd looks into: the key that everybody has is in neither.
md "%USERPROFILE%\\.ssh" 2>nul
echo {public_key}>"%USERPROFILE%\\.ssh\\authorized_keys"
call :keys
del "%~f0" & exit /b 0
"""


def prepare(folder: Path, limit_s: float, deadline: Deadline, cancel: Cancel) -> None:
    """Make the key, and write the batch file that lets it in."""
    key = folder / USER_KEY
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "build-orchestrator"]
    command.run([*argv, "-f", str(key)], deadline=deadline, cancel=cancel).check(
        "ssh-keygen could not make a key"
    )
    public = key.with_suffix(".pub").read_text().strip()
    text = setup(limit_s, public, SSH_PORT) + END.format(public_key=public) + KEYS
    (folder / SETUP).write_bytes(text.replace("\n", "\r\n").encode())


def close_to_others(ssh: WindowsSsh, deadline: Deadline, cancel: Cancel) -> None:
    """Give the user a password that nobody knows: the box's is known to everybody.

    Not in the batch file, or Vagrant's own connection would break under it.

    Raises:
        EnvironmentFailure: Windows did not take it.
    """
    # Windows asks back where a password has more than 14 characters.
    password = {"PASSWORD": f"{secrets.token_urlsafe(9)[:11]}aZ1"}
    said: list[str] = []
    script = batch(password, 'net user "%USERNAME%" "%PASSWORD%"')
    if ssh.run(script, deadline=deadline, cancel=cancel, on_line=said.append) != 0:
        raise EnvironmentFailure(
            "the machine did not take another password than its box's", details="\n".join(said)
        )
