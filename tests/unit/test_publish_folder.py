"""What a folder promises beyond what every destination does."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from build_orchestrator.configuration import load
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import HostNotReady
from build_orchestrator.events import Event, Warned
from build_orchestrator.machine import PROVIDERS
from build_orchestrator.model import Build, Published, PublishedArtifact
from build_orchestrator.publish import check, publish
from build_orchestrator.publish.folder import FolderDestination, rename_once
from build_orchestrator.publish.layout import alias_of
from tests.contract.publishing import artifact, build_to, item

RACERS = 8
ROOT = Path(__file__).parents[2]


def put(root: Path, content: bytes) -> None:
    destination = FolderDestination("dist/", root)
    destination.put(item(content), deadline=Deadline("publish", 60), cancel=Cancel())


def published(
    project: Path, build: Build, content: bytes, name: str = "agent.tar.gz"
) -> tuple[PublishedArtifact, list[Event]]:
    """The row of one artifact, and what was told meanwhile."""
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)

    [row] = publish(
        (artifact(project, content, name),),
        build,
        project=project,
        s3_endpoint=None,
        deadline=Deadline("publish", 60),
        cancel=Cancel(),
        observer=listen,
    )
    return row, events


def _die_before_linking(root: Path) -> None:
    os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    put(root, b"whole")


def test_a_crash_before_the_link_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    """What a killed publisher left is hidden, and the next one succeeds and removes it."""
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=_die_before_linking, args=[tmp_path])
    process.start()
    process.join()
    folder = tmp_path / "1.0/build"
    [part] = folder.iterdir()

    assert process.exitcode == -signal.SIGKILL
    assert part.name.startswith(".agent.tar.gz.")
    os.utime(part, (0, 0))
    put(tmp_path, b"other")
    assert [path.name for path in folder.iterdir()] == ["agent.tar.gz"]


def test_what_a_living_publisher_writes_is_left_alone(tmp_path: Path) -> None:
    """Only an old ``.part`` file is removed: a young one may have its writer."""
    young = tmp_path / "1.0/build/.agent.tar.gz.x.part"
    young.parent.mkdir(parents=True)
    young.touch()

    put(tmp_path, b"bytes")
    assert young.exists()


def test_published_files_may_be_read_by_all(tmp_path: Path) -> None:
    """A web server that serves the folder runs as somebody else."""
    put(tmp_path, b"bytes")

    assert (tmp_path / "1.0/build/agent.tar.gz").stat().st_mode & 0o777 == 0o644


def test_without_hard_links_one_racer_wins_too(
    tmp_path: Path,
    isolated_home: Path,  # noqa: ARG001
) -> None:
    """On a file system that has no links, publishers of this host take turns."""
    start = threading.Barrier(RACERS)

    def race(n: int) -> bool:
        part = tmp_path / f".{n}.part"
        part.write_text(str(n))
        start.wait()
        try:
            rename_once(part, tmp_path / "agent", Deadline("publish", 60))
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(RACERS) as pool:
        wins = list(pool.map(race, range(RACERS)))

    assert wins.count(True) == 1
    assert (tmp_path / "agent").read_text() == str(wins.index(True))


def test_latest_is_what_was_published_last(tmp_path: Path) -> None:
    """``latest`` is a relative link, replaced in one step, and moves with the folder."""
    for folder in ("1.0/build", "2.0/build"):
        build = build_to("dist/", folder=folder, key=hashlib.sha256(folder.encode()).hexdigest())
        published(tmp_path, build, b"1")
        latest = tmp_path / "dist/latest"
        assert latest.readlink() == Path(folder)
        assert (latest / "agent.tar.gz").read_bytes() == b"1"
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == [
        "1.0", "2.0", "keys", "latest",
    ]  # fmt: skip


def test_somebodys_own_latest_is_left_alone(tmp_path: Path) -> None:
    """A folder of that name stays; the artifacts are published, and a warning says so."""
    (tmp_path / "dist/latest").mkdir(parents=True)

    row, events = published(tmp_path, build_to("dist/"), b"1")

    assert row.state is Published.YES
    [warning] = [event.text for event in events if isinstance(event, Warned)]
    assert "dist/latest cannot be published" in warning


def test_a_folder_is_checked_without_being_made(tmp_path: Path) -> None:
    """All unusable destinations are named before anything boots, and nothing is changed."""
    (tmp_path / "file").touch()

    check(["dist/", f"file://{tmp_path}/more"], project=tmp_path, s3_endpoint=None)
    with pytest.raises(HostNotReady, match="is no folder"):
        check(["file/dist"], project=tmp_path, s3_endpoint=None)
    with pytest.raises(HostNotReady, match="2 destinations") as caught:
        check(["file/a", "dist", "file/b"], project=tmp_path, s3_endpoint=None)

    assert caught.value.details.count("is no folder") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("Debian-jessie-agent.tar.gz", "debian-jessie-agent.tar.gz"),
        ("Debian-jessie-agent_7.1.0-ga-b3.tar.gz", "debian-jessie-agent.tar.gz"),
        ("centos-final-agent_7.tar.gz", "centos-final-agent.tar.gz"),
        ("manylinux-x86_64-agent_7.1.0-.dev1.tar.gz", "manylinux-x86_64-agent.tar.gz"),
        ("cloudify-windows-agent_7.1.0.exe", "cloudify-windows-agent.exe"),
        ("debian-jessie-agent.tar.gz", ""),
        ("Debian-jessie-agent_7.requirements.lock", ""),
        ("plugin_1.wgn", ""),
    ],
)
def test_an_agent_has_the_name_that_a_manager_looks_for(
    tmp_path: Path, name: str, alias: str
) -> None:
    """In small letters and without a version, beside its own; other artifacts have one name."""
    found = alias_of(artifact(tmp_path, b"agent", name), "1.0/build")

    assert (found.key if found else "") == (f"1.0/build/{alias}" if alias else "")


@pytest.mark.parametrize(
    ("distro", "alias"),
    [
        ("debian_jessie", "debian-jessie-agent.tar.gz"),
        ("debian_bookworm", "debian-bookworm-agent.tar.gz"),
        ("ubuntu_precise", "ubuntu-precise-agent.tar.gz"),
        ("ubuntu_trusty", "ubuntu-trusty-agent.tar.gz"),
        ("centos_final", "centos-final-agent.tar.gz"),
        ("centos_core", "centos-core-agent.tar.gz"),
    ],
)
def test_the_shipped_distros_have_the_names_of_the_first_farm(
    tmp_path: Path, distro: str, alias: str
) -> None:
    """As a Manager makes them of what a machine says of itself; normalised, versions are gone."""
    row = load(ROOT, providers=frozenset(PROVIDERS)).distros[distro]
    name = f"{row.distribution}-{row.release}-agent_7.1.0-ga-b3.tar.gz"

    found = alias_of(artifact(tmp_path, b"agent", name), "1.0/build")

    assert found is not None
    assert found.key == f"1.0/build/{alias}"
    assert f"{name.removesuffix('.tar.gz').rpartition('_')[0].lower()}.tar.gz" == alias


def test_the_first_agent_of_a_folder_keeps_the_common_name(tmp_path: Path) -> None:
    """Another BUILD of the same VERSION is published all the same, and the user is told."""
    build = build_to("dist/")
    place = tmp_path / "dist/1.0/build"
    first, _ = published(tmp_path, build, b"1", "D-r-agent_1.0-b1.tar.gz")
    build = build_to("dist/", key="cd" * 32)
    second, events = published(tmp_path, build, b"2", "D-r-agent_1.0-b2.tar.gz")

    assert first.state is second.state is Published.YES
    assert (place / "d-r-agent.tar.gz").read_bytes() == b"1"
    assert (place / "D-r-agent_1.0-b2.tar.gz").read_bytes() == b"2"
    (told,) = [event.text for event in events if isinstance(event, Warned)]
    assert told.startswith("1.0/build/d-r-agent.tar.gz stays that of an earlier build")
