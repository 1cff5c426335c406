"""Wagons: names, platforms, what they say of themselves, and what is not believed of them."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shutil
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import packaging.tags
import pytest

from build_orchestrator.agent.errors import PackagerError
from build_orchestrator.agent.wagon import (
    archive,
    contents,
    creating,
    installing,
    pip,
    sources,
    wheels,
)
from build_orchestrator.agent.wagon import metadata as package
from build_orchestrator.agent.wagon.cli import COMMANDS, parser
from build_orchestrator.agent.wagon.cli import run as alone
from build_orchestrator.agent.wagon.errors import Status, WagonError
from build_orchestrator.agent.wagon.metadata import Metadata
from build_orchestrator.agent.wagon.repairing import repair
from build_orchestrator.agent.wagon.validating import problems
from build_orchestrator.cli import run
from build_orchestrator.cli import wagon as ours
from build_orchestrator.errors import ExitCode
from tests.wheels import make_source, make_wagon, make_wheel

SAYS = {
    "package_name": "thing",
    "package_version": "1.0",
    "supported_platform": "any",
    "supported_python_versions": ["py311"],
    "wheels": ["thing-1.0-py3-none-any.whl"],
}


def described(**changes: Any) -> Metadata:
    return Metadata(**{**SAYS, **changes})


def wagon(tmp_path: Path, **changes: Any) -> Path:
    """A good wagon of one wheel, except for what is changed in its package.json."""
    wheel = make_wheel(tmp_path / "made")
    says = {key: value for key, value in {**SAYS, **changes}.items() if value != "absent"}
    return make_wagon(tmp_path / "thing.wgn", [wheel], says)


# --- names and platforms --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "thing-1.0-py311-none-any.wgn"),
        ({"package_name": "test-package", "package_version": "0.0.1", "package_build_tag": "7",
          "supported_python_versions": ["py3", "py27"]},
         "test_package-0.0.1-7-py3.py27-none-any.wgn"),
        ({"supported_platform": "linux_x86_64"}, "thing-1.0-py311-none-linux_x86_64.wgn"),
    ],
)  # fmt: skip
def test_a_wagon_is_called_as_the_original_calls_it(changes: dict[str, Any], expected: str) -> None:
    """Name, version, build tag, Pythons and platform, with dashes between."""
    assert package.archive_name(described(**changes)) == expected


PURE, LINUX = "a-1-py3-none-any.whl", "b-1-cp311-cp311-linux_x86_64.whl"
MANY = "c-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
NEWER = "d-1-cp311-cp311-manylinux_2_28_x86_64.whl"
ARM = "e-1-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl"
WINDOWS = "f-1-cp311-cp311-win_amd64.whl"


@pytest.mark.parametrize(
    ("names", "common", "repaired"),
    [
        ([PURE], "any", "any"),
        ([PURE, LINUX, MANY], "linux_x86_64", "linux_x86_64"),
        ([PURE, MANY], "linux_x86_64", "manylinux2014_x86_64"),
        ([MANY, NEWER], "linux_x86_64", "manylinux_2_28_x86_64"),
        ([ARM, PURE], "linux_aarch64", "manylinux2014_aarch64"),
        ([WINDOWS, PURE], "win_amd64", "win_amd64"),
    ],
)
def test_the_platform_is_what_all_wheels_share(
    names: list[str], common: str, repaired: str
) -> None:
    """One wheel for one distribution binds them all; the newest glibc counts after a repair."""
    assert wheels.common_platform(names) == common
    assert wheels.repaired_platform(names) == repaired


@pytest.mark.parametrize(
    ("platform", "fits"),
    [
        ("any", True),
        ("linux_x86_64", True),
        ("manylinux1_x86_64", True),
        ("manylinux_2_17_x86_64", True),
        ("manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("manylinux_2_35_x86_64", False),
        ("manylinux2014_aarch64", False),
        ("win_amd64", False),
    ],
)
def test_a_platform_fits_by_architecture_and_glibc(
    platform: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """manylinux_2_17 is accepted, which the original refuses; a newer glibc than here is not."""
    there = [f"manylinux_2_{minor}_x86_64" for minor in range(31, 4, -1)]
    there += [f"manylinux{old}_x86_64" for old in ("2014", "2010", "1")]
    monkeypatch.setattr(packaging.tags, "platform_tags", lambda: iter(there))
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "linux-x86_64")

    assert wheels.fits_here(platform) is fits


def test_what_wheels_need_of_python_has_one_order(tmp_path: Path) -> None:
    """Each condition once, whichever wheel comes first."""
    made = [make_wheel(tmp_path, name, python=python) for name, python in
            (("a", ">=3.8"), ("b", "<4,>=3.7"), ("c", ">=3.8"), ("d", ""))]  # fmt: skip

    assert wheels.requires_python(made) == wheels.requires_python(made[::-1]) == "<4,>=3.7,>=3.8"


# --- archives that are not to be trusted ----------------------------------------------------------


def zip_with(*members: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as zipped:
            for name in members:
                zipped.writestr(name, "x")

    return make


def tar_with(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tarfile.open(path, "w:gz") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"x"))

    return make


def zip_with_link(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as zipped:
        info = zipfile.ZipInfo("thing/link")
        info.external_attr = 0o120777 << 16
        zipped.writestr(info, "/etc")


HOSTILE: dict[str, Callable[[Path], None]] = {
    "zip: up": zip_with("../outside"),
    "zip: up from below": zip_with("thing/../../outside"),
    "zip: root": zip_with("/outside"),
    "zip: drive": zip_with("C:/outside"),
    "zip: backslash": zip_with("..\\outside"),
    "zip: twice": zip_with("thing/a", "thing//a"),
    "zip: link": zip_with_link,
    "tar: up": tar_with("../outside"),
    "tar: root": tar_with("/outside"),
    "tar: link": tar_with("thing/link", tarfile.SYMTYPE, "/etc"),
    "tar: hard link": tar_with("thing/link", tarfile.LNKTYPE, "../../outside"),
    "tar: fifo": tar_with("thing/fifo", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_written_outside_whatever_an_archive_holds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is refused as a whole, with the member's name."""
    place = tmp_path / "deep" / "down"
    place.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    HOSTILE[name](tmp_path / "bad.wgn")

    with pytest.raises(WagonError, match=r"bad\.wgn is not to be trusted: its member"):
        contents.show(str(tmp_path / "bad.wgn"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.wgn", "deep", "down"]


def test_an_archive_that_is_none_is_named(tmp_path: Path) -> None:
    """With what a wagon is."""
    (tmp_path / "x.wgn").write_text("no archive")
    with pytest.raises(WagonError, match="verify that the provided file is a valid zip"):
        contents.show(str(tmp_path / "x.wgn"))


@pytest.mark.parametrize("members", [("b/package.json", "a/x"), ("a/package.json", "x"), ("x",)])
def test_a_wagon_is_one_folder(members: tuple[str, ...], tmp_path: Path) -> None:
    """The original takes the first that an archive holds, whatever else there is."""
    zip_with(*members)(tmp_path / "x.wgn")

    with pytest.raises(WagonError, match=r"x\.wgn: is no wagon: it holds not just one folder"):
        contents.show(str(tmp_path / "x.wgn"))


# --- package.json ---------------------------------------------------------------------------------


def test_what_a_wagon_says_survives_being_written_and_read(tmp_path: Path) -> None:
    """All keys of the format are there, indented by 4 and sorted."""
    full = described(files=["plugin.yaml"], checksums={"wheels/x": "sha256:0"})
    package.write(full, tmp_path)

    assert package.read(tmp_path) == full
    text = (tmp_path / "package.json").read_text()
    assert text == json.dumps(json.loads(text), indent=4, sort_keys=True)
    assert {"archive_name", "build_server_os_properties", "created_by_wagon_version", "files",
            "package_build_tag", "package_name", "package_source", "package_version",
            "python_requires", "supported_platform", "supported_python_versions",
            "wheels"} <= set(json.loads(text))  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no package.json in thing/"),
        ("{", "package.json is no JSON"),
        ("[" * 100_000, "package.json is no JSON"),
        ("[]", "package.json holds no keys and values"),
    ],
)
def test_a_wagon_without_package_json_is_none(
    content: str | None, message: str, tmp_path: Path
) -> None:
    """An error of one line, and no trace."""
    with zipfile.ZipFile(tmp_path / "x.wgn", "w") as zipped:
        zipped.writestr("thing/package.json" if content else "thing/other", content or "")

    with pytest.raises(WagonError, match=message):
        contents.show(str(tmp_path / "x.wgn"))


