"""What the smallest policy lets its owner do, as the EC2 stand-in judges it."""

from __future__ import annotations

import pytest

from build_orchestrator.machine.ec2.launch import RUN
from build_orchestrator.machine.ec2.permissions import policy
from tests.standins.ec2_policy import allows

TAGS = {
    "i-ours": [RUN, "Name"],
    "i-theirs": ["Name"],
    "bo-1": [RUN],
    "sg-ours": [RUN],
    "vol-ours": [RUN],
}
TAGGED = {"TagSpecification.1.ResourceType": "instance"}


def tags_of(name: str) -> list[str]:
    return TAGS.get(name, [])


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        ({"Action": "DescribeInstances", "InstanceId.1": "i-theirs"}, True),
        ({"Action": "RunInstances", **TAGGED}, True),
        ({"Action": "CreateVolume", **TAGGED}, False),
        ({"Action": "ImportKeyPair", "KeyName": "bo-2", **TAGGED}, True),
        ({"Action": "DescribeInstances", "InstanceId.1": "i-ours", **TAGGED}, False),
        ({"Action": "TerminateInstances", "InstanceId.1": "i-ours"}, True),
        ({"Action": "TerminateInstances", "InstanceId.1": "i-theirs"}, False),
        ({"Action": "TerminateInstances", "InstanceId.1": "i-not-there"}, False),
        ({"Action": "TerminateInstances"}, False),
        ({"Action": "DeleteSecurityGroup", "GroupId": "sg-ours"}, True),
        ({"Action": "DeleteSecurityGroup", "GroupId": "sg-theirs"}, False),
        ({"Action": "DeleteVolume", "VolumeId": "vol-ours"}, True),
        ({"Action": "GetPasswordData", "InstanceId": "i-ours"}, False),
        (
            {
                "Action": "TerminateInstances",
                "InstanceId.1": "i-ours",
                "InstanceId.2": "i-theirs",
            },
            False,
        ),
        ({"Action": "DeleteKeyPair", "KeyName": "bo-1"}, True),
        ({"Action": "DeleteKeyPair", "KeyName": "bo-2"}, False),
        ({"Action": "CreateTags", "ResourceId.1": "i-ours", "Tag.1.Key": "x"}, True),
        ({"Action": "CreateTags", "ResourceId.1": "i-theirs", "Tag.1.Key": RUN}, False),
        ({"Action": "StopInstances", "InstanceId.1": "i-ours"}, False),
    ],
)
def test_only_what_carries_our_tag_may_be_touched(request_: dict[str, str], allowed: bool) -> None:
    """What has another's tags, or is not there, may not; nor may our tag be given to it."""
    assert allows(policy(), request_, tags_of) is allowed


@pytest.mark.parametrize(("instance", "allowed"), [("i-ours", True), ("i-theirs", False)])
def test_a_password_is_told_where_windows_needs_it(instance: str, allowed: bool) -> None:
    """And of our machines alone."""
    asked = {"Action": "GetPasswordData", "InstanceId": instance}
    assert allows(policy(passwords=True), asked, tags_of) is allowed


def test_a_condition_that_is_not_known_is_no_yes() -> None:
    """Such as that something has no tag of ours."""
    condition = {"Null": {f"aws:ResourceTag/{RUN}": "true"}}
    statement = {"Action": ["ec2:StopInstances"], "Condition": condition}
    with pytest.raises(NotImplementedError):
        allows({"Statement": [statement]}, {"Action": "StopInstances"}, tags_of)
