"""The shell scripts that run inside a machine, on stand-ins for each family's package tool."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import zipfile
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


OLD_PYTHON = f'case $* in *version_info*) exit 1 ;; esac; exec {sys.executable} "$@"'
"""Too old to build with, and good enough for what any Python has to run."""


@pytest.mark.parametrize(("family", "newer"), [("dnf", "python3.11"), ("zypper", "python311")])
def test_an_old_python_gets_a_newer_one_beside_it(tmp_path: Path, family: str, newer: str) -> None:
    """Where the family has one: as a package, and nothing is brought."""
    host = Host(tmp_path, family)
    host.has_everything()
    host.command("python3", OLD_PYTHON)
    host.command("python3.11", f"[ -e $INSTALLED/{newer} ]")

    done = host.prerequisites()

    assert (done.returncode, done.stderr) == (0, "")
    assert host.calls == [host.refresh, f"install {newer} {newer}-pip {newer}-devel"]


# --- a Python that is brought ---------------------------------------------------------------------

UV = """\
#!/bin/sh
# Plays uv: writes down what it was asked, and installs this very Python or fails.
echo "$*" >>$LOG
[ ! -e $BROKEN/uv ] || exit 2
mkdir -p $BUILD_PYTHON/cpython/bin
ln -s %s $BUILD_PYTHON/cpython/bin/python3
"""


class Legacy(Host):
    """A host whose only Python is too old; uv is in the index that ``answers`` it."""

    def __init__(self, folder: Path, family: str = "apt-get") -> None:
        super().__init__(folder, family)
        self.has_everything()
        self.command("python3", OLD_PYTHON)
        for name in ("tar", "gzip", "ln"):
            (self.bin / name).symlink_to(shutil.which(name) or name)
        self.inputs, self.brought = folder / "inputs", folder / "brought"
        self.inputs.mkdir()
        self.script = folder / "prerequisites.sh"
        self.script.write_text(PREREQUISITES.read_text())

    def wheel(self) -> tuple[str, bytes]:
        """The name and content of the static wheel that is asked for, by its checksum."""
        file = io.BytesIO()
        version = re.findall(r"(?m)^UV_VERSION=(.*)$", PREREQUISITES.read_text())[0]
        with zipfile.ZipFile(file, "w") as wheel:
            wheel.writestr(f"uv-{version}.data/scripts/uv", UV % sys.executable)
        digest = hashlib.sha256(file.getvalue()).hexdigest()
        text = re.sub(r"\b[0-9a-f]{64}\b", digest, PREREQUISITES.read_text())
        self.script.write_text(text)
        kind = f"manylinux2014_x.musllinux_1_1_{platform.machine()}"
        return f"uv-{version}-py3-none-{kind}.whl", file.getvalue()

    def bring(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            f". {self.script}; echo $PYTHON",
            BUILD_INPUTS=str(self.inputs), BUILD_PYTHON=str(self.brought), **environment,
        )  # fmt: skip


@pytest.mark.parametrize("family", ["apt-get", "yum"])
def test_where_no_package_is_recent_enough_uv_brings_a_standalone_python(
    tmp_path: Path, served: Callable[[dict[str, bytes]], str], family: str
) -> None:
    """uv itself from the package index, by its checksum, without any pip; nothing of it is left.
    The next time what was brought is there."""
    host = Legacy(tmp_path, family)
    name, content = host.wheel()
    links = f'<a href="../../files/{name}#sha256=0">{name}</a>'.encode()
    index = served({"/simple/uv/": links, f"/files/{name}": content})

    done = host.bring(PIP_INDEX_URL=index)

    assert (done.returncode, done.stderr) == (0, "")
    python = host.brought / "cpython/bin/python3"
    assert done.stdout.splitlines()[-1] == str(python)
    (call,) = host.log.read_text().splitlines()
    assert call == f"python install --quiet --no-bin --install-dir {host.brought} 3.11"
    assert [path.name for path in host.brought.iterdir()] == ["cpython"]
    assert host.bring().stdout.splitlines() == [str(python)]


def test_a_login_of_the_index_is_used_and_not_shown(
    tmp_path: Path, served: Callable[[dict[str, bytes]], str]
) -> None:
    """For a page that wants one; the message has none."""
    host = Legacy(tmp_path)
    index = served({"/simple/uv/ me:hidden": b"nothing"}).replace("//", "//me:hidden@")

    done = host.bring(PIP_INDEX_URL=index)

    assert done.returncode == 1
    assert "there is no wheel of uv" in done.stderr
    assert "hidden" not in done.stdout + done.stderr


def test_uv_of_other_bytes_is_not_run(
    tmp_path: Path, served: Callable[[dict[str, bytes]], str]
) -> None:
    """Whatever the index says of them."""
    host = Legacy(tmp_path)
    name, content = host.wheel()
    link = f'<a href="{name}">{name}</a>'.encode()

    done = host.bring(
        PIP_INDEX_URL=served({"/simple/uv/": link, f"/simple/uv/{name}": content + b"!"})
    )

    assert done.returncode == 1
    assert "its SHA-256 is not" in done.stderr
    assert "put a standalone CPython into the inputs as python.tar.gz" in done.stderr
    assert host.log.read_text() == ""


def test_a_source_of_pythons_out_of_reach_is_the_environment(
    tmp_path: Path, served: Callable[[dict[str, bytes]], str]
) -> None:
    """uv knows address and checksum: where it fails, fetching did. The ways out are named."""
    host = Legacy(tmp_path)
    name, content = host.wheel()
    (host.broken / "uv").touch()
    link = f'<a href="{name}">{name}</a>'.encode()

    done = host.bring(PIP_INDEX_URL=served({"/simple/uv/": link, f"/simple/uv/{name}": content}))

    assert done.returncode == 75
    assert "UV_PYTHON_INSTALL_MIRROR" in done.stderr
    assert "python.tar.gz" in done.stderr


def test_a_standalone_python_in_the_inputs_needs_no_network(tmp_path: Path) -> None:
    """It is unpacked and used; one that does not run here is no success."""
    host = Legacy(tmp_path)
    program = tmp_path / "python/bin/python3"
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.executable)
    shutil.make_archive(str(host.inputs / "python"), "gztar", tmp_path, "python")

    done = host.bring(PIP_INDEX_URL="http://127.0.0.1:9/simple")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == str(host.brought / "python/bin/python3")

    program.unlink()
    program.write_text("no program")
    program.chmod(0o755)
    shutil.make_archive(str(host.inputs / "python"), "gztar", tmp_path, "python")
    shutil.rmtree(host.brought)
    done = host.bring()
    assert done.returncode == 1
    assert "the standalone CPython does not run here; it needs glibc 2.17" in done.stderr


def test_without_any_python_and_any_source_the_lack_is_named(tmp_path: Path) -> None:
    """As on CentOS 6, which has no python3 at all: exit 1, and the way out."""
    host = Legacy(tmp_path, "yum")
    (host.bin / "python3").unlink()

    done = host.bring()

    assert done.returncode == 1
    assert "no Python 3.8 or later can be had from this distribution" in done.stderr
    assert "python.tar.gz" in done.stderr


def test_what_any_python_has_to_run_is_old_enough(tmp_path: Path) -> None:
    """Debian 8 has Python 3.4."""
    text = PREREQUISITES.read_text()
    code = text.partition("<<'ASK'\n")[2].partition("\nASK\n")[0]
    (tmp_path / "ask.py").write_text(code)
    vermin = [str(Path(sys.executable).with_name("vermin")), "--quiet", "--no-tips", "--violations"]

    done = subprocess.run(
        [*vermin, "--target=3.4-", str(tmp_path / "ask.py")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


# --- releases without support ---------------------------------------------------------------------

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


Handle = Callable[[BaseHTTPRequestHandler], tuple[int, bytes]]


@pytest.fixture
def serve() -> Iterator[Callable[[Handle], str]]:
    """Package indexes on loopback."""
    servers: list[HTTPServer] = []

    def start(handle: Handle) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(*handle(self))

            def do_GET(self) -> None:
                self.answer(*handle(self))

            def answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/simple"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def index(serve: Callable[[Handle], str]) -> Callable[[int], str]:
    """An index that answers every request with one status."""
    return lambda status: serve(lambda _: (status, b""))


@pytest.fixture
def served(serve: Callable[[Handle], str]) -> Callable[[dict[str, bytes]], str]:
    """An index with these pages; one that wants a login has it after its path."""

    def handle(request: BaseHTTPRequestHandler, pages: dict[str, bytes]) -> tuple[int, bytes]:
        login = request.headers.get("Authorization", "").removeprefix("Basic ")
        asked = f"{request.path} {base64.b64decode(login).decode()}".rstrip()
        return (200, pages[asked]) if asked in pages else (404, b"")

    return lambda pages: serve(lambda request: handle(request, pages))


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