def test_everything_wrong_with_package_json_is_named_at_once(tmp_path: Path) -> None:
    """A key that lacks, a value of another kind, and a name that leads elsewhere."""
    made = wagon(tmp_path, package_version="absent", files="x", wheels=["../../x.whl"])

    with pytest.raises(WagonError) as raised:
        contents.list_files(str(made))
    assert raised.value.details.splitlines() == [
        "package_version: is missing",
        'files: is not what it should be: "x"',
        "'../../x.whl': is no file's name",
    ]


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "\x1b[2Jx", "a/b", "..", ""])
def test_a_name_that_cannot_be_printed_is_none(tmp_path: Path, name: str) -> None:
    """It would end the printing with a trace, or command the terminal."""
    with pytest.raises(WagonError, match="is not a wagon's") as raised:
        contents.list_files(str(wagon(tmp_path, files=[name])))
    assert raised.value.details == f"{name!r}: is no file's name"


def test_a_packages_name_is_no_option_of_pip(tmp_path: Path) -> None:
    """pip is told to install it, and would write a log where a wagon wants it."""
    with pytest.raises(WagonError, match="is not a wagon's") as raised:
        contents.list_files(str(wagon(tmp_path, package_name="--log")))
    assert raised.value.details == "'--log': is no package's name"


