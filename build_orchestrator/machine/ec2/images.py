"""Which image of AWS a row means: by its id, the newest of a name, or a published parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import Refused
from build_orchestrator.machine.ec2.api import Api, api_of, asking, persist
from build_orchestrator.machine.ec2.errors import code_of
from build_orchestrator.machine.ec2.launch import ARCHITECTURES, kinds_of
from build_orchestrator.model import Image, ImageSource

PATIENCE_S = 60.0


def find(
    source: ImageSource,
    *,
    arch: str,
    where: Mapping[str, str],
    deadline: Deadline,
    cancel: Cancel,
) -> Image:
    """The image, as it is now; see ``look_up``."""
    image = look_up(source, arch=arch, where=where, deadline=deadline, cancel=cancel)
    name = f" ({image['Name']})" if image.get("Name") else ""
    return Image(source=f"{image['ImageId']}{name}", sha256="", disk=image["ImageId"])


def look_up(
    source: ImageSource,
    *,
    arch: str,
    where: Mapping[str, str],
    deadline: Deadline,
    cancel: Cancel,
) -> dict[str, Any]:
    """What AWS says of the image: ``ImageId``, ``Name``, ``CreationDate`` and more.

    Args:
        where: ``region`` and ``endpoint``; and ``instance_types``, which must be able to start it.

    Raises:
        Refused: there is none, or it is made for another architecture than the distro's or than
            that of a type of machine.
        EnvironmentFailure: AWS does not say.
    """
    api = api_of(where["region"], where.get("endpoint", ""))
    wanted = source.ami or source.ami_parameter or f"{source.ami_owner}/{source.ami_name}"
    # Nothing has been started yet, so an AWS that does not answer is no reason to wait for long.
    patience = Deadline(deadline.stage, min(PATIENCE_S, deadline.remaining_s))
    image = persist(
        lambda: _found(api, source), f"image {wanted}", deadline=patience, cancel=cancel
    )
    if not image:
        is_locked = source.ami and (source.ami_name or source.ami_parameter)
        raise Refused(
            f"image {wanted}: {api.region} has none",
            resolution="It was withdrawn, or made private: `build lock` takes the newest."
            if is_locked
            else "Correct image in targets.yaml; ids and names belong to one region.",
        )
    made_for = image.get("Architecture", ARCHITECTURES[arch])
    if made_for != ARCHITECTURES[arch]:
        raise Refused(
            f"image {wanted} is made for {made_for}, and the distro for {arch}",
            resolution="Correct image or arch in targets.yaml.",
        )
    known = persist(
        lambda: api.architectures(kinds_of(where)),
        "types of machine",
        deadline=patience,
        cancel=cancel,
    )
    for kind, has in known.items():
        if made_for not in has:
            raise Refused(
                f"image {wanted} is made for {made_for}, and {kind} is a machine of "
                f"{' or '.join(has)}",
                resolution="Correct launch.instance_types in targets.yaml.",
            )
    return image


def _found(api: Api, source: ImageSource) -> dict[str, Any]:
    """What AWS says of the image; empty where there is none."""
    ami = source.ami
    if source.ami_parameter and not ami:
        ami = api.ssm.get_parameter(Name=source.ami_parameter)["Parameter"]["Value"]
    if ami:
        # By filter, since an id that is not there is an error, and an empty answer says it as well.
        wanted: dict[str, Any] = {"Filters": [{"Name": "image-id", "Values": [ami]}]}
    else:
        wanted = {
            "Owners": [source.ami_owner],
            "Filters": [
                {"Name": "name", "Values": [source.ami_name]},
                {"Name": "state", "Values": ["available"]},
            ],
        }
    images = api.ec2.describe_images(IncludeDeprecated=True, **wanted).get("Images", [])
    newest: dict[str, Any] = max(
        images, key=lambda image: image.get("CreationDate", ""), default={}
    )
    return newest


def exists(ami: str, *, region: str, endpoint: str, deadline: Deadline, cancel: Cancel) -> bool:
    """Whether an image is there and can be used.

    Raises:
        EnvironmentFailure: AWS does not answer.
    """
    found = _ours(ami, region, endpoint, deadline, cancel)
    return found.get("State") == "available"


def disks(
    ami: str, *, region: str, endpoint: str, deadline: Deadline, cancel: Cancel
) -> tuple[int, tuple[str, ...]]:
    """How large the disks of an image are together, in GiB, and the ids of their snapshots.

    Raises:
        EnvironmentFailure: AWS does not answer.
    """
    found = _disks(_ours(ami, region, endpoint, deadline, cancel))
    return sum(int(disk.get("VolumeSize", 0)) for disk in found), _snapshots(found)


def _ours(
    ami: str, region: str, endpoint: str, deadline: Deadline, cancel: Cancel
) -> dict[str, Any]:
    """What AWS says of an image that was baked; empty where there is none."""
    api = api_of(region, endpoint)
    patience = Deadline(deadline.stage, min(PATIENCE_S, deadline.remaining_s))
    return persist(
        lambda: _found(api, ImageSource(ami=ami)), f"image {ami}", deadline=patience, cancel=cancel
    )


def _disks(image: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each["Ebs"] for each in image.get("BlockDeviceMappings", ()) if "Ebs" in each]


def _snapshots(disks: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(disk["SnapshotId"] for disk in disks if "SnapshotId" in disk)


def remove(
    ami: str, *, snapshots: Iterable[str], region: str, endpoint: str, deadline: Deadline
) -> None:
    """Remove an image of ours with its snapshots. What is gone already is fine.

    Args:
        snapshots: those that it was made with; once the image is gone, AWS does not name them.

    Raises:
        EnvironmentFailure: AWS does not let us, or does not answer.
    """
    image = _ours(ami, region, endpoint, deadline, NEVER)
    api = api_of(region, endpoint)
    with asking(f"to remove image {ami}"):
        if image:
            api.ec2.deregister_image(ImageId=ami)
        for snapshot in dict.fromkeys((*snapshots, *_snapshots(_disks(image)))):
            _delete(api, snapshot)


def _delete(api: Api, snapshot: str) -> None:
    from botocore.exceptions import ClientError

    try:
        api.ec2.delete_snapshot(SnapshotId=snapshot)
    except ClientError as error:
        if code_of(error) != "InvalidSnapshot.NotFound":
            raise
