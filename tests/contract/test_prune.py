"""`build images prune`: what nobody starts from goes, and what another checkout may does not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from build_orchestrator.cli import images, run
from build_orchestrator.configuration import load
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.image import baked as index
from build_orchestrator.image.baked import FACTS, Baked
from build_orchestrator.image.lock import write_baked
from build_orchestrator.machine import PROVIDERS
from build_orchestrator.machine.qemu import snapshot
from build_orchestrator.model import Input
from build_orchestrator.plan import key_of
from tests.contract.projects import Project

DAY_S = 86400
AMI = "debian_bookworm_aws"
DISK = "debian_bookworm_qemu"


@pytest.fixture
def project(isolated_home: Path) -> Project:
    made = Project(isolated_home)
    content = yaml.safe_load((made.folder / "targets.yaml").read_text())
    content["defaults"] = {"max_image_age": "20d", "launch": {"region": "eu-west-1"}}
    content["distros"]["debian_bookworm"]["providers"] |= {
        "qemu": {"image": {"bootstrap": "bookworm"}},
        "aws": {
            "image": {"ami_name": "debian-*", "ami_owner": "self"},
            "launch": {"user": "admin"},
        },
    }
    content["flavours"] = {"plain": {"script": "make.sh"}}
    (made.folder / "targets.yaml").write_text(yaml.safe_dump(content))
    return made


def baked(project: Project, target: str, *, days: float, ami: str = "") -> Baked:
    """Put a stale image into this host's index, without baking any."""
    image = Baked(
        project=str(project.folder),
        target=target,
        distro="debian_bookworm",
        provider=target.rpartition("_")[2],
        flavour="plain",
        region="eu-west-1" if ami else "",
        key=f"{days:064.0f}",
        inputs=(Input(name="base image", value="another"),),
        base="a disk",
        made_at=float(int(time.time() - days * DAY_S)),
        packer="1.6.6",
        run_id="run",
        ami=ami,
    )
    image.folder.mkdir(parents=True)
    (image.folder / FACTS).write_bytes(msgspec.json.encode(image))
    return image


def test_an_image_that_says_nothing_of_its_base_is_stale(project: Project) -> None:
    """A lock is a file that people merge."""
    image = dataclasses.replace(baked(project, AMI, days=1, ami="ami-00000001"), inputs=())
    write_baked(project.folder, image)
    why = project.called("why", "--image", "debian_bookworm")
    assert (why.status, "stale" in why.stdout) == (0, True), why.words


def states(project: Project, *options: str) -> dict[str, tuple[str, str]]:
    """What would become of each stale image, and why."""
    done = project.called("images", "prune", "--dry-run", "--json", *options)
    assert done.status == 0, done.words
    return {each["entry"]: (each["state"], each["reason"]) for each in json.loads(done.stdout)}


def test_what_another_checkout_may_start_from_stays_until_nobody_would(project: Project) -> None:
    young = baked(project, AMI, days=19, ami="ami-00000019").entry
    old = baked(project, AMI, days=21, ami="ami-00000021").entry
    disk = baked(project, DISK, days=1).entry
    found = states(project)
    assert found[young][0] == "spared"
    assert "another checkout's images.lock.yaml may name it" in found[young][1]
    assert found[old] == found[disk] == ("found", "stale")
    assert {state for state, _ in states(project, "--now").values()} == {"found"}


def test_what_this_checkouts_lock_names_stays_whatever_is_asked(project: Project) -> None:
    locked = baked(project, AMI, days=21, ami="ami-00000021")
    write_baked(project.folder, locked)
    expected = {locked.entry: ("spared", "images.lock.yaml names it")}
    assert states(project) == states(project, "--now") == expected


def test_a_disk_whose_checkout_is_gone_goes(project: Project) -> None:
    """From there nobody can remove it any more. What lies in AWS another checkout may need."""
    images = [baked(project, DISK, days=1), baked(project, AMI, days=21, ami="ami-00000021")]
    for place, found in (("there", set()), ("gone", {images[0].entry})):
        (project.home / "there").mkdir(exist_ok=True)
        for image in images:
            moved = dataclasses.replace(image, project=str(project.home / place))
            (image.folder / FACTS).write_bytes(msgspec.json.encode(moved))
        assert set(states(project, "--now")) == found


