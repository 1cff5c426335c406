"""Leave nothing in an environment that depends on where, when or how often it was built."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from build_orchestrator.agent.errors import Code, PackagerError
from build_orchestrator.agent.installed import site_folders

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTES = ("direct_url", "uv_build", "uv_cache")  # of installers, about where and when they worked
LEAVINGS = (".lock", ".gitignore", "CACHEDIR.TAG", "bin/*.bat", "bin/*.ps1")

FIRST_LINES = b"""#!/bin/sh
%s'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python'%s "$0" "$@"
' '''
"""
"""A beginning that finds the interpreter beside the script; to Python it is a string."""

SHELL_FORM = re.compile(rb"#!/bin/sh\n(?:#[^\n]*\n)?'''exec' [^\n]*\n' '''\n")
"""What installers write where the path of the interpreter is long, or has a space in it. Where a
coding is declared uv writes that path in octal numbers: who looks for it would not find it."""

CODING = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
"""How a script says which coding it is in; to Python it counts in the first two lines only."""

CHUNK = 1 << 20


def make_movable(env: Path) -> None:
    """Rewrite whatever names a place, and remove whatever else is left of the build.

    Raises:
        PackagerError: something still holds the path of the build.
    """
    for cache in list(env.rglob("__pycache__")):
        shutil.rmtree(cache)
    notes = [
        path
        for site in site_folders(env)
        for name in NOTES
        for path in site.glob(f"*.dist-info/{name}.json")
    ]
    for path in [*notes, *(path for pattern in LEAVINGS for path in env.glob(pattern))]:
        path.unlink()
    settings = env / "pyvenv.cfg"
    settings.write_text(re.sub(r"(?m)^(uv|command|prompt) ?=.*\n", "", settings.read_text()))
    for script in sorted((env / "bin").iterdir()):
        if script.is_file() and not script.is_symlink():
            _relocate(script, env)
    for site in site_folders(env):
        for record in site.glob("*.dist-info/RECORD"):
            rewrite_record(record)
    found = [str(path.relative_to(env)) for path in holding(env, str(env.parent).encode())]
    if found:
        raise PackagerError(
            Code.INSTALLATION_VALIDATION_FAILED,
            "the agent could not be moved: it holds the path of the folder that it was built in",
            details="\n".join(found[:20]),
            resolution="A module that is installed in place (-e), or one that keeps its path, "
            "cannot be part of an agent.",
        )


def _relocate(script: Path, env: Path) -> None:
    """Make a script find its interpreter beside itself; drop what makes a shell look there."""
    with script.open("rb") as file:
        if file.read(2) != b"#!" and script.name.startswith("python"):
            return  # the interpreter
    content = script.read_bytes()
    here = str(env).encode()
    short = re.match(rb"#!" + re.escape(here) + rb"/bin/python[\d.]*( [^\n]*)?\n", content)
    long = SHELL_FORM.match(content)
    begun = short or long
    if begun:
        rest = content[begun.end() :]
        said = CODING.match(rest)
        coding = b"# coding: %s\n" % said.group(1) if said else b""
        options = short.group(1) if short else None
        content = FIRST_LINES % (coding, options or b"") + rest
    script.write_bytes(content)
    if here in content and script.name.startswith("activate"):
        script.unlink()  # for a shell that would have to be where it was made


def rewrite_record(record: Path) -> None:
    """List what is there, in order, with the hashes that scripts have now."""
    site, rows = record.parent.parent, []
    with record.open(newline="", encoding="utf-8") as lines:
        for row in csv.reader(lines):
            path = site / row[0]
            if path.exists() and row[0].startswith("../"):
                content = path.read_bytes()
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
                row[1:] = [f"sha256={digest.decode()}", str(len(content))]
            if path.exists():
                rows.append(row)
    with record.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, lineterminator="\n").writerows(sorted(rows))


def holding(env: Path, words: bytes) -> Iterator[Path]:
    """Every file that holds these bytes, and every link that leads to a path with them."""
    for path in sorted(env.rglob("*")):
        if path.is_symlink():
            if words in os.fsencode(os.readlink(path)):
                yield path
        elif path.is_file() and _holds(path, words):
            yield path


def _holds(path: Path, words: bytes) -> bool:
    with path.open("rb") as file:
        tail = b""
        for chunk in iter(lambda: file.read(CHUNK), b""):
            if words in tail + chunk:
                return True
            tail = chunk[-len(words) :]
    return False
