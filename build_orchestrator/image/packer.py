"""Packer as a tool: which one this host has, one call of it, and the rows that it prints."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import HostNotReady
from build_orchestrator.render.packerfile import PLUGINS

TOOL = "packer"
OLDEST = (1, 6)
WITHOUT_PLUGINS = (1, 10)
"""From this version on Packer brings no plugins of its own."""

NEEDED = {
    "qemu": ("qemu",),
    "libvirt": ("qemu", "vagrant"),
    "virtualbox": ("virtualbox", "vagrant"),
    "aws": ("amazon",),
}
"""Provider -> the plugins with which its images are made."""

SHIPPED_PLUGINS = resources.files("build_orchestrator") / "_project" / PLUGINS
"""What names them for ``packer init``; a project need not have it."""

OLDEST_PLUGIN = re.compile(r'hashicorp/(\w+)"\s+version\s*=\s*">= ([0-9.]+)"')
"""How that file names a plugin, and the oldest of it that will do."""

ASK_S = 30.0
ESCAPES = {"%!(PACKER_COMMA)": ",", "\\n": "\n", "\\r": "\r"}
STRAYING = ("PACKER_", "PKR_VAR_")
"""Beginnings of variables with which Packer would do something else than it is told."""

WHERE_PLUGINS_ARE = ("PACKER_PLUGIN_PATH", "PACKER_CONFIG_DIR")
"""`packer init` has heard these, too."""

OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ``-machine-readable``."""

    builder: str
    """Empty where it is about no builder."""
    kind: str
    """``ui``, ``artifact``, ``error``, ``error-count`` and others; ``ui`` for what is no row."""
    data: tuple[str, ...]

    @property
    def text(self) -> str:
        """What a person should hear of it; mostly nothing."""
        return self.data[-1] if self.kind == "ui" and self.data else ""


def row(line: str) -> Row:
    """``timestamp,builder,kind,data...``, with its escapes undone."""
    parts = line.split(",")
    if len(parts) < 3 or not parts[0].isdigit():
        return Row("", "ui", (line,))
    return Row(parts[1], parts[2], tuple(_unescaped(each) for each in parts[3:]))


def _unescaped(text: str) -> str:
    for escape, meaning in ESCAPES.items():
        text = text.replace(escape, meaning)
    return text


def artifact_ids(rows: Iterable[Row], builder: str) -> tuple[str, ...]:
    """What the builder calls what it made; empty where it made nothing, whatever Packer ended with.
    A file's id may be empty itself."""
    return tuple(
        "".join(each.data[2:3])
        for each in rows
        if each.builder == builder and each.kind == "artifact" and each.data[1:2] == ("id",)
    )


def errors(rows: Iterable[Row]) -> str:
    """The errors that Packer counted, a line each. What it merely says may be no error at all."""
    return "\n".join(each.data[0] for each in rows if each.kind == "error" and each.data)


# --- the tool -----------------------------------------------------------------------------------


def executable() -> str:
    """The path of Packer.

    Raises:
        HostNotReady: it is not installed.
    """
    found = shutil.which(TOOL)
    if found is None:
        raise HostNotReady(
            "Packer is not installed",
            resolution="apt-get install packer, or take one of HashiCorp's own",
        )
    return found


def version() -> str:
    """Packer's version, such as ``1.6.6``.

    Raises:
        HostNotReady: there is none, it is older than 1.6, or that program is another one.
    """
    path = executable()
    said = _asked([path, "version"])
    match = re.search(r"Packer v(\d+)\.(\d+)(\S*)", said)
    if match is None:
        raise HostNotReady(
            f"{path} is not HashiCorp's Packer",
            details=said.strip()[:200],
            resolution="Put the folder of the right one first into PATH.",
        )
    if (int(match[1]), int(match[2])) < OLDEST:
        raise HostNotReady(
            f"Packer {match[1]}.{match[2]}{match[3]} is too old; 1.6 is the oldest that will do"
        )
    return f"{match[1]}.{match[2]}{match[3]}"