def test_wagons_of_the_first_releases_are_read(tmp_path: Path) -> None:
    """module_name, no files, no build tag, excluded wheels: no KeyError."""
    made = wagon(
        tmp_path, package_name="absent", package_version="absent", module_name="thing",
        module_version="1.0", excluded_wheels=[], supported_python_versions="absent",
    )  # fmt: skip

    assert contents.list_files(str(made)) == []
    with archive.opened(str(made)) as (folder, archive_format):
        assert package.read(folder).requirement == "thing==1.0"
        assert archive_format == "zip"


def test_a_file_comes_out_by_its_name_only(tmp_path: Path) -> None:
    """What is not there is an error that names the nearest; the original ended with 0."""
    tree = tmp_path / "thing"
    (tree / "files").mkdir(parents=True)
    (tree / "files/plugin.yaml").write_text("plugins: {}\n")
    make_wheel(tree / "wheels")
    made = str(creating.finish(described(files=["plugin.yaml"]), tree, tmp_path, "tar.gz"))

    assert contents.list_files(made) == ["plugin.yaml"]
    assert contents.get_file(made, "plugin.yaml", tmp_path / "out").read_text() == "plugins: {}\n"
    for name in ("plugin.yml", "../package.json"):
        with pytest.raises(WagonError, match="the file does not exist") as raised:
            contents.get_file(made, name, tmp_path / "out")
        assert raised.value.code == Status.FAILED


# --- bytes and damage -----------------------------------------------------------------------------


@pytest.mark.parametrize("archive_format", archive.FORMATS)
def test_the_same_content_gives_the_same_bytes(archive_format: str, tmp_path: Path) -> None:
    """Whenever and wherever; and a wagon that is written is good."""
    made = []
    for place in ("one", "two"):
        tree = tmp_path / place / "thing"
        make_wheel(tree / "wheels")
        (tree / "wheels").chmod(0o700 if place == "one" else 0o755)
        made.append(creating.finish(described(), tree, tmp_path / place, archive_format))

    assert made[0].name == "thing-1.0-py311-none-any.wgn"
    assert made[0].read_bytes() == made[1].read_bytes()
    with archive.opened(str(made[0])) as (folder, found):
        assert (found, problems(folder, package.read(folder))) == (archive_format, [])


