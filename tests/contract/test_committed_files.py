"""`build render --write` and `--check`: the files for people who have only Vagrant or Packer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from build_orchestrator.configuration.files import SHIPPED
from build_orchestrator.render.packerfile import INSIDE, path_of
from tests.contract.projects import Project

SCRIPT = "provision/prerequisites.sh"
FILE = path_of("debian_bookworm")


@pytest.fixture
def project(isolated_home: Path) -> Project:
    """Of a user who has a targets.yaml, and takes the rest from the wheel."""
    made = Project(isolated_home)
    path = made.folder / "targets.yaml"
    content = yaml.safe_load(path.read_text())
    image = {"image": {"bootstrap": "bookworm"}}
    content["distros"]["debian_bookworm"]["providers"] |= {"qemu": image}
    content["flavours"] = {"plain": {"script": SCRIPT}}
    path.write_text(yaml.safe_dump(content))
    return made


def test_a_file_that_has_drifted_is_named_and_written_again(project: Project) -> None:
    missing = project.called("render", "--check")
    assert (missing.status, FILE in missing.stderr) == (2, True), missing.words
    assert project.called("render", "--write").status == 0
    assert project.called("render", "--check").status == 0
    written = (project.folder / FILE).read_text()
    (project.folder / FILE).write_text(written.replace("qcow2", "raw"))
    stranger = project.folder / path_of("debian_gone")
    stranger.parent.mkdir()
    stranger.write_text("{}")
    drifted = project.called("render", "--check")
    assert drifted.status == 2
    assert f"{stranger}, {project.folder / FILE} are not what" in drifted.stderr
    assert project.called("render", "--write").status == 0
    assert ((project.folder / FILE).read_text(), stranger.exists()) == (written, False)


def test_what_only_packer_would_miss_is_named_with_where_to_take_it(project: Project) -> None:
    told = project.called("render", "--write")
    assert told.status == 0, told.words
    for name in (INSIDE, SCRIPT):
        assert f"{project.folder / name}: Packer" in told.stderr
        assert f"copy {SHIPPED / name}" in told.stderr
        (project.folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(SHIPPED / name, project.folder / name)
    again = project.called("render", "--write")
    assert (again.status, again.stderr) == (0, ""), again.words
