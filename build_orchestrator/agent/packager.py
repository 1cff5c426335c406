"""The story of one agent: interpreter, modules, validation, tar."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping

from build_orchestrator.agent import (
    children,
    interpreter,
    lockfile,
    relocation,
    requirements,
    validation,
)
from build_orchestrator.agent.archives import source_date_epoch, whole, write_tar_gz
from build_orchestrator.agent.config import Config, from_mapping, load, named
from build_orchestrator.agent.errors import Code, PackagerError, without_passwords
from build_orchestrator.agent.installed import distributions
from build_orchestrator.agent.installer import Installer, Sources
from build_orchestrator.agent.modules import asked_for, excluded, located
from build_orchestrator.agent.names import SUFFIX, archive_name

if TYPE_CHECKING:
    from build_orchestrator.agent.modules import Module

CONFIG_FILE = "config.yaml"
ENV = Path("cloudify/env")
"""Below the current folder, and the same in the tar: who unpacks an agent relies on it."""
WORK = Path("cloudify/work")
LOCK_SUFFIX = ".requirements.lock"

log = logging.getLogger("build_orchestrator.agent")
phase_log = logging.getLogger("build_orchestrator.agent.phase")
"""Says the name of each phase, as it begins."""


@dataclass(frozen=True)
class Options:
    """How to build, beside what to build."""

    force: bool = False
    dryrun: bool = False
    no_validate: bool = False
    output: Path | None = None
    """Where the tar and its lock go; the current folder, and any path in output_tar, else."""
    sources: Sources = field(default_factory=Sources)
    locked: Path | None = None


def create(
    config: Mapping[str, Any] | None = None,
    config_file: str | os.PathLike[str] | None = None,
    force: bool = False,
    dryrun: bool = False,
    no_validate: bool = False,
    verbose: bool = True,
    *,
    output: str | os.PathLike[str] | None = None,
    wheelhouse: str | os.PathLike[str] | None = None,
    offline: bool = False,
    locked: str | os.PathLike[str] | None = None,
) -> Path:
    """Build an agent below the current folder and return the path of its tar.

    Args:
        config: the settings; else ``config_file`` holds them.
        config_file: YAML, or INI by its name; ``config.yaml`` where neither is given.
        force: replace an environment and a tar that are there.
        dryrun: only say, through the log, what would be done.
        no_validate: do not look at what came out.
        verbose: log each module, too.
        output: folder of the tar and its lock; ``output_tar`` is a file name then.
        wheelhouse: a folder of wheels and source archives to install from, too.
        offline: install from the wheelhouse only, without any network.
        locked: the lock of an earlier build, to be held to.

    Raises:
        PackagerError: with the number of cloudify-agent-packager for what went wrong.
    """
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    if config is not None:
        settings, base = from_mapping(config), Path.cwd()
    else:
        path = Path(config_file or CONFIG_FILE)
        settings, base = load(path), path.absolute().parent
    options = Options(
        force=force,
        dryrun=dryrun,
        no_validate=no_validate,
        output=_absolute(output),
        sources=Sources(wheelhouse=_absolute(wheelhouse), offline=offline),
        locked=_absolute(locked),
    )
    return Packager(named(settings), base, options).run()


def _absolute(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path).absolute()


class Packager:
    """One agent, from its settings to its tar."""

    def __init__(self, config: Config, base: Path, options: Options) -> None:
        """``base`` is the folder that paths of the settings are relative to."""
        self._config = config
        self._base = base
        self._options = options
        self._env = Path.cwd() / ENV
        self._work = Path.cwd() / WORK
        self._archive = self._place()
        name = self._archive.name
        stem = name[: -len(SUFFIX)] if name.endswith(SUFFIX) else name
        self._lock = self._archive.with_name(stem + LOCK_SUFFIX)
        self._touched = False
        """Whether an environment that was there before is gone."""

    def run(self) -> Path:
        """Do it all, or with ``dryrun`` none of it."""
        asked = asked_for(self._config)
        if self._options.dryrun:
            described = json.dumps(self.described(asked), indent=4, sort_keys=True)
            log.info("%s", without_passwords(described))
            return self._archive
        self._make_room()
        keep = self._config.keep_virtualenv
        was_there, built = self._env.exists(), False
        try:
            with self._work_folder():
                self._build(asked)
            built = True
        finally:
            if self._touched and not (keep or (keep is None and was_there and built)):
                shutil.rmtree(self._env, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._env.parent.rmdir()
        log.info("%s: %d bytes", self._archive, self._archive.stat().st_size)
        return self._archive

    def _build(self, asked: list[tuple[str, str]]) -> None:
        # Whatever can be wrong with the settings is found before anything takes time.
        modules = located(asked, self._base, self._work / "sources")
        wanted = [module.line for module in modules]
        files = []
        if self._config.requirements_file:
            self._stay_offline([self._config.requirements_file])
            files = [requirements.find(self._config.requirements_file, self._base, self._work)]
            modules += requirements.listed(files[0])
        if not children.find("uv"):  # which refuses by itself what is not in its cache
            self._stay_offline([module.source for module in modules])
        given = lockfile.read(self._options.locked) if self._options.locked else ""
        phase_log.info("virtualenv")
        self._touched = True
        shutil.rmtree(self._env, ignore_errors=True)
        about, installer = self._interpreter()
        phase_log.info("modules")
        if not given:
            log.info("resolving %d modules and what they need", len(modules))
        lock = given or lockfile.resolve(installer, wanted, files)
        self._install(installer, modules, lock)
        phase_log.info("validate")
        names = []
        if not self._options.no_validate:
            log.info("looking at metadata and dependencies")
            names = validation.validate(self._env, modules, about.marks, installer)
        self._exclude(installer)
        relocation.make_movable(self._env)
        if not self._options.no_validate:
            log.info("running it from a copy at another path")
            there = distributions(self._env)
            names = [name for name in names if name in there]
            bundled = self._config.interpreter == "bundled"
            stdlib = (about.stdlib, about.stdlib_inside) if bundled else None
            validation.smoke_run(self._env, names, self._work, stdlib)
        phase_log.info("pack")
        self._pack(lock)

    def _stay_offline(self, sources: list[str]) -> None:
        """Refuse addresses, where there must be no network: they would be fetched all the same."""
        away = [source for source in sources if re.search(r"(?<!file)://", source)]
        if self._options.sources.offline and away:
            raise PackagerError(
                Code.INVALID_YAML_FILE,
                "what is asked for cannot be fetched with --offline",
                details="\n".join(away),
                resolution="Name a path, or what is in the wheelhouse by its name.",
            )

    def described(self, asked: list[tuple[str, str]]) -> dict[str, Any]:
        """What would be done, for a dry run."""
        return {
            "config": asdict(self._config),
            "environment": str(self._env),
            "exclude": list(excluded(self._config)),
            "modules": [{"name": name, "source": source} for name, source in asked],
            "output_tar": str(self._archive),
        }

    def _place(self) -> Path:
        name = archive_name(self._config)
        if self._options.output is None:
            return Path.cwd() / name
        if Path(name).name != name:
            raise PackagerError(
                Code.INVALID_YAML_FILE,
                f"output_tar: {name}: a file name is needed, since a folder is given with --output",
            )
        return self._options.output / name

    def _make_room(self) -> None:
        """See that nothing stands in the way, before anything is done."""
        force = "Use -f to replace it."
        if self._archive.is_dir() or (self._archive.exists() and not self._options.force):
            what = "is a folder" if self._archive.is_dir() else "is there already"
            raise PackagerError(
                Code.TAR_ALREADY_EXISTS,
                f"{self._archive}: {what}",
                resolution=force if self._archive.is_file() else "Give another output_tar.",
            )
        if self._lock.is_dir():
            raise PackagerError(Code.TAR_ALREADY_EXISTS, f"{self._lock}: is a folder")
        if self._env.exists() and not self._options.force:
            raise PackagerError(
                Code.VIRTUALENV_ALREADY_EXISTS, f"{self._env}: is there already", resolution=force
            )
        house = self._options.sources.wheelhouse
        if house and not house.is_dir():
            raise PackagerError(
                Code.COULD_NOT_INSTALL_MODULE, f"{house}: there is no such folder of wheels"
            )
        source_date_epoch()
        try:
            self._archive.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PackagerError(Code.FAILED_TO_CREATE_TAR, str(error)) from error

    @contextlib.contextmanager
    def _work_folder(self) -> Any:
        shutil.rmtree(self._work, ignore_errors=True)
        try:
            self._work.mkdir(parents=True)
        except OSError as error:
            raise PackagerError(Code.COULD_NOT_CREATE_VIRTUALENV, str(error)) from error
        try:
            yield
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def _interpreter(self) -> tuple[interpreter.About, Installer]:
        python = self._config.python_path or sys.executable
        about = interpreter.about(python)
        log.info("%s Python %s of %s", self._config.interpreter, about.version, about.executable)
        installer = Installer(self._env / "bin/python", self._work, self._options.sources)
        if self._config.interpreter == "bundled":
            interpreter.bundle(about, self._env)
        else:
            interpreter.make_virtualenv(python, self._env, installer.uv)
        return about, installer

    def _install(self, installer: Installer, modules: list[Module], lock: str) -> None:
        """Install what was resolved, and what is not in an index beside it."""
        log.info("installing them")
        held = self._work / "held.lock"
        held.write_text(lock, encoding="utf-8")
        if "--hash=" in lock:
            installer.install(lock, "--require-hashes", "--no-deps", held=held)
        direct = [each.line for each in modules if each.is_direct and each.source not in lock]
        if direct:
            installer.install("\n".join(direct), "--no-deps", held=held)
        for name, item in sorted(distributions(self._env).items()):
            log.debug("%s %s", name, item.version)

    def _exclude(self, installer: Installer) -> None:
        there = distributions(self._env)
        for name in excluded(self._config):
            if name in there:
                log.info("taking out %s", name)
                installer.uninstall(name)

    def _pack(self, lock: str) -> None:
        log.info("packing")
        # Last of all the lock only takes its name: where there is no room for it there is no tar.
        with whole(self._lock) as part:
            part.write_text(lock, encoding="utf-8")
            write_tar_gz(self._archive, self._env, ENV.as_posix(), source_date_epoch())
