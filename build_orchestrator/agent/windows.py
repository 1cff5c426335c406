"""The agent on Windows: the same modules beside a copy of the interpreter, as a zip.

``provision/provision.windows.bat`` runs it, with the interpreter that is to be copied: the
embeddable one of python.org, or an installed one.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from build_orchestrator.agent import children, lockfile, requirements
from build_orchestrator.agent.archives import source_date_epoch, whole, write_zip
from build_orchestrator.agent.cli import described, of_machine, show_log
from build_orchestrator.agent.config import load, named
from build_orchestrator.agent.errors import Code, PackagerError
from build_orchestrator.agent.installed import in_folders, names_of, top_level, wanting
from build_orchestrator.agent.installer import Installer, Sources
from build_orchestrator.agent.modules import asked_for, excluded, located
from build_orchestrator.agent.names import SUFFIX, archive_name
from build_orchestrator.agent.packager import ENV, LOCK_SUFFIX
from build_orchestrator.agent.relocation import NOTES, rewrite_record

if TYPE_CHECKING:
    from build_orchestrator.agent.modules import Module

SITE = Path("Lib/site-packages")
LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "site-packages", "Scripts", "test", "idlelib", "tkinter", "tcl", "Doc", "include"
)
LAUNCHER = re.compile(rb"#!\"?[^\r\n\"]*\\python\.exe\"?(?=\r?\n)")
BESIDE = b"#!<launcher_dir>\\..\\python.exe"
"""What pip's launchers understand for: the python.exe in the folder above."""

RUN_PIP = """\
import runpy, sys
sys.path.insert(0, {!r})
runpy.run_module("pip", run_name="__main__", alter_sys=True)"""

SMOKE = """
import importlib, json, sys
wrong = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        wrong.append("import %s: %s: %s" % (name, type(error).__name__, error))
print("\\n" + json.dumps({"prefix": sys.prefix, "wrong": wrong}))
"""

log = logging.getLogger("build_orchestrator.agent")
phase_log = logging.getLogger("build_orchestrator.agent.phase")


@dataclass(frozen=True)
class PipOfOurs(Installer):
    """Installs with a pip that lies in the wheelhouse, or the one that the interpreter has."""

    wheel: Path | None = None
    uv: str | None = None

    def pip(self) -> list[str]:
        if self.wheel:
            # A wheel is a zip that Python imports from; run as a module, pip may also replace pip.
            return [str(self.python), "-c", RUN_PIP.format(str(self.wheel))]
        return [sys.executable, "-m", "pip", "--python", str(self.python)]

    def _pip_folder(self) -> Path:
        return self.python.parent / SITE


def main(arguments: Sequence[str] | None = None) -> int:
    """Build an agent; every error becomes words and one of the packager's numbers."""
    parser = argparse.ArgumentParser(prog="provision.windows")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="such as C:\\CloudifyAgent")
    parser.add_argument("--wheelhouse", type=Path)
    parser.add_argument("--made", type=Path, required=True, help="where the zip's name is left")
    options = parser.parse_args(arguments)
    show_log(verbose=False, phases=True)
    try:
        archive = build(options.config, options.output, options.folder, options.wheelhouse)
        options.made.write_text(f"{archive.stem}\n", encoding="utf-8")
    except (PackagerError, OSError) as error:
        failed = error if isinstance(error, PackagerError) else of_machine(error)
        print(described(failed, "provision"), file=sys.stderr, flush=True)
        return int(failed.code)
    return 0


def build(config_file: Path, output: Path, folder: Path, wheelhouse: Path | None) -> Path:
    """Fill a folder with an agent, check it, and return the zip that it was packed into.

    Raises:
        PackagerError: with the number of what went wrong.
    """
    settings = named(load(config_file))
    name = archive_name(replace(settings, distribution="cloudify", release="windows"))
    archive = output.absolute() / (name[: -len(SUFFIX)] + ".zip")
    work = folder.with_name(folder.name + ".build")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    base = config_file.absolute().parent
    modules = located(asked_for(settings), base, work / "sources")
    wanted = [module.line for module in modules]
    files = []
    if settings.requirements_file:
        files = [requirements.find(settings.requirements_file, base, work)]
        modules += requirements.listed(files[0])
    phase_log.info("virtualenv")
    python = copy_interpreter(Path(sys.prefix), folder)
    pips = sorted(wheelhouse.glob("pip-*.whl")) if wheelhouse else []
    sources = Sources(wheelhouse=wheelhouse)
    installer = PipOfOurs(python, work, sources, wheel=pips[-1] if pips else None)
    _check_pip(installer)
    phase_log.info("modules")
    log.info("resolving %d modules and what they need", len(modules))
    lock = lockfile.resolve(installer, wanted, files)
    _install(installer, modules, lock)
    for each in excluded(settings):
        if each in in_folders([folder / SITE]):
            installer.uninstall(each)
    make_movable(folder)
    phase_log.info("validate")
    _validate(folder, work, modules, installer)
    phase_log.info("pack")
    archive.parent.mkdir(parents=True, exist_ok=True)
    pack(folder, archive, lock)
    shutil.rmtree(work, ignore_errors=True)
    return archive


