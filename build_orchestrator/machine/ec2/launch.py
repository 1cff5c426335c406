"""What one machine is launched with: pure functions from a request to names, tags and parameters.

Everything that AWS shows of a run carries its uuid, and everything of a machine its name.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from build_orchestrator.machine.contract import MachineRequest
from build_orchestrator.machine.ec2 import windows
from build_orchestrator.model import Distro, Identity
from build_orchestrator.transport import winrm

PREFIX = "build-orchestrator:"
RUN = f"{PREFIX}run"
TARGET = f"{PREFIX}target"
EXPIRES_AT = f"{PREFIX}expires-at"
HEARTBEAT = f"{PREFIX}heartbeat"
KEPT_UNTIL = f"{PREFIX}kept-until"
NAME_TAG = "Name"

NAME = re.compile(r"bo-(?P<run_uuid>[0-9a-f]{32})-(?P<target>.+)-(?P<attempt>\d+)")
SHARED_NAME = re.compile(r"bo-(?P<run_uuid>[0-9a-f]{32})")

INSTANCE_TYPES = "t3.medium"
ARCHITECTURES = {"x86_64": "x86_64", "arm64": "arm64", "i386": "i386"}
"""As a distro has it -> as AWS has it."""

SSH_PORT = 22
USUAL = ("", "auto", "public")
"""What ``allow_from`` and ``address`` are where nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the machine of one attempt is launched."""

    zone: str
    """Empty: AWS chooses."""
    instance_type: str
    spot: bool

    def __str__(self) -> str:
        where = self.zone or "any zone"
        return f"{self.instance_type} in {where}{', spot' if self.spot else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What something in AWS is made for."""

    run_uuid: str
    target: str
    limit_s: float
    """How long its machine may live. What machines share is made for the first one of them."""

    def tags(self, name: str, *, now: float) -> dict[str, str]:
        """The tags of what is made. Times are seconds since the epoch, by AWS's clock."""
        return {
            NAME_TAG: name,
            RUN: self.run_uuid,
            TARGET: self.target,
            EXPIRES_AT: str(int(now + self.limit_s)),
            HEARTBEAT: str(int(now)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the machines of one run in one region use, all that are talked to in the same way."""

    key_name: str
    group_id: str
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How machines are talked to, as far as it matters to what they share."""

    communicator: str
    """``ssh`` or ``winrm``."""
    port: int
    key_kind: str
    """What ``ssh-keygen -t`` makes: ``ed25519`` or ``rsa``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The disk that an AMI starts from."""

    device: str
    size_gib: int


def words(options: Mapping[str, str], name: str) -> tuple[str, ...]:
    """A list among the options: they are text."""
    return tuple(options.get(name, "").split())


def kinds_of(options: Mapping[str, str]) -> tuple[str, ...]:
    """The types of machine that a target is launched as, best first."""
    return words(options, "instance_types") or (INSTANCE_TYPES,)


def places(options: Mapping[str, str]) -> tuple[Place, ...]:
    """Where a machine may be launched, best first. Spot comes before on demand."""
    zones = words(options, "zones") or ("",)
    markets = (True, False) if options.get("spot") == "true" else (False,)
    return tuple(
        Place(zone=zone, instance_type=kind, spot=spot)
        for spot in markets
        for kind in kinds_of(options)
        for zone in zones
    )


def place_of(request: MachineRequest) -> Place:
    """Each attempt has the next place, so that no launch token is ever used with two."""
    candidates = places(request.options)
    return candidates[(request.identity.attempt - 1) % len(candidates)]


def is_last_place(request: MachineRequest) -> bool:
    """Whether every place has been tried once this attempt has."""
    return request.identity.attempt % len(places(request.options)) == 0


def way_of(distro: Distro, communicator: str, options: Mapping[str, str]) -> Way:
    """How a machine of this distro with these options is talked to."""
    usual = winrm.PORT if communicator == "winrm" else SSH_PORT
    # OpenSSH before 6.5 knows no other key, and with no other AWS encrypts a password of Windows.
    rsa = distro.legacy or communicator == "winrm"
    return Way(
        communicator=communicator,
        port=int(options.get("port", usual)),
        key_kind="rsa" if rsa else "ed25519",
    )


def shared_name(run_uuid: str) -> str:
    """What the names of a run's key pairs and security groups begin with."""
    return f"bo-{run_uuid}"


def key_name(run_uuid: str, way: Way) -> str:
    """Name of a run's key pair for machines that are talked to in this way."""
    return shared_name(run_uuid) + ("-rsa" if way.key_kind == "rsa" else "")


def group_name(run_uuid: str, network: str, options: Mapping[str, str]) -> str:
    """Name of a run's security group for machines with these options: none lets in who may connect
    to others.

    Args:
        network: the id of the subnet's; empty for the default one.
    """
    own = (network, options.get("allow_from", ""), options.get("address", ""))
    return "-".join((shared_name(run_uuid), *(each for each in own if each not in USUAL)))


def token_of(identity: Identity) -> str:
    """The launch token: with it, any number of requests make one machine. 64 characters."""
    text = f"{identity.run_uuid} {identity.target} {identity.attempt}"
    return hashlib.sha256(text.encode()).hexdigest()


def purpose_of(request: MachineRequest) -> Purpose:
    """What everything that one machine needs is made for."""
    identity = request.identity
    return Purpose(run_uuid=identity.run_uuid, target=identity.target, limit_s=request.limit_s)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as AWS writes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tags_of(thing: Mapping[str, Any]) -> dict[str, str]:
    """The tags of something that AWS has described."""
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", ())}


def user_data(limit_s: float) -> str:
    """What the machine runs at its first start: the timer that ends it without us. No secret."""
    seconds = int(limit_s) + 1
    return f"""#!/bin/sh
# Ends this machine at its limit, whatever became of whoever started it. Powering off terminates it.
exec >/dev/null 2>&1 </dev/null
if command -v systemd-run && systemd-run --unit=build-orchestrator-limit \\
    --on-active={seconds}s --timer-property=AccuracySec=1s systemctl poweroff --force; then
  exit 0
fi
(trap '' HUP; sleep {seconds}; poweroff -f || shutdown -h now) &
"""


def parameters(
    request: MachineRequest, place: Place, shared: Shared, root: Root, *, now: float
) -> dict[str, Any]:
    """The whole RunInstances request, to be sent as it is as often as it takes."""
    options = request.options
    tags = tag_list(purpose_of(request).tags(request.identity.name, now=now))
    size_gib = max(root.size_gib, -(-request.size.disk_mib // 1024))
    launch: dict[str, Any] = {
        "ClientToken": token_of(request.identity),
        "ImageId": request.image.disk,
        "InstanceType": place.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        **_access(request, shared),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            # What was made before 2019 asks without one, and would be told neither key nor limit.
            "HttpTokens": "optional" if request.distro.legacy else "required",
            "HttpPutResponseHopLimit": 1,
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": root.device,
                "Ebs": {
                    "VolumeSize": size_gib,
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        **_network(options, shared),
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")
        ],
    }
    if place.zone:
        launch["Placement"] = {"AvailabilityZone": place.zone}
    if place.spot:
        launch["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {
                "SpotInstanceType": "one-time",
                "InstanceInterruptionBehavior": "terminate",
            },
        }
    return launch


def _access(request: MachineRequest, shared: Shared) -> dict[str, str]:
    """How we shall log in, and what the machine runs at its first start."""
    way = way_of(request.distro, request.communicator, request.options)
    if way.communicator == "winrm":  # Its password is encrypted with the key pair.
        script = windows.winrm_user_data(request.limit_s, way.port)
        return {"KeyName": shared.key_name, "UserData": script}
    if request.distro.windows:
        script = windows.user_data(request.limit_s, shared.public_key, way.port)
        return {"UserData": script}
    return {"KeyName": shared.key_name, "UserData": user_data(request.limit_s)}


def _network(options: Mapping[str, str], shared: Shared) -> dict[str, Any]:
    public, subnet = options.get("address", "public") == "public", options.get("subnet_id")
    if public and not subnet:  # The default network's subnets give public addresses of their own.
        return {"SecurityGroupIds": [shared.group_id]}
    interface: dict[str, Any] = {
        "DeviceIndex": 0,
        "Groups": [shared.group_id],
        "AssociatePublicIpAddress": public,
        "DeleteOnTermination": True,
    }
    if subnet:
        interface["SubnetId"] = subnet
    return {"NetworkInterfaces": [interface]}


# --- what AWS says of a machine -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A machine as AWS has described it."""

    instance_id: str
    name: str
    state: str
    """pending, running, stopping, stopped, shutting-down or terminated."""
    public_address: str
    private_address: str
    zone: str
    reason_code: str
    """Why it changed its state, such as ``Server.SpotInstanceTermination``."""
    reason: str
    """The same in AWS's words."""
    launched_at: float
    tags: Mapping[str, str]

    @property
    def alive(self) -> bool:
        """A machine that is shutting down cannot come back, and costs nothing any more."""
        return self.state not in ("shutting-down", "terminated")


def seen(instance: Mapping[str, Any]) -> Seen:
    """One instance of a DescribeInstances answer."""
    tags = tags_of(instance)
    reason = instance.get("StateReason") or {}
    launched = instance.get("LaunchTime") or datetime.fromtimestamp(0, UTC)
    return Seen(
        instance_id=instance["InstanceId"],
        name=tags.get(NAME_TAG, ""),
        state=instance["State"]["Name"],
        public_address=instance.get("PublicIpAddress") or "",
        private_address=instance.get("PrivateIpAddress") or "",
        zone=(instance.get("Placement") or {}).get("AvailabilityZone") or "",
        reason_code=reason.get("Code") or "",
        reason=reason.get("Message") or reason.get("Code") or "",
        launched_at=launched.timestamp(),
        tags=tags,
    )


# --- host keys ----------------------------------------------------------------------------------

KEYS = re.compile(
    r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL
)
KEY = re.compile(r"((?:ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/]{40,}={0,2})")


def host_keys(console: str) -> str:
    """The public host keys that cloud-init printed on a console, a line each; the last block
    counts. Empty where there is none that is whole."""
    blocks = KEYS.findall(console)
    found = KEY.findall(blocks[-1]) if blocks else ()
    return "\n".join(key for key in found if _is_whole(key))


def _is_whole(key: str) -> bool:
    """Whether a console has lost nothing of it: the length of each of its fields comes first."""
    kind, _, text = key.partition(" ")
    try:
        content, at = base64.b64decode(text, validate=True), 0
    except ValueError:
        return False
    while at < len(content):
        at += 4 + int.from_bytes(content[at : at + 4], "big")
    return at == len(content) and content[4:].startswith(kind.encode())
