"""A customer: a folder as `git clone` gives it, Vagrant, and nothing of ours that runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
STANDINS = CHECKOUT / "tests/standins"
OUTPUT = "Debian-bookworm-agent.tar.gz"
# The public name that this project's own rows have, with a version that only this test run has: a
# volume that libvirt keeps of a public box is none of ours.
VERSION = f"12.0.{int(time.time())}"
TARGETS = """\
schema: 1
default_provider: qemu
defaults: {recipe: small, attempts: 1, size: {cpus: 1}}
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    deadlines: {boot_s: 600}
    providers:
      qemu: {image: {bootstrap: bookworm}}
      libvirt: &larger {image: {box: debian/bookworm64, version: VERSION}, size: {disk_mib: 9216}}
      virtualbox: {image: {box: debian/bookworm64, version: VERSION}}
  debian_failing:
    distribution: Debian
    release: failing
    deadlines: {boot_s: 600}
    providers: {libvirt: *larger}
recipes:
  small:
    script: provision/make.sh
    inputs: [provision/, names.txt]
    outputs: [{name: "{distribution}-{release}-agent{version}.tar.gz", members: cloudify/env/}]
""".replace("VERSION", VERSION)
SCRIPT = f"""\
#!/bin/sh
# Packs what depends on inputs, variables and the machine, and not on who started it.
set -eu
[ "$BUILD_DISTRO" = debian_bookworm ] || exit 7
mkdir -p cloudify/env
id -un >cloudify/env/user
uname -sm >cloudify/env/kernel
. /etc/os-release
echo "$VERSION_CODENAME" >cloudify/env/release
for name in BUILD_TARGET BUILD_DISTRO BUILD_INPUTS BUILD_OUTPUT SOURCE_DATE_EPOCH; do
  eval "echo $name=\\$$name"
done >cloudify/env/variables
cat names.txt provision/more/part >cloudify/env/names
{{ hostname; command -v rsync; ls /etc/ssh/ssh_host_*_key; }} >cloudify/env/machine
df --output=size -BG / | tail -n 1 | tr -d ' G' >cloudify/env/disk_gib
tar --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0 -cf - cloudify |
  gzip -n >"$BUILD_OUTPUT/{OUTPUT}"
"""


class Customer:
    """A project's folder, and a Vagrant with a home of its own."""

    limit_s = 850
    """How long one command may take."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.environment = {
            "PATH": os.pathsep.join(
                [str(STANDINS), "/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"]
            ),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "VAGRANT_HOME": str(home / "vagrant"),
            "VAGRANT_DOTFILE_PATH": str(home / "dot"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VBOX_USER_HOME": str(home / "vbox"),
            "LIBVIRT_DRIVER": "qemu",
        }

    def write_project(self) -> None:
        """A small project, and the Vagrantfile that is made of it."""
        (self.folder / "provision/more").mkdir(parents=True)
        (self.folder / "provision/more/part").write_text("part\n")
        (self.folder / "names.txt").write_text("name\n")
        (self.folder / "targets.yaml").write_text(TARGETS)
        (self.folder / "provision/make.sh").write_text(SCRIPT)
        (self.folder / "provision/make.sh").chmod(0o755)
        self.build("render", "--write")

    def build(self, *arguments: str) -> str:
        """Run our own command, which a customer does not have, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "build_orchestrator", *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "XDG_STATE_HOME": str(self.home / "state"),
                "VAGRANT_HOME": self.environment["VAGRANT_HOME"],
                "CI": "true",
            },
            capture_output=True,
            text=True,
            timeout=self.limit_s,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def add_box(self, target: str) -> dict[str, Any]:
        """Make a target's box and give it to Vagrant under the name that its row has."""
        made: dict[str, Any] = json.loads(
            self.build("box", target, "--json", "--quiet", "-o", str(self.home))
        )
        self.vagrant("box", "add", "--no-tty", made["catalogue"])
        Path(made["path"]).unlink()
        return made

    def box_file(self, provider: str, name: str) -> Path:
        """A file of a box that Vagrant has; later Vagrants have a folder for the architecture."""
        [found] = (self.home / "vagrant/boxes").glob(f"*/*/**/{provider}/{name}")
        return found

    @property
    def domain(self) -> str:
        """What libvirt calls the machine that plain Vagrant makes here."""
        return f"{self.folder.name}_debian_bookworm_libvirt"

    @property
    def key(self) -> Path:
        """The key that every Vagrant has and every box knows, as Vagrant has written it."""
        found = min((self.home / "vagrant").glob("insecure_private_key*"))
        return found / "vagrant.key.rsa" if found.is_dir() else found

    def vagrant(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            ["vagrant", *arguments],
            cwd=self.folder / "vagrant",
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=self.limit_s,
            check=False,
        )
        assert done.returncode == status, f"vagrant {arguments}:\n{done.stdout[-4000:]}"
        return done.stdout

    def states(self) -> dict[str, str]:
        """Target -> Vagrant's word for its state, in the order of the Vagrantfile."""
        rows = [line.split(",") for line in self.vagrant("status", "--machine-readable").split()]
        return {row[1]: row[3] for row in rows if len(row) > 3 and row[2] == "state"}

    def collected(self, target: str) -> Path:
        """The artifact that plain Vagrant has brought out."""
        return self.folder / "dist" / target / OUTPUT

    def end_all(self) -> None:
        """Never leave a machine behind, whatever a test has done."""
        for pid in machines_below(self.home):
            os.kill(pid, signal.SIGKILL)

    def forget_libvirt(self) -> None:
        """Remove what a failed test left in libvirt, and the box that Vagrant leaves there."""
        virsh("destroy", self.domain)
        virsh("undefine", self.domain)
        for line in virsh("vol-list", "default").splitlines():
            name = next(iter(line.split()), "")
            if VERSION in name or name.startswith(self.domain):
                virsh("vol-delete", name, "default")


def virsh(*arguments: str) -> str:
    argv = ["virsh", "-q", "-c", "qemu:///system", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def members_of(archive: Path) -> dict[str, str]:
    """Name -> text of each file in a tar."""
    with tarfile.open(archive) as tar:
        return {
            member.name: extracted.read().decode()
            for member in tar
            if (extracted := tar.extractfile(member)) is not None
        }


def machines_below(home: Path) -> list[int]:
    """The pids of every QEMU whose disk lies in this folder."""
    mark, found = os.fsencode(home), []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = line.read_bytes().split(b"\0")
            if words[0].endswith(b"qemu-system-x86_64") and any(mark in each for each in words):
                found.append(int(line.parent.name))
    return found
