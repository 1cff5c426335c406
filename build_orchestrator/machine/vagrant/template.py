"""The template of every Vagrantfile: the project's own, else the one that is shipped."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from build_orchestrator.errors import UsageError
from build_orchestrator.render.vagrantfile import TEMPLATE


def template_of(project: Path | None) -> str:
    """The text of the template.

    Raises:
        UsageError: the project's own cannot be read.
    """
    if project is None or not (project / TEMPLATE).is_file():
        shipped = resources.files("build_orchestrator") / "_project" / TEMPLATE
        return shipped.read_text("utf-8")
    try:
        return (project / TEMPLATE).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{project / TEMPLATE} cannot be read: {error}") from error
