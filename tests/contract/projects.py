"""Projects in a folder of their own, and the real command line run in them as a process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from build_orchestrator import journal
from build_orchestrator.cli import run
from build_orchestrator.cli.project import RUNS
from tests.contract.machines import carriers

ROOT = Path(__file__).parents[2]
TARGET = "debian_bookworm_fake"
OUTPUT = "agent.txt"
SCRIPT = f'echo hello\necho made >"$BUILD_OUTPUT/{OUTPUT}"\n'
WAITS = f"{SCRIPT}echo waiting\nsleep 60\n"
CLI = [sys.executable, "-m", "build_orchestrator"]


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        """All that a person sees."""
        return self.stdout + self.stderr

    @property
    def events(self) -> list[dict[str, Any]]:
        """What ``--events -`` printed."""
        return [json.loads(line) for line in self.stdout.splitlines()]


class Project:
    """A checkout with targets on the fake provider, and a home that nobody shares."""

    limit_s = 100.0
    """How long one command may take."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "project"
        self.state = home / "state" / "build-orchestrator"
        self.folder.mkdir(parents=True)
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.environ = {
            **kept,
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CACHE_HOME": str(home / "cache"),
        }
        self.write()

    def write(
        self,
        *,
        script: str = SCRIPT,
        targets: dict[str, dict[str, Any]] | None = None,
        defaults: dict[str, Any] | None = None,
        recipe: dict[str, Any] | None = None,
        **target: Any,
    ) -> Project:
        """Write targets.yaml and the script.

        Args:
            targets: distro -> its row for the fake provider; else one, made of ``target``.
            defaults, recipe: what is added to those rows.
        """
        rows = targets or {"debian_bookworm": target}
        distros = {
            name: {
                "distribution": "Debian",
                "release": name.partition("_")[2],
                "providers": {"fake": row},
            }
            for name, row in rows.items()
        }
        agent = {"script": "make.sh", "outputs": [{"name": OUTPUT}], **(recipe or {})}
        content = {
            "schema": 1,
            "default_provider": "fake",
            "defaults": defaults or {},
            "distros": distros,
            "recipes": {"agent": agent},
        }
        (self.folder / "targets.yaml").write_text(yaml.safe_dump(content))
        (self.folder / "make.sh").write_text(script)
        return self

    # --- commands ---------------------------------------------------------------------------

    def build(self, *arguments: str, cwd: str | Path | None = None, **environ: str) -> Done:
        """Run ``build`` to its end."""
        with self.started(*arguments, cwd=cwd, **environ) as child:
            stdout, stderr = child.communicate(timeout=self.limit_s)
        return Done(status=child.returncode, stdout=stdout, stderr=stderr)

    def called(self, *arguments: str, **environ: str) -> Done:
        """The same without a Python of its own, whose start takes longer than most commands: for
        what they say and write, where it is not about the process and its streams."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, {**self.environ, **environ}, clear=True),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = run(list(arguments))
        return Done(status=int(status), stdout=out.getvalue(), stderr=err.getvalue())

    def up(self, *arguments: str, **environ: str) -> Done:
        """Run ``build up`` for the one target."""
        return self.build("up", TARGET, *arguments, **environ)

    @contextlib.contextmanager
    def started(
        self, *arguments: str, cwd: str | Path | None = None, **environ: str
    ) -> Iterator[subprocess.Popen[str]]:
        """Start ``build``; it is dead after the block."""
        child = subprocess.Popen(
            [*CLI, *arguments],
            cwd=cwd or self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield child
        finally:
            child.kill()
            child.communicate()

    # --- what is on disk --------------------------------------------------------------------

    @property
    def runs(self) -> list[Path]:
        """The run folders, oldest first."""
        folders = self.folder.glob(f"{RUNS}/*-*")
        return sorted(folders, key=lambda folder: folder.stat().st_mtime_ns)

    @property
    def run(self) -> Path:
        """The one run's folder."""
        (run,) = self.runs
        return run

    def report(self) -> dict[str, Any]:
        """The one run's report."""
        content: dict[str, Any] = json.loads((self.run / "report.json").read_text())
        return content

    def rows(self) -> dict[str, dict[str, Any]]:
        """The one run's rows by target."""
        return {row["target"]: row for row in self.report()["results"]}

    def row(self) -> dict[str, Any]:
        """The one row of the one run."""
        (row,) = self.report()["results"]
        return dict(row)

    def log(self, target: str = TARGET) -> str:
        return (self.run / target / "log.txt").read_text()

    def uuids(self) -> list[str]:
        """The uuid of every run that came as far as its plan."""
        plans = self.folder.glob(f"{RUNS}/*/plan.json")
        return [json.loads(plan.read_text())["run_uuid"] for plan in plans]

    def entries(self) -> list[journal.Entry]:
        """What the journals in the checkout know."""
        paths = sorted(self.folder.glob(f"{RUNS}/*/journal.jsonl"))
        return [entry for path in paths for entry in journal.read(path)]

    # --- what is left -----------------------------------------------------------------------

    def alive(self) -> list[int]:
        """Every process that carries the name of a machine of this project."""
        run_uuids = {*self.uuids(), *(path.name for path in self.state.glob("runs/*"))}
        return [pid for run_uuid in run_uuids for pid in carriers(run_uuid)]

    def folders(self) -> list[Path]:
        """What the state folder holds of any run."""
        return sorted(self.state.glob("runs/*"))

    def assert_nothing_left(self) -> None:
        """No machine, no disk, and the journals say so.

        An orchestrator that is killed in the moment before its journal leaves a folder with an
        empty file, its heartbeat, which a sweep removes an hour later.
        """
        end = time.monotonic() + 5
        while self.alive() and time.monotonic() < end:  # A killed process needs a moment.
            time.sleep(0.005)
        assert self.alive() == []
        assert [path for folder in self.folders() for path in folder.glob("[jm]*")] == []
        assert all(entry.gone for entry in self.entries())

    def end(self) -> None:
        """Whatever a failed test has left."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        shutil.rmtree(self.home, ignore_errors=True)


def until_event(child: subprocess.Popen[str], *words: str) -> None:
    """Read what ``--events -`` prints until a line holds all these words."""
    assert child.stdout is not None
    for line in child.stdout:
        if all(word in line for word in words):
            return
    assert child.stderr is not None
    pytest.fail(f"it ended before {words}: {child.stderr.read()}")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project whose one target builds well."""
    made = Project(tmp_path / "home")
    yield made
    made.end()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "tmpfs", str(place)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this host cannot run it: only root mounts a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
