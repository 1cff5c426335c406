"""What cannot be written down changes no machine's end: none is lost, and none called alive."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.contract.projects import (
    OUTPUT,
    SCRIPT,
    TARGET,
    WAITS,
    Project,
    project,
    small,
    until_event,
)

__all__ = ["project", "small"]

pytestmark = pytest.mark.real
"""Each is one or more runs of the whole program: longer than fast tests may take."""

LOSES_JOURNAL = f"""{SCRIPT}
cd "{{runs}}"/*-*
rm journal.jsonl
mkdir journal.jsonl
"""
"""The run folder takes no more records, as on a full disk."""


def loses_journal(project: Project) -> str:
    return LOSES_JOURNAL.format(runs=project.folder / "runs")


@pytest.mark.parametrize("keep", ["never", "always", "on-failure"])
def test_a_journal_that_takes_nothing_more(project: Project, keep: str) -> None:
    """The machine goes, even one that was to be kept: nobody would know until when."""
    script = loses_journal(project) + ("exit 1\n" if keep == "on-failure" else "")
    done = project.write(script=script).up("--keep", keep)
    assert done.status == (1 if keep == "on-failure" else 0), done.words
    assert project.row()["machine"] == "destroyed"
    assert ("cannot be kept" in done.words) == (keep != "never")
    assert project.alive() == []
    assert project.folders() == [], "the other journal knows"


@pytest.mark.alone
def test_sweep_goes_on_where_a_journal_cannot_be_written(project: Project, small: Path) -> None:
    """Two machines were left, and the journal beside their run takes no word about the first."""
    (project.folder / "runs").symlink_to(small)
    project.write(script=WAITS, targets={"debian_bookworm": {}, "debian_trixie": {}})
    with project.started("up", "debian_*", "-j2", "--events", "-") as child:
        until_event(child, "output_line", "waiting")
        until_event(child, "output_line", "waiting")
        child.send_signal(signal.SIGKILL)
    with contextlib.suppress(OSError), (small / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    done = project.build("sweep", "--json")
    assert done.status == 0, done.words
    ours = [row for row in json.loads(done.stdout) if project.uuids()[0] in row["name"]]
    assert [row["state"] for row in ours] == ["destroyed"] * 2
    assert project.alive() == []


@pytest.mark.parametrize("keep", ["never", "always"])
def test_secrets_on_the_console_are_hidden_whatever_becomes_of_the_machine(
    project: Project, keep: str
) -> None:
    """The console says the machine's name, which is the secret here."""
    project.write(recipe={"secrets": ["TOKEN"]})
    done = project.up("--keep", keep, TOKEN=TARGET)
    assert done.status == 0, done.words
    console = (project.run / TARGET / "console.txt").read_text()
    assert "booted" in console
    assert TARGET not in console


def test_a_kept_machine_ends_the_tries(project: Project) -> None:
    """Who keeps a failed machine wants to look into it: no other one takes its place."""
    script = f"test -e {project.home}/tried || {{ touch {project.home}/tried; exit 75; }}\n{SCRIPT}"
    done = project.write(script=script, attempts=3).up("--keep", "on-failure")
    assert done.status == 3, done.words
    row = project.row()
    assert (row["machine"], row["attempts"], row["outcome"]) == ("kept", 1, "environment")
    assert project.build("sweep", TARGET).status == 0
    project.assert_nothing_left()


def test_an_input_that_nobody_can_read(project: Project) -> None:
    """A pipe somewhere in a folder: a row that says so, and nothing was booted."""
    (project.folder / "in").mkdir()
    project.write(recipe={"inputs": ["in/"]})
    os.mkfifo(project.folder / "in" / "pipe")
    done = project.up()
    assert done.status == 3, done.words
    row = project.row()
    assert (row["outcome"], row["machine"]) == ("environment", "none")
    assert "neither a file, nor a folder" in row["failure"]["brief"]


def test_the_report_as_json(project: Project) -> None:
    """On standard output alone; the table is for people and goes to the other one."""
    done = project.up("--json")
    assert done.status == 0, done.words
    assert json.loads(done.stdout) == project.report()
    assert OUTPUT in done.stderr
    again = project.build("publish", "--json")
    assert {row["state"] for row in json.loads(again.stdout)} == {"yes"}
    assert project.up("--json", "--events", "-").status == 2


def test_a_run_that_published_nothing_cannot_be_published(project: Project) -> None:
    """It has no destination, so success would mean nothing."""
    assert project.up("--no-publish").status == 0
    done = project.build("publish")
    assert done.status == 2
    assert "--publish-to" in done.stderr


COMMANDS = (("publish",), ("status",), ("logs", TARGET, "-f"))


@pytest.mark.parametrize("file", ["report.json", "plan.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\xff"])
def test_what_is_damaged_in_a_run_folder_is_no_bug(
    project: Project, file: str, content: bytes
) -> None:
    """A disk that was full leaves such files; what can still be shown is."""
    assert project.up().status == 0
    (project.run / file).write_bytes(content)
    done = {words[0]: project.build(*words) for words in COMMANDS}
    (project.run / file).unlink()  # Whoever ends this test would read it, too.
    assert {name: each.status for name, each in done.items()} == {
        "publish": 2,
        "status": 0,
        "logs": 0,
    }
