"""What Vagrant's machines start from: a public box, a box in a file, or one made on this host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.machine.vagrant.boxes import file_box, local_url, public_box
from build_orchestrator.model import Image, ImageSource
from build_orchestrator.render.vagrantfile import box_name


def vagrant_box(
    source: ImageSource,
    provider: str,
    *,
    project: Path,
    deadline: Deadline,
    cancel: Cancel,
    on_line: Callable[[str], None],
) -> Image:
    """Return the box, which is in Vagrant's own collection from now on.

    Raises:
        EnvironmentFailure: it could not be made or fetched.
        HostNotReady: there is no such box, or a tool is missing.
    """
    if source.version:
        return public_box(source, provider, deadline=deadline, cancel=cancel, on_line=on_line)
    if source.bootstrap:
        from build_orchestrator.image.box import make_box

        made = make_box(
            source.bootstrap, provider, deadline=deadline, cancel=cancel, on_line=on_line
        )
        url, sha256 = local_url(made.path), made.sha256
    else:
        url = source.url or local_url(project / source.path)
        sha256 = source.sha256
    return file_box(
        box_name(source),
        url,
        sha256,
        provider,
        deadline=deadline,
        cancel=cancel,
        on_line=on_line,
    )
