"""``build up windows_2022_virtualbox``, and plain ``vagrant up`` of it, through the real Vagrant.

The machine looks like Windows. VirtualBox is a stand-in, and so is Windows; Vagrant
talks ssh to it, since WinRM is no part of Debian's. No Windows was booted for any of this.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import require
from tests.contract.projects import ROOT, Project
from tests.real.empty_box import pack_box
from tests.real.test_windows import CHOCOLATEY
from tests.real.windows_wheels import make_wheelhouse
from tests.standins import windows

TARGET = "windows_2022_virtualbox"
STANDINS = Path(__file__).parents[1] / "standins"
BOX = 'config.vm.guest = :windows; config.ssh.username = "root"'
# Vagrant would bring its key in by PowerShell, which is not there.
KEEPS_ITS_KEY = "config.ssh.insert_key = config.winssh.insert_key = false"
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

    def prepare(self, script: str, *, box: str = BOX, **recipe: object) -> WindowsProject:
        digest = pack_box(self.folder / "own.box", box)
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
                    **recipe,
                }
            },
        }
        (self.folder / "data").mkdir()
        (self.folder / "targets.yaml").write_text(yaml.safe_dump(content))
        (self.folder / "data/input.txt").write_bytes(b"what the script was given\r\n")
        (self.folder / "make.bat").write_text(script)
        return self

    def vagrant(self, *arguments: str, **environ: str) -> str:
        """Run plain Vagrant with the project's own Vagrantfile."""
        done = subprocess.run(
            ["vagrant", *arguments],
            cwd=self.folder / "vagrant",
            env={**self.environ, "VAGRANT_CHECKPOINT_DISABLE": "1", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=800,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def machines(self) -> str:
        """What VirtualBox shows."""
        argv = ["VBoxManage", "list", "vms"]
        done = subprocess.run(argv, env=self.environ, capture_output=True, text=True, check=True)
        return done.stdout


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


@pytest.mark.soak
@pytest.mark.timeout(1000)
def test_plain_vagrant_makes_the_agent(project: WindowsProject, windows_prefix: Path) -> None:
    """A customer has Vagrant and nothing else, and the box no Python: Chocolatey (played) brings
    it, and the packager runs from the project's own source. What comes out lies beside it."""
    prefix = windows.copy_prefix(windows_prefix, project.home / "box")
    windows.make_program(prefix / "drive_c/windows/choco.exe", CHOCOLATEY)
    project.prepare(
        MAKE,
        box=f"{BOX}; {KEEPS_ITS_KEY}",
        windows_script="provision/provision.windows.bat",
        inputs=["provision/", "packager.yaml", "build_orchestrator/agent/", "wheelhouse/"],
        windows_outputs=[{"name": "cloudify-windows-agent{version}.zip"}],
        secrets=[],
        pass_host_trust=True,
    )
    for name in ("provision", "build_orchestrator/agent"):
        shutil.copytree(ROOT / name, project.folder / name)
    modules = 'core_modules: {cloudify_common: "proxy_tools<1"}\n'
    (project.folder / "packager.yaml").write_text(modules)
    make_wheelhouse(project.folder / "wheelhouse")
    assert project.build("render", "--write").status == 0

    found = {"VERSION": "7.1.0", "PIP_NO_INDEX": "1", "VBOX_WINDOWS": str(prefix)}
    said = project.vagrant("up", TARGET, **found)
    place = project.folder / "dist" / TARGET
    made = place / "cloudify-windows-agent_7.1.0.zip"

    assert "choco.exe brings" in said
    assert sorted(place.iterdir()) == [made.with_suffix(".requirements.lock"), made]
    with zipfile.ZipFile(made) as archive:
        names = archive.namelist()
    assert "cloudify/env/python.exe" in names
    assert "cloudify/env/Lib/site-packages/proxy_tools/__init__.py" in names
    project.vagrant("destroy", "-f", TARGET)
    assert TARGET not in project.machines()
    project.assert_nothing_left()
