"""requirements.lock: what was resolved, with hashes, so that a later build can be held to it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from build_orchestrator.agent import children
from build_orchestrator.agent.errors import Code, PackagerError, without_passwords
from build_orchestrator.agent.installer import INDEX

if TYPE_CHECKING:
    from build_orchestrator.agent.installer import Installer

HEAD = "# What this agent was built of. Hold a later build to it with --locked.\n"
FAILED = "the modules asked for could not be resolved"


def resolve(installer: Installer, wanted: Sequence[str], files: Sequence[Path] = ()) -> str:
    """The text of a lock for these lines, and these files, of requirements.

    What is built from a path has no hash that would be the same elsewhere: it is left out, and
    only its dependencies are in the lock. So is an address with a password in it.
    """
    given = [str(path) for path in (installer.written("\n".join(wanted)), *files)]
    return _by_uv(installer, given) if installer.uv else _by_pip(installer, given, wanted)


def _by_uv(installer: Installer, files: Sequence[str]) -> str:
    options = [*installer.sources.options(), "--generate-hashes", "--no-header", "--no-annotate"]
    options += ["--no-emit-index-url", "--no-emit-find-links", "--quiet"]
    assert installer.uv is not None
    said = children.run(
        [installer.uv, "pip", "compile", "--python", str(installer.python), *options, *files],
        env=installer.environment(),
        code=Code.COULD_NOT_INSTALL_MODULE,
        failed=FAILED,
        resolution=INDEX,
    )
    # One requirement, with its hashes in the lines that follow.
    blocks = re.findall(r"(?m)^[^\s#].*\n(?:[ \t]+.*\n)*", said)
    kept = [block for block in blocks if "--hash=" in block and not _is_local(block)]
    return HEAD + "".join(sorted(kept))


def _is_local(block: str) -> bool:
    return "file://" in block or without_passwords(block) != block


def _by_pip(installer: Installer, files: Sequence[str], wanted: Sequence[str]) -> str:
    """pip of any age downloads; the hashes are those of what it downloaded."""
    folder = installer.work / "downloaded"
    options = [*installer.sources.options(), *(f"--requirement={file}" for file in files)]
    children.run(
        [*installer.pip(), "download", "--quiet", "--dest", str(folder), *options],
        env=installer.environment(),
        code=Code.COULD_NOT_INSTALL_MODULE,
        failed=FAILED,
        resolution=INDEX,
    )
    direct = {line.partition("#")[0].rpartition("/")[2] for line in wanted if "://" in line}
    rows = [_row(path) for path in sorted(folder.iterdir()) if path.name not in direct]
    return HEAD + "".join(sorted(rows))


def _row(path: Path) -> str:
    from packaging.utils import (
        InvalidSdistFilename,
        InvalidWheelFilename,
        parse_sdist_filename,
        parse_wheel_filename,
    )

    try:
        if path.suffix == ".whl":
            name, version = parse_wheel_filename(path.name)[:2]
        else:
            name, version = parse_sdist_filename(path.name)
    except (InvalidSdistFilename, InvalidWheelFilename):
        return ""  # what pip calls a folder that it has packed
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}=={version} \\\n    --hash=sha256:{digest}\n"


def read(path: Path) -> str:
    """The text of a lock that a build is to be held to.

    Raises:
        PackagerError: it cannot be read, or a requirement in it has no hash.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackagerError(
            Code.COULD_NOT_INSTALL_FROM_REQUIREMENTS_FILE, f"{path}: cannot be read: {error}"
        ) from error
    blocks = re.findall(
        r"(?m)^[^\s#].*\n(?:[ \t]+.*\n)*", text if text.endswith("\n") else text + "\n"
    )
    bare = [block.split()[0] for block in blocks if "--hash=" not in block]
    if bare:
        raise PackagerError(
            Code.COULD_NOT_INSTALL_FROM_REQUIREMENTS_FILE,
            f"{path}: is no lock: no hash for {', '.join(bare)}",
            resolution="Use the requirements.lock that an earlier build has left.",
        )
    return text
