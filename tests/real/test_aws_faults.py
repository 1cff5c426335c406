"""What can go wrong between us and EC2: the right exit code, the right number of machines ever
launched, and nothing left; or exit 5, the machine named, and nothing left after a sweep."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest

from build_orchestrator.machine.ec2 import launch
from tests.contract.machines import until
from tests.contract.projects import SCRIPT, until_event
from tests.real.aws_projects import TARGET, AwsProject, ec2, project, server
from tests.standins.ec2 import REGION

__all__ = ["ec2", "project", "server"]

ZONES = ["eu-west-1a", "eu-west-1b"]
WAITS = f"{SCRIPT}echo waiting\nsleep 60\n"
# What comes first in the PATH of a machine without a disk: its `tar` decides how collecting goes.
DIES_AT_COLLECT = f"""{SCRIPT}
cat >"$MACHINE_SHIMS/tar" <<'END'
#!/bin/sh
poweroff
sleep 9
END
chmod +x "$MACHINE_SHIMS/tar"
"""
OURS = [{"Name": "tag-key", "Values": [launch.RUN]}]
CAPACITY = "InsufficientInstanceCapacity"


def ends(project: AwsProject, status: int, *, launched: int, left: bool = False) -> None:
    """Run ``build up``, and see how it ends and what it has left."""
    done = project.up()
    assert done.status == status, done.words
    assert len(project.launched()) == launched, done.words
    assert bool(project.server.left()) == left, done.words
    if not left:
        project.assert_nothing_left()


def swept_from_another_host(project: AwsProject, folder: Path, *named: str) -> str:
    """What a sweep says that has neither our checkout nor our state folder: only tags tell it."""
    done = project.at_standin(
        *("sweep", *named, "--provider", "aws", "--region", REGION),
        cwd=folder,
        XDG_STATE_HOME=str(folder / "state"),
    )
    assert done.status == 0, done.words
    return done.stdout


def test_over_the_budget_nothing_is_asked(project: AwsProject) -> None:
    """The plan says what it would cost, and why `up` refuses; AWS hears nothing."""
    project.write(budget={"max_hourly_usd": 0.01})
    planned = project.at_standin("plan", TARGET)
    assert planned.status == 0, planned.words
    assert "about 0.05" in planned.stdout
    assert "`build up` refuses this" in planned.stdout
    asked = sum(project.server.shown()["actions"].values())
    done = project.up()
    assert done.status == 2, done.words
    assert "budget.max_hourly_usd is 0.01" in done.stderr
    assert sum(project.server.shown()["actions"].values()) == asked
    assert project.runs == []


def test_a_full_zone_is_left_for_the_next(project: AwsProject) -> None:
    """Capacity is no failure while another place is left; it costs no attempt."""
    project.write(launch={"zones": ZONES})
    project.server.fault("RunInstances", CAPACITY, status=500)
    ends(project, 0, launched=1)
    (machine,) = project.launched()
    assert machine["zone"] == ZONES[1]
    assert machine["name"].endswith("-2"), "each place tried is an attempt with a token of its own"


def test_capacity_that_is_gone_after_the_answer_is_looked_for_elsewhere(
    project: AwsProject,
) -> None:
    """AWS has taken the order, and takes it back while the machine is pending: the next place."""
    project.write(launch={"zones": ZONES})
    project.server.fault("RunInstances", f"Server.{CAPACITY}", ends=True)
    ends(project, 0, launched=2)
    assert sorted(machine["zone"] for machine in project.launched()) == ZONES


def test_no_capacity_anywhere_is_the_environments_fault(project: AwsProject) -> None:
    """Every place is asked once, and the error names what to try."""
    project.write(launch={"zones": ZONES, "instance_types": ["t3.small", "t3.large"]})
    asked = project.server.shown()["actions"].get("RunInstances", 0)
    project.server.fault("RunInstances", CAPACITY, times=4)
    ends(project, 3, launched=0)
    assert project.server.shown()["actions"]["RunInstances"] - asked == 4
    assert "launch.zones" in project.row()["failure"]["resolution"]


def test_spot_falls_back_to_on_demand(project: AwsProject) -> None:
    """Where spot has nothing, the same machine is asked for on demand."""
    project.write(launch={"spot": True})
    project.server.fault("RunInstances", "SpotMaxPriceTooLow")
    ends(project, 0, launched=1)
    assert [each["spot"] for each in project.launched()] == [False]


def test_a_quota_is_not_asked_again(project: AwsProject) -> None:
    """No other place helps against it, and no other attempt."""
    project.write(launch={"zones": ZONES}, attempts=2)
    asked = project.server.shown()["actions"].get("RunInstances", 0)
    project.server.fault("RunInstances", "VcpuLimitExceeded")
    ends(project, 3, launched=0)
    assert project.server.shown()["actions"]["RunInstances"] - asked == 1
    assert "quota" in project.row()["failure"]["resolution"]


def test_what_is_forbidden_is_not_asked_again(project: AwsProject) -> None:
    """Nobody gets a permission between two attempts."""
    project.write(launch={"zones": ZONES}, attempts=2)
    asked = project.server.shown()["actions"].get("RunInstances", 0)
    project.server.fault("RunInstances", "UnauthorizedOperation", status=403)
    ends(project, 3, launched=0)
    assert project.server.shown()["actions"]["RunInstances"] - asked == 1
    assert "permissions" in project.row()["failure"]["resolution"]


def test_a_throttled_launch_is_repeated(project: AwsProject) -> None:
    """Too many requests: the same one a little later."""
    project.server.fault("RunInstances", "RequestLimitExceeded", status=503, times=2)
    ends(project, 0, launched=1)


def test_a_lost_answer_makes_nothing_twice(project: AwsProject) -> None:
    """AWS has made it, and we were told that it failed: key pair, group, machine, and its end."""
    makes = ("ImportKeyPair", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress")
    for action in (*makes, "RunInstances", "TerminateInstances", "DeleteKeyPair"):
        project.server.fault(action, after=True)
    ends(project, 0, launched=1)


def test_a_launch_that_is_never_answered_is_found_by_its_name(project: AwsProject) -> None:
    """Time is up, and what AWS has made all the same is terminated."""
    project.write(boot_s=2)
    project.server.fault("RunInstances", after=True, times=9)
    ends(project, 3, launched=1)


def test_what_a_lost_answer_made_ends_before_another_place_is_tried(project: AwsProject) -> None:
    """AWS still worked on the first request when the same one found no capacity."""
    project.write(launch={"zones": ZONES})
    project.server.fault("RunInstances", after=True)
    project.server.fault("RunInstances", CAPACITY, status=500)
    ends(project, 0, launched=2)


def test_a_machine_that_is_not_known_everywhere_yet_is_waited_for(project: AwsProject) -> None:
    """AWS may not show for a while what it has just made, and may not know it when asked to end."""
    project.server.fault("DescribeInstances", blank=True, times=3)
    project.server.fault("TerminateInstances", "InvalidInstanceID.NotFound")
    project.write(script="exit 1\n")
    ends(project, 1, launched=1)


def test_a_group_that_is_not_known_everywhere_yet_is_waited_for(project: AwsProject) -> None:
    """What we have just made is not an error of ours."""
    project.server.fault("RunInstances", "InvalidGroup.NotFound")
    project.server.fault("AuthorizeSecurityGroupIngress", "InvalidGroup.NotFound")
    ends(project, 0, launched=1)


def test_a_reclaimed_machine_is_replaced(project: AwsProject) -> None:
    """Spot took it in the middle of the script: a new machine, another place."""
    project.write(script=f"{SCRIPT}echo waiting\nsleep 2\n", attempts=2, launch={"spot": True})
    with ending_a_machine(project, "waiting"):
        ends(project, 0, launched=2)
    assert sorted(each["spot"] for each in project.launched()) == [False, True]
    first, second = project.row()["used"]
    assert first["what"].endswith(", spot"), "both were paid for, and the report says so"
    assert second["usd"] > 0
    assert "SpotInstanceTermination" in project.log(TARGET) + str(project.report())


@pytest.mark.parametrize(
    ("word", "script"),
    [("", SCRIPT), ("waiting", WAITS), (None, DIES_AT_COLLECT)],
    ids=["boot", "provision", "collect"],
)
def test_a_machine_that_dies_is_the_environments_fault(
    project: AwsProject, word: str | None, script: str
) -> None:
    """Whenever it dies, AWS says why, and that is what the report says."""
    project.write(script=script)
    if word is None:
        ends(project, 3, launched=1)
    else:
        with ending_a_machine(project, word):
            ends(project, 3, launched=1)
    failure = project.row()["failure"]
    assert "ended" in failure["brief"], failure


def test_an_api_that_is_gone_for_a_while_is_waited_for(project: AwsProject) -> None:
    """A machine that works goes on working, and is terminated when AWS answers again."""
    project.write(script=f"{SCRIPT}echo waiting\nsleep 1\n")
    with project.at_the_word("waiting", lambda: project.server.fault("*", status=503, seconds=5)):
        ends(project, 0, launched=1)


def test_a_machine_that_cannot_be_terminated_is_named(project: AwsProject) -> None:
    """Exit 5, its id in the report, the artifact published all the same; a sweep ends it."""
    project.server.fault("TerminateInstances", "OperationNotPermitted")
    ends(project, 5, launched=1, left=True)
    row = project.row()
    (instance,) = project.server.alive()
    assert row["machine"] == "leaked"
    assert instance in row["failure"]["brief"]
    assert [each["state"] for each in row["published"]] == ["yes"]
    swept = project.build("sweep")
    assert swept.status == 0, swept.words
    assert project.server.left() == []
    project.assert_nothing_left()


def test_a_machine_that_lives_though_aws_said_that_it_ends_is_named(project: AwsProject) -> None:
    """What is alive at the run's end, and is nobody's, is exit 5, whatever its build was told."""
    project.server.fault("TerminateInstances", blank=True)
    ends(project, 5, launched=1, left=True)
    row = project.row()
    (instance,) = project.server.alive()
    assert (row["outcome"], row["machine"]) == ("built", "leaked")
    assert row["failure"]["brief"].endswith("taken for dead")
    assert instance in row["failure"]["details"]
    swept = project.build("sweep")
    assert swept.status == 0, swept.words
    assert project.server.left() == []
    project.assert_nothing_left()


def test_sigterm_destroys_and_sigkill_leaves_it_to_the_sweep(
    project: AwsProject, tmp_path: Path, ec2: Any
) -> None:
    """No signal leaves a machine, a key or a group behind for longer than until the next sweep;
    until then no sweep of any host touches what lives."""
    project.write(script=WAITS)
    arguments = ("up", TARGET, "--events", "-", "--aws-endpoint", project.server.endpoint)
    with project.started(*arguments) as child:
        until_event(child, '"waiting"')
        child.terminate()
        assert child.wait(timeout=60) == 143
    assert project.server.left() == []
    with project.started(*arguments) as child:
        until_event(child, '"waiting"')
        spared = project.at_standin("sweep", "--provider", "aws")
        assert "its orchestrator is alive" in spared.stdout
        name = project.server.shown()["instances"][project.server.alive()[0]]["name"]
        for made in (
            *ec2.describe_key_pairs()["KeyPairs"],
            *ec2.describe_security_groups(Filters=OURS)["SecurityGroups"],
            *ec2.describe_volumes(Filters=OURS)["Volumes"],
        ):
            assert {launch.TARGET, launch.EXPIRES_AT, launch.HEARTBEAT} < launch.tags_of(
                made
            ).keys()
        for named in ((), (name,)):
            told = swept_from_another_host(project, tmp_path, *named)
            assert "its orchestrator was alive" in told
        assert len(project.server.alive()) == 1
        child.kill()
    assert len(project.server.alive()) == 1
    swept = project.build("sweep")
    assert swept.status == 0, swept.words
    assert project.server.left() == []
    project.assert_nothing_left()


def test_a_region_that_says_no_keeps_nobody_from_the_others(
    project: AwsProject, tmp_path: Path
) -> None:
    """An account has not enabled each of them. What the others show is swept, and it is told."""
    asleep = project.up("--keep", "always", "--keep-for", "1h")
    assert asleep.status == 0, asleep.words
    (name,) = (each["name"] for each in project.launched())
    project.server.fault("DescribeInstances", "OptInRequired")
    regions = ("--region", "ap-east-1", "--region", REGION)
    swept = project.at_standin(
        "sweep", name, "--provider", "aws", *regions, XDG_STATE_HOME=str(tmp_path / "state")
    )
    assert swept.status == 3, swept.words
    assert swept.stdout.startswith(f"destroyed  {name}")
    assert "what is left in ap-east-1: AWS refused with OptInRequired" in swept.stderr
    assert "has not enabled the region" in swept.stderr
    assert project.server.left() == []


def test_what_a_run_could_not_remove_is_swept_as_soon_as_somebody_does(
    project: AwsProject,
) -> None:
    """Its tag is young, and its run is over all the same. That is told, and no failure."""
    project.server.fault("DeleteKeyPair", "OperationNotPermitted")
    ends(project, 0, launched=1, left=True)
    assert len(project.server.left()) == 1
    swept = project.at_standin("sweep", "--provider", "aws")
    assert swept.status == 0, swept.words
    assert project.server.left() == []
    project.assert_nothing_left()


def test_what_a_run_shared_that_was_killed_at_its_end_is_swept(project: AwsProject) -> None:
    """Its machine is gone, and says so; its group is still in use, and has a young tag. A sweep of
    this host alone, as each `build up` begins with, asks AWS nothing, and forgets no one."""
    asked = project.server.shown()["actions"].get("DeleteSecurityGroup", 0)
    project.server.fault("DeleteSecurityGroup", "DependencyViolation", times=3)
    with project.started("up", TARGET, "--aws-endpoint", project.server.endpoint) as child:
        until(
            lambda: project.server.shown()["actions"].get("DeleteSecurityGroup", 0) > asked,
            limit_s=60,
        )
        child.kill()
    assert len(project.server.left()) == 1
    assert project.build("sweep").status == 0
    assert len(project.server.left()) == 1
    swept = project.at_standin("sweep", "--provider", "aws")
    assert swept.status == 0, swept.words
    assert project.server.left() == []
    project.assert_nothing_left()


def test_a_kept_machine_lives_until_somebody_names_it(project: AwsProject, tmp_path: Path) -> None:
    """With its group, whoever sweeps, from whatever host; AWS needs the key pair no longer, and
    we have the key. That it is kept is told AWS until it has heard it: other hosts go by that."""
    project.server.fault("CreateTags", "RequestLimitExceeded", status=503, times=5)
    kept = project.up("--keep", "always", "--keep-for", "1h")
    assert kept.status == 0, kept.words
    assert project.row()["machine"].startswith("kept")
    assert "build-orchestrator:kept-until" in project.launched()[0]["tags"]
    assert "kept until" in project.at_standin("sweep", "--provider", "aws").stdout
    assert "spared" in swept_from_another_host(project, tmp_path)
    assert (len(project.server.alive()), len(project.server.shown()["groups"])) == (1, 1)
    assert project.build("ssh", TARGET, "--", "echo", "inside").stdout == "inside\n"
    swept = project.at_standin("sweep", TARGET, "--provider", "aws")
    assert swept.status == 0, swept.words
    assert project.server.left() == []
    project.assert_nothing_left()


def test_the_timer_in_the_user_data_ends_a_machine_without_us(
    project: AwsProject, ec2: Any
) -> None:
    """Nobody sweeps, and one orchestrator is dead, another asleep as a closed laptop is: each
    machine powers off at its limit, and that terminates it. Who wakes up blames the environment,
    and leaves nothing. What cost nothing goes with the next sweep, though AWS has forgotten by
    then whose machine it was, and lets nobody end it."""
    project.write(script=WAITS, boot_s=9, transfer_s=2, provision_s=2, collect_s=2, destroy_s=4)
    arguments = ("up", TARGET, "--events", "-", "--aws-endpoint", project.server.endpoint)
    with project.started(*arguments) as asleep:
        until_event(asleep, '"waiting"')
        asleep.send_signal(signal.SIGSTOP)
        (other,) = project.server.alive()
        with project.started(*arguments) as killed:
            until_event(killed, '"waiting"')
        (instance,) = {*project.server.alive()} - {other}
        until(lambda: not project.server.alive(), limit_s=40)
        asleep.send_signal(signal.SIGCONT)
        stdout, _ = asleep.communicate(timeout=60)
    assert asleep.returncode == 3, stdout
    assert '"rule":"machine-' in stdout, stdout
    machine, _ = project.launched()
    ec2.delete_tags(Resources=[instance], Tags=[{"Key": key} for key in machine["tags"]])
    swept = project.build("sweep")
    assert swept.status == 0, swept.words
    assert project.server.left() == []
    project.assert_nothing_left()


def test_one_question_is_asked_for_all_machines(project: AwsProject) -> None:
    """However many build at once: one poller, one key pair, one group."""
    count = 20
    before = project.server.shown()["actions"]
    project.write(
        names=tuple(f"distro_{number}" for number in range(count)),
        script='echo made >"$BUILD_OUTPUT/$BUILD_TARGET.txt"\nsleep 2\n',
    )
    done = project.at_standin("up", "*_aws", "-qq", "--jobs", str(count))
    assert done.status == 0, done.words
    after = project.server.shown()["actions"]
    asked = {name: times - before.get(name, 0) for name, times in after.items()}
    assert (asked["RunInstances"], asked["TerminateInstances"]) == (count, count)
    assert (asked["ImportKeyPair"], asked["CreateSecurityGroup"]) == (1, 1)
    assert asked["DescribeInstances"] < count
    assert project.server.left() == []


def ending_a_machine(project: AwsProject, word: str) -> contextlib.AbstractContextManager[None]:
    """Take the machine back once the script says a word (empty: once there is a machine)."""

    def end() -> None:
        until(project.server.alive)
        project.server.reclaim(project.server.alive()[0])

    return project.at_the_word(word, end)
