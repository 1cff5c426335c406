"""Install a wagon, without any network."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Sequence

from build_orchestrator.agent import children
from build_orchestrator.agent.errors import PackagerError
from build_orchestrator.agent.wagon import metadata, pip, wheels
from build_orchestrator.agent.wagon.archive import opened
from build_orchestrator.agent.wagon.errors import Status, WagonError
from build_orchestrator.agent.wagon.metadata import Metadata

log = logging.getLogger("build_orchestrator.agent.wagon")


def install(
    source: str,
    venv: str | os.PathLike[str] | None = None,
    requirement_files: Sequence[str] | None = None,
    upgrade: bool = False,
    ignore_platform: bool = False,
    install_args: str | Sequence[str] = "",
) -> None:
    """Install a wagon in exactly its version, from nothing but its own wheels.

    Args:
        source: a path, or an address.
        venv: folder of a virtual environment; the active one, else this interpreter's, else.
        requirement_files: files of requirements to be installed from the wagon, too.
        upgrade: replace another version that is installed.
        ignore_platform: try, also where the wagon is for another platform.
        install_args: further arguments for ``pip install``.

    Raises:
        PackagerError: it is for another platform, broken, or did not install.
    """
    extra = pip.words(install_args, "--install-args") if isinstance(install_args, str) else (
        list(install_args))  # fmt: skip
    command = target_pip(venv)
    with opened(source) as (folder, _):
        described = metadata.read(folder)
        if not ignore_platform:
            check_platform(described)
        check_whole(folder, described)
        log.info("installing %s for %s", described.requirement, command[0])
        options = [word for file in requirement_files or () for word in ("-r", file)]
        options += ["--upgrade"] if upgrade else []
        run(command, folder, described, [*options, *extra])
    log.info("%s is installed", described.requirement)


def target_pip(venv: str | os.PathLike[str] | None) -> pip.Command:
    """The pip that installs.

    Raises:
        WagonError: there is none.
    """
    active = venv or os.environ.get("VIRTUAL_ENV")
    command = pip.of_environment(Path(active)) if active else (sys.executable, "-m", "pip")
    try:
        children.run([*command, "--version"], code=Status.HOST, failed="")
    except PackagerError as error:
        raise WagonError(
            Status.HOST,
            f"{command[0]} has no pip, which is what installs wheels",
            resolution=f"Give it one ({command[0]} -m ensurepip), or name an environment that has.",
        ) from error
    return command


def check_platform(described: Metadata) -> None:
    """See that a wagon is for this platform.

    Raises:
        WagonError: it is for another.
    """
    here = wheels.this_platform()
    if not wheels.fits_here(described.supported_platform):
        raise WagonError(
            Status.FAILED,
            f"Platform unsupported for wagon ({here})",
            details=f"It is for {described.supported_platform}.",
            resolution="--ignore-platform tries all the same.",
        )


def changed(folder: Path, described: Metadata) -> list[str]:
    """What is not as package.json says: wheels and files that lack, or hold other bytes."""
    wrong = [
        f"{name} is missing from the archive"
        for kind, names in ((metadata.WHEELS, described.wheels), (metadata.FILES, described.files))
        for name in names
        if not (folder / kind / name).is_file()
    ]
    for name, expected in sorted(described.checksums.items()):
        file = folder / name
        if file.is_file() and f"sha256:{wheels.sha256(file)}" != expected:
            wrong.append(f"{name} is not what the wagon was made with: its checksum differs")
    return wrong


def check_whole(folder: Path, described: Metadata) -> None:
    """See that a wagon's wheels and files are those that it was made with.

    Raises:
        WagonError: with everything that is not.
    """
    wrong = changed(folder, described)
    if wrong:
        raise WagonError(
            Status.FAILED, "this wagon is damaged; nothing was done with it",
            details="\n".join(wrong),
        )  # fmt: skip


def run(
    command: pip.Command, folder: Path, described: Metadata, options: Sequence[str] = ()
) -> None:
    """Let a pip install what is in a wagon's folder.

    Raises:
        PackagerError: it did not.
    """
    place = str(folder / metadata.WHEELS)
    arguments = ["install", "--no-index", "--find-links", place, "--pre", *options]
    failed = f"Could not install package: {described.requirement}"
    pip.run(command, *arguments, described.requirement, failed=failed)
