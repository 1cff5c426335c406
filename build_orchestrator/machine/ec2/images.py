"""Which image of AWS a row means: by its id, the newest of a name, or a published parameter."""

from __future__ import annotations

from typing import Any

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.machine.ec2.api import Api, api_of, persist
from build_orchestrator.machine.ec2.launch import ARCHITECTURES
from build_orchestrator.model import Image, ImageSource

PATIENCE_S = 60.0


def find(
    source: ImageSource,
    *,
    arch: str,
    region: str,
    endpoint: str,
    deadline: Deadline,
    cancel: Cancel,
) -> Image:
    """The image, as it is now.

    Raises:
        EnvironmentFailure: there is none, or it is made for another architecture.
    """
    api = api_of(region, endpoint)
    wanted = source.ami or source.ami_parameter or f"{source.ami_owner}/{source.ami_name}"

    def ask() -> dict[str, Any]:
        return _found(api, source)

    # Nothing has been started yet, so an AWS that does not answer is no reason to wait for long.
    patience = Deadline(deadline.stage, min(PATIENCE_S, deadline.remaining_s))
    image = persist(ask, f"image {wanted}", deadline=patience, cancel=cancel)
    if not image:
        raise EnvironmentFailure(
            f"image {wanted}: {region} has none",
            resolution="Correct image in targets.yaml; ids and names belong to one region.",
        )
    if image.get("Architecture", arch) != ARCHITECTURES[arch]:
        raise EnvironmentFailure(
            f"image {wanted} is made for {image['Architecture']}, and the distro for {arch}",
            resolution="Correct image or arch in targets.yaml.",
        )
    name = f" ({image['Name']})" if image.get("Name") else ""
    return Image(source=f"{image['ImageId']}{name}", sha256="", disk=image["ImageId"])


def _found(api: Api, source: ImageSource) -> dict[str, Any]:
    """What AWS says of the image; empty where there is none."""
    ami = source.ami
    if source.ami_parameter:
        ami = api.ssm.get_parameter(Name=source.ami_parameter)["Parameter"]["Value"]
    if ami:
        images = api.ec2.describe_images(ImageIds=[ami]).get("Images", [])
    else:
        images = api.ec2.describe_images(
            Owners=[source.ami_owner],
            IncludeDeprecated=True,  # As all public images are after two years.
            Filters=[
                {"Name": "name", "Values": [source.ami_name]},
                {"Name": "state", "Values": ["available"]},
            ],
        ).get("Images", [])
    newest: dict[str, Any] = max(
        images, key=lambda image: image.get("CreationDate", ""), default={}
    )
    return newest
