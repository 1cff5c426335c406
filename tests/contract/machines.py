"""Providers to hold against their contract, and ways to look at a machine from outside."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.image import resolve
from build_orchestrator.journal import Journal, machine_name
from build_orchestrator.machine import make_provider
from build_orchestrator.machine.contract import (
    Cloud,
    Machine,
    MachineRequest,
    Provider,
    Shares,
    silent,
)
from build_orchestrator.model import Distro, Identity, Image, ImageSource, Size
from tests.conftest import require
from tests.standins import ec2

SUITE = "bookworm"
THROUGH_VAGRANT = ("libvirt", "virtualbox")
STANDINS = Path(__file__).parents[1] / "standins"
REAL = [pytest.mark.real, pytest.mark.timeout(900)]
OWN_KINDS = [
    pytest.param("fake", id="fake"),
    pytest.param("qemu warm", id="warm", marks=REAL),
    pytest.param("qemu cold", id="cold", marks=REAL),
]
AWS = pytest.param("aws", id="aws", marks=REAL)
VAGRANT_KINDS = [pytest.param(name, id=name, marks=REAL) for name in THROUGH_VAGRANT]
KINDS = [*OWN_KINDS, *VAGRANT_KINDS, AWS]
LOCAL_KINDS = OWN_KINDS[:2]
"""For what is about processes of this host."""
WARM_KINDS = [*LOCAL_KINDS, AWS]
"""For what does not depend on the way a machine started: a cold boot takes half a minute, and one
through Vagrant twice that. What Vagrant's promise of a machine's end is one story, on the machine
that the other tests have shared. VirtualBox is a stand-in (tests/standins/vboxmanage.py)."""


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
    options: Mapping[str, str] = field(default_factory=dict)
    cloud: Cloud | None = None
    attempts: int = 0
    identified: list[Identity] = field(default_factory=list)

    @property
    def has_disk(self) -> bool:
        """Whether its machines have an operating system of their own."""
        return self.provider.name in ("qemu", *THROUGH_VAGRANT)

    @property
    def too_short_s(self) -> float:
        """No boot is that quick here."""
        return 1.5 if self.has_disk else 0.05

    @property
    def shortest_limit_s(self) -> float:
        """A boot survives it, and not by much."""
        return {"fake": 0.2, "aws": 4}.get(self.provider.name, 15)

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
            size=Size(cpus=1),
            limit_s=limit_s,
            console=self.folder / f"console-{self.attempts}.txt",
            cold=self.cold,
            options={**self.options, **options},
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
def supplied(kind: str, request: pytest.FixtureRequest) -> Iterator[Supply]:
    """A provider with a state folder of its own, so that nobody sweeps its machines meanwhile."""
    if kind != "virtualbox":
        with _supplied(kind, request) as supply:
            yield supply
        return
    with (
        tempfile.TemporaryDirectory(prefix="bo-vbox-") as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PATH", f"{STANDINS}:{os.environ['PATH']}")
        patch.setenv("VBOX_USER_HOME", home)
        with _supplied(kind, request) as supply:
            yield supply


@contextlib.contextmanager
def _supplied(kind: str, request: pytest.FixtureRequest) -> Iterator[Supply]:
    name, _, start = kind.partition(" ")
    if name == "aws":
        with _supplied_by_aws() as supply:
            yield supply
        return
    image = Image(source="none", sha256="", disk="")
    if name in THROUGH_VAGRANT:
        request.getfixturevalue("vagrant_host")
    if name != "fake":
        require("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen")
        source = ImageSource(bootstrap=SUITE)
        image = resolve(
            source,
            provider=name,
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
        boot_s=20 if name == "fake" else 600,
    )
    try:
        yield supply
    finally:
        for pid in carriers(journal.run_uuid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        journal.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _supplied_by_aws() -> Iterator[Supply]:
    """The EC2 stand-in, whose machines are without a disk: an sshd in namespaces of its own."""
    require("sshd", "unshare", "ssh", "ssh-keygen")
    folder = Path(tempfile.mkdtemp(prefix="bo-"))
    with ec2.ec2_server() as server, pytest.MonkeyPatch.context() as patch:
        # For as long as there is a machine: another process that adopts one needs them, too.
        for variable, value in {**ec2.CREDENTIALS, "XDG_STATE_HOME": str(folder / "state")}.items():
            patch.setenv(variable, value)
        (folder / "run").mkdir()
        journal = Journal(uuid.uuid4().hex, folder / "run")
        cloud = Cloud(endpoint=server.endpoint, regions=(ec2.REGION,))
        provider = make_provider("aws", notify=silent, cloud=cloud)
        try:
            yield Supply(
                provider=provider,
                image=Image(source="sshd", sha256="", disk=server.ami),
                cold=False,
                journal=journal,
                folder=folder / "run",
                boot_s=60,
                options={
                    "region": ec2.REGION,
                    "endpoint": server.endpoint,
                    "port": str(ec2.PORT),
                },
                cloud=cloud,
            )
            assert isinstance(provider, Shares)
            assert provider.close(deadline=soon()) == ()
            assert server.left() == [], "what the machines shared is gone with the last of them"
        finally:
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
            # libvirt calls its QEMU `guest=NAME,more`.
            if name.encode() + b"\0" in words or f"guest={name},".encode() in words:
                found.append(pid)
    return found


def pull_the_plug(name: str) -> None:
    """Kill everything of a machine from outside, as a crash of its provider would."""
    while pids := carrying(name):  # Until none is left: one may have forked meanwhile.
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def nothing_left(request: MachineRequest | Machine) -> None:
    """See that a machine is gone with all that belonged to it."""
    until(lambda: not carrying(request.identity.name))
    assert not Path(request.identity.folder).exists()
    if request.identity.provider == "libvirt":
        assert [each for each in in_libvirt() if request.identity.name in each] == []
    if request.identity.provider == "virtualbox":
        listed = subprocess.run(["VBoxManage", "list", "vms"], stdout=subprocess.PIPE, check=True)
        assert request.identity.name.encode() not in listed.stdout


def in_libvirt() -> list[str]:
    """Every domain and volume, as virsh shows them to a person."""
    found = []
    for question in (["list", "--all", "--name"], ["vol-list", "default"]):
        done = subprocess.run(
            ["virsh", "-q", "-c", "qemu:///system", *question],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found += [line.split()[0] for line in done.stdout.splitlines() if line.split()]
    return found


def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
