"""The shape of ``launch`` and ``budget``: how machines of aws are launched, and for how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from build_orchestrator.configuration.shapes import entry

INSTANCE_TYPE = "[a-z0-9-]+[.][a-z0-9-]+"


@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """What machines of `aws` may cost in one run; no build and no bake over it is started."""

    max_hourly_usd: float | None = entry(
        "USD an hour for all machines that live at once, as `build plan` estimates it.",
        default=None,
        minimum=0.001,
        maximum=1e6,
        without="no limit",
    )
    max_machines: int | None = entry(
        "Machines at once.", default=None, minimum=1, maximum=10_000, without="no limit"
    )
    hourly_usd: Mapping[str, float] = entry(
        "Prices that win over the shipped table: type of machine -> USD an hour.",
        default={},
        minimum=0,
        maximum=1e6,
        names=INSTANCE_TYPE,
        names_wanted="a type such as t3.medium",
    )


@dataclass(frozen=True, kw_only=True)
class LaunchRow:
    """How machines of `aws` are launched. Lists are tried in order."""

    region: str = entry(
        "The region.",
        default="",
        pattern="[a-z]{2,4}(-[a-z]+)+-[0-9]",
        wanted="a region such as eu-west-1",
        without="`AWS_REGION`, `AWS_DEFAULT_REGION`, or the profile's",
    )
    instance_types: tuple[str, ...] = entry(
        "Types of machine.",
        default=(),
        filled=True,
        pattern=INSTANCE_TYPE,
        wanted="a type such as t3.medium",
        without="`t3.medium`",
    )
    zones: tuple[str, ...] = entry(
        "Availability zones, all of the region.",
        default=(),
        filled=True,
        pattern="[a-z]{2,4}(-[a-z0-9]+)+",
        wanted="a zone such as eu-west-1a",
        without="AWS chooses",
    )
    spot: bool | None = entry(
        "Ask for spot machines first, then for those on demand.", default=None, without="no"
    )
    user: str = entry(
        "Who logs in, and becomes root with sudo (on Windows: an administrator).",
        default="",
        pattern="[A-Za-z_][A-Za-z0-9_-]*",
        wanted="a user name such as admin",
        without="the distro's `ssh.user`",
    )
    port: int | None = entry(
        "Where its sshd listens, or its WinRM.",
        default=None,
        minimum=1,
        maximum=65535,
        without="22; 5986 for `winrm`",
    )
    address: str = entry(
        "Which of its addresses we connect to; a `private` machine gets no public one.",
        default="",
        choices=("public", "private"),
        without="`public`",
    )
    subnet_id: str = entry(
        "The subnet.",
        default="",
        pattern="subnet-[0-9a-f]{8,17}",
        wanted="an id such as subnet-0123456789abcdef0",
        without="one of the region's default network",
    )
    security_group_id: str = entry(
        "A security group of yours, which lets us in.",
        default="",
        pattern="sg-[0-9a-f]{8,17}",
        wanted="an id such as sg-0123456789abcdef0",
        without="one is made for each run, and removed after it",
    )
    allow_from: str = entry(
        "Who may connect to the group that is made: `auto` (this host alone), or a range.",
        default="",
        pattern="auto|[0-9a-fA-F.:]+/[0-9]{1,3}",
        wanted="auto, or a range such as 203.0.113.0/24",
        without="`auto`",
    )
    host_key: str = entry(
        "How its ssh host key becomes known: from its `console`, or, where that stays empty for a "
        "minute, on `first-use`; that only with `address: private`.",
        default="",
        choices=("console", "first-use"),
        without="`console`",
    )
