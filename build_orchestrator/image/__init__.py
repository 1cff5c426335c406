"""What machines start from: made on this host, or fetched, and kept in the cache.

``resolve`` turns an image as declared into an image that exists, and hands back a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.masking import shown
from build_orchestrator.model import Image, ImageSource, through_vagrant


def resolve(
    source: ImageSource,
    *,
    provider: str = "qemu",
    project: Path,
    deadline: Deadline,
    cancel: Cancel,
    on_line: Callable[[str], None],
    arch: str = "x86_64",
    where: Mapping[str, str] | None = None,
) -> Image:
    """Return the image, from the cache where it is there already.

    Args:
        provider: whose machines start from it; Vagrant's start from boxes.
        arch: of the machines; an image of AWS may be made for another.
        where: ``region`` and ``endpoint`` of an image of AWS, and ``instance_types`` that start it.
        on_line: hears what the tools say while an image is made or fetched.

    Raises:
        EnvironmentFailure: it could not be made or fetched.
        HostNotReady: a tool is missing.
    """
    if through_vagrant(provider):
        from build_orchestrator.image.vagrant_box import vagrant_box

        return vagrant_box(
            source, provider, project=project, deadline=deadline, cancel=cancel, on_line=on_line
        )
    if source.bootstrap:
        from build_orchestrator.image.bootstrap import bootstrap

        return bootstrap(source.bootstrap, deadline=deadline, cancel=cancel, on_line=on_line)
    if source.ami or source.ami_name or source.ami_parameter:
        from build_orchestrator.machine.ec2 import images

        return images.find(source, arch=arch, where=where or {}, deadline=deadline, cancel=cancel)
    if source.url or source.path:
        from build_orchestrator.image.download import download

        return download(source, project=project, deadline=deadline, cancel=cancel, on_line=on_line)
    return Image(source="none", sha256="", disk="")


def known(source: ImageSource, *, provider: str) -> Image | None:
    """The image as far as it can be told without making, fetching or asking for anything; None
    where this host does not have it."""
    if source.bootstrap and through_vagrant(provider):
        from build_orchestrator.image.box import made_box

        box = made_box(source.bootstrap, provider)
        return Image(source="", sha256=box.sha256, disk="") if box else None
    if source.bootstrap:
        from build_orchestrator.image.bootstrap import made_image

        return made_image(source.bootstrap)
    if source.sha256 or source.ami or source.version:
        name = source.ami or f"{source.box} {source.version}"
        return Image(source=name, sha256=source.sha256, disk=source.ami)
    return None


def lacking(source: ImageSource, *, provider: str, project: Path) -> dict[str, str]:
    """What is wrong with each path that the image is said to have on this host, by its field."""
    if not (source.path or source.kernel or source.initrd):
        return {}
    from build_orchestrator.image import download

    if through_vagrant(provider):
        problem = download.path_problem(source.path, project) if source.path else ""
        return {"path": problem} if problem else {}
    return download.lacking(source, project)


def describe(source: ImageSource) -> str:
    """The image as declared, in a few words."""
    if source.bootstrap:
        return f"bootstrap {source.bootstrap}"
    if source.box:
        return f"{source.box} {source.version}".rstrip()
    name = f"{source.ami_owner}/{source.ami_name}" if source.ami_name else source.ami_parameter
    if name and source.ami:
        return f"{name}, locked: {source.ami}"
    if ami := source.ami or name:
        return ami
    return shown(source.url) or source.path or "none"
