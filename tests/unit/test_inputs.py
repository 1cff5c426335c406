"""A build's key changes with each of its inputs and with nothing else."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from build_orchestrator.errors import UsageError
from build_orchestrator.inputs import digest_of, explain, inputs_of, key_of
from build_orchestrator.model import (
    RECIPE_VERSION,
    Build,
    Deadlines,
    Distro,
    Image,
    ImageSource,
    Input,
    Naming,
    Output,
    Recipe,
    Size,
    Target,
)

IMAGE = Image(source="bootstrap bookworm", sha256="ab" * 32, disk="/cache/disk.qcow2")

BUILD = Build(
    target=Target(
        name="debian_bookworm_qemu",
        distro=Distro(name="debian_bookworm", distribution="Debian", release="bookworm"),
        provider="qemu",
        image=ImageSource(bootstrap="bookworm"),
        size=Size(),
        deadlines=Deadlines(),
    ),
    recipe=Recipe(
        name="agent",
        script="provision/provision.sh",
        inputs=("provision/", "packager.yaml"),
        outputs=(Output(name="{distro}.tar.gz", members="cloudify/env/"),),
        destinations=("dist/",),
        requirements_lock="agent.lock",
    ),
    naming=Naming(),
    outputs=(Output(name="debian_bookworm.tar.gz", members="cloudify/env/"),),
    environment={"BUILD_RUN_ID": "one", "BUILD_TARGET": "debian_bookworm_qemu", "A": "1"},
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "provision" / "deep").mkdir(parents=True)
    (tmp_path / "provision" / "provision.sh").write_text("exit 0\n")
    (tmp_path / "provision" / "deep" / "more.txt").write_text("more\n")
    (tmp_path / "provision" / "link").symlink_to("deep/more.txt")
    (tmp_path / "packager.yaml").write_text("{}\n")
    (tmp_path / "agent.lock").write_text("cloudify-common==7.0.5\n")
    return tmp_path


LATER = "2026-12-21T01:45:00Z"
NOW = "2026-11-21T01:45:00Z"


def key(
    project: Path, build: Build = BUILD, image: Image = IMAGE, nonce: str = "n", now: str = NOW
) -> str:
    return key_of(inputs_of(build, project, image, nonce=nonce, now=now))


def with_target(**fields: Any) -> Build:
    return dataclasses.replace(BUILD, target=dataclasses.replace(BUILD.target, **fields))


def with_recipe(**fields: Any) -> Build:
    return dataclasses.replace(BUILD, recipe=dataclasses.replace(BUILD.recipe, **fields))


def write(path: str, text: str) -> Callable[[Path], object]:
    return lambda project: (project / path).write_text(text)


def relink(project: Path) -> None:
    (project / "provision" / "link").unlink()
    (project / "provision" / "link").symlink_to("provision.sh")


TREE = "input provision/: was sha256:"
MORE = "provision/deep/more.txt"
DECLARED: dict[str, tuple[Callable[[Path], object], str]] = {
    "script": (write("provision/provision.sh", "x"), "script provision/provision.sh: was sha256:"),
    "file": (write("packager.yaml", "x"), "input packager.yaml: was sha256:"),
    "lock": (write("agent.lock", "x==1"), "requirements lock agent.lock: was sha256:"),
    "content": (write(MORE, "less\n"), TREE),
    "added": (write("provision/deep/new.txt", ""), TREE),
    "executable": (lambda project: (project / MORE).chmod(0o755), TREE),
    "removed": (lambda project: (project / MORE).unlink(), TREE),
    "empty folder": (lambda project: (project / "provision/empty").mkdir(), TREE),
    "renamed": (lambda project: (project / MORE).rename(project / "provision/deep/most"), TREE),
    "link": (relink, TREE),
}


@pytest.mark.parametrize(("change", "reason"), DECLARED.values(), ids=DECLARED)
def test_each_declared_file_is_part_of_the_key(
    project: Path, change: Callable[[Path], object], reason: str
) -> None:
    """Content, execute bit, path and link of all that is declared; `why` names what changed."""
    before = inputs_of(BUILD, project, IMAGE, nonce="n", now=NOW)
    change(project)
    after = inputs_of(BUILD, project, IMAGE, nonce="n", now=NOW)
    assert key_of(before) != key_of(after)
    assert any(line.startswith(reason) for line in explain(before, after))


@pytest.mark.parametrize(
    "build",
    [
        with_target(name="debian_bookworm_fake"),
        with_target(distro=dataclasses.replace(BUILD.target.distro, release="trixie")),
        with_target(size=Size(memory_mib=2048)),
        with_target(options={"machine": "q35"}),
        with_target(image=ImageSource(path="x", kernel="k", kernel_sha256="cd" * 32)),
        with_recipe(inputs=("provision/",)),
        with_recipe(script="packager.yaml"),
        with_recipe(secrets=("TOKEN",)),
        with_recipe(requirements_lock=""),
        dataclasses.replace(BUILD, outputs=(Output(name="other.tar.gz"),)),
        dataclasses.replace(BUILD, outputs=(Output(name="debian_bookworm.tar.gz"),)),
        dataclasses.replace(BUILD, environment={**BUILD.environment, "VERSION": "7"}),
        dataclasses.replace(BUILD, environment={**BUILD.environment, "A": "2"}),
        dataclasses.replace(BUILD, environment={"A": "1"}),
    ],
)
def test_each_part_of_the_definition_is_part_of_the_key(project: Path, build: Build) -> None:
    """A change of what is built or of what it is built on never finds an old artifact."""
    assert key(project, build) != key(project)


def test_the_image_is_part_of_the_key(project: Path) -> None:
    """By its content, not by where it lies."""
    assert key(project, image=dataclasses.replace(IMAGE, sha256="cd" * 32)) != key(project)
    assert key(project, image=dataclasses.replace(IMAGE, disk="/elsewhere")) == key(project)


def test_our_way_of_building_is_part_of_the_key(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer recipe version builds anew."""
    before = key(project)
    monkeypatch.setattr("build_orchestrator.inputs.RECIPE_VERSION", RECIPE_VERSION + 1)
    assert key(project) != before


