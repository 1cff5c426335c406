"""`build up` on real machines of libvirt's, through the real Vagrant; and nothing stays behind.

Where QEMU emulates, a boot takes a minute: machines are shared by what can honestly share them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.contract.machines import in_libvirt
from tests.real.customer import CHECKOUT, OUTPUT, VERSION, Customer, members_of
from tests.real.running import Project, in_a_state_of_its_own

TARGETS = """\
schema: 1
default_provider: libvirt
defaults:
  recipe: small
  attempts: 1
  destinations: [dist/]
  size: {{cpus: 1, memory_mib: 768}}
  deadlines: {{boot_s: {boot_s}, provision_s: 600, collect_s: 60}}
distros:
  debian_one: &debian
    distribution: Debian
    release: one
    providers: {{libvirt: {{image: {{bootstrap: bookworm}}}}}}
  debian_two: {{<<: *debian, release: two}}
recipes:
  small:
    script: make.sh
    inputs: [make.sh]
    outputs: [{{name: "{{release}}.txt"}}]
"""
pytestmark = pytest.mark.usefixtures("vagrant_host")

ONE, TWO = "debian_one_libvirt", "debian_two_libvirt"
BUILT = "debian_bookworm_libvirt"
MACHINE = [
    *("vagrant", "/usr/bin/rsync"),
    *("/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_ed25519_key"),
]
RECORD = """\
#!/bin/sh
echo "$*" >>{calls}
exec {vagrant} "$@"
"""


class LibvirtProject(Project):
    """A project whose two targets are libvirt's; every call of Vagrant's is counted."""

    def write(self, script: str, *, boot_s: float = 400) -> None:  # type: ignore[override]
        (self.folder / "targets.yaml").write_text(TARGETS.format(boot_s=boot_s))
        (self.folder / "make.sh").write_text(f"#!/bin/sh\nset -eu\n{script}\n")

    def count_calls(self, bin_folder: Path, vagrant: str) -> None:
        bin_folder.mkdir()
        shim = bin_folder / "vagrant"
        shim.write_text(RECORD.format(calls=self.state / "calls", vagrant=vagrant))
        shim.chmod(0o755)
        self.environment["PATH"] = f"{bin_folder}:{self.environment['PATH']}"

    def calls(self) -> list[str]:
        """What Vagrant was asked for, without the names of machines."""
        place = self.state / "calls"
        lines = place.read_text().splitlines() if place.exists() else []
        return [line.replace("--machine-readable ", "").split(" bo-")[0] for line in lines]

    def log_of(self, target: str) -> str:
        logs = sorted(self.folder.glob(f"runs/*/{target}/*.txt"))
        return "".join(path.read_text(errors="replace") for path in logs)

    def wait_until(self, words: str, target: str, child: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 400
        while words not in self.log_of(target):
            assert child.poll() is None, f"build ended early: {self.log_of(target)[-2000:]}"
            assert time.monotonic() < until, f"never said {words!r}: {self.log_of(target)[-2000:]}"
            time.sleep(0.1)

    def in_libvirt(self, run_uuid: str = "") -> list[str]:
        """Domains and volumes of this project's runs."""
        uuids = {run_uuid} if run_uuid else set(self.uuids())
        return [each for each in in_libvirt() if any(f"bo-{uuid}" in each for uuid in uuids)]

    def domains(self) -> list[str]:
        """Those of this project's runs, without their volumes."""
        return [each for each in self.in_libvirt() if not each.endswith(".img")]

    def uuids(self) -> list[str]:
        return [path.name for path in self.state.glob("build-orchestrator/runs/*")] + [
            path.read_text().split('"run_uuid": "')[1][:32]
            for path in self.folder.glob("runs/*/plan.json")
        ]

    def leftovers(self) -> list[str]:
        """Whatever should not be there any more: domains, volumes, folders with keys, processes."""
        found = self.in_libvirt()
        found += [str(path) for path in self.state.glob("build-orchestrator/runs/*/machines/*")]
        found += [str(path) for path in self.folder.rglob(".vagrant")]
        end = time.monotonic() + 5
        while (
            self.vagrants() and time.monotonic() < end
        ):  # What a killed Vagrant asked needs a moment.
            time.sleep(0.1)
        return found + [f"process {pid}" for pid in self.vagrants()]

    def vagrants(self, target: str = "") -> list[int]:
        """Every process of Vagrant's that works for this project, or for one target of it."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if (
                f"VAGRANT_CWD={self.state}".encode() in environment
                and target.encode() in environment
            ):
                found.append(int(entry.name))
        return found

    def destroy_all(self) -> None:
        for pid in self.vagrants():
            os.kill(pid, signal.SIGKILL)
        for name in self.in_libvirt():
            for words in ("destroy", "undefine", "vol-delete --pool default"):
                argv = ["virsh", "-c", "qemu:///system", *words.split(), name]
                subprocess.run(argv, capture_output=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LibvirtProject]:
    with in_a_state_of_its_own(LibvirtProject, tmp_path / f"project-{VERSION}") as project:
        yield project


def test_two_targets_at_once_and_plain_vagrant(project: LibvirtProject, tmp_path: Path) -> None:
    """One is built and published, one fails for its own reasons; each costs two calls. Then plain
    Vagrant builds the same bytes, and nothing is left in libvirt but the box."""
    customer = Customer(project.folder, tmp_path)
    customer.write_project()
    customer.add_box(BUILT)
    vagrant = shutil.which("vagrant")
    assert vagrant is not None
    project.count_calls(tmp_path / "bin", vagrant)
    project.environment["VAGRANT_HOME"] = customer.environment["VAGRANT_HOME"]
    try:
        done = project.build("up", "*_libvirt", "-j2")
        assert done.status == 1, done.stderr[-3000:]
        assert "status 7" in done.stdout
        assert project.leftovers() == []
        assert sorted(project.calls()) == ["destroy", "destroy", "up", "up"]
        (built,) = project.folder.glob(f"dist/dev/*/{OUTPUT}")
        members = members_of(built)
        assert members["cloudify/env/user"] == "root\n"
        assert members["cloudify/env/variables"].startswith(f"BUILD_TARGET={BUILT}\n")
        # The box starts from its own disk, makes its own keys, and takes the whole of a larger one.
        assert members["cloudify/env/machine"].split() == MACHINE
        assert int(members["cloudify/env/disk_gib"]) == 9

        customer.vagrant("up", BUILT)
        assert customer.collected(BUILT).read_bytes() == built.read_bytes()
        assert customer.domain in in_libvirt()
        customer.vagrant("destroy", "-f", BUILT)
        assert customer.domain not in str(in_libvirt())
    finally:
        customer.forget_libvirt()


@pytest.mark.soak  # `make test` sees the same of the provider alone, in the contract suite.
def test_a_boot_that_takes_too_long_is_the_environments(project: LibvirtProject) -> None:
    """Exit 3, and nothing is left of what Vagrant had begun."""
    project.write("true", boot_s=8)
    done = project.build("up", ONE)

    assert done.status == 3, done.stderr[-3000:]
    assert "boot: no end within its limit of 8 s" in done.stdout
    assert project.leftovers() == []


def test_a_kill_and_an_interrupt_while_they_boot(project: LibvirtProject) -> None:
    """The interrupted one destroys its machine. SIGKILL leaves a Vagrant at work: sweep ends it,
    and whatever it has made."""
    project.write("true")
    killed = project.start("up", ONE)
    interrupted = project.start("up", TWO)
    until(lambda: all(each in str(project.domains()) for each in (ONE, TWO)), killed, interrupted)
    killed.kill()
    killed.wait()
    assert project.vagrants(ONE), "it lives on"
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(timeout=120) == 130
    assert project.vagrants(TWO) == []
    assert project.in_libvirt()
    assert all(ONE in each for each in project.in_libvirt())

    swept = project.build("sweep")
    assert swept.status == 0, swept.stdout + swept.stderr
    assert f"{ONE}-1  (its orchestrator is gone)" in swept.stdout
    assert project.leftovers() == []


def test_a_kill_and_an_interrupt_while_scripts_run(project: LibvirtProject) -> None:
    """Two orchestrators: what the killed one leaves is swept, what the other has is spared. Nothing
    that should be unique is shared by their two machines of one box."""
    project.write(
        "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; echo the script runs; sleep 900"
    )
    killed = project.start("up", ONE)
    interrupted = project.start("up", TWO)
    project.wait_until("the script runs", ONE, killed)
    project.wait_until("the script runs", TWO, interrupted)
    for unique in (r" ([0-9a-f]{32})$", r"ssh-ed25519 (\S{68})"):
        both = [re.findall(unique, project.log_of(each), re.MULTILINE) for each in (ONE, TWO)]
        assert all(both), project.log_of(ONE)
        assert {*both[0]}.isdisjoint(both[1])
    killed.kill()
    killed.wait()
    swept = project.build("sweep")
    assert swept.status == 0, swept.stdout + swept.stderr
    assert f"{ONE}-1  (its orchestrator is gone)" in swept.stdout
    assert f"{TWO}-1  (its orchestrator is alive)" in swept.stdout
    assert all(TWO in each for each in project.in_libvirt())
    assert project.in_libvirt()

    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(timeout=120) == 130
    assert project.leftovers() == []


@pytest.mark.soak  # twenty minutes on a busy host
@pytest.mark.timeout(3600)
def test_plain_vagrant_builds_the_agent(project: LibvirtProject, tmp_path: Path) -> None:
    """In a copy of this repository, as people get it: what `build up` builds, to the byte."""
    project.folder.rmdir()
    subprocess.run(["git", "clone", "-q", str(CHECKOUT), str(project.folder)], check=True)
    targets = project.folder / "targets.yaml"
    public = "box: debian/bookworm64, version: "
    assert public in targets.read_text()
    targets.write_text(re.sub(f"{public}[0-9.]+", public + VERSION, targets.read_text()))
    customer = Customer(project.folder, tmp_path)
    customer.limit_s = 3000
    customer.build("render", "--write")
    customer.add_box(BUILT)
    try:
        with ThreadPoolExecutor(1) as pool:
            ours = pool.submit(customer.build, "up", BUILT)
            # Only once the box's disk is in libvirt: who comes first brings it.
            until(lambda: ours.done() or any(f"{BUILT}-1" in each for each in in_libvirt()))
            customer.vagrant("up", BUILT)
            ours.result()
        (built,) = project.folder.glob(f"dist/dev/*/{OUTPUT}")
        by_hand = customer.collected(BUILT)
        assert names_in(by_hand) == names_in(built)
        assert by_hand.read_bytes() == built.read_bytes()
        customer.vagrant("destroy", "-f", BUILT)
    finally:
        customer.forget_libvirt()


def names_in(archive: Path) -> list[str]:
    """What a tar holds, in its order."""
    with tarfile.open(archive) as tar:
        return tar.getnames()


def until(condition: Callable[[], object], *children: subprocess.Popen[bytes]) -> None:
    """Wait for something that every running `build` does."""
    end = time.monotonic() + 300
    while not condition():
        assert all(child.poll() is None for child in children), "build ended early"
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
