"""``build up`` from the outside: what a person, a CI system and the disk see of a run that ends."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.contract.projects import OUTPUT, SCRIPT, TARGET, Project, project

__all__ = ["project"]

real = pytest.mark.real
"""Marks what takes longer than fast tests may: each is one or more runs of the whole program."""


def stages(project: Project) -> list[str]:
    """The stages that were started, in order, image and repetitions included."""
    lines = (project.run / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [event["stage"] for event in events if event["event"] == "stage_started"]


def test_a_build_that_succeeds(project: Project) -> None:
    """The artifact is where the closing table says, and nothing else is left."""
    done = project.up()
    assert done.status == 0, done.stderr
    row = project.row()
    assert (row["outcome"], row["machine"], row["attempts"]) == ("built", "destroyed", 1)
    (published,) = row["published"]
    assert published["state"] == "yes"
    assert Path(published["url"]).read_text() == "made\n"
    assert published["url"] in done.stdout
    assert project.report()["exit_code"] == 0
    assert " | hello\n" in project.log()
    expected = ["image", "boot", "transfer", "provision", "collect", "destroy", "publish"]
    assert stages(project) == expected
    kinds = [record["kind"] for record in records(project.run / "journal.jsonl")]
    assert kinds == ["run", "intent", "identity", "gone"]
    assert "tests/" not in (project.run / "plan.json").read_text()
    project.assert_nothing_left()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_script_that_fails(project: Project) -> None:
    """Exit 1 with the last lines, the log's path and what the script left; no second try."""
    script = f'echo half >"$BUILD_OUTPUT/{OUTPUT}"\necho no compiler here >&2\nexit 7\n'
    done = project.write(script=script).up()
    assert done.status == 1
    row = project.row()
    assert (row["outcome"], row["machine"], row["attempts"]) == ("failed", "destroyed", 1)
    assert row["published"] == []
    assert row["failure"]["stage"] == "provision"
    assert row["failure"]["rule"] == "script"
    assert "no compiler here" in done.stdout
    assert "status 7" in done.stdout
    assert row["log"] in done.stdout
    assert (project.run / TARGET / "partial" / OUTPUT).read_text() == "half\n"
    assert not (project.folder / "dist").exists()
    project.assert_nothing_left()


@real
def test_a_script_that_blames_its_environment(project: Project) -> None:
    """75 is exit 3, after a second try on another machine."""
    done = project.write(script="echo no mirror\nexit 75\n").up()
    assert done.status == 3
    row = project.row()
    assert (row["outcome"], row["machine"], row["attempts"]) == ("environment", "destroyed", 2)
    assert row["failure"]["rule"] == "status-75"
    names = [entry.identity.name for entry in project.entries()]
    assert len(names) == len(set(names)) == 2, "each try had a machine of its own"
    project.assert_nothing_left()


DEADLINES: dict[str, tuple[int, dict[str, Any]]] = {
    "boot": (3, {"options": {"hang_at": "boot"}, "deadlines": {"boot_s": 0.2}}),
    "transfer": (3, {"options": {"hang_at": "transfer"}, "deadlines": {"transfer_s": 0.2}}),
    "provision": (1, {"deadlines": {"provision_s": 0.3}}),
    "collect": (3, {"options": {"hang_at": "collect"}, "deadlines": {"collect_s": 0.2}}),
}


@real
@pytest.mark.parametrize("stage", DEADLINES)
def test_each_stage_has_a_deadline(project: Project, stage: str) -> None:
    """The error names stage and limit; provision's is the script's fault, others try again."""
    status, row = DEADLINES[stage]
    script = f'echo >"$BUILD_OUTPUT/part"; {"sleep 60" if stage == "provision" else ":"}\n'
    script += f'touch "$BUILD_OUTPUT/{OUTPUT}"'
    done = project.write(script=script, attempts=1, **row).up()
    assert done.status == status, done.words
    failure = project.row()["failure"]
    assert failure["stage"] == stage
    limit_s = row["deadlines"][f"{stage}_s"]
    assert failure["brief"] == f"{stage}: no end within its limit of {limit_s} s"
    assert "waiting for" in failure["details"]
    assert project.row()["machine"] == "destroyed"
    if stage == "provision":
        assert failure["rule"] == "deadline"
        assert (project.run / TARGET / "partial" / "part").exists()
    project.assert_nothing_left()


@real
@pytest.mark.parametrize("stage", ["boot", "transfer", "provision", "collect"])
def test_a_lost_machine_is_replaced(project: Project, stage: str) -> None:
    """Wherever a machine is lost, one new machine is tried, and then it is exit 3."""
    done = project.write(options={"fail_at": stage}).up()
    assert done.status == 3, done.words
    row = project.row()
    assert (row["outcome"], row["machine"], row["attempts"]) == ("environment", "destroyed", 2)
    assert row["failure"]["stage"] == stage
    names = [entry.identity.name for entry in project.entries()]
    assert [name[-2:] for name in names] == ["-1", "-2"]
    assert stages(project).count("boot") == 2
    project.assert_nothing_left()


@real
def test_the_number_of_tries_can_be_one(project: Project) -> None:
    """With ``attempts: 1`` a lost machine is the end of it."""
    done = project.write(options={"fail_at": "transfer"}, attempts=1).up()
    assert (done.status, project.row()["attempts"]) == (3, 1)
    project.assert_nothing_left()


def test_where_a_baked_image_is_required_nothing_starts_from_another(project: Project) -> None:
    """Also where none can be baked: this recipe names no flavour."""
    done = project.up("--require-baked")
    assert done.status == 3, done.words
    row = project.row()
    assert (row["outcome"], row["machine"]) == ("environment", "none")
    assert "has no flavour for debian_bookworm_fake" in row["failure"]["brief"]
    assert project.entries() == []