def break_checksum(tree: Path) -> str:
    make_wheel(tree / "wheels", python=">=3")
    return "wheels/thing-1.0-py3-none-any.whl is not what the wagon was made with"


def take_wheel_away(tree: Path) -> str:
    (tree / "wheels/thing-1.0-py3-none-any.whl").unlink()
    return "thing-1.0-py3-none-any.whl is missing from the archive"


def add_wheel(tree: Path) -> str:
    make_wheel(tree / "wheels", "other")
    return "wheels/other-1.0-py3-none-any.whl is in the archive, and package.json does not know it"


def rename_package(tree: Path) -> str:
    package.write(described(package_version="1.1"), tree)
    return "no wheel of thing==1.1 is in the archive"


@pytest.mark.parametrize("name", ["my-thing", "my_thing", "My.Thing"])
def test_a_name_may_be_written_in_any_way(name: str, tmp_path: Path) -> None:
    """A wheel's is normalised; the original found nothing of a name with a `_`."""
    tree = tmp_path / name
    wheel = make_wheel(tree / "wheels", "my-thing")
    creating.finish(described(package_name=name, wheels=[wheel.name]), tree, tmp_path, "zip")

    assert problems(tree, package.read(tree)) == []


@pytest.mark.parametrize("damage", [break_checksum, take_wheel_away, add_wheel, rename_package])
def test_damage_is_seen_and_nothing_is_done_with_it(
    damage: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another wheel of the same name, one that lacks, one too many, one of another version."""
    tree = tmp_path / "thing"
    make_wheel(tree / "wheels")
    creating.finish(described(), tree, tmp_path, "zip")
    message = damage(tree)

    found = problems(tree, package.read(tree))

    assert any(message in line for line in found), found
    if damage in (break_checksum, take_wheel_away):
        archive.write(tmp_path / "bad.wgn", tree, "zip")
        monkeypatch.setattr(installing, "target_pip", lambda _: ("false",))
        # A repaired wagon would have the checksums of what has come to be in it.
        for use in (installing.install, repair):
            with pytest.raises(WagonError, match="is damaged; nothing was done with it"):
                use(str(tmp_path / "bad.wgn"))


def test_a_wagon_for_another_platform_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both platforms named; --ignore-platform gets as far as pip."""
    made = str(wagon(tmp_path, supported_platform="win32"))
    monkeypatch.setattr(installing, "target_pip", lambda _: ("false",))

    with pytest.raises(WagonError, match="Platform unsupported for wagon") as refused:
        installing.install(made)
    assert "It is for win32." in refused.value.details
    with pytest.raises(PackagerError, match="Could not install package: thing"):
        installing.install(made, ignore_platform=True)


# --- what is asked for ----------------------------------------------------------------------------


def test_everything_wrong_with_an_order_is_named_before_anything_is_done(tmp_path: Path) -> None:
    """A kind of archive, a tag, a file and requirements that cannot be."""
    with pytest.raises(WagonError) as raised:
        creating.create(
            str(make_source(tmp_path / "source")), ["none.txt"], archive_format="tgz",
            build_tag="a/b", add_file=["none.yaml"], archive_destination_dir=tmp_path / "out",
        )  # fmt: skip
    assert [line.partition(" (")[0] for line in raised.value.details.splitlines()] == [
        "Unsupported archive format to create: tgz",
        "--build-tag a/b: only letters, digits, dots and underscores can be in it",
        "--add-file none.yaml: there is no such file",
        "-r none.txt: there is no such file",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ftp://host.example/x.zip", "Source URL type ftp is not supported"),
        ("./none", "there is no such file or folder, and it is no package's name either"),
        ("empty", "Source directory must contain a pyproject.toml or setup.py file"),
        ("text", "Failed to extract text"),
    ],
)
def test_a_source_that_is_none_is_named(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any pip is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("x")

    with pytest.raises(WagonError, match=message) as raised:
        creating.create(source)
    assert raised.value.code == Status.USAGE


def test_a_wagon_that_is_there_is_refused_before_its_wheels_are_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package's own wheel is known, and nothing else was fetched yet."""
    own = make_wheel(tmp_path / "own")
    (tmp_path / "thing-1.0-py311-none-any.wgn").touch()
    monkeypatch.setattr(pip, "ours", lambda _: ("pip",))
    monkeypatch.setattr(pip, "python_version", lambda _: "py311")
    monkeypatch.setattr(creating, "_own_wheel", lambda *_: own)
    monkeypatch.setattr(creating, "_collect", lambda *_: pytest.fail("wheels were collected"))

    with pytest.raises(WagonError, match="Destination archive already exists") as raised:
        creating.create("thing", archive_destination_dir=tmp_path)
    assert raised.value.resolution == "You can use the -f flag to overwrite."


def test_what_makes_a_wheel_leaves_no_byte_code_in_it() -> None:
    """It holds its source's time. It is packed where a setup.py imports what it is beside, and
    takes every file for the package's data."""
    assert pip.environment()["PYTHONDONTWRITEBYTECODE"] == "1"


def test_what_package_json_tells_of_the_source_is_no_secret(tmp_path: Path) -> None:
    """No path of this host, and no password; and no password in an argument of pip's."""
    source = make_source(tmp_path / "my-plugin")
    packed = shutil.make_archive(str(tmp_path / "main"), "zip", tmp_path, "my-plugin")

    assert sources.find(str(source), tmp_path / "work").told == "my-plugin"
    found = sources.find(f"file://{packed}", tmp_path)
    assert (found.told, found.argument) == ("main.zip", str(tmp_path / "fetched/main.zip"))
    with pytest.raises(WagonError, match="could not be fetched") as raised:
        sources.find("http://me:hidden@127.0.0.1:9/x.zip", tmp_path / "other")
    assert raised.value.code == Status.ENVIRONMENT
    assert "hidden" not in str(raised.value)
    named = "x @ https://me:hidden@h.example/x.zip"
    found = sources.find(named, tmp_path / "named")
    assert found.told == "x @ https://***@h.example/x.zip"
    assert "hidden" not in found.argument
    assert sources.find("x @ file:///a/b.zip#egg=x", tmp_path).told == "x @ b.zip#egg=x"
    file = Path(found.argument.partition("=")[2])
    assert (file.read_text(), file.stat().st_mode & 0o777) == (f"{named}\n", 0o600)


def test_a_full_disk_is_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever on the way it was met, and not only where `build` itself runs."""
    monkeypatch.setattr(contents, "show", lambda _: os.open(tmp_path / "no" / "file", os.O_RDONLY))

    assert alone(["show", "x.wgn"]) == Status.ENVIRONMENT
    assert capsys.readouterr().err.startswith("wagon: this host failed: [Errno 2] No such file")


# --- the command line -----------------------------------------------------------------------------


def test_both_command_lines_take_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`build wagon` and the packager's own: options, repeated ones, and files after SOURCE."""
    taken: list[dict[str, Any]] = []

    def take(options: argparse.Namespace) -> int:
        taken.append(vars(options))
        return 0

    create = COMMANDS["create"]._replace(run=take)
    monkeypatch.setitem(COMMANDS, "create", create)
    monkeypatch.setitem(ours.wagon.commands, "create", ours._command("create", create))
    words = ["create", ".", "-r", "a", "-r", "b", "-t", "tar.gz", "-f", "--pyver", "27"]
    words += ["--pip", "x", "--wheel-args=--no-deps", "-o", "out", "--add-file", "one", "two"]

    assert run(["wagon", *words]) == 0
    options = parser().parse_args(words)
    options.run(options)

    theirs = {key: value for key, value in taken[1].items() if key not in ("verbose", "run")}
    assert {**taken[0], "add_file": list(taken[0]["add_file"])} == {
        key: tuple(value) if isinstance(value, list) and key != "add_file" else value
        for key, value in theirs.items()
    }
    assert theirs["requirements_file"] == ["a", "b"]
    assert theirs["add_file"] == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "none.wgn"], ExitCode.USAGE, "none.wgn: there is no such file"),
        (["get-file", "thing.wgn", "-f", "x"], ExitCode.BUILD_FAILED, "does not exist"),
        (["install", "thing.wgn", "--venv", "x"], ExitCode.USAGE, "virtualenv x does not exist"),
        (["show", "http://me:x@127.0.0.1:9/x.wgn"], ExitCode.ENVIRONMENT, "***@127.0.0.1:9/x.wgn"),
        (["show", "ftp://h/x.wgn"], ExitCode.USAGE, "ftp is not supported"),
        (["repair", "text"], ExitCode.BUILD_FAILED, "valid zip or tar.gz"),
        (["create"], ExitCode.USAGE, "Missing argument"),
    ],
)
def test_a_mistake_is_words_and_an_exit_code(
    arguments: list[str], code: ExitCode, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """No trace, and one of the documented numbers."""
    monkeypatch.chdir(tmp_path)
    wagon(tmp_path)
    (tmp_path / "text").write_text("x")

    assert run(["wagon", *arguments]) == code
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said


OF_THE_ORIGINAL = {
    "create": "-r --requirements-file -t --format -f --force --keep-wheels -o --output-directory "
    "--pyver --build-tag --validate -a --wheel-args --pip --supported-platform --add-file",
    "install": "-r --requirements-file -u --upgrade --ignore-platform -a --install-args",
    "validate": "",
    "show": "",
    "repair": "--validate",
    "list-files": "",
    "get-file": "-f -o",
}


@pytest.mark.parametrize("name", OF_THE_ORIGINAL)
def test_a_command_takes_what_the_original_takes(name: str) -> None:
    """And what it takes beside that has other names."""
    understood = argparse.ArgumentParser(add_help=False)
    COMMANDS[name].add_options(understood)
    known = {word for action in understood._actions for word in action.option_strings}

    assert set(OF_THE_ORIGINAL[name].split()) <= known
    assert "source" in {action.dest for action in understood._actions}
    assert set(COMMANDS) == set(OF_THE_ORIGINAL)


@pytest.mark.parametrize("words", [[], ["-v"]])
def test_without_a_command_there_is_help(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And exit code 0, on both command lines; the original ended `wagon -v` with a trace."""
    assert run(["wagon", *words]) == alone(words) == 0
    assert capsys.readouterr().out.count("repair") == 2


@pytest.mark.parametrize("words", [["-v", "show"], ["show", "-v"]])
def test_verbose_may_be_said_anywhere(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the command as the original takes it, or after it."""
    log = logging.getLogger("build_orchestrator.agent")
    for command_line in (alone, lambda all_words: run(["wagon", *all_words])):
        log.setLevel(logging.INFO)
        assert command_line([*words, str(wagon(tmp_path))]) == 0
        assert log.level == logging.DEBUG
    assert capsys.readouterr().out.count('"package_name": "thing"') == 2


def test_a_repair_without_anything_to_repair_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And writes nothing; without auditwheel the host lacks something."""
    monkeypatch.chdir(tmp_path)
    made = wagon(tmp_path)
    shutil.rmtree(tmp_path / "made")

    assert run(["wagon", "repair", str(made)]) == 0
    assert "there is nothing to repair" in capfd.readouterr().err
    monkeypatch.setattr("build_orchestrator.agent.children.find", lambda _: None)
    assert run(["wagon", "repair", str(made)]) == ExitCode.HOST_NOT_READY
    assert [path.name for path in tmp_path.iterdir()] == ["thing.wgn"]
