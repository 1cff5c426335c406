"""Which image a name means, what is locked, and whether this account may do what builds need."""

from __future__ import annotations

import json

import pytest
import yaml

from build_orchestrator.machine.ec2.permissions import actions_of, policy
from tests.real.aws_projects import TARGET, AwsProject, project, server
from tests.standins.ec2 import OWNER, PARAMETER

__all__ = ["project", "server"]

NAMED = {"ami_name": "sshd-standin-*", "ami_owner": OWNER}
LOCK = "images.lock.yaml"


def locked(project: AwsProject) -> list[dict[str, str]]:
    found: list[dict[str, str]] = yaml.safe_load((project.folder / LOCK).read_text())["amis"]
    return found


def test_a_name_means_the_newest_and_a_lock_holds_it(project: AwsProject) -> None:
    """What is locked is what `up` starts from, though there is something newer."""
    project.write(image=NAMED)
    shown = project.at_standin("lock", "--dry-run")
    assert shown.status == 0, shown.words
    assert f"new        {OWNER}/sshd-standin-*" in shown.stdout
    assert not (project.folder / LOCK).exists()
    assert project.at_standin("lock").status == 0
    (row,) = locked(project)
    assert (row["ami"], row["name"]) == (project.server.ami, "sshd-standin-2")

    text = (project.folder / LOCK).read_text()
    (project.folder / LOCK).write_text(text.replace(project.server.ami, project.server.older_ami))
    assert f"locked: {project.server.older_ami}" in project.at_standin("plan", TARGET).stdout
    done = project.up()
    assert done.status == 0, done.words
    assert project.server.older_ami in project.row()["image"]
    again = project.at_standin("lock", "--json")
    assert json.loads(again.stdout)["locked"] == [row]
    assert "changed" not in project.at_standin("lock").stdout, "it is the newest again"


def test_a_parameter_is_looked_up_and_locked(project: AwsProject) -> None:
    """Both by `up` itself, and once for all by `lock`."""
    project.write(image={"ami_parameter": PARAMETER})
    done = project.up()
    assert done.status == 0, done.words
    assert project.server.older_ami in project.row()["image"]
    assert project.at_standin("lock", TARGET).status == 0
    (row,) = locked(project)
    assert (row["image"], row["ami"]) == (PARAMETER, project.server.older_ami)


@pytest.mark.parametrize(
    ("image", "launch", "words"),
    [
        ({"ami_name": "nobody-*", "ami_owner": OWNER}, {}, "has none"),
        ({"ami": "ami-00000000"}, {}, "has none"),
        ({"ami_parameter": "/no/such"}, {}, "ParameterNotFound"),
        (None, {}, "is made for arm64, and the distro for x86_64"),
        (NAMED, {"instance_types": ["t3.small", "t4g.small"]}, "t4g.small is a machine of arm64"),
        (NAMED, {"instance_types": ["x9.huge"]}, "InvalidInstanceType"),
    ],
    ids=["no-name", "no-id", "no-parameter", "other-architecture", "other-machine", "no-type"],
)
def test_an_image_that_cannot_start_is_told_before_a_launch(
    project: AwsProject, image: dict[str, str] | None, launch: dict[str, list[str]], words: str
) -> None:
    """By `lock`, and by `up`, once; nothing is launched, and nothing wrong is locked."""
    project.write(image=image or {"ami": project.server.arm_ami}, launch=launch, attempts=2)
    told = project.at_standin("lock")
    assert (told.status, words in told.stderr) == (3, True), told.words
    assert not (project.folder / LOCK).exists()
    done = project.up()
    assert done.status == 3, done.words
    assert words in str(project.row()["failure"])
    assert "another machine follows" not in done.words
    assert project.launched() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema: 1\namis: [{image: x}]\n", f"{LOCK}:2:8: amis[0].region: is missing"),
        ("schema: 2\n", f"{LOCK}:1:9: schema: 2 is not known here"),
        ("", f"{LOCK}:1:1: {LOCK}: is empty"),
    ],
)
def test_a_broken_lock_is_told_with_its_place(project: AwsProject, text: str, words: str) -> None:
    """Before anything is asked."""
    (project.folder / LOCK).write_text(text)
    done = project.up()
    assert done.status == 2
    assert words in done.stderr


def test_doctor_asks_and_changes_nothing(project: AwsProject) -> None:
    """Each action is asked for; what is refused is named, and the policy that allows it printed."""
    project.write(image=NAMED)
    done = project.at_standin("doctor", "--provider", "aws", "--json")
    assert done.status == 0, done.words
    told = json.loads(done.stdout)
    asked = {check["name"].split()[0] for check in told["checks"]}
    assert actions_of(told["policy"]) <= asked
    assert project.server.left() == []

    project.server.fault("RunInstances", "UnauthorizedOperation", status=403)
    project.server.fault("TerminateInstances", "UnauthorizedOperation", status=403)
    refused = project.at_standin("doctor", "--provider", "aws")
    assert refused.status == 4, refused.words
    assert "MISSING  ec2:RunInstances in eu-west-1: refused" in refused.stdout
    assert "ok       ec2:TerminateInstances in eu-west-1: not on something" in refused.stdout
    assert '"ec2:CreateAction"' in refused.stdout


@pytest.mark.parametrize("others", [{}, {"debian_bookworm": NAMED}])
def test_an_old_image_that_was_withdrawn_is_nothing_that_doctor_misses(
    project: AwsProject, others: dict[str, dict[str, str]]
) -> None:
    """Such rows are best effort; what AWS is asked about a launch is asked of another one's image,
    where there is one in the region."""
    images = {"ubuntu_precise": {"ami": "ami-036eaa74"}, **others}
    project.write(names=tuple(images))
    path = project.folder / "targets.yaml"
    content = yaml.safe_load(path.read_text())
    for name, image in images.items():
        content["distros"][name]["legacy"] = name == "ubuntu_precise"
        content["distros"][name]["providers"]["aws"]["image"] = image
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    done = project.at_standin("doctor", "--provider", "aws")
    assert done.status == 0, done.words
    assert ("ok       image of ubuntu_precise_aws" in done.stdout) == (not others)
    asked = "allowed" if others else "not asked: no image to ask with"
    assert f"ec2:RunInstances in eu-west-1: {asked}" in done.stdout


def test_the_policy_allows_all_that_a_run_does(project: AwsProject) -> None:
    """Every request of builds, of locking and of a sweep is one of its actions."""
    before = project.server.shown()["actions"]
    project.write(image={"ami_parameter": PARAMETER}, script="exit 1\n")
    assert project.at_standin("lock").status == 0
    assert project.up().status == 1
    assert project.at_standin("sweep", "--provider", "aws").status == 0
    after = project.server.shown()["actions"]
    used = {f"ec2:{name}" for name, times in after.items() if times > before.get(name, 0)}
    assert "ec2:RunInstances" in used
    assert used <= actions_of(policy(parameters=True))
