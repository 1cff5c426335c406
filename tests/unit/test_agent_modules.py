"""What is asked for, and whether it is what was installed."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from build_orchestrator.agent.addresses import request
from build_orchestrator.agent.config import Config
from build_orchestrator.agent.errors import Code, PackagerError
from build_orchestrator.agent.installed import top_level, wanting
from build_orchestrator.agent.modules import Module, asked_for, excluded, located
from build_orchestrator.agent.requirements import find, listed


def agent_of(**given: Any) -> str:
    """The source of the agent that these settings ask for."""
    asked = dict(asked_for(Config(**given)))
    return asked["cloudify-agent"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"cloudify_agent_version": "master"},
         "https://github.com/cloudify-cosmo/cloudify-agent/archive/master.tar.gz"),
        ({"cloudify_agent_module": "7.1.0"},
         "https://github.com/cloudify-cosmo/cloudify-agent/archive/7.1.0.tar.gz"),
        ({"cloudify_agent_module": "https://host.example/a.zip", "cloudify_agent_version": "7"},
         "https://host.example/a.zip"),
    ],
)  # fmt: skip
def test_the_agent_is_a_module_or_a_version(given: dict[str, str], expected: str) -> None:
    """The module wins over the version."""
    assert agent_of(**given) == expected


def test_an_agent_of_nothing_has_a_number_of_its_own() -> None:
    """Neither module nor version nor core module; a module left to its dependants is none."""
    for config in (
        Config(additional_modules=("x",)),
        Config(core_modules={"cloudify_common": False}),
    ):
        with pytest.raises(PackagerError) as raised:
            asked_for(config)
        assert raised.value.code == Code.MISSING_CLOUDIFY_AGENT_CONFIG


@pytest.mark.parametrize("word", ["src", "agent_7"])
def test_an_agent_is_not_looked_up_by_a_bare_word(word: str) -> None:
    """A folder of that name was meant; an index may know something else by it."""
    with pytest.raises(PackagerError, match=f"cloudify_agent_module: {word} is no") as raised:
        agent_of(cloudify_agent_module=word)
    assert f"./{word}" in str(raised.value.resolution)
    assert agent_of(cloudify_agent_module="cloudify_agent") == "cloudify_agent"


def test_what_cannot_be_installed_is_named_before_anything_is_done() -> None:
    """No option of an installer, no further line, no slip of the pen; all at once."""
    good = ("a", "a[x]>=1; python_version > '3'", "b @ https://h.example/b.zip", "./c", "c.whl",
            "git+https://h.example/d.git@main", "https://me:hidden@h.example/e.zip")  # fmt: skip
    bad = ("-r more.txt", "-e ./c", "--index-url=https://me:hidden@h.example", "", "a b", "a = 1",
           "a\nb", "https://h.example/a\n-r more.txt")  # fmt: skip

    with pytest.raises(PackagerError) as raised:
        asked_for(Config(cloudify_agent_version="7", additional_modules=good + bad))

    assert raised.value.code == Code.INVALID_YAML_FILE
    said = [repr(each.replace("me:hidden", "***")) for each in bad]
    assert raised.value.details.splitlines() == [
        f"{each}: is no requirement, URL or path" for each in said
    ]


def test_what_is_false_or_excluded_is_not_asked_for() -> None:
    """It comes, if at all, as a dependency; names become those of distributions; agent is last."""
    config = Config(
        cloudify_agent_module="./src",
        core_plugins={"cloudify_script_plugin": False, "cloudify_diamond_plugin": "exclude"},
        additional_modules=("f==2",),
        additional_plugins={"d_e": "d-e==1"},
    )

    assert asked_for(config) == [("d-e", "d-e==1"), ("", "f==2"), ("cloudify-agent", "./src")]
    assert list(excluded(config)) == ["cloudify-diamond-plugin"]


def test_sources_are_found_beside_the_settings(tmp_path: Path) -> None:
    """Folders are copied, each to its own place; requirements and addresses stay as they are."""
    for name in ("a/src", "b/src"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "setup.py").write_text(name)
    (tmp_path / "x.whl").touch()
    sources = ["a/src", "b/src", "x.whl", "f==2", "https://host.example/a/b.zip", "g @ file:///x"]

    found = located([("", each) for each in sources], tmp_path, tmp_path / "copies")

    assert [Path(each.source, "setup.py").read_text() for each in found[:2]] == sources[:2]
    assert found[2:] == [Module("", str(tmp_path / "x.whl")), *(Module("", x) for x in sources[3:])]


def test_a_requirements_file_is_read_as_installers_read_it(tmp_path: Path) -> None:
    """Comments, options and continued lines are no requirements; a path in it is refused."""
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# comment\n--index-url https://h.example/simple\n-r more.txt\n\n"
        "a==1 \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\n"
        "b @ https://h.example/b.zip#egg=b  # why\nc[x]>=2; python_version > '3'\n"
    )

    assert [each.source for each in listed(file)] == [
        "a==1", "b @ https://h.example/b.zip#egg=b", "c[x]>=2; python_version > '3'",
    ]  # fmt: skip
    file.write_text("a\n./b\n-e c\n")
    with pytest.raises(PackagerError, match="paths cannot be in a requirements file") as raised:
        listed(file)
    assert raised.value.code == Code.COULD_NOT_INSTALL_FROM_REQUIREMENTS_FILE
    assert raised.value.details == "./b\n-e c"


def test_a_requirements_file_is_fetched_with_its_login(tmp_path: Path) -> None:
    """As installers do it; what is broken off, or no address at all, is words and a number."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            if self.path == "/nonsense":
                self.wfile.write(b"nonsense\n\n")
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a==1\n")

        def log_message(self, *_: object) -> None:
            pass

    seen: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        file = find(f"http://me:p%40ss@{host}/x.txt", tmp_path, tmp_path)
        with pytest.raises(PackagerError, match="could not be fetched") as raised:
            find(f"http://{host}/nonsense", tmp_path, tmp_path)
        server.shutdown()

    assert file.read_text() == "a==1\n"
    assert seen == ["Basic bWU6cEBzcw==", None]
    assert raised.value.code == Code.COULD_NOT_DOWNLOAD_FILE
    with pytest.raises(PackagerError, match=r"http://\[: could not be fetched"):
        find("http://[", tmp_path, tmp_path)


