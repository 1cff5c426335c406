"""package.json: what a wagon says of itself."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Mapping

from build_orchestrator.agent.cli import version
from build_orchestrator.agent.errors import PackagerError
from build_orchestrator.agent.names import os_release
from build_orchestrator.agent.wagon.errors import Status, WagonError

FILE = "package.json"
WHEELS = "wheels"
FILES = "files"
SUFFIX = ".wgn"
NOBODY: Mapping[str, str | None] = {
    "distribution": None,
    "distribution_version": None,
    "distribution_release": None,
}
OLDER = {"module_name": "package_name", "module_version": "package_version"}
"""Keys of the first releases -> those of today."""


@dataclass(frozen=True)
class Metadata:
    """The keys, in the words of the format."""

    package_name: str
    package_version: str
    supported_platform: str
    supported_python_versions: list[str]
    wheels: list[str]
    package_build_tag: str = ""
    package_source: str = ""
    python_requires: str = ""
    files: list[str] = field(default_factory=list)
    build_server_os_properties: Mapping[str, str | None] = field(default_factory=lambda: NOBODY)
    created_by_wagon_version: str = ""
    archive_name: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """Ours: path below the wagon's folder -> ``sha256:<hex>``. Empty in wagons of the original."""

    @property
    def requirement(self) -> str:
        """The package in exactly this version, as pip takes it."""
        return f"{self.package_name}=={self.package_version}"


LISTS = ("supported_python_versions", "wheels", "files")
MAPPINGS = ("build_server_os_properties", "checksums")
NEEDED = ("package_name", "package_version", "supported_platform", "wheels")


def read_raw(folder: Path) -> dict[str, Any]:
    """Everything in package.json, as it stands.

    Raises:
        WagonError: there is none, or it is no JSON object.
    """
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WagonError(
            Status.FAILED, f"this is no wagon: there is no {FILE} in {folder.name}/"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise WagonError(
            Status.FAILED, f"this is no wagon: {folder.name}/{FILE} is no JSON", details=str(error)
        ) from error
    if not isinstance(values, dict):
        raise WagonError(
            Status.FAILED, f"this is no wagon: {folder.name}/{FILE} holds no keys and values"
        )
    return values


def read(folder: Path) -> Metadata:
    """The keys that are needed here, in today's words.

    Raises:
        WagonError: with everything that is wrong with them.
    """
    raw = read_raw(folder)
    values = {OLDER.get(key, key): value for key, value in raw.items()}
    wrong = [f"{key}: is missing" for key in NEEDED if not values.get(key)]
    known: dict[str, Any] = {}
    for key in Metadata.__dataclass_fields__:
        value = values.get(key)
        kind = list if key in LISTS else dict if key in MAPPINGS else str
        if value is None:
            continue
        if not isinstance(value, kind) or not all(isinstance(each, str) for each in _texts(value)):
            wrong.append(f"{key}: is not what it should be: {json.dumps(value)[:80]}")
        else:
            known[key] = value
    names = [*known.get("wheels", ()), *known.get("files", ()), known.get("package_name", "x")]
    wrong += [f"{name!r}: is no file's name" for name in names if not is_plain(name)]
    wrong += [f"{name!r}: is no package's name" for name in names[-1:] if name.startswith("-")]
    if wrong:
        raise WagonError(
            Status.FAILED, f"{folder.name}/{FILE} is not a wagon's", details="\n".join(wrong)
        )
    known.setdefault("supported_python_versions", [])
    return Metadata(**known)


def _texts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *(each for each in value.values() if each is not None)]
    return value if isinstance(value, list) else []


def is_plain(name: str) -> bool:
    """Whether a name is that of a file in a folder, leads nowhere else, and can be printed."""
    plain = re.fullmatch(r"[^/\\\x00-\x1f\x7f\ud800-\udfff]+", name)
    return bool(plain) and name not in (".", "..")


def write(metadata: Metadata, folder: Path) -> None:
    """Leave package.json in a wagon's folder."""
    text = json.dumps(asdict(metadata), indent=4, sort_keys=True)
    (folder / FILE).write_text(text, encoding="utf-8")


def archive_name(metadata: Metadata) -> str:
    """``{name}-{version}[-{build tag}]-{Pythons}-none-{platform}.wgn``."""
    parts = [metadata.package_name.replace("-", "_"), metadata.package_version]
    parts += [metadata.package_build_tag] if metadata.package_build_tag else []
    parts += [".".join(metadata.supported_python_versions), "none", metadata.supported_platform]
    return "-".join(parts) + SUFFIX


def made_by() -> str:
    """The value of ``created_by_wagon_version``."""
    return f"build-orchestrator {version()}"


def build_server(platform: str) -> Mapping[str, str | None]:
    """The distribution that wheels were made on; nothing where that does not matter."""
    if "linux" not in platform:
        return NOBODY
    try:
        found = os_release()
    except PackagerError:
        return NOBODY
    return {
        "distribution": found.get("ID", "").lower() or None,
        "distribution_version": found.get("VERSION_ID", "").lower() or None,
        "distribution_release": found.get("VERSION_CODENAME", "").lower() or None,
    }
