"""The architecture, enforced: who may import whom, and who may touch the world.

Each rule is a function from one module to what it does wrong. It is run on every module of ours,
and on a breach of it, so that a rule that sees nothing is seen.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from build_orchestrator import packager

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "build_orchestrator"

# Lowest first: a room imports only rooms above it in this list.
ROOMS = [
    "errors", "costs", "model", "configuration", "plan", "render", "sources", "packager", "inputs",
    "events", "deadline", "masking", "command", "locks", "cache", "journal", "transport", "machine",
    "image", "provision", "evidence", "collect", "attest", "publish", "pipeline", "sweep",
    "doctor", "history", "sinks", "scaffold", "report", "agent", "cli", "__main__",
]  # fmt: skip

PURE = {"errors", "costs", "model", "plan", "render", "report", "masking"}
EFFECTS = {
    "asyncio", "fcntl", "getpass", "glob", "http", "importlib", "io", "locale", "multiprocessing",
    "os", "pathlib", "platform", "pwd", "random", "secrets", "select", "selectors", "shutil",
    "socket", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip
HARMLESS = {
    "pathlib.PurePath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "urllib.parse", "time.gmtime", "time.strftime",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today"}

# Heavy or dangerous libraries, and the only rooms that import them. What was split off a module
# keeps its name: publish/s3_errors is a part of publish/s3.
CONFINED = {
    "boto3": ("machine/ec2", "publish/s3"),
    "botocore": ("machine/ec2", "publish/s3"),
    "cryptography": ("machine/ec2",),
    "requests": ("transport/winrm",),
    "winrm": ("transport/winrm",),
    "vagrant": ("machine/vagrant",),
    "subprocess": ("command", "agent/children"),
    "click": ("cli",),
}

# What runs inside a machine finds there what the packager's file has in it, and a Python that may
# be newer than ours: these modules have left the standard library.
BROUGHT_ALONG = ("build_orchestrator", *packager.LIBRARIES)
GONE = {"asynchat", "asyncore", "cgi", "crypt", "distutils", "imp", "lib2to3", "nis", "pipes"}

# Rooms' modules that are also programs of ours: run as one, they may print.
PROGRAMS = {"configuration/reference", "configuration/schema"}
# What runs inside a machine has a command line of its own there.
OWN_COMMAND_LINE = ("agent/cli", "agent/wagon/cli", "agent/windows")

MAX_LINES = 400
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}
SCRIPT_FOLDERS = ("vagrant", "packer", "provision")


@dataclass(frozen=True)
class Module:
    """One module of ours."""

    place: str
    """Path below the package, without ``.py``: ``machine/qemu/launch``, ``cli/__init__``."""
    source: str

    @property
    def room(self) -> str:
        """The first part of its place; the package's own ``__init__`` is in no room."""
        return self.place.split("/")[0]

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    def lies_in(self, rooms: tuple[str, ...]) -> bool:
        return any(re.match(rf"{room}([/_]|$)", self.place) for room in rooms)


