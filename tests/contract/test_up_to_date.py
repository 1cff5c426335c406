"""What is there already is not built again, and ``build why`` says what has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.contract.projects import OUTPUT, SCRIPT, TARGET, Project, project

__all__ = ["project"]

pytestmark = pytest.mark.real
"""Each is two or three runs of the whole program: longer than fast tests may take."""

LOCK = "requirements.lock"
FILES = ["agent.txt", "agent.txt.md5", "agent.txt.sha256"]


@pytest.fixture
def locked(project: Project) -> Project:
    """A project whose recipe has a requirements lock, built once."""
    (project.folder / LOCK).write_text("click==8.1.8\n")
    project.write(recipe={"requirements_lock": LOCK})
    done = project.up()
    assert done.status == 0, done.words
    return project


def newest(project: Project) -> dict[str, Any]:
    """The newest run's row."""
    (row,) = json.loads((project.runs[-1] / "report.json").read_text())["results"]
    return dict(row)


def published(project: Project) -> list[str]:
    """The names of what is published, without records and links."""
    folder = project.folder / "dist" / "dev"
    return sorted(path.name for path in folder.glob("*/*"))


def kinds(project: Project) -> set[str]:
    """The stages that the newest run went through."""
    lines = (project.runs[-1] / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return {event["stage"] for event in events if event["event"] == "stage_started"}


def test_what_is_published_is_not_built_again(locked: Project) -> None:
    """No machine, the same address, exit 0; --force builds it all the same."""
    first = newest(locked)
    done = locked.up()
    assert done.status == 0, done.words
    row = newest(locked)
    assert (row["outcome"], row["machine"], row["attempts"]) == ("unchanged", "none", 0)
    assert [each["url"] for each in row["published"]] == [
        each["url"] for each in first["published"]
    ]
    assert "boot" not in kinds(locked)
    assert first["published"][0]["url"] in done.stdout
    assert locked.up("--force").status == 0
    assert newest(locked)["outcome"] == "built"


@pytest.mark.parametrize("change", ["script", "lock", "variable"])
def test_what_has_changed_is_built(locked: Project, change: str) -> None:
    """Whatever of the declared inputs it is."""
    arguments = ["--set", "COLOUR=red"] if change == "variable" else []
    if change == "script":
        (locked.folder / "make.sh").write_text(f"{SCRIPT}# more\n")
    if change == "lock":
        (locked.folder / LOCK).write_text("click==8.1.7\n")
    why = locked.build("why", TARGET, *arguments)
    assert {"script": "script make.sh", "lock": f"lock {LOCK}", "variable": "COLOUR"}[
        change
    ] in why.stdout
    assert locked.up(*arguments).status == 0
    assert newest(locked)["outcome"] == "built"


def test_without_a_lock_everything_is_built(project: Project) -> None:
    """Two runs never share a key then; and ``why`` says so."""
    assert project.up().status == 0
    assert project.up().status == 0
    assert newest(project)["outcome"] == "built"
    why = project.build("why", TARGET)
    assert "nothing has changed" in why.stdout
    assert "built every time: its recipe has no requirements_lock" in why.stdout


BUG = """\
import build_orchestrator.pipeline.unchanged as module
def published_already(*_, **__):
    raise ZeroDivisionError("planted")
module.published_already = published_already
"""


def test_a_bug_of_ours_in_looking_has_its_row(locked: Project, tmp_path: Path) -> None:
    """Exit 70, and a report all the same: other builds of the run go on."""
    (tmp_path / "sitecustomize.py").write_text(BUG)
    done = locked.up(PYTHONPATH=f"{tmp_path}:{locked.environ['PYTHONPATH']}")
    assert done.status == 70, done.words
    assert "a bug of ours: ZeroDivisionError: planted" in newest(locked)["failure"]["brief"]
    assert not newest(locked)["attempts"]


def test_what_was_collected_is_published_without_another_build(locked: Project) -> None:
    """As after a destination that was out of reach: what the run folder has is enough."""
    before = published(locked)
    assert before == FILES
    shutil.rmtree(locked.folder / "dist")
    done = locked.up()
    assert done.status == 0, done.words
    row = newest(locked)
    assert (row["outcome"], row["machine"]) == ("unchanged", "none")
    assert kinds(locked) == {"image", "publish"}
    assert published(locked) == before


def test_what_a_killed_run_has_collected_is_published(locked: Project) -> None:
    """It may have published a part, and another build may give other bytes: a conflict for ever."""
    killed = locked.run
    (killed / "report.json").unlink()
    (record,) = (locked.folder / "dist/keys").iterdir()
    record.unlink()
    done = locked.up()
    assert done.status == 0, done.words
    assert (newest(locked)["outcome"], newest(locked)["machine"]) == ("unchanged", "none")
    assert record.is_file()


def test_what_a_killed_run_has_not_verified_is_built(locked: Project) -> None:
    """Its checksums come last."""
    (locked.run / "report.json").unlink()
    (locked.run / TARGET / "agent.txt.md5").unlink()
    shutil.rmtree(locked.folder / "dist")
    assert locked.up().status == 0
    assert newest(locked)["outcome"] == "built"


def test_what_was_collected_and_is_damaged_is_built(locked: Project) -> None:
    """Bytes that are not those that were verified are never published."""
    shutil.rmtree(locked.folder / "dist")
    (locked.run / TARGET / "agent.txt").write_text("somebody else's\n")
    assert locked.up().status == 0
    assert newest(locked)["outcome"] == "built"
    (path,) = (locked.folder / "dist/dev").glob("*/agent.txt")
    assert path.read_text() == "made\n"


LATER = """\
import time
real = time.gmtime
time.gmtime = lambda seconds=None: real(time.time() + 31 * 86400 if seconds is None else seconds)
"""


@pytest.mark.parametrize("forgotten", [False, True], ids=["run folder", "no run folder"])
def test_an_old_artifact_is_built_again(project: Project, tmp_path: Path, forgotten: bool) -> None:
    """What a moving mirror brings gives other bytes; they get another key and no conflict."""
    (project.folder / LOCK).write_text("click==8.1.8\n")
    script = f'echo "$BUILD_RUN_ID" >"$BUILD_OUTPUT/{OUTPUT}"\n'
    project.write(recipe={"requirements_lock": LOCK}, script=script)
    assert project.up().status == 0
    first = project.run
    (tmp_path / "sitecustomize.py").write_text(LATER)
    later = {"PYTHONPATH": f"{tmp_path}:{project.environ['PYTHONPATH']}"}
    why = project.build("why", TARGET, **later)
    assert "packages as of: was 20" in why.stdout
    if forgotten:
        shutil.rmtree(first)
    done = project.up(**later)
    assert done.status == 0, done.words
    assert newest(project)["outcome"] == "built"
    assert len(list((project.folder / "dist/dev").glob(f"*/{OUTPUT}"))) == 2
    assert project.up(**later).status == 0
    assert newest(project)["outcome"] == "unchanged"


def test_a_record_that_is_none_is_not_believed(locked: Project, tmp_path: Path) -> None:
    """What lies under the key must name something, wherever it lies."""
    both = ("--publish-to", "dist/", "--publish-to", str(tmp_path / "second"))
    assert locked.up(*both).status == 0
    (record,) = (tmp_path / "second/keys").iterdir()
    record.write_text("[]\n")
    for run in locked.runs:
        shutil.rmtree(run)
    assert locked.up(*both).status == 1  # It is not overwritten either.
    assert newest(locked)["outcome"] == "built"
    assert newest(locked)["published"][-1]["state"] == "conflict"


def test_every_destination_must_have_it(locked: Project, tmp_path: Path) -> None:
    """One that has it is no reason to leave another one out."""
    second = tmp_path / "second"
    done = locked.up("--publish-to", "dist/", "--publish-to", str(second))
    assert done.status == 0, done.words
    assert newest(locked)["outcome"] == "unchanged"
    assert [path.name for path in sorted(second.glob("dev/*/*"))] == FILES


def test_why_of_what_was_never_built(project: Project) -> None:
    """There is nothing to compare with, which is said."""
    done = project.build("why", TARGET, "--json")
    assert done.status == 0
    (row,) = json.loads(done.stdout)
    assert row["last_run"] is None
    assert project.build("why", TARGET, "--image", "debian_bookworm").status == 2
