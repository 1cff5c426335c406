"""See that an environment is what was asked for, and that it works where nobody built it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Mapping, Sequence

from build_orchestrator.agent import children
from build_orchestrator.agent.errors import Code, PackagerError
from build_orchestrator.agent.installed import distributions, names_of, top_level, wanting
from build_orchestrator.agent.interpreter import LEFT_OUT

if TYPE_CHECKING:
    from build_orchestrator.agent.installer import Installer
    from build_orchestrator.agent.modules import Module

CODE = Code.INSTALLATION_VALIDATION_FAILED
ELSEWHERE = "a copy in another place/env"
SMOKE = """
import importlib, json, os, sys
from importlib import metadata

def tried(name, modules):
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:
            yield "import %s: %s: %s" % (module, type(error).__name__, error)
    for entry in metadata.distribution(name).entry_points:
        try:
            entry.group == "console_scripts" and entry.load()
        except BaseException as error:
            yield "%s = %s: %s: %s" % (entry.name, entry.value, type(error).__name__, error)

def started(name, modules):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        words = json.dumps(list(tried(name, modules)))
        os.write(write, words.encode()[:60000])
        os._exit(0)
    os.close(write)
    return name, child, read

def ended(name, child, read):
    with open(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said) if said.endswith("]") else ["import of %s: it ended early" % name]

# A process for each: what one imports (distutils, say) may keep another from being imported.
wrong, running = [], []
for name, modules in json.loads(sys.argv[1]).items():
    if len(running) == os.cpu_count():
        wrong += ended(*running.pop(0))
    running.append(started(name, modules))
for each in running:
    wrong += ended(*each)
print("\\n" + json.dumps({"prefix": sys.prefix, "wrong": wrong}))
"""


def check_metadata(env: Path, asked: Sequence[Module], marks: Mapping[str, str]) -> None:
    """Exact names and versions for everything asked for.

    Raises:
        PackagerError: with everything that is not there.
    """
    wrong = list(wanting(asked, distributions(env), marks))
    if wrong:
        raise PackagerError(
            CODE, "what is installed is not what was asked for", details="\n".join(wrong)
        )


def smoke_run(
    env: Path, names: Sequence[str], work: Path, stdlib: tuple[Path, str] | None = None
) -> None:
    """Import every module asked for, and find the start of every console script, in a copy.

    Args:
        names: distributions, by normalised name.
        stdlib: the standard library that was copied into the environment, and its place there:
            its byte code is lent to the copy, since all else would wait for its compilation.

    Raises:
        PackagerError: with everything that did not work.
    """
    there = distributions(env)
    asked = {name: top_level(there[name]) for name in sorted(names)}
    copy = work / ELSEWHERE
    shutil.copytree(env, copy, symlinks=True, copy_function=_linked)
    if stdlib:
        lend_byte_code(stdlib[0], copy / stdlib[1])
    try:
        said = children.run(
            [str(copy / "bin/python"), "-I", "-B", "-c", SMOKE, json.dumps(asked)],
            code=CODE,
            failed="the agent does not work in another place",
        )
        found = json.loads(said.strip().splitlines()[-1])
        wrong = list(found["wrong"])
        if found["prefix"] != str(copy):
            wrong.append(f"its prefix is {found['prefix']}, not {copy}")
        script = copy / "bin/cfy-agent"
        if script.exists():
            failed = f"{script.name} does not run in another place"
            env_of_it = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(work)}
            children.run([str(script), "--help"], env=env_of_it, code=CODE, failed=failed)
    finally:
        shutil.rmtree(copy.parent)
    if wrong:
        raise PackagerError(
            CODE, "the agent does not work in another place", details="\n".join(wrong)
        )


def lend_byte_code(source: Path, stdlib: Path) -> None:
    """Python itself looks whether it belongs to the file beside it."""
    for cache in source.rglob("__pycache__"):
        place = cache.relative_to(source)
        if (stdlib / place.parent).is_dir() and not LEFT_OUT & set(place.parts):
            shutil.copytree(cache, stdlib / place, copy_function=_linked)


def _linked(source: str, place: str) -> None:
    """The same file at another path, without the time that a copy takes where links can be."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copy2(source, place)


def validate(
    env: Path, asked: Sequence[Module], marks: Mapping[str, str], installer: Installer
) -> list[str]:
    """Metadata and dependencies; return the distributions that were asked for, by name."""
    check_metadata(env, asked, marks)
    installer.check()
    return sorted(set(names_of(asked, distributions(env))))