@functools.cache
def modules() -> list[Module]:
    """Every module of the package, read once for all rules."""
    return [
        Module(str(path.relative_to(PACKAGE).with_suffix("")), path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, wherever in the module: ``a.b`` and ``a.b.c``
    are both meant by ``from a.b import c``, and the longer is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def at_run_time(tree: ast.Module) -> ast.Module:
    """The module without its ``if TYPE_CHECKING:`` blocks."""
    body = [node for node in tree.body if not (isinstance(node, ast.If) and _is_typing(node.test))]
    return ast.Module(body=body, type_ignores=[])


def _is_typing(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


# --- the rules ----------------------------------------------------------------------------------


def imports_downward(module: Module) -> Iterator[str]:
    """A room imports only rooms above it in the list; agent, which runs in the machine, none."""
    if module.room == "__init__":
        allowed: list[str] = []
    elif module.room not in ROOMS:
        yield f"{module.place}: {module.room} has no place in ROOMS"
        return
    else:
        allowed = [] if module.room == "agent" else ROOMS[: ROOMS.index(module.room)]
    for line, name in imports(module.tree):
        parts = name.split(".")
        if parts[0] == "build_orchestrator" and parts[1] not in (*allowed, module.room):
            yield f"{module.place}:{line}: {module.room} must not import {parts[1]}"


def machines_have_what_agent_needs(module: Module) -> Iterator[str]:
    """agent imports what is in every Python from 3.8 on, and what is brought with it."""
    if module.room != "agent":
        return
    for line, name in imports(module.tree):
        top = name.split(".")[0]
        if top in GONE or (top not in sys.stdlib_module_names and top not in BROUGHT_ALONG):
            yield f"{module.place}:{line}: {top} may not be in a machine"


def pure_rooms_have_no_effects(module: Module) -> Iterator[str]:
    """A pure room touches no file, process, network, clock or environment."""
    if module.room not in PURE:
        return
    for line, name in imports(module.tree):
        top = name.split(".")[0]
        harmless = any(name == good or name.startswith(f"{good}.") for good in HARMLESS)
        if top in EFFECTS and not harmless:
            yield f"{module.place}:{line}: a pure room must not import {name}"
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("open", "input") or called.split(".")[-1] in CLOCKS:
            yield f"{module.place}:{node.lineno}: a pure room must not call {called}"


def libraries_stay_in_their_rooms(module: Module) -> Iterator[str]:
    """boto3, vagrant, subprocess and click are imported by their own rooms only."""
    for line, name in imports(at_run_time(module.tree)):
        rooms = CONFINED.get(name.split(".")[0])
        if rooms is not None and not module.lies_in(rooms):
            yield f"{module.place}:{line}: {name} belongs to {', '.join(rooms)}"


def only_cli_prints_and_exits(module: Module) -> Iterator[str]:
    """Only cli talks to the user or ends the process."""
    if module.room == "cli" or module.place in OWN_COMMAND_LINE:
        return
    forbidden = {"print", "exit", "quit", "sys.exit", "sys.stdout.write", "sys.stderr.write"}
    body = module.tree.body
    if module.place in PROGRAMS:
        main = "__name__ == '__main__'"
        body = [n for n in body if not (isinstance(n, ast.If) and ast.unparse(n.test) == main)]
    for node in (inner for outer in body for inner in ast.walk(outer)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden:
            yield f"{module.place}:{node.lineno}: only cli calls {ast.unparse(node.func)}"
        if isinstance(node, ast.Name) and node.id == "SystemExit":
            yield f"{module.place}:{node.lineno}: only cli ends the process"


def modules_are_short(module: Module) -> Iterator[str]:
    """Nobody reads a module of more than 400 lines."""
    lines = len(module.source.splitlines())
    if lines > MAX_LINES:
        yield f"{module.place}: {lines} lines, and {MAX_LINES} are the limit"


def modules_have_names(module: Module) -> Iterator[str]:
    """A module is called after what it does."""
    for part in module.place.split("/"):
        if part.strip("_") in NAMELESS:
            yield f"{module.place}: {part} says nothing"


Rule = Callable[[Module], Iterator[str]]
BREACHES: list[tuple[Rule, str, str]] = [
    (imports_downward, "model", "from build_orchestrator.plan import Plan"),
    (imports_downward, "cache", "from build_orchestrator import journal"),
    (imports_downward, "events", "def f():\n    import build_orchestrator.deadline"),
    (imports_downward, "cellar", "import os"),
    (imports_downward, "agent/wagon", "from build_orchestrator.model import Build"),
    (machines_have_what_agent_needs, "agent/names", "import distro"),
    (machines_have_what_agent_needs, "agent/wagon", "def f():\n    import distutils.util"),
    (imports_downward, "__init__", "from build_orchestrator.cli import main"),
    (pure_rooms_have_no_effects, "plan", "import os"),
    (pure_rooms_have_no_effects, "model", "from pathlib import Path"),
    (pure_rooms_have_no_effects, "masking", "import urllib.request"),
    (pure_rooms_have_no_effects, "report/html", "def f():\n    import subprocess"),
    (pure_rooms_have_no_effects, "report/html", "stamp = datetime.now(tz=UTC)"),
    (pure_rooms_have_no_effects, "render", "text = open('x').read()"),
    (libraries_stay_in_their_rooms, "publish/folder", "import boto3"),
    (libraries_stay_in_their_rooms, "image/ami", "from botocore.exceptions import ClientError"),
    (libraries_stay_in_their_rooms, "machine/qemu/launch", "import vagrant"),
    (libraries_stay_in_their_rooms, "machine/ec2fake", "import boto3"),
    (libraries_stay_in_their_rooms, "publish/folder", "import requests"),
    (libraries_stay_in_their_rooms, "transport/ssh", "from subprocess import Popen"),
    (libraries_stay_in_their_rooms, "report/table", "import click"),
    (libraries_stay_in_their_rooms, "agent/installer", "import subprocess"),
    (only_cli_prints_and_exits, "pipeline", "print('done')"),
    (only_cli_prints_and_exits, "sweep", "import sys\nsys.exit(5)"),
    (only_cli_prints_and_exits, "command", "raise SystemExit(1)"),
    (only_cli_prints_and_exits, "agent/packager", "print('done')"),
    (only_cli_prints_and_exits, "configuration/schema", "sys.stdout.write('x')"),
    (modules_are_short, "pipeline", "x = 1\n" * 401),
    (modules_have_names, "machine/utils", ""),
    (modules_have_names, "_helpers/ssh", ""),
]
ALLOWED: list[tuple[Rule, str, str]] = [
    (imports_downward, "cli/__init__", "from build_orchestrator.pipeline import run"),
    (imports_downward, "machine/fake", "from build_orchestrator.machine.contract import Machine"),
    (machines_have_what_agent_needs, "agent/names", "import packaging.utils, platform"),
    (pure_rooms_have_no_effects, "plan", "from pathlib import PurePosixPath"),
    (pure_rooms_have_no_effects, "masking", "from urllib.parse import urlsplit"),
    (pure_rooms_have_no_effects, "journal", "import os"),
    (libraries_stay_in_their_rooms, "publish/s3", "import boto3"),
    (libraries_stay_in_their_rooms, "publish/s3_errors", "import botocore.exceptions"),
    (libraries_stay_in_their_rooms, "command", "import subprocess"),
    (libraries_stay_in_their_rooms, "pipeline", "if TYPE_CHECKING:\n    import subprocess"),
    (only_cli_prints_and_exits, "cli/board", "print('x')"),
    (only_cli_prints_and_exits, "agent/cli", "print('x')"),
    (
        only_cli_prints_and_exits,
        "configuration/schema",
        "if __name__ == '__main__':\n    sys.stdout.write('x')",
    ),
    (modules_are_short, "pipeline", "x = 1\n" * 400),
    (modules_have_names, "machine/utilisation", ""),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BREACHES))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    """No module of ours breaks a rule of the house."""
    found = [problem for module in modules() for problem in rule(module)]

    assert found == []


@pytest.mark.parametrize(("rule", "place", "source"), BREACHES)
def test_every_rule_sees_a_breach(rule: Rule, place: str, source: str) -> None:
    """A rule that would see nothing guards nothing."""
    assert list(rule(Module(place, source)))


@pytest.mark.parametrize(("rule", "place", "source"), ALLOWED)
def test_no_rule_sees_too_much(rule: Rule, place: str, source: str) -> None:
    """What the house allows is no breach."""
    assert list(rule(Module(place, source))) == []


def python_in_script_folders(root: Path) -> list[str]:
    """Every .py file in the folders that hold scripts."""
    return [str(path) for folder in SCRIPT_FOLDERS for path in (root / folder).rglob("*.py")]


def test_script_folders_hold_no_python() -> None:
    """A module in vagrant/ would shadow the library of that name."""
    assert python_in_script_folders(ROOT) == []


def test_python_in_a_script_folder_is_seen(tmp_path: Path) -> None:
    """An __init__.py anywhere below one of the folders is found."""
    (tmp_path / "vagrant" / "deep").mkdir(parents=True)
    (tmp_path / "vagrant" / "deep" / "__init__.py").touch()

    assert len(python_in_script_folders(tmp_path)) == 1


def test_the_wheel_has_every_package() -> None:
    """The list of packages in pyproject.toml is the tree's."""
    tree = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]

    assert sorted(declared) == sorted(tree)


def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without __init__.py would silently be left out of the wheel."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}

    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
