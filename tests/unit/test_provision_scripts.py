"""The shell scripts that run inside a machine, on stand-ins for each family's package tool."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

PROVISION = Path(__file__).parents[2] / "provision"
PREREQUISITES = PROVISION / "prerequisites.sh"
POSIX = ("sh", "cat", "rm", "mkdir", "sed", "tr")


class Host:
    """A host of stand-ins only: the package tool writes down its calls and obeys ``broken``."""

    def __init__(self, folder: Path, family: str) -> None:
        self.folder, self.family = folder, family
        self.bin, self.tools = folder / "bin", folder / "tools"
        self.installed, self.broken = folder / "installed", folder / "broken"
        self.log = folder / "calls"
        for path in (self.bin, self.tools, self.installed, self.broken):
            path.mkdir()
        self.log.touch()
        for name in POSIX:
            (self.bin / name).symlink_to(shutil.which(name) or name)
        self.command("id", "echo 0")
        self.command("find", "echo a_list_of_packages")  # asked for the lists that apt has
        self.command("python3", f'exec {sys.executable} "$@"')
        self.command(family, self._manager())
        query = "for p; do :; done; [ -e $INSTALLED/$p ]"
        if family == "apt-get":
            status = 'printf "/%s:install ok installed/" $p'
            query = f"shift 2; for p; do [ ! -e $INSTALLED/$p ] || {status}; done"
        self.command("dpkg-query" if family == "apt-get" else "rpm", query)

    def command(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def _manager(self) -> str:
        """Refreshing and installing; what lies in ``broken`` by that name fails."""
        return (
            'echo "${0##*/} $*" >>$LOG\n'
            "verb=''\n"
            "for word; do case $word in\n"
            "update|makecache|refresh|install) verb=$word ;;\n"
            "-*|*=*) ;;\n"
            "*) [ -z $verb ] || [ -e $BROKEN/$verb ] || : >$INSTALLED/$word ;;\n"
            "esac; done\n"
            "[ $verb != install ] || [ ! -e $BROKEN/after-install ] || : >$BROKEN/$REFRESH\n"
            "[ ! -e $BROKEN/$verb ]"
        )

    @property
    def refresh(self) -> str:
        return {"apt-get": "update", "zypper": "refresh"}.get(self.family, "makecache")

    def has(self, *packages: str) -> None:
        for package in packages:
            (self.installed / package).touch()

    def has_everything(self) -> None:
        names = subprocess.run(
            ["sh", "-c", f". {PREREQUISITES}; FAMILY={self.family}; packages; echo $TOOL_NAMES"],
            env={**os.environ, "PREREQUISITES_DEFINE_ONLY": "1"},
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        self.has(*names[0].split())
        (self.tools / "complete").write_text(names[1] + "\n")

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / "sh"), "-c", script],
            env={
                "PATH": str(self.bin), "ETC": str(self.folder / "etc"),
                "BUILD_TOOLS": str(self.tools), "INDEX_PAUSES": "0 0",
                "LOG": str(self.log), "INSTALLED": str(self.installed),
                "BROKEN": str(self.broken), "REFRESH": self.refresh, **environment,
            },
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def prerequisites(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(f". {PREREQUISITES}", **environment)

    @property
    def calls(self) -> list[str]:
        """Each call of the package tool: its verb and the names after it, options left out."""
        rows = []
        for line in self.log.read_text().splitlines():
            words = [
                word for word in line.split()[1:] if not word.startswith("-") and "=" not in word
            ]
            rows.append(" ".join(words))
        return rows


@pytest.fixture(params=["apt-get", "dnf", "yum", "zypper"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """A host of each family."""
    return Host(tmp_path, request.param)


def test_scripts_pass_shellcheck() -> None:
    """shellcheck finds nothing in the shell scripts."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed on this host")
    scripts = sorted(str(path) for path in PROVISION.glob("*.sh"))
    found = subprocess.run(
        ["shellcheck", "-x", *scripts], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


def test_nothing_is_touched_where_everything_is_there(host: Host) -> None:
    """A baked machine calls its package tool not once, and no index."""
    host.has_everything()
    done = host.prerequisites(PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert (done.returncode, done.stderr, host.calls) == (0, "", [])


def test_only_what_is_missing_is_installed(host: Host) -> None:
    """The sources are refreshed first, then just the missing package is installed."""
    host.has_everything()
    (host.installed / "gcc").unlink()
    assert host.prerequisites().returncode == 0
    assert host.calls == [host.refresh, "install gcc"]


def test_sources_out_of_reach_are_the_environment(host: Host) -> None:
    """A mirror that does not answer gives 75 before anything is installed."""
    host.has_everything()
    (host.installed / "gcc").unlink()
    (host.broken / host.refresh).touch()
    done = host.prerequisites()
    assert done.returncode == 75
    assert f"package sources of {host.family} are out of reach" in done.stderr
    assert host.calls == [host.refresh]


def test_an_old_apt_that_reached_nothing_is_not_believed(tmp_path: Path) -> None:
    """It ends with 0 and has no list of packages: that is 75 too."""
    host = Host(tmp_path, "apt-get")
    host.has_everything()
    (host.installed / "gcc").unlink()
    host.command("find", "exit 0")
    assert (host.prerequisites().returncode, host.calls) == (75, ["update"])


def test_a_package_that_does_not_install_is_a_failure(host: Host) -> None:
    """Where the sources still answer after a failed install, the failure is not theirs."""
    host.has_everything()
    (host.installed / "gcc").unlink()
    (host.broken / "install").touch()
    done = host.prerequisites()
    assert done.returncode == 1
    assert f"{host.family} could not install gcc" in done.stderr


def test_sources_lost_during_an_install_are_the_environment(host: Host) -> None:
    """Where the sources answer no more after a failed install, they are the reason."""
    host.has_everything()
    (host.installed / "gcc").unlink()
    (host.broken / "install").touch()
    (host.broken / "after-install").touch()
    assert host.prerequisites().returncode == 75


def test_an_old_python_gets_a_newer_one_beside_it(host: Host) -> None:
    """Where python3 is too old, the family's newer Python is installed, or the lack is named."""
    host.has_everything()
    host.command("python3", "exit 1")
    done = host.prerequisites()
    if host.family in ("apt-get", "yum"):
        assert done.returncode == 1
        assert "no Python 3.8 or later" in done.stderr
    else:
        newer = "python3.11" if host.family == "dnf" else "python311"
        assert host.calls == [host.refresh, f"install {newer} {newer}-pip {newer}-devel"]


DEBIAN = "deb http://deb.debian.example/debian jessie main\n"
CENTOS = """\
mirrorlist=http://mirrorlist.centos.example/
#baseurl=http://mirror.centos.example/centos/$releasever/os/
gpgcheck=1
"""
LEGACY = {
    "apt-get": ("debian", "8", "apt/sources.list", DEBIAN, "archive.debian.example/debian j"),
    "yum": ("centos", "7", "yum.repos.d/CentOS-A.repo", CENTOS, "vault.centos.example/7.9.2009/"),
}
"""Family -> what a release calls itself, where its package sources stand, they, the archive's."""


def legacy_host(folder: Path, family: str, *, only: str) -> tuple[Host, Path]:
    """A release without support, and its sources: only those with this text answer."""
    folder.mkdir(exist_ok=True)
    host = Host(folder, family)
    host.has_everything()
    (host.installed / "gcc").unlink()
    name, release, place, text, _ = LEGACY[family]
    sources = folder / "etc" / place
    sources.parent.mkdir(parents=True)
    sources.write_text(text)
    (folder / "etc/os-release").write_text(f'VERSION="x"\nID={name}\nVERSION_ID="{release}"\n')
    (host.bin / "grep").symlink_to(shutil.which("grep") or "grep")
    tool = host.bin / family
    silent = f"$BROKEN/{host.refresh}"
    asked = f'rm -f {silent}; grep -q "^[^#].*{only}" {sources} || : >{silent}'
    tool.write_text(tool.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{asked}\n"))
    return host, sources


@pytest.mark.parametrize("family", LEGACY)
def test_a_release_without_support_gets_its_packages_from_the_archive(
    tmp_path: Path, family: str
) -> None:
    """Its own sources are asked first; checks of signatures that can still be made are made."""
    host, sources = legacy_host(tmp_path, family, only=LEGACY[family][4])
    assert host.prerequisites().returncode == 0
    assert host.calls == [host.refresh, host.refresh, "install gcc"]
    assert family == "apt-get" or "gpgcheck=1" in sources.read_text()


def test_a_mirror_that_still_serves_an_old_release_is_kept(tmp_path: Path) -> None:
    """As long as it answers; one that is not the distribution's own, in any case."""
    host, sources = legacy_host(tmp_path, "apt-get", only="deb")
    assert host.prerequisites().returncode == 0
    assert sources.read_text() == DEBIAN

    host, sources = legacy_host(tmp_path / "other", "apt-get", only="nothing")
    sources.write_text("deb http://mirror.example/debian jessie main\n")
    assert host.prerequisites().returncode == 75
    assert sources.read_text() == "deb http://mirror.example/debian jessie main\n"


def test_without_a_known_package_tool_the_distribution_is_unsupported(tmp_path: Path) -> None:
    """The message names the tools that were looked for."""
    host = Host(tmp_path, "dnf")
    (host.bin / "dnf").unlink()
    done = host.prerequisites()
    assert done.returncode == 1
    assert "none of apt-get, zypper, dnf, yum" in done.stderr


def test_an_index_out_of_reach_stops_before_anything_is_installed(host: Host) -> None:
    """Nothing listens there: 75, no package was touched, and no credential is shown."""
    done = host.prerequisites(PIP_INDEX_URL="http://user:hidden@127.0.0.1:9/simple")
    assert (done.returncode, host.calls) == (75, [])
    assert "the package index is out of reach" in done.stderr
    assert "hidden" not in done.stdout + done.stderr


@pytest.fixture
def index() -> Iterator[Callable[[int], str]]:
    """A package index on loopback that answers every request with one status."""
    servers: list[HTTPServer] = []

    def serve(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/simple"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "expected"), [(200, 0), (401, 0), (404, 0), (407, 75), (500, 75), (503, 75)]
)
def test_an_index_answers_when_it_speaks_for_itself(
    index: Callable[[int], str], tmp_path: Path, status: int, expected: int
) -> None:
    """A refusal is an answer; a server error or a proxy that wants a login is not."""
    script = f"PREREQUISITES_DEFINE_ONLY=1; . {PREREQUISITES}; find_python; check_index"
    done = Host(tmp_path, "apt-get").run(script, PIP_INDEX_URL=index(status))
    assert done.returncode == expected
