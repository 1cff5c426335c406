"""Providers to hold against their contract, and ways to look at a machine from outside."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.image import resolve
from build_orchestrator.journal import Journal, machine_name
from build_orchestrator.machine import make_provider
from build_orchestrator.machine.contract import Machine, MachineRequest, Provider, silent
from build_orchestrator.model import Distro, Identity, Image, ImageSource, Size
from tests.conftest import require

SUITE = "bookworm"
KINDS = [
    pytest.param("fake", id="fake"),
    pytest.param("qemu warm", id="warm", marks=[pytest.mark.real, pytest.mark.timeout(900)]),
    pytest.param("qemu cold", id="cold", marks=[pytest.mark.real, pytest.mark.timeout(900)]),
]
WARM_KINDS = KINDS[:2]
"""For what does not depend on the way a machine started: a cold boot takes half a minute."""


@dataclass(kw_only=True)
class Supply:
    """A provider, and what its machines of one run need."""

    provider: Provider
    image: Image
    cold: bool
    journal: Journal
    folder: Path
    """Where consoles go."""
    boot_s: float
    """How long a boot may take here."""
    attempts: int = 0
    identified: list[Identity] = field(default_factory=list)

    @property
    def real(self) -> bool:
        return self.provider.name != "fake"

    def request(self, *, limit_s: float = 1800, **options: str) -> MachineRequest:
        """A request for a machine that did not exist before."""
        self.attempts += 1
        name = machine_name(self.journal.run_uuid, f"a_b_{self.provider.name}", self.attempts)
        return MachineRequest(
            identity=Identity(
                provider=self.provider.name,
                name=name,
                run_uuid=self.journal.run_uuid,
                target=f"a_b_{self.provider.name}",
                attempt=self.attempts,
                folder=str(self.journal.folder_for(name)),
            ),
            distro=Distro(name="a_b", distribution="Debian", release=SUITE),
            image=self.image,
            size=Size(),
            limit_s=limit_s,
            console=self.folder / f"console-{self.attempts}.txt",
            cold=self.cold,
            options=options,
        )

    def boot(
        self,
        request: MachineRequest | None = None,
        *,
        boot_s: float | None = None,
        cancel: Cancel = NEVER,
        identified: Callable[[Identity], None] | None = None,
    ) -> Machine:
        deadline = Deadline("boot", self.boot_s if boot_s is None else boot_s)
        return self.provider.boot(
            request or self.request(),
            deadline=deadline,
            cancel=cancel,
            identified=identified or self.identified.append,
        )

    @contextlib.contextmanager
    def machine(self, request: MachineRequest | None = None) -> Iterator[Machine]:
        """A machine for the length of a block."""
        machine = self.boot(request)
        try:
            yield machine
        finally:
            machine.destroy(deadline=soon())


@contextlib.contextmanager
def supplied(kind: str) -> Iterator[Supply]:
    """A provider with a state folder of its own, so that nobody sweeps its machines meanwhile."""
    name, _, start = kind.partition(" ")
    image = Image(source="none", sha256="", disk="")
    if name == "qemu":
        require("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen")
        source = ImageSource(bootstrap=SUITE)
        image = resolve(
            source,
            project=Path.cwd(),
            deadline=Deadline("image", 800),
            cancel=NEVER,
            on_line=silent,
        )
    # Not below pytest's folder: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="bo-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        (folder / "run").mkdir()
        journal = Journal(uuid.uuid4().hex, folder / "run")
    supply = Supply(
        provider=make_provider(name, notify=silent),
        image=image,
        cold=start == "cold",
        journal=journal,
        folder=folder / "run",
        boot_s=600 if name == "qemu" else 20,
    )
    try:
        yield supply
    finally:
        for pid in carriers(journal.run_uuid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        journal.close()
        shutil.rmtree(folder, ignore_errors=True)


def soon(limit_s: float = 60.0) -> Deadline:
    return Deadline("provision", limit_s, "the test to end")


def said(machine: Machine, script: str) -> list[str]:
    """The lines of a script that ends well."""
    lines: list[str] = []
    status = machine.run(script.encode(), deadline=soon(), on_line=lines.append)
    assert status == 0, lines
    return lines


def carriers(run_uuid: str) -> list[int]:
    """Every living process whose arguments or environment hold a machine's name of this run.

    Deliberately another way of looking than the product's own.
    """
    needle, found = f"bo-{run_uuid}".encode(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if needle in words:
                    found.append(int(entry.name))
    return found


def carrying(name: str) -> list[int]:
    """The same for one machine."""
    run_uuid = name.split("-")[1]
    found = []
    for pid in carriers(run_uuid):
        with contextlib.suppress(OSError):
            entry = Path("/proc") / str(pid)
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if name.encode() + b"\0" in words:
                found.append(pid)
    return found


def pull_the_plug(name: str) -> None:
    """Kill everything of a machine from outside, as a crash of its provider would."""
    while pids := carrying(name):  # Until none is left: one may have forked meanwhile.
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def nothing_left(request: MachineRequest) -> None:
    """See that a machine is gone with all that belonged to it."""
    until(lambda: not carrying(request.identity.name))
    assert not Path(request.identity.folder).exists()


def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
