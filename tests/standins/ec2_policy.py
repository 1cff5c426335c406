"""Whether an IAM policy allows a request to EC2, its conditions included.

This is how AWS's documentation is read here, not what AWS has been seen to do. A request is judged
before AWS looks whether there is what it names: what is not there has no tag, so that whoever may
touch only what carries one is refused, and not told that there is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

NAMED = re.compile(r"(GroupId|InstanceId|KeyName|ResourceId|VolumeId)(\.\d+)?")
RESOURCE_TAG = "aws:ResourceTag/"
CREATE_ACTION = "ec2:CreateAction"

Tags = Callable[[str], Collection[str]]
"""The keys of the tags of something, by its id or its name; none where it is not there."""


def allows(policy: Mapping[str, Any], request: Mapping[str, str], tags_of: Tags) -> bool:
    """Whether every action that a request needs is allowed by one of the policy's statements.

    Args:
        request: its parameters, ``Action`` among them.
    """
    return all(
        any(_grants(statement, action, making, request, tags_of) for statement in _of(policy))
        for action, making in _needed(request)
    )


def _of(policy: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(policy["Statement"])


def _needed(request: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each action, and for a tag of what is just being made: by which other one."""
    action = request["Action"]
    yield f"ec2:{action}", ""
    if any(name.startswith("TagSpecification") for name in request):
        yield "ec2:CreateTags", action


def _grants(
    statement: Mapping[str, Any],
    action: str,
    making: str,
    request: Mapping[str, str],
    tags_of: Tags,
) -> bool:
    if action not in statement["Action"]:
        return False
    named = [] if making else [request[name] for name in request if NAMED.fullmatch(name)]
    return all(
        _holds(operator, key, value, making, [tags_of(each) for each in named])
        for operator, wanted in statement.get("Condition", {}).items()
        for key, value in wanted.items()
    )


def _holds(operator: str, key: str, value: Any, making: str, tags: list[Collection[str]]) -> bool:
    if (operator, key) == ("StringEquals", CREATE_ACTION):
        return making in value
    if (operator, value) == ("Null", "false") and key.startswith(RESOURCE_TAG):
        wanted = key.removeprefix(RESOURCE_TAG)
        return bool(tags) and all(wanted in each for each in tags)
    raise NotImplementedError(f"{operator} {key} {value}")