UNRELATED: dict[str, Callable[[Path], object]] = {
    "another file": write("README.md", "unrelated\n"),
    "targets.yaml": write("targets.yaml", "schema: 1\n"),
    "pycache": lambda project: (project / "provision" / "__pycache__").mkdir(),
    "time": lambda project: os.utime(project / "provision" / "provision.sh", (0, 0)),
    "mode": lambda project: (project / "packager.yaml").chmod(0o600),
}


@pytest.mark.parametrize("change", UNRELATED.values(), ids=UNRELATED)
def test_what_is_not_declared_leaves_the_key(
    project: Path, change: Callable[[Path], object]
) -> None:
    """Other files, caches of Python, times and other mode bits do not count."""
    before = key(project)
    change(project)
    assert key(project) == before


@pytest.mark.parametrize(
    "build",
    [
        with_target(deadlines=Deadlines(boot_s=1), attempts=5),
        with_recipe(destinations=("s3://bucket/x",), pass_host_trust=True),
        dataclasses.replace(BUILD, host_trust={"HTTPS_PROXY": "x"}, folder="x"),
        dataclasses.replace(BUILD, environment={**BUILD.environment, "BUILD_RUN_ID": "two"}),
    ],
)
def test_what_changes_no_artifact_leaves_the_key(project: Path, build: Build) -> None:
    """Limits, destinations, the way through a proxy and the run's own id do not count."""
    assert key(project, build) == key(project)


def test_without_a_requirements_lock_no_other_run_has_the_key(project: Path) -> None:
    """What the script would install is unknown, so nothing counts as up to date."""
    build = with_recipe(requirements_lock="")
    old = inputs_of(build, project, IMAGE, nonce="one", now=NOW)
    new = inputs_of(build, project, IMAGE, nonce="two", now=LATER)
    assert key_of(old) != key_of(new)
    assert explain(old, new) == (
        "run: the recipe has no requirements_lock, so every run builds anew",
    )
    assert key(project, nonce="one") == key(project, nonce="two")


