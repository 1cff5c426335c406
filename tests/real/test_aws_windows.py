"""``build up windows_2022_aws`` on EC2, whose machine looks like Windows: Wine's cmd behind a real
sshd (tests/standins/windows.py). No Windows was booted for any of this."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from build_orchestrator.machine.ec2.windows import user_data
from tests.conftest import require
from tests.contract.projects import ROOT
from tests.real.aws_projects import DEADLINES, AwsProject
from tests.real.windows_wheels import make_wheelhouse
from tests.standins import windows
from tests.standins.ec2 import CREDENTIALS, PORT, REGION, Ec2, ec2_server
from tests.standins.namespaces import isolated
from tests.standins.sshd import free_port

TARGET = "windows_2022_aws"
PLANTED = 'planted "secret" & 100%PATH% of a recipe'
MAKE = """\
@echo off
echo ::phase make
if defined TOKEN echo the secret is here
echo target %BUILD_TARGET%, inputs %BUILD_INPUTS%, here %CD%
type data\\input.txt >"%BUILD_OUTPUT%\\made-%BUILD_DISTRO%.txt"
"""


class WindowsProject(AwsProject):
    """A checkout whose one target is Windows."""

    def prepare(self, script: str, communicator: str = "ssh") -> WindowsProject:
        self.write_targets(
            communicator=communicator,
            recipe={
                "script": "make.sh",
                "windows_script": "a folder/make it.bat",
                "inputs": ["data/"],
                "outputs": [{"name": "made.tar.gz", "members": "cloudify/env/"}],
                "windows_outputs": [{"name": "made-{distro}.txt"}],
                "secrets": ["TOKEN"],
            },
        )
        for folder in ("data", "a folder"):
            (self.folder / folder).mkdir()
        (self.folder / "data/input.txt").write_bytes(b"what the script was given\r\n")
        (self.folder / "a folder/make it.bat").write_text(script)
        return self

    def write_targets(
        self, recipe: dict[str, Any], communicator: str = "ssh", **deadlines: float
    ) -> None:
        user = "Administrator" if communicator == "winrm" else "root"
        row = {
            "image": {"ami": self.server.windows_ami},
            "communicator": communicator,
            "launch": {"user": user},
        }
        content = {
            "schema": 1,
            "defaults": {
                "attempts": 1,
                "deadlines": {**DEADLINES, "boot_s": 60, "transfer_s": 60, **deadlines},
                "launch": {"region": REGION, "port": PORT},
            },
            "distros": {
                "windows_2022": {
                    "distribution": "windows",
                    "release": "2022",
                    "windows": True,
                    "providers": {"aws": row},
                }
            },
            "recipes": {"agent": recipe},
        }
        (self.folder / "targets.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def server(windows_prefix: Path) -> Iterator[Ec2]:
    require("wine64", "ssh", "sshd", "ssh-keygen")
    with ec2_server(windows=windows_prefix) as server:
        yield server


@pytest.fixture
def project(server: Ec2, tmp_path: Path) -> WindowsProject:
    return WindowsProject(tmp_path / "home", server)


@pytest.mark.parametrize("communicator", ["ssh", "winrm"])
def test_a_batch_file_builds_and_nothing_remains(
    communicator: str, project: WindowsProject, server: Ec2
) -> None:
    """Boot, push, run, collect, publish, terminate; the secret arrived, and stayed nowhere. Nor did
    the password, which WinRM needs, and which AWS is asked for then alone."""
    before = server.shown()["actions"].get("GetPasswordData", 0)
    done = project.prepare(MAKE, communicator).at_standin("up", TARGET, TOKEN=PLANTED)

    assert done.status == 0, done.words
    row = project.row()
    assert (row["host_key"], row["machine"]) == ("console", "destroyed")
    assert list(row["phases_s"]) == ["make"]
    log = project.log(TARGET)
    assert "the secret is here" in log
    assert f"target {TARGET}, inputs C:\\build\\inputs, here C:\\build\\inputs" in log
    (made,) = project.folder.glob("dist/dev/*/made-windows_2022.txt")
    assert made.read_bytes() == b"what the script was given\r\n"
    (machine,) = project.launched()
    password = machine.pop("password")
    told = json.dumps(machine) + done.words
    kept = [path.read_bytes() for path in project.run.rglob("*") if path.is_file()]
    for secret in (PLANTED, CREDENTIALS["AWS_SECRET_ACCESS_KEY"], "PRIVATE KEY", password):
        assert secret not in told
        assert not [each for each in kept if secret.encode() in each]
    by_winrm = communicator == "winrm"
    assert (server.shown()["actions"].get("GetPasswordData", 0) > before) == by_winrm
    assert machine["key"].endswith("-rsa") == by_winrm
    assert server.left() == []
    project.assert_nothing_left()


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("exit 7", 1, "the script ended with status 7"),
        ("exit /b 75", 3, "the script ended with status 75"),
        ("rem", 1, "made-windows_2022.txt: is missing"),
    ],
    ids=["fails", "environment", "no output"],
)
def test_what_goes_wrong_is_told_apart(
    script: str, status: int, words: str, project: WindowsProject, server: Ec2
) -> None:
    done = project.prepare(f"@echo off\n{script}\n").at_standin("up", TARGET, TOKEN=PLANTED)

    assert done.status == status, done.words
    assert words in done.words
    assert server.left() == []


def test_a_value_of_two_lines_is_refused_before_anything_is_paid_for(
    project: WindowsProject,
) -> None:
    done = project.prepare(MAKE).at_standin("up", TARGET, TOKEN="a secret\nof two lines")

    assert done.status == 2, done.words
    assert "TOKEN cannot be given to a script on Windows" in done.words
    assert "of two lines" not in done.words
    assert project.launched() == []


def test_a_limit_ends_the_machine_without_us(windows_prefix: Path) -> None:
    """User data arms it before anything else, and what ends the machine then is the machine."""
    require("wine64", "sshd", "ssh-keygen")
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        (folder / "console").touch()
        prefix = windows.copy_prefix(windows_prefix, folder / "wine")
        script = windows.start_machine(
            prefix, folder, f"127.0.0.1:{free_port()}", user_data(1, "ssh-ed25519 AAAA", 22)
        )
        machine = subprocess.Popen(isolated(script), cwd=folder, start_new_session=True)
        try:
            machine.wait(timeout=60)
        finally:
            machine.kill()
        assert (folder / windows.POWERED_OFF).exists()
        keys = prefix / "drive_c/ProgramData/ssh/administrators_authorized_keys"
        assert keys.read_text() == "ssh-ed25519 AAAA\n"


@pytest.mark.soak
def test_the_shipped_recipe_builds_an_agent(project: WindowsProject, server: Ec2) -> None:
    """provision.windows.bat and packager.yaml as they are, with a Python that the image has and
    wheels that came with the inputs."""
    matrix = yaml.safe_load((ROOT / "targets.yaml").read_text())
    recipe = matrix["recipes"]["agent"]
    recipe |= {"flavour": "", "pass_host_trust": False}
    recipe["inputs"] = ["provision/", "packager.yaml", "wheelhouse/"]
    recipe["environment"] = {"PYTHON_HOME": windows.PYTHON, "PIP_NO_INDEX": "1"}
    project.write_targets(recipe, transfer_s=120, provision_s=900, collect_s=120)
    shutil.copytree(ROOT / "provision", project.folder / "provision")
    shutil.copy(ROOT / "packager.yaml", project.folder)
    make_wheelhouse(project.folder / "wheelhouse")
    project.limit_s = 1200
    done = project.at_standin("up", TARGET, VERSION="7.1.0")

    assert done.status == 0, done.words + project.log(TARGET)[-3000:]
    assert list(project.row()["phases_s"]) == [
        "prerequisites", "virtualenv", "modules", "validate", "pack",
    ]  # fmt: skip
    (made,) = project.folder.glob("dist/7.1.0/build/cloudify-windows-agent_7.1.0.zip")
    with zipfile.ZipFile(made) as archive:
        assert "cloudify/env/python.exe" in archive.namelist()
    assert server.left() == []
