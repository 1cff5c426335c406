"""What the machines of one run share in one region: a key pair and a security group.

Both are made for the run alone and removed after it. AWS gets the public half of the key; the
private one stays in the run's state folder, mode 0600.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from build_orchestrator.command import run
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, OrchestratorError, Refused
from build_orchestrator.locks import private_folder
from build_orchestrator.machine.ec2.api import PATIENT, Api, persist
from build_orchestrator.machine.ec2.errors import GONE, Meaning, code_of, raised
from build_orchestrator.machine.ec2.launch import (
    RUN,
    Purpose,
    Seen,
    Shared,
    Way,
    group_name,
    key_name,
    shared_name,
    tag_list,
)

WHO_AM_I = "https://checkip.amazonaws.com"
"""Says from which address it was asked; Amazon's own."""
WHO_AM_I_S = 10.0
KEYGEN = ("-q", "-N", "", "-C", "build-orchestrator")
KINDS = {"ed25519": ("-t", "ed25519"), "rsa": ("-t", "rsa", "-b", "2048")}
"""AWS takes RSA of 1024, 2048 and 4096 bits; ssh-keygen by itself makes others."""
FOLDER = "aws"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

RELEASE_PAUSE_S = 0.5
LONGEST_RELEASE_PAUSE_S = 5.0
BEHIND_S = 15.0
"""For so long AWS may show alive what it has been told to end, or not what it has made. Waited for
only where that is so."""

_making_key = threading.Lock()
"""Every region of a run has the same keys, and asks for them at the same time."""


def user_key(machine_folder: Path, kind: str) -> Path:
    """Where a private key of a run is, seen from the folder of one of its machines."""
    return machine_folder.parents[1] / FOLDER / f"id_{kind}"


def make_shared(
    api: Api,
    purpose: Purpose,
    options: Mapping[str, str],
    way: Way,
    key: Path,
    made: Callable[[str], None],
    *,
    deadline: Deadline,
    cancel: Cancel,
) -> Shared:
    """Make the run's key pair and security group.

    What is there already is found by its name, and used: a group for another way of talking, or
    what an earlier answer was lost of.

    Args:
        made: hears the id of each as soon as it is there, whatever comes of the other.

    Raises:
        EnvironmentFailure: AWS will not have them, or the caller's address is not known.
    """
    if own := options.get("security_group_id", ""):
        _check_group(api, own, deadline, cancel)
    public, name = _public_key(key, way, deadline), key_name(purpose.run_uuid, way)
    made(_import_key(api, purpose, name, public, deadline, cancel))
    group = own or _make_group(api, purpose, options, way.port, made, deadline, cancel)
    return Shared(key_name=name, group_id=group, public_key=public)


def _check_group(api: Api, group_id: str, deadline: Deadline, cancel: Cancel) -> None:
    """A launch would not tell a group that never was from one that is not known everywhere yet."""

    def ask() -> None:
        try:
            api.ec2.describe_security_groups(GroupIds=[group_id])
        except Exception as error:
            if code_of(error) not in GONE:
                raise
            raise Refused(
                f"{api.region} has no security group {group_id}",
                resolution="Groups belong to one region: correct launch.security_group_id in "
                "targets.yaml, or leave it out, and one is made for each run.",
            ) from error

    persist(ask, f"security group {group_id}", deadline=deadline, cancel=cancel)


def _public_key(key: Path, way: Way, deadline: Deadline) -> str:
    """The public half of the run's key; both are made where they are missing."""
    public = key.with_name(f"{key.name}.pub")
    with _making_key:
        if not public.exists():
            private_folder(key.parent)
            run(
                ["ssh-keygen", *KEYGEN, *KINDS[way.key_kind], "-f", str(key)],
                deadline=deadline,
            ).check("ssh-keygen could not make a key")
        return public.read_text().strip()


def _import_key(
    api: Api, purpose: Purpose, name: str, public: str, deadline: Deadline, cancel: Cancel
) -> str:
    def ask() -> str:
        for pair in _key_pairs(api, "key-name", name):
            return str(pair["KeyPairId"])
        answer = api.once.import_key_pair(
            KeyName=name,
            PublicKeyMaterial=public.encode(),
            TagSpecifications=[_tagged("key-pair", purpose, api)],
        )
        return str(answer["KeyPairId"])

    return persist(ask, "the run's key pair", deadline=deadline, cancel=cancel)


