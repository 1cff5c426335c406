"""A project's own files come first, file by file; what it does not have is the shipped one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from build_orchestrator.configuration.files import SHIPPED, place_of, places_of, text_of
from build_orchestrator.errors import UsageError
from build_orchestrator.inputs import digest_of
from build_orchestrator.provision import gather_inputs
from tests.unit.test_provision import build_of, recipe_of

SCRIPT = "provision/provision.sh"
OWN = "#!/bin/sh\necho my own\n"


def brought(project: Path, into: Path) -> dict[str, str]:
    """What a machine gets of ``provision/``, without the packager that is made for it."""
    recipe = dataclasses.replace(recipe_of(), script=SCRIPT, inputs=("provision/",))
    gather_inputs(dataclasses.replace(build_of(), recipe=recipe), project, into)
    files = [each for each in into.rglob("*") if each.is_file() and each.suffix != ".pyz"]
    return {str(each.relative_to(into)): each.read_text() for each in files}


def shipped() -> dict[str, str]:
    files = [each for each in (SHIPPED / "provision").rglob("*") if each.is_file()]
    return {str(each.relative_to(SHIPPED)): each.read_text() for each in files}


def test_a_project_without_a_script_gets_the_shipped_one(tmp_path: Path) -> None:
    """All of the folder, executable as it is here."""
    (tmp_path / "project").mkdir()
    assert brought(tmp_path / "project", tmp_path / "into") == shipped()
    assert (tmp_path / "into" / SCRIPT).stat().st_mode & 0o100


def test_a_projects_own_file_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    """The others of the same folder stay, links of the project's own included."""
    project = tmp_path / "project"
    (project / "provision").mkdir(parents=True)
    (project / SCRIPT).write_text(OWN)
    (project / "provision/README.md").symlink_to("provision.sh")
    expected = {**shipped(), SCRIPT: OWN, "provision/README.md": OWN}
    assert brought(project, tmp_path / "into") == expected


def test_the_key_is_over_what_the_machine_gets(tmp_path: Path) -> None:
    """The digest of the two folders is that of the one which they amount to."""
    project, into = tmp_path / "project", tmp_path / "into"
    (project / "provision/more").mkdir(parents=True)
    (project / SCRIPT).write_text(OWN)
    (project / "provision/more/file").write_text("more")
    before = digest_of(project, "provision/")
    assert before != digest_of(SHIPPED, "provision/")
    brought(project, into)
    for packager in into.rglob("*.pyz"):
        packager.unlink()
    assert before == digest_of(into, "provision/") == digest_of(project, "provision")


def test_what_is_both_is_one_place(tmp_path: Path) -> None:
    """In a checkout of this project the two are the same files."""
    (tmp_path / "provision").symlink_to(SHIPPED / "provision")
    assert places_of(tmp_path, "provision/") == (tmp_path / "provision",)


def test_what_is_nowhere_is_missed_in_the_project(tmp_path: Path) -> None:
    """The error names the place where a person would put it."""
    assert place_of(tmp_path, "make.sh") == tmp_path / "make.sh"
    with pytest.raises(UsageError, match=r"make\.sh cannot be read"):
        text_of(tmp_path, "make.sh")