def plugin_problems(providers: Iterable[str], packer: str) -> tuple[str, ...]:
    """What this version of Packer lacks of plugins for these providers, a few words each: those
    that are not there, and those that are older than ``plugins.pkr.hcl`` wants them."""
    if numbers(packer)[:2] < WITHOUT_PLUGINS:
        return ()
    said = _asked([executable(), "plugins", "installed"])
    oldest = dict(OLDEST_PLUGIN.findall(SHIPPED_PLUGINS.read_text()))
    lacking, old = [], []
    for name in dict.fromkeys(each for provider in providers for each in NEEDED[provider]):
        found = re.findall(rf"packer-plugin-{name}_v([0-9.]+)", said)
        newest = max(found, key=numbers, default="")
        if not newest:
            lacking.append(name)
        elif numbers(newest) < numbers(oldest[name]):
            old.append(f"has {name} {newest}, which is older than {oldest[name]}")
    return (*([f"lacks {', '.join(lacking)}"] if lacking else ()), *old)


def require(providers: Iterable[str]) -> str:
    """The version of a Packer that can bake for these providers.

    Raises:
        HostNotReady: it is missing, or lacks plugins.
    """
    found = version()
    if problems := plugin_problems(providers, found):
        raise HostNotReady(
            f"Packer {found} brings no plugins, and {', '.join(problems)}",
            details="Packer 1.10 and later have none of their own.",
            resolution=f"packer init {SHIPPED_PLUGINS}",
        )
    return found


def numbers(version: str) -> tuple[int, ...]:
    """A version as it compares."""
    return tuple(int(each) for each in re.findall(r"\d+", version))


def _asked(argv: Sequence[str]) -> str:
    finished = command.run(
        argv, deadline=Deadline("image", ASK_S, "Packer's version"), env=environment({})
    )
    return finished.stdout.decode(errors="replace")


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What Packer sees: ours without what would lead it astray, and these."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(STRAYING)}
    kept = {name: os.environ[name] for name in WHERE_PLUGINS_ARE if name in os.environ}
    return {**own, **kept, "CHECKPOINT_DISABLE": "1", "PACKER_NO_COLOR": "1", **variables}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A call of Packer that has ended."""

    status: int
    rows: tuple[Row, ...]
    last_words: str
    """Of its standard error."""


def build(
    builder: str,
    file: Path,
    variables: Path,
    *,
    cwd: Path,
    env: Mapping[str, str],
    limit_s: float,
    grace_s: float,
    deadline: Deadline,
    cancel: Cancel,
    on_line: OnLine,
    check: Callable[[], None],
) -> Ended:
    """``packer build`` of one builder, which ends by itself after ``limit_s`` whether we live
    or not.

    Args:
        variables: a JSON file with values of Packer's variables; none is a secret.
        env: beside what ``environment`` lets through.
        grace_s: how long it may tidy up when it is stopped.
        check: called all the while; what it raises stops it.

    Raises:
        DeadlineExceeded, Interrupted, what ``check`` raises: it was asked to end, then killed with
            all that it started.
    """
    found: list[Row] = []

    def hear(line: str) -> None:
        each = row(line)
        found.append(each)
        for said in each.text.splitlines():
            on_line(said)

    out, err = command.Lines(hear), command.Lines(on_line)
    finished = command.run(
        [
            *("timeout", "--signal=INT", "--kill-after=60", f"{limit_s:.0f}"),
            *(executable(), "build", "-machine-readable", f"-only={builder}"),
            *(f"-var-file={variables}", str(file)),
        ],
        deadline=deadline,
        cancel=cancel,
        stdout=out,
        stderr=err,
        env=environment(env),
        cwd=cwd,
        grace_s=grace_s,
        check=check,
        until_exit=True,  # QEMU has Packer's outputs, and outlives a Packer that is killed.
    )
    out.close()
    err.close()
    last = finished.stderr.decode(errors="replace").strip()
    return Ended(status=finished.status, rows=tuple(found), last_words=last[-1500:])