def test_saved_first_starts_go_with_their_disk(project: Project) -> None:
    """Of a quarter of a gigabyte each; without the disk below them they are worth nothing."""
    image = baked(project, DISK, days=1)
    image = dataclasses.replace(image, file="disk.qcow2")
    (image.folder / FACTS).write_bytes(msgspec.json.encode(image))
    (image.folder / image.file).touch()
    shelf = project.home / "cache/build-orchestrator/snapshots"
    for name, disk in (("of-it", image.folder / image.file), ("another", "/images/disk.qcow2")):
        (shelf / name).mkdir(parents=True)
        (shelf / name / snapshot.DISK).write_text(str(disk))
    assert project.called("images", "prune").status == 0
    assert not image.folder.exists()
    assert [path.name for path in shelf.iterdir() if path.is_dir()] == ["another"]


def test_what_killed_makers_have_left_goes_too(project: Project) -> None:
    """Half a gigabyte each, under a key that may never be asked for again."""
    shelf = project.home / "cache/build-orchestrator/images"
    (shelf / "abc.x.part" / "work").mkdir(parents=True)
    assert states(project) == {"images/abc.x.part": ("found", "unfinished")}
    assert (shelf / "abc.x.part").is_dir()
    done = project.called("images", "prune")
    assert (done.status, done.stdout) == (0, "removed  images/abc.x.part  (unfinished)\n")
    assert not (shelf / "abc.x.part").exists()


# --- beside a run that is alive -----------------------------------------------------------------

LIMIT = Deadline("image", 60)
NEEDED = ("spared", "a living run bakes it or needs it")


def test_what_a_living_run_starts_from_stays(project: Project) -> None:
    """Also before its machine is in any journal: the build may be queued for hours."""
    image = baked(project, DISK, days=1)
    held = index.hold(image, deadline=LIMIT, cancel=NEVER)
    assert states(project) == {image.entry: NEEDED}
    assert project.build("images", "prune").status == 0
    assert image.folder.is_dir()
    held.release()
    assert project.build("images", "prune").status == 0
    assert not image.folder.exists()


def test_an_image_of_aws_stays_until_its_bake_has_written_the_lock(project: Project) -> None:
    """Until then nothing says that it is no stale one."""
    builds = images._builds(load(project.folder, providers=frozenset(PROVIDERS)))
    (build,) = (each for each in builds if each.name == AMI)
    made = baked(project, AMI, days=0, ami="ami-00000001")
    made.folder.joinpath(FACTS).unlink()
    made.folder.rmdir()
    made = dataclasses.replace(made, key=key_of(made.inputs))
    with index.recorded(
        build, made.inputs, lambda _: made, force=False, deadline=LIMIT, cancel=NEVER
    ) as image:
        assert states(project, "--now") == {image.entry: NEEDED}
        write_baked(project.folder, image)
    assert states(project, "--now") == {image.entry: ("spared", "images.lock.yaml names it")}


def test_the_lock_is_read_when_nobody_bakes_any_more(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bake that ends as an image is looked at has named it."""
    image = baked(project, AMI, days=21, ami="ami-00000021")
    alone_with = index.alone_with

    @contextlib.contextmanager
    def late(which: Baked) -> Iterator[bool]:
        write_baked(project.folder, image)
        with alone_with(which) as alone:
            yield alone

    monkeypatch.setattr(index, "alone_with", late)
    monkeypatch.setattr(index, "remove", lambda *_, **__: pytest.fail("it was removed"))
    monkeypatch.chdir(project.folder)
    assert run(["images", "prune", "--now"]) == 0


def test_what_is_baked_meanwhile_is_not_judged(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    freshness = images._freshness

    def slow(*arguments: Any) -> Any:
        found = list(freshness(*arguments))
        baked(project, DISK, days=0)
        return found

    monkeypatch.setattr(images, "_freshness", slow)
    monkeypatch.setattr(index, "remove", lambda *_, **__: pytest.fail("it was removed"))
    monkeypatch.chdir(project.folder)
    assert run(["images", "prune"]) == 0
