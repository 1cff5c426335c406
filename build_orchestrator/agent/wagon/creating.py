"""Create a wagon."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Sequence

from build_orchestrator.agent.findings import did_you_mean
from build_orchestrator.agent.wagon import archive, metadata, pip, sources, wheels
from build_orchestrator.agent.wagon.errors import Status, WagonError
from build_orchestrator.agent.wagon.metadata import Metadata
from build_orchestrator.agent.wagon.validating import check

log = logging.getLogger("build_orchestrator.agent.wagon")

FETCHING = "Is its name right, does the index answer, and is there a compiler where it needs one?"
KEPT = "-wheels"


@dataclass(frozen=True)
class Order:
    """What was asked for, checked."""

    source: str
    requirement_files: tuple[str, ...]
    output: Path
    archive_format: str
    python_versions: tuple[str, ...]
    build_tag: str
    pip_paths: tuple[str, ...]
    wheel_args: tuple[str, ...]
    supported_platform: str
    files: tuple[Path, ...]
    force: bool
    keep_wheels: bool
    validate: bool


def create(
    source: str,
    requirement_files: Sequence[str] | None = None,
    force: bool = False,
    keep_wheels: bool = False,
    archive_destination_dir: str | os.PathLike[str] = ".",
    python_versions: Sequence[str | int] | None = None,
    validate_archive: bool = False,
    wheel_args: str | Sequence[str] = "",
    archive_format: str = "zip",
    build_tag: str = "",
    pip_paths: Sequence[str] | None = None,
    supported_platform: str | None = None,
    add_file: Sequence[str] | None = None,
) -> Path:
    """Make a wagon of a package and all that it needs, and return its path.

    Args:
        source: ``NAME``, ``NAME==VERSION``, an address, an archive, or a folder with a
            pyproject.toml or setup.py.
        requirement_files: files of requirements whose wheels go in, too.
        force: replace a wagon that is there.
        keep_wheels: leave the wheels in a folder beside the wagon.
        python_versions: Pythons that it is said to be for, such as ``311`` or ``py3``; those of the
            pips where none is given.
        validate_archive: check it, and install it in a new environment, before it is put in place.
        wheel_args: further arguments for ``pip wheel``.
        archive_format: zip or tar.gz.
        build_tag: a part of the name, after the version.
        pip_paths: the pips to make wheels with, one for each Python.
        supported_platform: the platform that it is said to be for; what its wheels say, else.
        add_file: files to carry along.

    Raises:
        PackagerError: nothing was written.
    """
    order = Order(
        source=source,
        requirement_files=tuple(requirement_files or ()),
        output=Path(archive_destination_dir),
        archive_format=archive_format,
        python_versions=tuple(map(_python_version, python_versions or ())),
        build_tag=build_tag,
        pip_paths=tuple(pip_paths or ()),
        wheel_args=tuple(
            pip.words(wheel_args, "--wheel-args") if isinstance(wheel_args, str) else wheel_args
        ),
        supported_platform=supported_platform or "",
        files=tuple(map(Path, add_file or ())),
        force=force,
        keep_wheels=keep_wheels,
        validate=validate_archive,
    )
    _check(order)
    with tempfile.TemporaryDirectory(prefix="wagon-") as work:
        return _made(order, Path(work))


def _python_version(given: str | int) -> str:
    found = re.fullmatch(r"(?:py)?(\d+)", str(given))
    if found is None:
        raise WagonError(
            Status.USAGE, f"--pyver {given}: such as 311, 3 or py3 is needed, without a dot"
        )
    return f"py{found.group(1)}"


def _check(order: Order) -> None:
    """Everything that can be wrong before anything is done, at once."""
    wrong = []
    if order.archive_format not in archive.FORMATS:
        wrong.append(
            f"Unsupported archive format to create: {order.archive_format} "
            f"(Must be one of [{', '.join(archive.FORMATS)}])"
            f"{did_you_mean(order.archive_format, archive.FORMATS)}"
        )
    for name, value in (
        ("--build-tag", order.build_tag),
        ("--supported-platform", order.supported_platform),
    ):
        if not re.fullmatch(r"[\w.]*", value):
            wrong.append(f"{name} {value}: only letters, digits, dots and underscores can be in it")
    wrong += [f"--add-file {path}: there is no such file" for path in order.files
              if not path.is_file()]  # fmt: skip
    names = [path.name for path in order.files]
    wrong += [f"--add-file: two are called {name}" for name in sorted({*names})
              if names.count(name) > 1]  # fmt: skip
    wrong += [f"-r {file}: there is no such file" for file in order.requirement_files
              if "://" not in file and not Path(file).is_file()]  # fmt: skip
    if order.output.exists() and not order.output.is_dir():
        wrong.append(f"-o {order.output}: is no folder")
    if wrong:
        raise WagonError(
            Status.USAGE, "this wagon cannot be made; nothing was done", details="\n".join(wrong)
        )


def _made(order: Order, work: Path) -> Path:
    source = sources.find(order.source, work)
    pips: list[pip.Command] = [(path,) for path in order.pip_paths] or [tuple(pip.ours(work))]
    pythons = order.python_versions or tuple(dict.fromkeys(map(pip.python_version, pips)))
    log.info("making the wheel of %s", source.told)
    own = [_own_wheel(order, source, command, work / f"own-{i}") for i, command in enumerate(pips)]
    about = wheels.about(own[0])
    _refuse_early(order, about, pythons, own)

    tree = work / "wagon" / about.name
    folder = tree / metadata.WHEELS
    folder.mkdir(parents=True)
    log.info("collecting the wheels of all that %s %s needs", about.name, about.version)
    for command, wheel in zip(pips, own):
        _collect(order, command, f"{wheel}{source.extras}", folder)
    found = wheels.in_folder(folder)
    _add_files(order, tree)
    platform = order.supported_platform or wheels.common_platform(path.name for path in found)
    described = Metadata(
        package_name=about.name,
        package_version=about.version,
        package_build_tag=order.build_tag,
        package_source=source.told,
        supported_platform=platform,
        supported_python_versions=list(pythons),
        python_requires=wheels.requires_python(found),
        wheels=[path.name for path in found],
        files=sorted(path.name for path in order.files),
        build_server_os_properties=metadata.build_server(platform),
        created_by_wagon_version=metadata.made_by(),
    )
    made = finish(described, tree, work, order.archive_format)
    if order.validate:
        check(made)
    target = put(made, order.output, force=order.force)
    if order.keep_wheels:
        kept = target.with_name(target.name[: -len(metadata.SUFFIX)] + KEPT)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept)
        log.info("its wheels: %s", kept)
    log.info("wheels: %d, bytes: %d", len(found), target.stat().st_size)
    return target


def _own_wheel(order: Order, source: sources.Source, command: pip.Command, folder: Path) -> Path:
    """The wheel of the package itself: what it is called, and in which version, is read there."""
    arguments = ["wheel", "--no-deps", "--wheel-dir", str(folder), *order.wheel_args]
    failed = f"Failed to download wheels for: {source.told}"
    pip.run(command, *arguments, source.argument, failed=failed, resolution=FETCHING)
    found = wheels.in_folder(folder)
    if len(found) != 1:
        raise WagonError(Status.FAILED, f"{source.told}: made {len(found)} wheels instead of one")
    return found[0]


def _collect(order: Order, command: pip.Command, own: str, folder: Path) -> None:
    """Everything in one resolution, so that two requirements cannot bring two versions."""
    arguments = ["wheel", "--wheel-dir", str(folder), "--find-links", str(folder)]
    for file in order.requirement_files:
        arguments += ["-r", file]
    failed = f"Failed to download wheels for: {Path(own).name}"
    pip.run(command, *arguments, *order.wheel_args, own, failed=failed, resolution=FETCHING)


def _refuse_early(
    order: Order, about: wheels.About, pythons: Sequence[str], own: Sequence[Path]
) -> None:
    """Refuse to replace a wagon before the long part of the work, and not after it.

    Which platform the wheels of others are for is not known yet: it is this one, or any.
    """
    platforms = {order.supported_platform}
    if not order.supported_platform:
        platforms = {wheels.common_platform(path.name for path in own), wheels.this_platform()}
    for platform in sorted(platforms):
        expected = Metadata(
            package_name=about.name,
            package_version=about.version,
            package_build_tag=order.build_tag,
            supported_platform=platform,
            supported_python_versions=list(pythons),
            wheels=[],
        )
        _make_room(order.output / metadata.archive_name(expected), force=order.force)


def _make_room(target: Path, *, force: bool) -> None:
    if target.is_dir() or (target.exists() and not force):
        raise WagonError(
            Status.USAGE,
            f"Destination archive already exists: {target}.",
            resolution="You can use the -f flag to overwrite.",
        )


def _add_files(order: Order, tree: Path) -> None:
    for path in order.files:
        (tree / metadata.FILES).mkdir(exist_ok=True)
        shutil.copyfile(path, tree / metadata.FILES / path.name)


def finish(described: Metadata, tree: Path, work: Path, archive_format: str) -> Path:
    """Complete a wagon's folder with its package.json, and pack it in a folder of work.

    Raises:
        PackagerError: it could not be written.
    """
    content = [path for path in sorted(tree.rglob("*")) if path.is_file()]
    complete = replace(
        described,
        archive_name=metadata.archive_name(described),
        checksums={
            path.relative_to(tree).as_posix(): f"sha256:{wheels.sha256(path)}"
            for path in content
            if path != tree / metadata.FILE
        },
    )
    metadata.write(complete, tree)
    made = work / complete.archive_name
    archive.write(made, tree, archive_format)
    return made


def put(made: Path, folder: Path, *, force: bool) -> Path:
    """Put a finished wagon into a folder, whole or not at all, and return where it is.

    Raises:
        WagonError: one is there, or it cannot be written.
    """
    target = folder.absolute() / made.name
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _make_room(target, force=force)
        shutil.copyfile(made, part)
        part.replace(target)
    except OSError as error:
        raise WagonError(
            Status.USAGE, f"{target}: could not be written", details=str(error)
        ) from error
    finally:
        if part.exists():
            part.unlink()
    return target