@pytest.mark.parametrize(
    ("age_s", "now", "began"),
    [
        (24 * 3600, "2026-11-21T01:45:00Z", "2026-11-21T00:00:00Z"),
        (24 * 3600, "2026-11-21T23:59:59Z", "2026-11-21T00:00:00Z"),
        (24 * 3600, "2026-11-22T00:00:00Z", "2026-11-22T00:00:00Z"),
        (3600, "2026-11-21T01:45:00Z", "2026-11-21T01:00:00Z"),
        (7 * 24 * 3600, "1970-01-20T01:45:00Z", "1970-01-15T00:00:00Z"),
    ],
)
def test_a_period_of_max_artifact_age_is_part_of_the_key(
    project: Path, age_s: float, now: str, began: str
) -> None:
    """It stands for the packages that nobody locks, and is counted from 1970 on every host."""
    build = with_recipe(max_artifact_age_s=float(age_s))
    inputs = inputs_of(build, project, IMAGE, nonce="n", now=now)
    assert Input(name="packages as of", value=began) in inputs
    assert key(project, build, now=now) == key(project, build, now=began)


def test_a_new_period_is_a_new_key(project: Path) -> None:
    """And `why` says that this has changed, and nothing else."""
    old = inputs_of(BUILD, project, IMAGE, nonce="one", now=NOW)
    new = inputs_of(BUILD, project, IMAGE, nonce="two", now=LATER)
    assert key_of(old) != key_of(new)
    assert explain(old, new) == (
        "packages as of: was 2026-11-03T00:00:00Z, is 2026-12-03T00:00:00Z",
    )


def test_the_same_files_elsewhere_have_the_same_key(project: Path, tmp_path: Path) -> None:
    """A key can be shared between checkouts."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("provision", "packager.yaml", "agent.lock"):
        (project / name).rename(elsewhere / name)
    before = key(elsewhere)
    for name in ("provision", "packager.yaml", "agent.lock"):
        (elsewhere / name).rename(project / name)
    assert key(project) == before


def test_a_listed_link_counts_by_what_it_leads_to(project: Path) -> None:
    """Who lists a link means the file behind it."""
    (project / "listed").symlink_to("packager.yaml")
    before = digest_of(project, "listed")
    assert before == digest_of(project, "packager.yaml")
    (project / "packager.yaml").write_text("changed\n")
    assert digest_of(project, "listed") != before


def test_names_and_contents_do_not_run_into_each_other(tmp_path: Path) -> None:
    """Moving a byte from a name into a content is another tree."""
    for folder, name, content in (("one", "ab", "c"), ("two", "a", "bc")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    assert digest_of(tmp_path, "one") != digest_of(tmp_path, "two")


@pytest.mark.parametrize("path", ["missing", "provision/pipe"])
def test_what_cannot_be_read_is_told(project: Path, path: str) -> None:
    """A missing input or a pipe is an error at once, never a wait."""
    os.mkfifo(project / "provision" / "pipe")
    with pytest.raises(UsageError, match=r"cannot be read|neither a file"):
        digest_of(project, path)


def test_explain_names_what_came_and_went() -> None:
    """Every difference is one line; values are shown, digests shortened."""
    old = (
        Input(name="size", value="1"),
        Input(name="gone", value="x"),
        Input(name="same", value="x"),
        Input(name="script", value="sha256:" + "a" * 64),
    )
    new = (
        Input(name="size", value=""),
        Input(name="same", value="x"),
        Input(name="script", value="sha256:" + "b" * 64),
        Input(name="new", value="x"),
    )
    assert explain(old, new) == (
        "size: was 1, is empty",
        "gone: is gone",
        "script: was sha256:aaaaaaaaaaaa..., is sha256:bbbbbbbbbbbb...",
        "new: is new",
    )
    assert explain(old, old) == ()
