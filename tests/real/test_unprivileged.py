"""An ordinary user makes an image and builds in it: no root at any time."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.real.running import CHECKOUT, OUTPUT, Project

USER = "bo-ordinary"
PYTHON = "/usr/bin/python3"
LIBRARIES = (
    *("click", "jinja2", "markdown_it", "markupsafe", "mdurl", "msgspec", "pygments", "rich"),
    *("yaml", "_yaml"),
)


def same_python() -> bool:
    """Whether the system's Python can load the libraries of ours: an ordinary user may not be
    able to enter the folder of the one that runs this test."""
    ours = sysconfig.get_python_version()
    argv = [PYTHON, "-c", "import sysconfig; print(sysconfig.get_python_version())"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    return said == ours


@pytest.fixture
def home() -> Iterator[Path]:
    """The home of a new user with sub-ids, holding a copy of the product; both go afterwards."""
    require("qemu-system-x86_64", "mmdebstrap", "newuidmap", "fakeroot", "useradd")
    require(that=os.geteuid() == 0, because="only root can make an ordinary user")
    require(that=same_python(), because="the system's Python is another than the one that tests")
    home = Path(tempfile.mkdtemp(prefix="bo-user-", dir="/var/tmp"))
    subprocess.run(["useradd", "--home-dir", str(home), "--shell", "/bin/sh", USER], check=True)
    try:
        left_out = shutil.ignore_patterns("_project", "__pycache__")
        package = home / "python/build_orchestrator"
        shutil.copytree(CHECKOUT / "build_orchestrator", package, ignore=left_out)
        site = Path(sysconfig.get_path("purelib"))
        for name in LIBRARIES:
            shutil.copytree(site / name, home / "python" / name)
        yield home
    finally:
        subprocess.run(["userdel", USER], check=True)
        shutil.rmtree(home)


@pytest.mark.soak  # A minute and more, for which `make test` has no room.
def test_an_ordinary_user_needs_no_root(home: Path) -> None:
    """Sub-ids and uidmap are enough: bootstrap, boot, build, publish, nothing left behind."""
    project = home / "project"
    Project(project, home / "state").write(f'id -u >"$BUILD_OUTPUT/{OUTPUT}"', attempts=2)
    owner = pwd.getpwnam(USER)
    for path in (home, *home.rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)

    done = subprocess.run(
        [PYTHON, "-m", "build_orchestrator", "up", "debian_bookworm"],
        cwd=project,
        user=USER,
        group=owner.pw_gid,
        extra_groups=[],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(home / "python")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert (project / "dist/latest" / OUTPUT).read_text() == "0\n", "root inside, not outside"
    assert not list((home / ".local/state/build-orchestrator/runs").iterdir())
    assert not list(Path("/var/tmp").glob(f"build-orchestrator-{owner.pw_uid}-*"))
