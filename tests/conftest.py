"""What every kind of test shares: when a real test may be skipped, and a home of its own.

A test below tests/real is skipped in one way only, by ``require``. Under ``make test`` (which sets
BUILD_ORCHESTRATOR_REQUIRE_REAL=1) that is a failure wherever this machine could have run the test.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from build_orchestrator.locks import cache_home

REAL = Path(__file__).parent / "real"
HOST = Path(__file__).parent / "host"
REAL_TIMEOUT_S = 900

# How long an example takes says how busy this host is, not whether the code is right.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Whoever starts the tests by nohup lets our children, too, ignore that a terminal hangs up.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

UNFIT = "this host cannot run it"

PROVIDED = frozenset({
    "debugfs", "dnsmasq", "fakeroot", "git", "libvirtd", "mke2fs", "mmdebstrap", "newuidmap",
    "packer", "qemu-img", "qemu-system-x86_64", "rsync", "ruby", "shellcheck", "ssh", "ssh-keygen",
    "sshd", "vagrant", "vagrant-libvirt", "virsh", "wine64",
})  # fmt: skip
"""What ``make test`` installs: a host that lacks one of these is no excuse."""


def require(*commands: str, that: bool = True, because: str = "") -> None:
    """Skip the running test where this host cannot run it.

    Args:
        commands: programs that the test needs.
        that: any other fact that it needs, such as being root or another machine answering.
        because: what is missing when ``that`` is false.

    Under ``make test`` a missing program that ``make test`` installs is a failure instead.
    """
    __tracebackhide__ = True  # so that the report names the test, not this line
    missing = [command for command in commands if not on_host(command)]
    provided = [command for command in missing if command in PROVIDED]
    if provided and real_is_required():
        pytest.fail(f"this host can have {', '.join(provided)}: setup/host-packages installs it")
    if missing:
        pytest.skip(f"{UNFIT}: no {', '.join(missing)}")
    if not that:
        pytest.skip(f"{UNFIT}: {because}")


def on_host(command: str) -> bool:
    """Whether this host has a program, also where only root looks, and Debian's Wine."""
    path = os.pathsep.join(
        [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/lib/wine"]
    )
    return shutil.which(command, path=path) is not None


def real_is_required() -> bool:
    """Whether a real test that this machine could run must not be skipped."""
    return os.environ.get("BUILD_ORCHESTRATOR_REQUIRE_REAL") == "1"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies below tests/real, and give it the time that machines take."""
    for item in items:
        if REAL in item.path.parents or item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.real)
        if REAL in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(REAL_TIMEOUT_S))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """Keep together what shares machines where real tests run side by side (--dist loadscope).

    xdist's own groups by mark do nothing with pytest 9.2, and do not say so.
    """
    if config.getoption("dist") != "loadscope":
        return None
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = group_of
    return scheduler


def group_of(nodeid: str) -> str:
    """What a test shares machines with: all that needs Vagrant, since a host has one libvirt; all
    that needs Wine; the machines of one kind in a contract; else the tests of its file."""
    if re.search(r"/test_(aws_)?windows", nodeid):
        return "windows"
    if re.search(r"libvirt|virtualbox|vagrant|test_boxes", nodeid):
        return "vagrant"
    path, _, name = nodeid.partition("::")
    kind = re.search(r"\[(warm|cold|aws)\b", name)
    return f"{path} {kind[1]}" if kind else path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn any skip of a real test that did not come from ``require`` into a failure."""
    report = yield
    excuse = str(call.excinfo.value) if call.excinfo else ""
    skipped = report.skipped and not hasattr(report, "wasxfail") and not excuse.startswith(UNFIT)
    if skipped and real_is_required() and item.get_closest_marker("real"):
        report.outcome = "failed"
        report.longrepr = f"skipped without require(): {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def vagrant_host() -> Iterator[None]:
    """libvirt answers, and Vagrant has a home of its own, for as long as the tests last.

    Where no service manager runs libvirt (a container, a CI job), root starts it, and ends it.
    """
    require("vagrant", "virsh", "libvirtd", "dnsmasq", "qemu-img", "ssh", "rsync")
    started: list[str] = []
    if os.geteuid() == 0:
        done = subprocess.run(
            [HOST / "start-libvirt"], stdout=subprocess.PIPE, text=True, check=True
        )
        started = done.stdout.split()
    question = ["virsh", "-c", "qemu:///system", "version"]
    asked = subprocess.run(question, capture_output=True, check=False)
    require(that=asked.returncode == 0, because="libvirt does not answer this user")
    with (
        tempfile.TemporaryDirectory(prefix="bo-vagrant-", ignore_cleanup_errors=True) as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("VAGRANT_HOME", home)
        yield
    for pid in reversed(started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGTERM)


@pytest.fixture
def isolated_home(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty HOME with a state folder of its own.

    Real tests share one cache, since an image takes minutes: $BUILD_ORCHESTRATOR_TEST_CACHE, else
    the user's own. The others get an empty one.
    """
    shared = os.environ.get("BUILD_ORCHESTRATOR_TEST_CACHE") or str(cache_home().parent)
    # Not below tmp_path: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        real = request.node.get_closest_marker("real") is not None
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
        monkeypatch.setenv("XDG_CACHE_HOME", shared if real else str(home / "cache"))
        yield home