def test_a_login_reaches_its_host_only() -> None:
    """As a header, and not after a redirection; urllib alone takes it for a part of the name."""
    asked = request("https://me:p%40ss@host.example:8443/x.zip")

    assert asked.full_url == "https://host.example:8443/x.zip"
    assert asked.unredirected_hdrs == {"Authorization": "Basic bWU6cEBzcw=="}


def test_what_an_orchestrator_brought_is_found_by_how_it_is_written(tmp_path: Path) -> None:
    """A path of the host is looked up in its list."""
    (tmp_path / "host-sources").mkdir()
    (tmp_path / "host-sources/1.zip").touch()
    (tmp_path / "host-sources/list.json").write_text('{"~/agent": "host-sources/1.zip"}')

    (found,) = located([("", "~/agent")], tmp_path, tmp_path / "copies")

    assert found.source == str(tmp_path / "host-sources/1.zip")


def test_a_folder_that_cannot_be_copied_is_named(tmp_path: Path) -> None:
    """With what in it is the matter."""
    (tmp_path / "src").mkdir()
    os.mkfifo(tmp_path / "src/pipe")

    with pytest.raises(PackagerError, match="src: could not be copied") as raised:
        located([("", "./src")], tmp_path, tmp_path / "copies")

    assert raised.value.code == Code.COULD_NOT_INSTALL_MODULE
    assert "is a named pipe" in raised.value.details


def test_every_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Before anything is built."""
    with pytest.raises(PackagerError) as raised:
        located([("", "vendor/none"), ("", "./other")], tmp_path, tmp_path / "copies")
    assert "vendor/none" in raised.value.details
    assert "./other" in raised.value.details


def installed(tmp_path: Path, name: str, version: str, origin: str = "") -> metadata.Distribution:
    folder = tmp_path / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if origin:
        (folder / "direct_url.json").write_text(json.dumps({"url": origin}))
    return metadata.PathDistribution(folder)


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("", "cloudify-agent-packager==1.0", []),
        ("", "Cloudify_Agent.Packager>=1,<2", []),
        ("", "cloudify-agent-packager==1.1",
         ["cloudify-agent-packager: 1.0 is installed, cloudify-agent-packager==1.1 was asked for"]),
        ("", "cloudify-agent", ["cloudify-agent: not installed"]),
        ("", "c++==1", ["c++==1: nothing was installed from it"]),
        ("cloudify-agent", "https://host.example/x.tar.gz", ["cloudify-agent: not installed"]),
        ("", "other; python_version < '3'", []),
        ("", "other; python_version == '3.9'", ["other: not installed"]),
        ("", "https://host.example/named.zip", []),
        ("", "https://me:hidden@HOST.example/named.zip#egg=x", []),
        ("", "git+ssh://git@host.example/way.git@a/branch", []),
        ("", "https://host.example/named.zip.zip",
         ["https://host.example/named.zip.zip: nothing was installed from it"]),
        ("", "https://host.example/else.zip",
         ["https://host.example/else.zip: nothing was installed from it"]),
    ],
)  # fmt: skip
def test_validation_goes_by_metadata(
    tmp_path: Path, name: str, source: str, wrong: list[str]
) -> None:
    """Exact names and versions: no name counts because it begins like another."""
    there = {
        "cloudify-agent-packager": installed(tmp_path, "cloudify_agent_packager", "1.0"),
        "named": installed(tmp_path, "named", "1", "https://host.example/named.zip"),
        "way": installed(tmp_path, "way", "1", "ssh://git@host.example/way.git"),
    }
    assert list(wanting([Module(name, source)], there, {"python_version": "3.9"})) == wrong


def test_the_modules_of_a_distribution_are_known_without_importing(tmp_path: Path) -> None:
    """From what it says, else from its files; private ones are its own business."""
    said, listed = installed(tmp_path, "a", "1"), installed(tmp_path, "b", "1")
    (tmp_path / "a-1.dist-info/top_level.txt").write_text("attr\n_private\n")
    files = "b/__init__.py,,\nsingle.py,,\nfast.cpython-311-x86_64-linux-gnu.so,,\n../../bin/b,,\n"
    (tmp_path / "b-1.dist-info/RECORD").write_text(files + "_fast.so,,\nb-1.dist-info/RECORD,,\n")
    for name in ("b/__init__.py", "single.py", "fast.cpython-311-x86_64-linux-gnu.so", "_fast.so"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert top_level(said) == ["attr"]
    assert top_level(listed) == ["b", "fast", "single"]
