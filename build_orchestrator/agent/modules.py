"""What is asked for: names, and where each comes from."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from build_orchestrator.agent.config import EXCLUDE, Config
from build_orchestrator.agent.errors import Code, PackagerError

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENT = "cloudify-agent"
AGENT_ARCHIVE = "https://github.com/cloudify-cosmo/cloudify-agent/archive/{}.tar.gz"
HOST_SOURCES = "host-sources/list.json"
"""Where an orchestrator lists the sources that it brought from its host: {as written: path}."""


@dataclass(frozen=True)
class Module:
    """One thing asked for: a requirement (``name==1.0``), or a URL or path with the name it has."""

    name: str
    """Empty where only the source tells."""
    source: str

    @property
    def line(self) -> str:
        """It as a line of a requirements file, where a path may have no space in it."""
        return Path(self.source).as_uri() if is_path(self.source) else self.source

    @property
    def is_direct(self) -> bool:
        """Whether the source is an address or a path, and not found in an index by name."""
        return is_path(self.source) or "://" in self.source


def asked_for(config: Config) -> list[tuple[str, str]]:
    """Name and source of everything; what is false or excluded comes, if at all, as a dependency.

    Raises:
        PackagerError: no agent is asked for, neither as a whole nor by its modules; or by a word
            that a package index would take for the name of something else; or something is asked
            for that is neither a requirement, an address nor a path.
    """
    agent = config.cloudify_agent_module or config.cloudify_agent_version
    if re.match(r"\d[\w.+-]*$", agent) or not config.cloudify_agent_module:
        agent = AGENT_ARCHIVE.format(agent) if agent else ""
    elif re.match(r"[\w.-]+$", agent) and not is_path(agent) and agent.replace("_", "-") != AGENT:
        raise PackagerError(
            Code.MISSING_CLOUDIFY_AGENT_CONFIG,
            f"cloudify_agent_module: {agent} is no address, path or version",
            resolution=f"Write ./{agent} for a file or folder beside the file that names it.",
        )
    # The agent is last in the order of the original, which installed one after the other.
    asked = [(name, source) for name, source in config.core_modules.items() if source]
    if not agent and not asked:
        raise PackagerError(
            Code.MISSING_CLOUDIFY_AGENT_CONFIG,
            "nothing makes this an agent",
            resolution="Give cloudify_agent_module, cloudify_agent_version or core_modules.",
        )
    for named in (config.core_plugins, config.additional_plugins):
        asked += [(name, source) for name, source in named.items() if source]
    asked += [("", source) for source in config.additional_modules]
    asked += [("cloudify_agent", agent)] if agent else []
    sources = [
        (name.replace("_", "-"), source)
        for name, source in asked
        if isinstance(source, str) and source != EXCLUDE
    ]
    wrong = [
        f"{source!r}: is no requirement, URL or path"
        for _, source in sources
        if not _can_be_installed(source)
    ]
    if wrong:
        raise PackagerError(
            Code.INVALID_YAML_FILE,
            "what is asked for cannot be installed; nothing was built",
            details="\n".join(wrong),
            resolution="Options of pip are none: a file of requirements is a requirements_file.",
        )
    return sources


def _can_be_installed(source: str) -> bool:
    """Whether a source is one thing, and no option or further line for the installer."""
    from packaging.requirements import InvalidRequirement, Requirement

    if source.startswith("-") or "\n" in source:
        return False
    if is_path(source) or "://" in source:
        return True
    try:
        return bool(Requirement(source))
    except InvalidRequirement:
        return False


def excluded(config: Config) -> Iterator[str]:
    """The plugins that must not be there, even where a dependency brings them."""
    for name, source in config.core_plugins.items():
        if source == EXCLUDE:
            yield name.replace("_", "-")


def located(asked: list[tuple[str, str]], base: Path, copies: Path) -> list[Module]:
    """Modules whose paths, relative to ``base``, are absolute.

    A folder is copied below ``copies`` first: a build writes beside the source, which may be
    somebody's checkout.

    Raises:
        PackagerError: with every path that is not there, or a folder that cannot be copied.
    """
    found, missing = [], []
    for number, (name, source) in enumerate(asked):
        if not is_path(source):
            found.append(Module(name, source))
            continue
        path = place_of(source, base)
        if not path.exists():
            missing.append(f"{source}: there is no {path}")
        elif path.is_file():
            found.append(Module(name, str(path)))
        else:
            copy = copies / str(number) / path.name
            found.append(Module(name, str(copy)))
            try:
                shutil.copytree(path, copy, symlinks=True)
            except OSError as error:
                raise PackagerError(
                    Code.COULD_NOT_INSTALL_MODULE,
                    f"{source}: could not be copied; nothing was built",
                    details=str(error),
                ) from error
    if missing:
        raise PackagerError(
            Code.COULD_NOT_INSTALL_MODULE,
            "a module's source is not there; nothing was built",
            details="\n".join(missing),
            resolution="Paths are relative to the file that names them.",
        )
    return found


def place_of(source: str, base: Path) -> Path:
    """Where a path leads: from ``base``, or to what an orchestrator has brought from its host."""
    if (base / HOST_SOURCES).exists():
        brought = json.loads((base / HOST_SOURCES).read_text(encoding="utf-8"))
        source = brought.get(source, source)
    return (base / Path(source).expanduser()).resolve()


def is_path(source: str) -> bool:
    if "://" in source or " @ " in source:
        return False
    return "/" in source or source in (".", "..") or source.endswith((".whl", ".tar.gz", ".zip"))
