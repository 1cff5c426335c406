"""Boxes that were not made here: Packer logs in with the key that everybody knows, or says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.image.bootable import FIRST_SECTOR, SECTOR
from build_orchestrator.image.box import make_box
from build_orchestrator.image.known_key import ED25519, RSA
from build_orchestrator.machine.contract import silent
from tests.conftest import require
from tests.real.baking import BakeProject

TARGET = "debian_bookworm_libvirt"
VERSION = "12.0.1"
BOX = f"boxes/debian-VAGRANTSLASH-bookworm64/{VERSION}/libvirt"
LARGER = (
    f"libvirt: {{image: {{box: debian/bookworm64, version: {VERSION}}}, size: {{disk_mib: 9216}}}}"
)
INSTALL = '[ "$(id -u)" = 0 ] || exit 9\n[ "$SUDO_USER" = vagrant ] || exit 8\n'
pytestmark = pytest.mark.usefixtures("vagrant_host")


@pytest.fixture
def project(bake_project: BakeProject) -> BakeProject:
    require("debugfs")
    bake_project.environment["VAGRANT_HOME"] = str(bake_project.state / "vagrant")
    bake_project.declare("exit 0", install=INSTALL, providers=LARGER)
    return bake_project


def home_of(project: BakeProject) -> Path:
    """Vagrant's home, with the keys that a version of Vagrant has put there."""
    home = project.state / "vagrant"
    (home / ED25519).parent.mkdir(parents=True, exist_ok=True)
    (home / RSA).touch()
    return home


def test_a_packer_that_cannot_log_in_is_named_before_anything_starts(project: BakeProject) -> None:
    project.stand_in("made")
    home_of(project)
    ended = project.build("bake", TARGET)
    assert ended.status == 4, ended.stdout
    assert f"Packer 1.6.6 is too old to log in to the box of {TARGET}" in ended.stderr
    assert "Install Packer 1.8.1 or later" in ended.stderr
    assert not list(project.folder.glob("runs/*"))


@pytest.mark.soak
def test_a_public_box_is_baked_as_vagrants_user(project: BakeProject) -> None:
    """It lets in one key alone, as if Vagrant's newer one were all that it knows."""
    home = home_of(project)
    add_box(home)
    baked = project.build("bake", TARGET)
    assert baked.status == 0, baked.stdout + baked.stderr
    (image,) = project.baked()
    assert image["packages"]
    with tarfile.open(project.cache / "baked" / image["entry"] / image["file"]) as box:
        box.extractall(project.state / "box", filter="data")
    # As large as the target's disk, and Vagrant is told so; this Packer packs a folder.
    (metadata,) = (project.state / "box").rglob("metadata.json")
    assert json.loads(metadata.read_text())["virtual_size"] == 9
    facts = run("qemu-img", "info", "--output=json", metadata.with_name("box.img"))
    assert json.loads(facts)["virtual-size"] == 9216 << 20
    assert project.leftovers() == []


def add_box(home: Path) -> None:
    """Put a box into Vagrant's collection under a public name; it lets one new key in, alone."""
    made = make_box(
        "bookworm", "libvirt", deadline=Deadline("image", 800), cancel=NEVER, on_line=silent
    )
    key, place, raw = home / ED25519, home / BOX, home / "disk.raw"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    place.mkdir(parents=True)
    with tarfile.open(made.path) as box:
        box.extractall(place, filter="data")
    run("qemu-img", "convert", "-O", "raw", place / "box.img", raw)
    known = PurePosixPath("/home") / "vagrant/.ssh/authorized_keys"
    words = home / "words"
    fields = {"mode": "0100600", "uid": "1000", "gid": "1000"}
    words.write_text(
        f"rm {known}\nwrite {key}.pub {known}\n"
        + "".join(f"set_inode_field {known} {name} {value}\n" for name, value in fields.items())
    )
    tool = shutil.which("debugfs", path="/usr/sbin:/sbin")
    run(str(tool), "-w", "-f", words, f"{raw}?offset={FIRST_SECTOR * SECTOR}")
    run("qemu-img", "convert", "-O", "qcow2", raw, place / "box.img")
    raw.unlink()


def run(*argv: str | Path) -> str:
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=300)
    return done.stdout
