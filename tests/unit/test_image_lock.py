"""images.lock.yaml: a baked image comes back as it was, and writers at once tear nothing."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from build_orchestrator import locks
from build_orchestrator.errors import ConfigurationError
from build_orchestrator.image.baked import Baked
from build_orchestrator.image.lock import FILE, Locked, baked_in, read, write, write_baked
from build_orchestrator.model import Input


def image(target: str = "debian_one_aws", ami: str = "ami-12345678") -> Baked:
    return Baked(
        project="",
        target=target,
        distro="debian_one",
        provider="aws",
        flavour="prerequisites",
        region="eu-west-1",
        key="0123456789" * 6,
        inputs=(Input(name="base image", value="ami-87654321"), Input(name="x", value="yes: 1")),
        base="ami-87654321 (debian)",
        made_at=1790000000.0,
        packer="1.6.6",
        run_id="20261121T014500Z-3f9c",
        ami=ami,
        size_bytes=8 << 30,
        packages={"gcc": "4:12.2.0-3", "zlib1g": "1:1.2.13"},
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def test_an_image_comes_back_as_it_was(project: Path) -> None:
    assert baked_in(project) == []
    write_baked(project, image())
    assert baked_in(project) == [dataclasses.replace(image(), project=str(project))]


def test_a_new_image_takes_the_place_of_the_one_before_it(project: Path) -> None:
    write_baked(project, image())
    write_baked(project, image(target="debian_two_aws"))
    write_baked(project, image(ami="ami-00000002"))
    found = {each.target: each.ami for each in baked_in(project)}
    assert found == {"debian_one_aws": "ami-00000002", "debian_two_aws": "ami-12345678"}


def test_what_names_mean_and_what_was_baked_leave_each_other_alone(project: Path) -> None:
    row = Locked(image="debian", region="eu-west-1", arch="x86_64", ami="ami-87654321")
    write_baked(project, image())
    write(project, [row])
    assert (list(read(project).values()), len(baked_in(project))) == ([row], 1)
    write_baked(project, image(target="debian_two_aws"))
    assert list(read(project).values()) == [row]
    write(project, [])
    assert len(baked_in(project)) == 2


def test_bakes_at_once_tear_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_S", 0.005)
    names = [f"debian_{number}_aws" for number in range(16)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        writing = [pool.submit(write_baked, project, image(target=name)) for name in names]
        while not all(each.done() for each in writing):
            baked_in(project)  # Whoever reads meanwhile sees it whole.
            time.sleep(0.002)  # Else there would be little meanwhile.
        for each in writing:
            each.result()
    assert {each.target for each in baked_in(project)} == set(names)


def test_an_image_that_is_locked_twice_is_named(project: Path) -> None:
    write_baked(project, image())
    text = (project / FILE).read_text()
    rows = text[text.index("- target") :]
    (project / FILE).write_text(text + rows)
    with pytest.raises(ConfigurationError) as caught:
        baked_in(project)
    assert "baked[1]" in caught.value.details
    assert "debian_one_aws in eu-west-1 is locked twice" in caught.value.details
