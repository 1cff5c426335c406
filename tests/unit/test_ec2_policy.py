"""What the smallest policy lets its owner do, as the EC2 stand-in judges it."""

from __future__ import annotations

import pytest

from build_orchestrator.machine.ec2.launch import RUN
from build_orchestrator.machine.ec2.permissions import policy
from tests.standins.ec2_policy import allows

TAGS = {"i-ours": [RUN, "Name"], "i-theirs": ["Name"], "bo-1": [RUN]}
TAGGED = {"TagSpecification.1.ResourceType": "instance"}


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        ({"Action": "DescribeInstances", "InstanceId.1": "i-theirs"}, True),
        ({"Action": "RunInstances", **TAGGED}, True),
        ({"Action": "CreateVolume", **TAGGED}, False),
        ({"Action": "TerminateInstances", "InstanceId.1": "i-ours"}, True),
        ({"Action": "TerminateInstances", "InstanceId.1": "i-theirs"}, False),
        ({"Action": "TerminateInstances", "InstanceId.1": "i-not-there"}, False),
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
    tags = {name: set(keys) for name, keys in TAGS.items()}
    judged = allows(policy(parameters=False), request_, lambda name: tags.get(name, set()))
    assert judged is allowed
