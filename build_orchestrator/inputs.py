"""What decides whether a build is up to date: a key, and the list that explains it.

Covered are the script and its declared inputs, the target's definition, the image, the script's
variables, the requirements lock and our own way of driving a build. Deadlines, attempts and
destinations, and the way in which the host lets packages through, do not change what comes out,
so they are not. What a moving mirror serves cannot be known; in its place stands the start of the
period of ``max_artifact_age``, so that no artifact counts as up to date for longer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from build_orchestrator import packager
from build_orchestrator.configuration.files import places_of
from build_orchestrator.errors import UsageError
from build_orchestrator.model import RECIPE_VERSION, Build, Image, Input, Target
from build_orchestrator.plan import key_of as key_of
from build_orchestrator.sources import host_sources

RUN = "run"
"""The input that no other run has; it stands in for a missing requirements lock."""

PACKAGES = "packages as of"
"""The input that stands for the distribution's packages, which their mirror changes."""

IGNORED = frozenset({"__pycache__"})

PER_RUN = frozenset({"BUILD_RUN_ID"})
"""Variables of the script that differ from run to run and change nothing."""


def inputs_of(
    build: Build, project: Path, image: Image, *, nonce: str, now: str
) -> tuple[Input, ...]:
    """Everything that decides what comes out of a build.

    Args:
        nonce: the run's uuid; without a requirements lock it keeps the key from ever matching
            that of another run.
        now: when the run was planned, as ``Plan.created_at`` has it.

    Raises:
        UsageError: a declared file is missing, or is neither file, folder nor link.
    """
    recipe = build.recipe
    files = [(f"script {recipe.script}", recipe.script)]
    files += [(f"input {path}", path) for path in recipe.inputs]
    if recipe.requirements_lock:
        files.append((f"requirements lock {recipe.requirements_lock}", recipe.requirements_lock))
    sources = host_sources(recipe, project)
    tool = packager.digest() if packager.is_wanted_by(recipe) else ""
    pairs = [
        ("recipe version", str(RECIPE_VERSION)),
        *_definition(build.target),
        # A public box, or an image of AWS, has no checksum that we know; but its version, or its
        # id, never holds something else.
        ("image", f"sha256:{image.sha256}" if image.sha256 else image.source),
        *((name, digest_of(project, path)) for name, path in files),
        *((f"source {name}", digest_of(project, str(path))) for name, path in sources.items()),
        *([(f"our {packager.NAME}", tool)] if tool else []),
        *((f"output {output.name}", f"members {output.members}") for output in build.outputs),
        *((f"variable {name}", build.environment[name]) for name in _lasting(build.environment)),
        *((f"secret {entry.partition('=')[0]}", "named") for entry in recipe.secrets),
    ]
    if recipe.requirements_lock:
        pairs.append((PACKAGES, _period(now, recipe.max_artifact_age_s)))
    else:
        pairs.append((RUN, nonce))
    return tuple(Input(name=name, value=value) for name, value in pairs)


def can_match(inputs: Iterable[Input]) -> bool:
    """Whether another run can come to the same key."""
    return all(each.name != RUN for each in inputs)


def _period(now: str, length_s: float) -> str:
    """When the current period began. Periods are counted from 1970, so every host has the same."""
    seconds = datetime.fromisoformat(now).timestamp()
    return f"{datetime.fromtimestamp(seconds - seconds % length_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _definition(target: Target) -> list[tuple[str, str]]:
    """What of a target's row can change what comes out."""
    source = target.image
    kernel = " ".join(each for each in (source.kernel_sha256, source.initrd_sha256) if each)
    return [
        ("target", target.name),
        ("target distro", _canonical(dataclasses.asdict(target.distro))),
        ("target size", _canonical(dataclasses.asdict(target.size))),
        ("target options", _canonical(_counting(target))),
        ("target kernel", kernel),
    ]


def _counting(target: Target) -> Mapping[str, str]:
    """The options that can change what comes out: on aws all but the processor say only where."""
    if target.provider != "aws":
        return target.options
    return {name: value for name, value in target.options.items() if name == "instance_types"}


def _lasting(environment: Mapping[str, str]) -> list[str]:
    return sorted(name for name in environment if name not in PER_RUN)


def explain(old: Iterable[Input], new: Iterable[Input]) -> tuple[str, ...]:
    """One line for each input that differs; none when the key is the same."""
    before = {each.name: each.value for each in old}
    after = {each.name: each.value for each in new}
    lines = []
    for name in dict.fromkeys((*before, *after)):
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        if name == RUN and now is not None:
            lines.append("run: the recipe has no requirements_lock, so every run builds anew")
        elif was is None:
            lines.append(f"{name}: is new")
        elif now is None:
            lines.append(f"{name}: is gone")
        else:
            lines.append(f"{name}: was {_short(was)}, is {_short(now)}")
    return tuple(lines)


def digest_of(project: Path, path: str) -> str:
    """``sha256:...`` over a file or tree: relative paths, execute bits and contents, in order.

    Times, owners and other mode bits do not count, and neither does ``__pycache__``.
    """
    digest = hashlib.sha256()
    try:
        # What is listed may itself be a link; links below it are taken as links.
        places = [place.resolve() for place in places_of(project, path)]
        for name, place in _walk(places or [(project / path).resolve(strict=True)], ""):
            digest.update(_record(name, place))
    except OSError as error:
        raise UsageError(f"input {path} cannot be read: {error.strerror}") from error
    return f"sha256:{digest.hexdigest()}"


def _walk(places: Sequence[Path], name: str) -> Iterator[tuple[str, Path]]:
    """The first of these places, and what lies below any of them: of two, what is first."""
    yield name, places[0]
    if places[0].is_dir() and not places[0].is_symlink():
        below: dict[str, list[Path]] = {}
        for place in places:
            for each in place.iterdir() if place.is_dir() else ():
                below.setdefault(each.name, []).append(each)
        for each_name in sorted(below.keys() - IGNORED):
            yield from _walk(below[each_name], f"{name}/{each_name}")


def _record(name: str, place: Path) -> bytes:
    """One entry of a tree; every part has a fixed length or is preceded by its length."""
    mode = place.lstat().st_mode
    if stat.S_ISLNK(mode):
        kind, content = b"link", hashlib.sha256(os.fsencode(place.readlink())).digest()
    elif stat.S_ISDIR(mode):
        kind, content = b"fold", bytes(32)
    elif stat.S_ISREG(mode):
        kind = b"exec" if mode & stat.S_IXUSR else b"file"
        with place.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
    else:
        raise UsageError(f"{place} is neither a file, nor a folder, nor a link")
    encoded = os.fsencode(name)
    return len(encoded).to_bytes(4) + encoded + kind + content


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _short(value: str) -> str:
    return value[:19] + "..." if value.startswith("sha256:") else value or "empty"
