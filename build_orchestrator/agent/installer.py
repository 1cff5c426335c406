"""Install modules into an environment: by uv where it is, several times faster, else by pip."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping

from build_orchestrator.agent import children
from build_orchestrator.agent.errors import Code, PackagerError

UV_NAMES = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX"}
UV_NAMES.update({"PIP_TRUSTED_HOST": "UV_INSECURE_HOST", "PIP_CERT": "SSL_CERT_FILE"})
INDEX = "Is the package index reachable, and does it have what is asked for?"


@dataclass(frozen=True)
class Sources:
    """Where modules come from."""

    wheelhouse: Path | None = None
    """A folder of wheels and source archives, beside the index."""
    offline: bool = False
    """Nothing but the wheelhouse, and no network at all."""

    def options(self) -> list[str]:
        """As uv and pip both spell them."""
        found = ["--find-links", str(self.wheelhouse)] if self.wheelhouse else []
        return [*found, *(["--no-index"] if self.offline else [])]


@dataclass(frozen=True)
class Installer:
    """Installs for one interpreter, into the environment that the interpreter has."""

    python: Path
    work: Path
    """A folder for whatever is needed on the way."""
    sources: Sources = field(default_factory=Sources)
    uv: str | None = field(default_factory=lambda: children.find("uv"))

    def install(self, requirements: str, *options: str, held: Path | None = None) -> None:
        """Install what a requirements file of this text names.

        Always by a file: an address may hold a password, and arguments are seen by everybody.
        """
        options = (*self.sources.options(), *options, "-r", str(self.written(requirements)))
        failed, code = "the modules could not be installed", Code.COULD_NOT_INSTALL_MODULE
        if self.uv:
            argv = [self.uv, "pip", "install", "--python", str(self.python), *options]
            if held:
                # What builds a source archive writes its own version into what it builds.
                argv += ["--build-constraint", str(held)]
        else:
            argv = [*self.pip(), "install", "--no-compile", "--ignore-installed", *options]
            argv += ["--no-warn-script-location"]
        children.run(argv, env=self.environment(), code=code, failed=failed, resolution=INDEX)

    def uninstall(self, name: str) -> None:
        """Take out what a dependency brought."""
        if self.uv:
            argv = [self.uv, "pip", "uninstall", "--python", str(self.python), name]
        else:
            argv = [*self.pip(), "uninstall", "--yes", name]
        failed = f"{name} could not be uninstalled"
        children.run(
            argv, env=self.environment(), code=Code.COULD_NOT_UNINSTALL_MODULE, failed=failed
        )

    def check(self) -> None:
        """See that no module lacks another, or has it in a version that it cannot use."""
        argv = [self.uv, "pip", "check", "--python", str(self.python)] if self.uv else []
        children.run(
            argv or [*self.pip(), "check"],
            env=self.environment(),
            code=Code.INSTALLATION_VALIDATION_FAILED,
            failed="the modules do not fit together",
        )

    def written(self, requirements: str) -> Path:
        """A file with these lines, for this user's eyes only."""
        self.work.mkdir(parents=True, exist_ok=True)
        file = self.work / "requirements.in"
        file.touch(mode=0o600)
        file.write_text(requirements + "\n", encoding="utf-8")
        return file

    def environment(self) -> dict[str, str]:
        """Of every child: the user's, without debug information (it holds paths), and quiet."""
        env = {**os.environ, **self._index_settings()}
        env["CFLAGS"] = f"{env.get('CFLAGS', '')} -g0".strip()
        env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
        env.update(UV_NO_CONFIG="1", UV_NO_PROGRESS="1", UV_PYTHON_DOWNLOADS="never")
        env.setdefault("UV_HTTP_TIMEOUT", "120")
        for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"):
            env.pop(name, None)
        if self.sources.offline:
            env.update(UV_OFFLINE="1", PIP_NO_INDEX="1")
        if self.uv:
            # What builds a source archive is started several times; compiling itself is half of it.
            env.pop("PYTHONDONTWRITEBYTECODE", None)
        else:
            env.update(PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(self._pip_folder()))
        return env

    def _index_settings(self) -> Mapping[str, str]:
        """What pip calls PIP_* has other names for uv. Like pip it takes the best of all."""
        if not self.uv:
            return {}
        given = {
            theirs: os.environ[ours]
            for ours, theirs in UV_NAMES.items()
            if os.environ.get(ours) and theirs not in os.environ
        }
        if "UV_INDEX" in given:
            given.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
        return given

    def pip(self) -> list[str]:
        self._pip_folder()
        return [str(self.python), "-m", "pip"]

    def _pip_folder(self) -> Path:
        """A folder with a pip that is not in the environment, and so not in what is packed."""
        home = self.work / "pip"
        if not home.exists():
            children.run(
                [sys.executable, "-m", "venv", str(home)],
                code=Code.COULD_NOT_CREATE_VIRTUALENV,
                failed="neither uv nor pip can be had here",
                resolution="Install uv, or the distribution's packages for pip and venv.",
            )
        found = sorted(home.glob("lib*/python3*/site-packages"))
        if not found:
            raise PackagerError(Code.COULD_NOT_CREATE_VIRTUALENV, f"no pip was put into {home}")
        return found[0]
