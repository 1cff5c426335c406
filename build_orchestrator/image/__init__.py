"""What machines start from: made on this host, or fetched, and kept in the cache.

``resolve`` turns an image as declared into an image that exists, and hands back a value.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.model import Image, ImageSource


def resolve(
    source: ImageSource,
    *,
    project: Path,
    deadline: Deadline,
    cancel: Cancel,
    on_line: Callable[[str], None],
) -> Image:
    """Return the image, from the cache where it is there already.

    Args:
        on_line: hears what the tools say while an image is made or fetched.

    Raises:
        EnvironmentFailure: it could not be made or fetched.
        HostNotReady: a tool is missing.
    """
    if source.bootstrap:
        from build_orchestrator.image.bootstrap import bootstrap

        return bootstrap(source.bootstrap, deadline=deadline, cancel=cancel, on_line=on_line)
    if source.url or source.path:
        from build_orchestrator.image.download import download

        return download(source, project=project, deadline=deadline, cancel=cancel, on_line=on_line)
    return Image(source="none", sha256="", disk="")


def describe(source: ImageSource) -> str:
    """The image as declared, in a few words."""
    if source.bootstrap:
        return f"bootstrap {source.bootstrap}"
    return source.url or source.path or "none"