def _key_pairs(api: Api, by: str, value: str) -> list[dict[str, Any]]:
    found = api.ec2.describe_key_pairs(Filters=[{"Name": by, "Values": [value]}])
    return list(found.get("KeyPairs", ()))


def _make_group(
    api: Api,
    purpose: Purpose,
    options: Mapping[str, str],
    port: int,
    made: Callable[[str], None],
    deadline: Deadline,
    cancel: Cancel,
) -> str:
    doing, run_uuid = "the run's security group", purpose.run_uuid
    source = allowed(api, options)

    def make() -> str:
        network = _network_of(api, options.get("subnet_id", ""))
        name = group_name(run_uuid, network, options)
        for group in _groups(api, run_uuid):
            if group["GroupName"] == name:
                return str(group["GroupId"])
        answer = api.once.create_security_group(
            GroupName=name,
            Description="The machines of one run of build-orchestrator; removed after it",
            TagSpecifications=[_tagged("security-group", purpose, api)],
            **({"VpcId": network} if network else {}),
        )
        return str(answer["GroupId"])

    group_id = persist(make, doing, deadline=deadline, cancel=cancel)
    made(group_id)

    def open_port() -> None:
        try:
            api.ec2.authorize_security_group_ingress(
                GroupId=group_id,
                IpPermissions=[_permission(source, port)],
            )
        except Exception as error:
            if code_of(error) != "InvalidPermission.Duplicate":  # A lost answer, asked again.
                raise

    patient = frozenset({*PATIENT, Meaning.GONE})
    persist(open_port, doing, deadline=deadline, cancel=cancel, patient=patient)
    return group_id


def _permission(source: str, port: int) -> dict[str, Any]:
    ranges: dict[str, Any] = (
        {"Ipv6Ranges": [{"CidrIpv6": source}]}
        if ":" in source
        else {"IpRanges": [{"CidrIp": source}]}
    )
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **ranges}


