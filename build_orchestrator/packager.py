"""The agent packager as one file that runs in a machine.

A machine has no Python of ours. What it gets is a zipapp: the package ``build_orchestrator.agent``
with the few libraries that it needs, all pure, for any Python from 3.8 on. The same sources give
the same bytes on every host, since the file is an input of the builds that it is pushed for.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from build_orchestrator.model import Recipe

FOLDER = "provision"
NAME = f"{FOLDER}/cfy-ap.pyz"
"""Below ``$BUILD_INPUTS``, beside the script that runs it."""

LIBRARIES = ("packaging", "yaml")
MAIN = b"from build_orchestrator.agent.cli import main\n\nmain()\n"
SHEBANG = b"#!/usr/bin/env python3\n"
NO_TIME = (1980, 1, 1, 0, 0, 0)


def is_wanted_by(recipe: Recipe) -> bool:
    """Whether a recipe's scripts can call it: those of ``provision/`` do."""
    return any(PurePosixPath(name) == PurePosixPath(FOLDER) for name in recipe.inputs)


@functools.cache
def content() -> bytes:
    """The bytes of the file."""
    file = io.BytesIO()
    # Not compressed, so that no version of zlib is in the bytes.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(_members()):
            archive.writestr(zipfile.ZipInfo(name, NO_TIME), data)
    return SHEBANG + file.getvalue()


@functools.cache
def digest() -> str:
    """``sha256:...`` of the file."""
    return f"sha256:{hashlib.sha256(content()).hexdigest()}"


def _members() -> Iterator[tuple[str, bytes]]:
    here = Path(__file__).parent
    yield "__main__.py", MAIN
    yield "build_orchestrator/__init__.py", (here / "__init__.py").read_bytes()
    yield from _package(here / "agent", "build_orchestrator/agent")
    for name in LIBRARIES:
        for place in _places(name):
            yield from _package(Path(place), name)


def _places(library: str) -> Iterable[str]:
    spec = importlib.util.find_spec(library)
    assert spec is not None, f"{library} is a dependency of this project"
    return spec.submodule_search_locations or ()


def _package(folder: Path, name: str) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*.py"):
        yield f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes()
