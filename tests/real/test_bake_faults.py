"""A bake that goes wrong has its own class and words, and leaves no process and no half image."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import require
from tests.real.baking import BakeProject
from tests.real.running import in_a_state_of_its_own

TARGET = "debian_bookworm_qemu"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[BakeProject]:
    require("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "debugfs")
    with in_a_state_of_its_own(BakeProject, tmp_path / "project") as made:
        made.declare_blank()
        yield made


def test_the_stand_in_bakes_and_a_fresh_image_is_not_baked_again(project: BakeProject) -> None:
    project.stand_in("made")
    first = project.build("bake", TARGET)
    assert (first.status, first.row["outcome"]) == (0, "built"), first.stderr
    (image,) = project.baked()
    assert (image["state"], image["packer"]) == ("fresh", "1.6.6")
    assert image["packages"] == {"gcc": "12.2", "python3": "3.11"}
    again = project.build("bake", TARGET)
    assert (again.status, again.row["outcome"]) == (0, "unchanged")
    assert project.build("why", "--image", "debian_bookworm").stdout.count("fresh") == 1
    forced = project.build("bake", TARGET, "--force")
    assert forced.row["outcome"] == "built"
    assert [each["state"] for each in project.baked()] == ["fresh", "superseded"]
    assert project.build("images", "prune").status == 0
    assert [each["state"] for each in project.baked()] == ["fresh"]
    assert project.leftovers() == []


def test_two_bakes_at_once_make_one_image(project: BakeProject) -> None:
    project.stand_in("made")
    children = [project.start("bake", TARGET) for _ in range(3)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
    assert len(project.baked()) == 1
    assert project.leftovers() == []


@pytest.mark.parametrize(
    ("behaviour", "status", "outcome", "words"),
    [
        ("nothing", 3, "environment", "made no image"),
        ("script-3", 1, "failed", "ended with status 3"),
        ("script-75", 3, "environment", "(75)"),
        ("error", 3, "environment", "went wrong, badly"),
        ("killed", 3, "environment", "killed by SIGKILL"),
    ],
)
def test_each_failure_has_its_class(
    project: BakeProject, behaviour: str, status: int, outcome: str, words: str
) -> None:
    project.stand_in(behaviour)
    ended = project.build("bake", TARGET)
    assert (ended.status, ended.row["outcome"]) == (status, outcome), ended.stderr
    assert words in ended.stdout
    assert project.baked() == []
    assert project.leftovers() == []


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("new", "Packer 1.16.0 brings no plugins, and lacks qemu"),
        ("aged", "and has qemu 1.0.8, which is older than 1.0.9"),
        ("other", "not HashiCorp's Packer"),
    ],
)
def test_a_packer_that_will_not_do_is_named_before_anything_starts(
    project: BakeProject, behaviour: str, words: str
) -> None:
    project.stand_in(behaviour)
    ended = project.build("bake", TARGET)
    assert ended.status == 4
    assert words in ended.stderr
    assert not list(project.folder.glob("runs/*"))


def test_doctor_names_what_gets_the_plugins(project: BakeProject) -> None:
    """The one whose plugins are there is told apart from the one that has none."""
    found = {}
    for behaviour in ("new", "plugged"):
        project.stand_in(behaviour)
        checks = json.loads(project.build("doctor", "--no-probe", "--json").stdout)["checks"]
        (found[behaviour],) = (each for each in checks if each["name"] == "packer")
    assert "lacks qemu, vagrant, virtualbox, amazon" in found["new"]["finding"]
    assert "lacks vagrant, virtualbox, amazon" in found["plugged"]["finding"]
    command, _, file = found["new"]["remedy"].rpartition(" ")
    assert command == "packer init"
    text = Path(file).read_text()
    assert all(f"github.com/hashicorp/{each}" in text for each in ("qemu", "vagrant", "amazon"))


def test_a_newer_packer_with_its_plugins_will_do(project: BakeProject) -> None:
    project.stand_in("plugged")
    ended = project.build("bake", TARGET)
    assert (ended.status, ended.row["outcome"]) == (0, "built"), ended.stderr
    assert [each["packer"] for each in project.baked()] == ["1.16.0"]


def test_a_missing_packer_is_named_before_anything_starts(project: BakeProject) -> None:
    project.without_packer()
    ended = project.build("bake", TARGET)
    assert ended.status == 4
    assert "apt-get install packer" in ended.stderr
    assert not list(project.folder.glob("runs/*"))


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """During the block a folder is a file system of its own."""
    require(that=os.geteuid() == 0, because="only root mounts a small file system")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_without_room_is_named_before_anything_starts(project: BakeProject) -> None:
    project.stand_in("made")
    with small_disk(project.state / "build-orchestrator", "3m"):
        ended = project.build("bake", TARGET)
        assert ended.status == 4, ended.stdout
        assert "MiB free" in ended.stderr
        assert not list(project.folder.glob("runs/*"))


def test_a_disk_that_fills_up_meanwhile_is_the_environments(project: BakeProject) -> None:
    project.stand_in("fills")
    small = project.state / "build-orchestrator"
    with small_disk(small, "8g"):
        child = project.start("bake", TARGET)
        project.wait_for("filling", child)
        subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
        assert child.wait(timeout=60) == 3
        assert project.row()["outcome"] == "environment"
        assert "disk is full" in project.row()["failure"]["brief"]
        assert project.baked() == []
        assert project.leftovers() == []


def test_what_a_killed_bake_leaves_is_swept(project: BakeProject) -> None:
    project.stand_in("hangs")
    child = project.start("bake", TARGET)
    project.wait_for("hanging", child)
    assert project.bakers()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert project.bakers(), "nothing ends it but a sweep"
    swept = project.build("sweep")
    assert swept.status == 0, swept.stderr
    assert f"{TARGET}-bake-1" in swept.stdout
    assert project.bakers() == []
    project.stand_in("made")
    assert project.build("bake", TARGET).status == 0
    assert project.leftovers() == []
    assert len(project.baked()) == 1


def test_an_interrupted_bake_ends_its_own(project: BakeProject) -> None:
    project.stand_in("hangs")
    child = project.start("bake", TARGET)
    project.wait_for("hanging", child)
    started = time.monotonic()
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(timeout=60) == 143
    assert time.monotonic() - started < 30
    assert project.leftovers() == []


def test_a_bake_that_finds_no_end_is_ended(project: BakeProject) -> None:
    project.declare_blank(image_s=8)
    project.stand_in("hangs")
    ended = project.build("bake", TARGET)
    assert (ended.status, ended.row["outcome"]) == (3, "environment"), ended.stderr
    assert ended.row["failure"]["brief"] == "image: no end within its limit of 8 s"
    assert "hanging" in project.log()
    assert project.baked() == []
    assert project.leftovers() == []


def test_up_says_why_it_starts_from_the_base_image(project: BakeProject) -> None:
    project.stand_in("made")
    required = project.build("up", TARGET, "--require-baked")
    assert (required.status, required.row["machine"]) == (3, "none")
    assert "none was baked yet" in required.stdout
    assert f"build bake {TARGET}" in required.stdout
    project.build("bake", TARGET)
    (project.folder / "install.sh").write_text("# another line\n")
    stale = project.build("up", TARGET, "--require-baked")
    assert stale.status == 3
    assert "script install.sh: was sha256:" in stale.stdout
    why = project.build("why", "--image", TARGET)
    assert "stale" in why.stdout
    assert "script install.sh: was sha256:" in why.stdout


def test_up_that_bakes_first_fails_as_the_bake_does(project: BakeProject) -> None:
    """For its script's own reasons, or for the environment's."""
    for behaviour, status, outcome in (("script-3", 1, "failed"), ("error", 3, "environment")):
        project.stand_in(behaviour)
        ended = project.build("up", TARGET, "--bake")
        assert (ended.status, ended.row["outcome"]) == (status, outcome), ended.stdout
        assert ended.row["machine"] == "none"
    assert project.leftovers() == []


def test_options_that_contradict_each_other_are_refused(project: BakeProject) -> None:
    ended = project.build("up", TARGET, "--bake", "--no-bake")
    assert ended.status == 2
    assert "--bake and --no-bake contradict" in ended.stderr


def test_a_prune_leaves_what_a_queued_build_starts_from(project: BakeProject) -> None:
    """Its machine is in no journal yet, and somebody has changed what its image is made of."""
    project.stand_in("made")
    one = project.folder / "disk.qcow2"
    two = one.with_name("two.qcow2")  # A machine of one is none of the other: they differ.
    two.write_bytes(one.read_bytes() + b"\0")
    content = yaml.safe_load((project.folder / "targets.yaml").read_text())
    content["distros"]["debian_two"] = {
        **content["distros"]["debian_bookworm"],
        "release": "two",
        "providers": {
            "qemu": {
                "image": {
                    "path": two.name,
                    "sha256": hashlib.sha256(two.read_bytes()).hexdigest(),
                }
            }
        },
    }
    (project.folder / "targets.yaml").write_text(yaml.safe_dump(content))
    assert project.build("bake", "*_qemu").status == 0
    before = {each["entry"] for each in project.baked()}
    child = project.start("up", "*_qemu", "-j1")  # No such disk boots, and so the other one waits.
    try:
        until = time.monotonic() + 60
        while not any(project.folder.glob("runs/*/*/machine.sh")):
            assert child.poll() is None, project.log()
            assert time.monotonic() < until
            time.sleep(0.1)
        (project.folder / "install.sh").write_text("exit 0 # changed\n")
        pruned = json.loads(project.build("images", "prune", "--json").stdout)
        assert {each["entry"]: each["state"] for each in pruned} == dict.fromkeys(before, "spared")
    finally:
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 130
    project.build("images", "prune")
    assert project.baked() == []