@real
def test_a_machine_that_dies_under_the_script_is_the_environment(project: Project) -> None:
    """The evidence decides: the script did not end by itself."""
    kill = (
        "for p in /proc/[0-9]*; do\n"
        '  [ "$(tr "\\0" " " <$p/cmdline 2>/dev/null)" = "cat alive " ] || continue\n'
        '  tr "\\0" "\\n" <$p/environ | grep -qx "MACHINE_NAME=$MACHINE_NAME" || continue\n'
        "  kill -9 ${p#/proc/}\ndone\nsleep 0.3\n"
    )
    done = project.write(script=kill, attempts=1).up()
    assert done.status == 3, done.words
    assert project.row()["failure"]["rule"] == "machine-lost"
    project.assert_nothing_left()


@real
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo nothing to show\n", OUTPUT),
        (f'{SCRIPT}echo more >"$BUILD_OUTPUT/undeclared.txt"\n', "undeclared.txt"),
        (f': >"$BUILD_OUTPUT/{OUTPUT}"\n', OUTPUT),
    ],
    ids=["missing", "undeclared", "empty"],
)
def test_outputs_must_be_what_was_declared(project: Project, script: str, says: str) -> None:
    """A missing, an undeclared and an empty output are failures of the build."""
    done = project.write(script=script).up()
    assert done.status == 1, done.words
    row = project.row()
    assert (row["outcome"], row["attempts"]) == ("failed", 1)
    assert row["failure"]["stage"] == "collect"
    assert says in done.stdout
    project.assert_nothing_left()


@real
def test_one_failure_does_not_stop_the_others(project: Project) -> None:
    """Every target has its own log, outcome and machine; the exit code is the worst of them."""
    project.write(
        script=f"case $BUILD_DISTRO in *_bad) exit 7 ;; esac\n{SCRIPT}",
        targets={
            "debian_bad": {},
            "debian_lost": {"options": {"fail_at": "boot"}},
            "debian_good": {},
        },
    )
    done = project.build("up", "debian_*", "-j1", "--publish-to", "out/")
    assert done.status == 1, done.words
    outcomes = {name: row["outcome"] for name, row in project.rows().items()}
    assert outcomes == {
        "debian_bad_fake": "failed",
        "debian_lost_fake": "environment",
        "debian_good_fake": "built",
    }
    project.assert_nothing_left()


@real
def test_fail_fast_stops_the_others(project: Project) -> None:
    """With --fail-fast what runs is stopped, what waits is not started, and all machines go."""
    project.write(
        script=f"case $BUILD_DISTRO in *_bad) sleep 0.2; exit 7 ;; esac\n{SCRIPT}sleep 60\n",
        targets={"debian_bad": {}, "debian_long": {}, "debian_never": {}},
    )
    done = project.build("up", "debian_*", "-j2", "--fail-fast")
    assert done.status == 1, done.words
    rows = project.rows()
    assert rows["debian_bad_fake"]["outcome"] == "failed"
    assert rows["debian_long_fake"]["outcome"] == "cancelled"
    assert rows["debian_never_fake"]["outcome"] == "cancelled"
    assert rows["debian_never_fake"]["machine"] == "none"
    project.assert_nothing_left()


@real
def test_two_builds_really_run_at_the_same_time(project: Project) -> None:
    """With -j2 each script sees the other one start; alone it would wait for ever."""
    meet = project.home / "meet"
    meet.mkdir()
    script = (
        f'touch "{meet}/$BUILD_TARGET"\n'
        f'for n in $(seq 400); do set -- "{meet}"/*; [ $# = 2 ] && break; sleep 0.02; done\n'
        f"[ $# = 2 ] || exit 9\n{SCRIPT}"
    )
    project.write(script=script, targets={"debian_one": {}, "debian_two": {}})
    done = project.build("up", "debian_*", "-j2", "--no-publish")
    assert done.status == 0, done.words
    assert {row["outcome"] for row in project.rows().values()} == {"built"}


@real
def test_two_runs_share_a_checkout(project: Project) -> None:
    """Two orchestrators at once neither sweep nor overwrite each other."""
    project.write(script=f"{SCRIPT}sleep 0.5\n")
    with project.started("up", TARGET) as first, project.started("up", TARGET) as second:
        assert first.wait(60) == 0, first.communicate()
        assert second.wait(60) == 0, second.communicate()
    assert len(project.runs) == 2
    assert len(list(project.folder.glob(f"dist/dev/*/{OUTPUT}"))) == 2
    project.assert_nothing_left()


@real
def test_the_checkout_stays_clean(project: Project) -> None:
    """``git status`` shows nothing after a run, since runs/ and dist/ are ignored."""

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(
            command, cwd=project.folder, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    (project.folder / ".gitignore").write_text("/runs/\n/dist/\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    assert project.up().status == 0
    assert git("status", "--porcelain") == ""


@real
def test_events_and_junit_go_where_they_were_asked_for(project: Project) -> None:
    """With ``--events -`` standard output holds events and nothing else."""
    junit = project.home / "junit.xml"
    done = project.up("--events", "-", "--junit", str(junit))
    assert done.status == 0, done.stderr
    assert [event["event"] for event in done.events][:1] == ["run_started"]
    assert done.events[-1] == {**done.events[-1], "event": "run_ended", "exit_code": 0}
    assert (project.run / "events.jsonl").read_text() == done.stdout
    assert junit.read_text() == (project.run / "junit.xml").read_text()
    assert f'name="{TARGET}"' in junit.read_text()
    assert OUTPUT in done.stderr, "the closing table is on standard error instead"