def copy_interpreter(home: Path, folder: Path) -> Path:
    """Copy an installed or embeddable Python, without its modules, and return its python.exe.

    Raises:
        PackagerError: it could not be copied, or the copy does not run.
    """
    failed = f"{home}: this Python could not be copied to {folder}"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(home, folder, ignore=LEFT_OUT)
        (folder / SITE).mkdir(parents=True)
        # The embeddable Python looks nowhere but where this file says.
        for paths in folder.glob("python*._pth"):
            lines = [line for line in paths.read_text().splitlines() if not line.startswith("#")]
            known = dict.fromkeys([*lines, str(SITE).replace("/", "\\"), "import site"])
            paths.write_text("".join(f"{line}\n" for line in known))
    except OSError as error:
        raise PackagerError(Code.COULD_NOT_CREATE_VIRTUALENV, failed, details=str(error)) from error
    python = folder / "python.exe"
    said = children.run(
        [str(python), "-I", "-c", "import sys; print(sys.prefix)"],
        code=Code.COULD_NOT_CREATE_VIRTUALENV,
        failed=failed,
    )
    if Path(said.strip()) != folder:
        raise PackagerError(
            Code.COULD_NOT_CREATE_VIRTUALENV, failed, details=f"the copy runs in {said.strip()}"
        )
    return python


def pack(folder: Path, archive: Path, lock: str) -> None:
    """Write the zip and, beside it, its lock: both, or none of them.

    Raises:
        PackagerError: there is no room for them, say.
    """
    # As on Linux: last of all the lock only takes its name.
    with whole(archive.with_name(archive.stem + LOCK_SUFFIX)) as part:
        part.write_text(lock, encoding="utf-8")
        write_zip(archive, folder, ENV.as_posix(), source_date_epoch())


def _check_pip(installer: PipOfOurs) -> None:
    children.run(
        [*installer.pip(), "--version"],
        code=Code.COULD_NOT_CREATE_VIRTUALENV,
        failed="there is no pip",
        resolution="Use an installed Python, or put a wheel of pip into the inputs' wheelhouse\\.",
    )


def _install(installer: PipOfOurs, modules: Sequence[Module], lock: str) -> None:
    """Install what was resolved, and what is not in an index beside it."""
    log.info("installing them")
    if "--hash=" in lock:
        installer.install(lock, "--require-hashes", "--no-deps")
    local = [module.line for module in modules if module.is_direct and module.source not in lock]
    if local:
        installer.install("\n".join(local), "--no-deps")


def make_movable(folder: Path) -> None:
    """Let programs find the interpreter from where they are, and leave no note of the build.

    Raises:
        PackagerError: a program still holds the path that it was built in.
    """
    for cache in list(folder.rglob("__pycache__")):
        shutil.rmtree(cache)
    for name in NOTES:
        for note in (folder / SITE).glob(f"*.dist-info/{name}.json"):
            note.unlink()
    held = []
    for program in sorted((folder / "Scripts").glob("*")):
        content = LAUNCHER.sub(lambda _: BESIDE, program.read_bytes(), count=1)
        program.write_bytes(content)
        if str(folder).encode() in content:
            held.append(str(program))
    if held:
        raise PackagerError(
            Code.INSTALLATION_VALIDATION_FAILED,
            "the agent could not be moved: a program holds the path of its folder",
            details="\n".join(held),
        )
    for record in (folder / SITE).glob("*.dist-info/RECORD"):
        rewrite_record(record)


def _validate(folder: Path, work: Path, modules: Sequence[Module], installer: PipOfOurs) -> None:
    """Metadata, dependencies, and an import of everything asked for from a copy at another path.

    Raises:
        PackagerError: with everything that is not as it was asked for.
    """
    code = Code.INSTALLATION_VALIDATION_FAILED
    log.info("looking at metadata and dependencies")
    there = in_folders([folder / SITE])
    wrong = list(wanting(modules, there, _marks()))
    if wrong:
        raise PackagerError(
            code, "what is installed is not what was asked for", details="\n".join(wrong)
        )
    installer.check()
    log.info("running it from a copy at another path")
    copy = work / "a copy in another place"
    shutil.copytree(folder, copy)
    failed = "the agent does not work in another place"
    for name in sorted(set(names_of(modules, there))):
        # A process for each: what one imports (distutils, say) may keep another from importing.
        argv = [str(copy / "python.exe"), "-I", "-B", "-c", SMOKE, *top_level(there[name])]
        said = children.run(argv, code=code, failed=failed).strip()
        found = json.loads(said.splitlines()[-1])
        wrong += found["wrong"]
        if Path(found["prefix"]) != copy:
            wrong.append(f"its prefix is {found['prefix']}, not {copy}")
    if wrong:
        raise PackagerError(code, failed, details="\n".join(wrong))


def _marks() -> dict[str, str]:
    from packaging.markers import default_environment

    return {str(key): str(value) for key, value in default_environment().items()}
