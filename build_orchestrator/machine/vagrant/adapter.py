"""python-vagrant with what it lacks: deadlines, a process group of its own, both outputs as they
are written, tolerant decoding, and the cause of a failure.

The only module that imports it, and only when Vagrant is called: each call costs seconds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from build_orchestrator import command
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import HostNotReady
from build_orchestrator.machine.vagrant import rows
from build_orchestrator.machine.vagrant.failures import failure

MARK = "BUILD_MACHINE"
"""In the environment of every process of Vagrant's that works on a machine of ours: its name."""

OnLine = Callable[[str], None]


def vagrant_home() -> Path:
    """Where Vagrant keeps its boxes."""
    return Path(os.environ.get("VAGRANT_HOME") or "~/.vagrant.d").expanduser()


def environment(folder: Path, name: str) -> dict[str, str]:
    """What Vagrant sees: ours without what would lead it to another Vagrantfile or output."""
    own = {key: value for key, value in os.environ.items() if key not in _STRAYING}
    return own | {
        "VAGRANT_CWD": str(folder),
        "VAGRANT_DOTFILE_PATH": str(folder / ".vagrant"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_NO_COLOR": "1",
        MARK: name,
    }


_STRAYING = frozenset({"VAGRANT_VAGRANTFILE", "VAGRANT_DEFAULT_PROVIDER", "VAGRANT_LOG"})


class Caller:
    """Calls Vagrant in one machine's folder, for as long as one deadline allows."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        deadline: Deadline,
        cancel: Cancel = NEVER,
        on_line: OnLine | None = None,
    ) -> None:
        """``on_line`` hears what Vagrant says, on both outputs, without what is for programs."""
        self._folder = folder
        self._name = name
        self._deadline = deadline
        self._cancel = cancel
        self._on_line = on_line

    def up(self, provider: str) -> None:
        """``vagrant up``, without provisioning."""
        self._library().up(vm_name=self._name, provider=provider, provision=False)

    def destroy(self) -> None:
        """``vagrant destroy``, without asking."""
        self._library().destroy(vm_name=self._name)

    def state(self) -> str:
        """What the provider calls the machine's state; ``not_created`` where there is none."""
        found = [each.state for each in self._library().status(vm_name=self._name)]
        return str(found[0]) if found else ""

    def add_box(self, name: str, provider: str, version: str) -> None:
        """``vagrant box add`` of a public box."""
        self.call(["box", "add", "--provider", provider, "--box-version", version, name])

    def add_catalogue(self, catalogue: Path, provider: str) -> None:
        """``vagrant box add`` of what a catalogue of ours describes."""
        self.call(["box", "add", "--provider", provider, str(catalogue)])

    def remove_box(self, name: str, provider: str, version: str) -> None:
        """``vagrant box remove``, also where Vagrant believes that a machine is made of it."""
        how = ("--provider", provider, "--box-version", version, "--force")
        self.call(["box", "remove", *how, name])

    def call(self, arguments: Sequence[str | None]) -> list[rows.Row]:
        """Run one command of Vagrant's and return its rows.

        Raises:
            EnvironmentFailure, HostNotReady: it failed; by its error's class.
            DeadlineExceeded, Interrupted: the whole of its process group was killed.
        """
        words = [each for each in arguments if each is not None and each != "--machine-readable"]
        found: list[rows.Row] = []

        def hear(line: str) -> None:
            each = rows.row(line)
            found.append(each)
            if self._on_line is not None and each.text:
                for said in each.text.splitlines():
                    self._on_line(said)

        out, err = command.Lines(hear), command.Lines(self._on_line or _ignore)
        finished = command.run(
            [executable(), "--machine-readable", *words],
            deadline=self._deadline,
            cancel=self._cancel,
            stdout=out,
            stderr=err,
            env=environment(self._folder, self._name),
            cwd=self._folder,
        )
        out.close()
        err.close()
        if finished.status != 0:
            last = finished.stderr.decode(errors="replace")[-2000:]
            said = "\n".join(each.text for each in found[-20:] if each.text)
            what = f"vagrant {' '.join(words[:2] if words[0] == 'box' else words[:1])}"
            raise failure(what, rows.errors(found), last or said, (self._folder, vagrant_home()))
        return found

    def _library(self) -> Any:
        return _library(self)


def executable() -> str:
    """The path of Vagrant.

    Raises:
        HostNotReady: it is not installed.
    """
    found = shutil.which("vagrant")
    if found is None:
        raise HostNotReady(
            "vagrant is not installed", resolution="`build doctor` says how to get it."
        )
    return found


def _library(caller: Caller) -> Any:
    """python-vagrant's own API (it has no annotations), with our way of running a command and of
    reading what it says."""
    executable()  # python-vagrant complains on standard error when it is imported without it.
    import vagrant

    class Library(vagrant.Vagrant):
        def _call_vagrant_command(self, args: Sequence[str | None]) -> None:
            caller.call(args)

        def _run_vagrant_command(self, args: Sequence[str | None]) -> list[rows.Row]:
            return caller.call(args)

        def _parse_status(self, output: list[rows.Row]) -> list[Any]:
            of = rows.providers(output)
            return [
                vagrant.Status(name=name, state=state, provider=of.get(name))
                for name, state in rows.states(output).items()
            ]

    library: Any = Library
    return library(root=str(caller._folder))


def _ignore(line: str) -> None:
    """What becomes of a line that nobody wants."""
