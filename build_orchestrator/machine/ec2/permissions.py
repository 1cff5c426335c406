"""What an account must be allowed to do: the policy that grants it, and a look whether it may.

Nothing is made, changed or removed: AWS is asked with ``DryRun``, which it answers with what it
would have said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import OrchestratorError
from build_orchestrator.machine.ec2 import images
from build_orchestrator.machine.ec2.api import Api, api_of, asking
from build_orchestrator.machine.ec2.errors import code_of, explained, raised
from build_orchestrator.machine.ec2.launch import INSTANCE_TYPES, RUN, kinds_of, tag_list
from build_orchestrator.model import Target

LOOK = (
    "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeInstances",
    "ec2:DescribeKeyPairs", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets",
    "ec2:DescribeVolumes",
)  # fmt: skip
LAUNCH = "ec2:RunInstances"
MAKE = ("ec2:CreateSecurityGroup", "ec2:ImportKeyPair", LAUNCH)
TAG = "ec2:CreateTags"
OURS = (
    "ec2:AuthorizeSecurityGroupIngress", "ec2:DeleteKeyPair", "ec2:DeleteSecurityGroup",
    "ec2:DeleteVolume", "ec2:GetConsoleOutput", "ec2:TerminateInstances",
)  # fmt: skip
"""Needed for what carries our tag alone."""
PARAMETER = "ssm:GetParameter"
PASSWORD = "ec2:GetPasswordData"
"""Needed for what carries our tag, where Windows is talked to by WinRM."""

NOBODY = "0123456789abcdef0"
"""Of the ids of things that are not there."""
KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
LOOK_UP_S = 60.0
PROBE = "build-orchestrator-doctor"
UNKNOWN = (
    "not on something without our tag, which is as it should be with the policy below; "
    "on what carries it, only a build can tell"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """One action, and whether this account may do it."""

    action: str
    allowed: bool
    finding: str
    remedy: str = "Allow it: the policy is below."


def policy(*, parameters: bool = False, passwords: bool = False) -> dict[str, Any]:
    """The smallest IAM policy with which builds work.

    What is removed, opened or read must carry our tag, and only what is just being made may be
    given one, so that nothing else in the account can be touched with it.

    Args:
        parameters: images are named by a parameter of Systems Manager, too.
        passwords: Windows is talked to by WinRM, too.
    """
    ours = [*OURS, PASSWORD] if passwords else [*OURS]
    is_ours = {"Null": {f"aws:ResourceTag/{RUN}": "false"}}
    making = {"StringEquals": {"ec2:CreateAction": [each.partition(":")[2] for each in MAKE]}}
    looking = [*LOOK, PARAMETER] if parameters else [*LOOK]
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allowed("Look", looking),
            _allowed("Make", list(MAKE)),
            _allowed("TagWhatIsMade", [TAG], making),
            _allowed("UseAndRemoveOurs", [*ours, TAG], is_ours),
        ],
    }


def _allowed(
    name: str, actions: list[str], condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    found = {"Sid": name, "Effect": "Allow", "Action": sorted(actions), "Resource": "*"}
    return found | ({"Condition": dict(condition)} if condition else {})


def actions_of(document: Mapping[str, Any]) -> set[str]:
    """Every action that a policy allows."""
    return {action for statement in document["Statement"] for action in statement["Action"]}


def examine(region: str, endpoint: str, targets: Sequence[Target]) -> Iterator[Permission]:
    """Whether this account may do what builds need in a region, one action at a time.

    Args:
        targets: those of the project that are launched there; the first one's machine is asked for,
            and that of an old release, whose image may have been withdrawn, only where no other is.

    Raises:
        OrchestratorError: AWS does not answer, or does not know these credentials.
    """
    api = api_of(region, endpoint)
    with asking("who am I in AWS?"):  # What anybody may ask.
        me = str(api.sts.get_caller_identity()["Arn"])
    yield Permission(action="account", allowed=True, finding=me)
    questions = _questions(api.ec2)
    if targets:
        first = min(targets, key=lambda each: each.distro.legacy)
        try:
            questions[LAUNCH] = _launch(api, first)
        except OrchestratorError as error:
            yield Permission(
                action=f"image of {first.name}",
                allowed=first.distro.legacy,
                finding=error.brief,
                remedy=error.resolution,
            )
    if not any(each.communicator == "winrm" for each in targets):
        del questions[PASSWORD]
    for action, ask in questions.items():
        yield _asked(action, ask)
    if LAUNCH not in questions:
        yield Permission(action=LAUNCH, allowed=True, finding="not asked: no image to ask with")
    if parameter := next((each.image.ami_parameter for each in targets), ""):
        yield _asked(PARAMETER, lambda: api.ssm.get_parameter(Name=parameter))


def _launch(api: Api, target: Target) -> Callable[[], object]:
    """The question whether the machine of a target may be launched."""
    where = {**target.options, "region": api.region, "endpoint": api.endpoint}
    found = images.look_up(
        target.image,
        arch=target.distro.arch,
        where=where,
        deadline=Deadline("image", LOOK_UP_S),
        cancel=NEVER,
    )
    subnet = target.options.get("subnet_id")
    return lambda: api.once.run_instances(
        DryRun=True,
        MinCount=1,
        MaxCount=1,
        ImageId=found["ImageId"],
        InstanceType=kinds_of(where)[0],
        TagSpecifications=_tagged("instance"),
        **({"SubnetId": subnet} if subnet else {}),
    )


def _tagged(kind: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": tag_list({RUN: PROBE})}]


def _questions(ec2: Any) -> dict[str, Callable[[], object]]:
    """All but the launch."""
    instance, group = f"i-{NOBODY}", f"sg-{NOBODY}"
    asked: dict[str, tuple[Callable[..., object], dict[str, Any]]] = {
        "ec2:DescribeImages": (ec2.describe_images, {"Owners": ["self"]}),
        "ec2:DescribeInstanceTypes": (
            ec2.describe_instance_types,
            {"InstanceTypes": [INSTANCE_TYPES]},
        ),
        "ec2:DescribeInstances": (ec2.describe_instances, {}),
        "ec2:DescribeKeyPairs": (ec2.describe_key_pairs, {}),
        "ec2:DescribeSecurityGroups": (ec2.describe_security_groups, {}),
        "ec2:DescribeSubnets": (ec2.describe_subnets, {}),
        "ec2:DescribeVolumes": (ec2.describe_volumes, {}),
        "ec2:ImportKeyPair": (
            ec2.import_key_pair,
            {
                "KeyName": PROBE,
                "PublicKeyMaterial": KEY,
                "TagSpecifications": _tagged("key-pair"),
            },
        ),
        "ec2:CreateSecurityGroup": (
            ec2.create_security_group,
            {
                "GroupName": PROBE,
                "Description": "never made",
                "TagSpecifications": _tagged("security-group"),
            },
        ),
        TAG: (ec2.create_tags, {"Resources": [instance], "Tags": tag_list({RUN: PROBE})}),
        "ec2:AuthorizeSecurityGroupIngress": (
            ec2.authorize_security_group_ingress,
            {
                "GroupId": group,
                "IpProtocol": "tcp",
                "FromPort": 22,
                "ToPort": 22,
                "CidrIp": "127.0.0.1/32",
            },
        ),
        "ec2:GetConsoleOutput": (ec2.get_console_output, {"InstanceId": instance}),
        PASSWORD: (ec2.get_password_data, {"InstanceId": instance}),
        "ec2:TerminateInstances": (ec2.terminate_instances, {"InstanceIds": [instance]}),
        "ec2:DeleteKeyPair": (ec2.delete_key_pair, {"KeyName": PROBE}),
        "ec2:DeleteSecurityGroup": (ec2.delete_security_group, {"GroupId": group}),
        "ec2:DeleteVolume": (ec2.delete_volume, {"VolumeId": f"vol-{NOBODY}"}),
    }

    def question(ask: Callable[..., object], how: dict[str, Any]) -> Callable[[], object]:
        return lambda: ask(DryRun=True, **how)

    return {action: question(ask, how) for action, (ask, how) in asked.items()}


def _asked(action: str, ask: Callable[[], object]) -> Permission:
    """What AWS says to a question that changes nothing. Who is refused is refused first, so that
    any other error, such as that there is no such machine, is a yes."""
    try:
        ask()
    except raised() as error:
        if not (code := code_of(error)):
            raise explained(error, action) from error
        if "Unauthorized" in code or "AccessDenied" in code:
            is_bound = action in (*OURS, PASSWORD, TAG)
            finding = UNKNOWN if is_bound else f"refused ({code})"
            return Permission(action=action, allowed=is_bound, finding=finding)
        if code in ("AuthFailure", "InvalidClientTokenId", "ExpiredToken", "OptInRequired"):
            raise explained(error, action) from error
    return Permission(action=action, allowed=True, finding="allowed")
