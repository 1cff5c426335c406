"""``build up windows_2022_virtualbox`` through the real Vagrant, whose machine looks like Windows:
VirtualBox is a stand-in, and so is Windows (tests/standins). Vagrant talks ssh to it, since WinRM
is no part of Debian's Vagrant. No Windows was booted for any of this."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import yaml

from tests.conftest import require
from tests.contract.projects import Project

TARGET = "windows_2022_virtualbox"
STANDINS = Path(__file__).parents[1] / "standins"
BOX_VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.base_mac = "080027B01DB0"
  config.vm.guest = :windows
  config.ssh.username = "root"
end
"""
MAKE = """\
@echo off
echo target %BUILD_TARGET% of %TOKEN%
type C:\\standin-net
type data\\input.txt >"%BUILD_OUTPUT%\\made.txt"
"""


class WindowsProject(Project):
    """A checkout whose one target is Windows, and VirtualBox's own home beside it."""

    limit_s = 300

    def __init__(self, home: Path, prefix: Path) -> None:
        super().__init__(home)
        for name in ("vagrant", "vbox"):
            (home / name).mkdir()
        self.environ |= {
            "PATH": f"{STANDINS}:{os.environ['PATH']}",
            "VAGRANT_HOME": str(home / "vagrant"),
            "VBOX_USER_HOME": str(home / "vbox"),
            "VBOX_WINDOWS": str(prefix),
        }

    def prepare(self, script: str) -> WindowsProject:
        digest = make_box(self.folder)
        image = {"box": "own/windows", "path": "own.box", "sha256": digest}
        content = {
            "schema": 1,
            "default_provider": "virtualbox",
            "defaults": {"attempts": 1, "deadlines": {"boot_s": 180, "provision_s": 60}},
            "distros": {
                "windows_2022": {
                    "distribution": "windows",
                    "release": "2022",
                    "windows": True,
                    "providers": {"virtualbox": {"image": image, "communicator": "ssh"}},
                }
            },
            "recipes": {
                "agent": {
                    "script": "make.sh",
                    "windows_script": "make.bat",
                    "inputs": ["data/"],
                    "outputs": [{"name": "made.txt"}],
                    "secrets": ["TOKEN"],
                }
            },
        }
        (self.folder / "data").mkdir()
        (self.folder / "targets.yaml").write_text(yaml.safe_dump(content))
        (self.folder / "data/input.txt").write_bytes(b"what the script was given\r\n")
        (self.folder / "make.bat").write_text(script)
        return self

    def machines(self) -> str:
        """What VirtualBox shows."""
        argv = ["VBoxManage", "list", "vms"]
        done = subprocess.run(argv, env=self.environ, capture_output=True, text=True, check=True)
        return done.stdout


def make_box(folder: Path) -> str:
    """A box with an empty disk; return its checksum."""
    with tempfile.TemporaryDirectory() as place:
        disk = Path(place) / "disk.vmdk"
        subprocess.run(
            [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "vmdk",
                "-o",
                "subformat=streamOptimized",
                disk,
                "1M",
            ],
            check=True,
        )
        described = resources.files("build_orchestrator.image").joinpath("box.ovf").read_text()
        described = described.replace("box-disk001.vmdk", disk.name)
        texts = {
            "metadata.json": '{"provider": "virtualbox"}',
            "Vagrantfile": BOX_VAGRANTFILE,
            "box.ovf": described,
        }
        for name, text in texts.items():
            (Path(place) / name).write_text(text)
        with tarfile.open(folder / "own.box", "w") as box:
            for name in (*texts, disk.name):
                box.add(Path(place) / name, name)
    return hashlib.sha256((folder / "own.box").read_bytes()).hexdigest()


@pytest.fixture
def project(windows_prefix: Path) -> Iterator[WindowsProject]:
    require("wine64", "vagrant", "qemu-img", "ssh", "sshd", "ssh-keygen")
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as home:
        yield WindowsProject(Path(home), windows_prefix)


@pytest.mark.soak
def test_a_batch_file_builds_and_nothing_remains(project: WindowsProject) -> None:
    """The key of the box and its password are of no use any more once a script runs."""
    done = project.prepare(MAKE).build("up", TARGET, TOKEN="planted-secret-of-a-recipe")

    assert done.status == 0, done.words + project.log(TARGET)
    row = project.row()
    assert (row["host_key"], row["machine"]) == ("first-use", "destroyed")
    log = project.log(TARGET)
    assert f"target {TARGET} of ***" in log
    assert re.search(r" user \S+ [\w-]{11}aZ1\n", log), "it was given a password that nobody knows"
    (made,) = project.folder.glob("dist/dev/*/made.txt")
    assert made.read_bytes() == b"what the script was given\r\n"
    # Vagrant keeps the imported box, of which machines are linked clones.
    assert row["machine_name"] not in project.machines()
    project.assert_nothing_left()