def _network_of(api: Api, subnet: str) -> str:
    """The network that a subnet is part of; empty for the default one."""
    if not subnet:
        return ""
    return str(api.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"])


def _tagged(kind: str, purpose: Purpose, api: Api) -> dict[str, Any]:
    tags = purpose.tags(shared_name(purpose.run_uuid), now=api.now())
    return {"ResourceType": kind, "Tags": tag_list(tags)}


def _groups(api: Api, run_uuid: str) -> list[dict[str, Any]]:
    found = api.ec2.describe_security_groups(Filters=[{"Name": f"tag:{RUN}", "Values": [run_uuid]}])
    return list(found.get("SecurityGroups", ()))


# --- who may connect ----------------------------------------------------------------------------


def allowed(api: Api, options: Mapping[str, str]) -> str:
    """From where the machines may be reached: as configured, else from here alone."""
    given = options.get("allow_from", "auto")
    if given != "auto":
        return given
    host = urlsplit(api.ec2.meta.endpoint_url).hostname or ""
    if host in LOOPBACK:
        return "127.0.0.1/32"
    if options.get("address", "public") == "private":
        return _host_range(_own_address(host))
    try:
        with urllib.request.urlopen(WHO_AM_I, timeout=WHO_AM_I_S) as answer:
            return _host_range(answer.read(64).decode("ascii", errors="replace").strip())
    except (urllib.error.URLError, OSError, EnvironmentFailure) as error:
        raise EnvironmentFailure(
            "this host's own public address is not known, so nobody could be let in",
            details=f"{WHO_AM_I}: {getattr(error, 'reason', error)}",
            resolution="Set launch.allow_from in targets.yaml, such as 203.0.113.7/32.",
        ) from error


def _own_address(host: str) -> str:
    """The address that this host has towards another; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 443))
        return str(probe.getsockname()[0])


def _host_range(address: str) -> str:
    import ipaddress

    try:
        found = ipaddress.ip_address(address)
    except ValueError as error:
        raise EnvironmentFailure(f"{address!r} is not an address") from error
    return f"{found}/{found.max_prefixlen}"


# --- their end ----------------------------------------------------------------------------------


def still_alive(
    api: Api, run_uuid: str, spared: Collection[str], *, deadline: Deadline
) -> list[Seen]:
    """The machines of a run that AWS shows alive for longer than its answers may be behind.

    Args:
        spared: names of those that are not looked for.
    """
    until = Deadline(deadline.stage, min(BEHIND_S, deadline.remaining_s))
    while True:
        machines = persist(
            lambda: api.machines(run=run_uuid),
            f"look for machines of run {run_uuid}",
            deadline=deadline,
            cancel=NEVER,
        )
        found = [seen for seen in machines if seen.alive and seen.name not in spared]
        if not found or until.passed:
            return found
        NEVER.sleep(min(RELEASE_PAUSE_S, until.remaining_s))


def await_shown(api: Api, run_uuid: str, made: Collection[str], *, deadline: Deadline) -> None:
    """Wait until AWS shows what a run has made, for it is looked for before it is removed; no
    longer than its answers may be behind.

    Args:
        made: ids of key pairs and groups.
    """
    until = Deadline(deadline.stage, min(BEHIND_S, deadline.remaining_s))
    while made and not until.passed:
        with contextlib.suppress(*raised()):  # Removing says the same, and is told.
            pairs, groups = _key_pairs(api, f"tag:{RUN}", run_uuid), _groups(api, run_uuid)
            if {*made} <= {pair["KeyPairId"] for pair in pairs} | {g["GroupId"] for g in groups}:
                return
        NEVER.sleep(min(RELEASE_PAUSE_S, until.remaining_s))


def remove_shared(
    api: Api, run_uuid: str, ended: Collection[str] = (), *, deadline: Deadline
) -> tuple[str, ...]:
    """Remove what the run's machines shared, and disks that outlived them.

    The group stays while a machine of the run lives, and goes with the last; it can go only when
    that has ended, which may take AWS a minute. Twice is harmless.

    Args:
        ended: ids of machines that do not live, whatever AWS shows for a moment.

    Returns:
        What could not be removed, in words.
    """
    left = []
    for kind, remove in (("key pair", _remove_keys), ("volume", _remove_volumes)):
        try:
            remove(api, run_uuid, deadline)
        except OrchestratorError as error:
            left.append(f"{kind} of run {run_uuid}: {error.brief}")
    try:
        _remove_group(api, run_uuid, ended, deadline)
    except OrchestratorError as error:
        left.append(f"security group {shared_name(run_uuid)}: {error.brief}")
    return tuple(left)


def _remove_keys(api: Api, run_uuid: str, deadline: Deadline) -> None:
    def ask() -> None:
        # Looked for first: with the smallest policy what is not there may not be deleted.
        for pair in _key_pairs(api, f"tag:{RUN}", run_uuid):
            api.once.delete_key_pair(KeyName=pair["KeyName"])

    persist(ask, "delete the key pair", deadline=deadline, cancel=NEVER)


def _remove_volumes(api: Api, run_uuid: str, deadline: Deadline) -> None:
    """Disks are deleted with their machines; one that is not attached has been left behind."""

    def ask() -> None:
        found = api.ec2.describe_volumes(
            Filters=[
                {"Name": f"tag:{RUN}", "Values": [run_uuid]},
                {"Name": "status", "Values": ["available"]},
            ]
        )
        for volume in found.get("Volumes", ()):
            with _unless_gone():
                api.once.delete_volume(VolumeId=volume["VolumeId"])

    persist(ask, "delete the disks", deadline=deadline, cancel=NEVER)


def _remove_group(api: Api, run_uuid: str, ended: Collection[str], deadline: Deadline) -> None:
    doing, pause_s = "delete the security group", RELEASE_PAUSE_S
    while True:
        groups = persist(lambda: _groups(api, run_uuid), doing, deadline=deadline, cancel=NEVER)
        if not groups:
            return
        machines = persist(
            lambda: api.machines(run=run_uuid), doing, deadline=deadline, cancel=NEVER
        )
        if any(machine.alive and machine.instance_id not in ended for machine in machines):
            return
        # Its network interfaces are released when the machines have ended, not before.
        released = all(machine.state == "terminated" for machine in machines)
        if released and all(_is_deleted(api, str(group["GroupId"])) for group in groups):
            return
        if deadline.passed:
            raise deadline.exceeded()
        NEVER.sleep(min(pause_s, deadline.remaining_s))
        pause_s = min(pause_s * 1.5, LONGEST_RELEASE_PAUSE_S)


def _is_deleted(api: Api, group_id: str) -> bool:
    """Delete a group, unless something still uses it."""
    try:
        api.ec2.delete_security_group(GroupId=group_id)
    except raised() as error:
        return code_of(error) in GONE
    return True


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if code_of(error) not in GONE:
            raise
