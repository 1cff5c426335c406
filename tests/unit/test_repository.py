"""Promises about the files around the code: locks, verbs, addresses, names."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import PROVIDED

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
LOCKS = ("requirements.lock", "requirements-dev.lock")

# Whoever runs this decides where packages come from, so no file of ours names such a host.
INDEX_WORDS = (
    "archlinux", "alpinelinux", "centos", "crates", "debian", "docker", "fedoraproject", "npmjs",
    "opensuse", "pypi", "pythonhosted", "rubygems", "ubuntu",
)  # fmt: skip
# Debian has a package that is called docker.io.
INDEX_HOST = re.compile(
    rf"\b(?!docker\.io(?![/:]))(?:{'|'.join(INDEX_WORDS)})\.(?:com|io|net|org)\b", re.IGNORECASE
)
HOME_FOLDER = re.compile(r"(?<![\w.$}~/*-])/(?:home|Users)/[a-z_][\w-]*", re.IGNORECASE)


def committed() -> list[Path]:
    """The text files that git has here; links and pictures are not text."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    paths = [ROOT / name for name in listed if name]
    return [path for path in paths if path.is_file() and not path.is_symlink() and is_text(path)]


def is_text(path: Path) -> bool:
    return b"\0" not in path.read_bytes()[:8192]


def lines_with(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """Every line of the files in which the pattern is found, as ``file:line: match``."""
    return [
        f"{path}:{number}: {found.group()}"
        for path in paths
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if (found := pattern.search(line))
    ]


def place_of(checkout: Path) -> re.Pattern[str]:
    """Finds the absolute path of a checkout, and nothing where it is too short to mean one."""
    if len(checkout.parts) < 3:
        return re.compile(r"(?!)")
    return re.compile(rf"(?<![\w.$}}~/*-]){re.escape(str(checkout))}(?![\w.-])")


def verbs() -> list[str]:
    """The verbs that the Makefile declares for people: its first .PHONY line."""
    found = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert found is not None

    return found[1].split()


def requirements(lock: str) -> dict[str, str]:
    """Name and all else of every requirement in a lock file, with joined lines, no comments."""
    text = (ROOT / lock).read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {line.split("==")[0]: line.partition("==")[2] for line in lines}


def test_no_file_names_the_host_of_an_index() -> None:
    """Package hosts come from the machine that runs this, never from our files."""
    assert lines_with(INDEX_HOST, committed()) == []


def test_no_file_names_a_place_of_one_machine() -> None:
    """No home folder, and not the place where this checkout happens to lie."""
    assert lines_with(HOME_FOLDER, committed()) == []
    assert lines_with(place_of(ROOT), committed()) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (INDEX_HOST, "index-url = https://" + "pypi" + ".org/simple"),
        (INDEX_HOST, "deb http://deb." + "debian" + ".org/debian bookworm main"),
        (HOME_FOLDER, "cd /ho" + "me/anna/project"),
        (place_of(Path("/srv/anna/project")), "see /srv/anna/project/README.md"),
    ],
)
def test_a_named_place_is_seen(tmp_path: Path, pattern: re.Pattern[str], line: str) -> None:
    """A pattern that would find nothing guards nothing."""
    (tmp_path / "file").write_text(f"one\n{line}\n")

    assert len(lines_with(pattern, [tmp_path / "file"])) == 1


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (INDEX_HOST, "debian_bookworm and /etc/apt/sources.list.d/debian.sources"),
        (HOME_FOLDER, "$root/home/anna and https://example.org/home/page"),
        (place_of(Path("/srv/project")), "/srv/projects and $root/srv/project"),
        (place_of(Path("/build")), "/build/"),
    ],
)
def test_other_words_are_left_alone(tmp_path: Path, pattern: re.Pattern[str], line: str) -> None:
    """What only looks like a place is none."""
    (tmp_path / "file").write_text(line)

    assert lines_with(pattern, [tmp_path / "file"]) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_and_hashes_everything(lock: str) -> None:
    """Every line is one version with at least one hash, and no address, path or option."""
    found = requirements(lock)

    assert found
    for name, rest in found.items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", name)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", rest)
        assert not re.search(r"://|@|--(?!hash=)", rest)


def test_both_locks_agree() -> None:
    """What runs is what was tested: the developers' lock holds all of the other, unchanged."""
    runtime, dev = (requirements(lock) for lock in LOCKS)

    assert runtime.items() <= dev.items()


def test_locks_hold_what_pyproject_names() -> None:
    """A dependency that was added without `make lock` is seen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = project["dependency-groups"]
    wanted = {
        LOCKS[0]: project["project"]["dependencies"] + groups["install"],
        LOCKS[1]: groups["dev"],
    }
    for lock, names in wanted.items():
        plain = {re.split(r"[\[<>=!~; ]", name)[0].lower() for name in names}
        assert plain <= requirements(lock).keys()


def test_every_verb_has_a_help_text() -> None:
    """`make` alone explains every verb, and every explained verb is phony."""
    explained = re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE)

    assert sorted(explained) == sorted(verbs())


def test_no_verb_is_a_file() -> None:
    """Every target without a file is phony, so that a folder `build` or `test` hides nothing."""
    phony = {name for line in re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
             for name in line.split()}  # fmt: skip
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))

    assert targets == phony


@pytest.mark.parametrize("verb", verbs())
def test_make_can_plan_every_verb(verb: str) -> None:
    """`make -n` finds a way to do each verb, also when `make test` itself is running."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", "--dry-run", verb],
        cwd=ROOT, env=environment, capture_output=True, check=False, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def test_host_packages_knows_every_command() -> None:
    """setup/host-packages has a row for each command that the Makefile or a test asks for."""
    script = (ROOT / "setup" / "host-packages").read_text("utf-8")
    rows = re.findall(r"^([a-z][\w-]*)(?: +[\w.-]+){3}$", script, re.MULTILINE)
    asked = " ".join(re.findall(r"^[A-Z]+_COMMANDS := (.*)$", MAKEFILE, re.MULTILINE)).split()
    asked = [name for name in asked if not name.startswith("$")]

    assert set(asked) == set(rows)
    assert set(asked) - {"venv"} == PROVIDED


def test_every_line_ends_as_its_system_reads_it() -> None:
    """Wherever it was checked out: a shell fails at a carriage return, and cmd may lose a label
    without one."""
    listed = subprocess.run(
        ["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.splitlines()
    ends = [(name, how.split()[:2]) for how, name in (line.split("\t") for line in listed)]
    wrong = [
        (name, how)
        for name, how in ends
        if how[0] in ("i/lf", "i/crlf", "i/mixed")  # Others have no lines.
        and how != ["i/lf", "w/crlf" if name.endswith(".bat") else "w/lf"]
    ]
    assert wrong == []
    assert ("provision/provision.windows.bat", ["i/lf", "w/crlf"]) in ends


@pytest.mark.parametrize("script", [".ci/run", "setup/host-packages"])
def test_scripts_can_be_run(script: str) -> None:
    """The scripts that people and CI call are executable."""
    assert (ROOT / script).stat().st_mode & 0o111 == 0o111


def test_ci_runs_the_test_command() -> None:
    """CI has no way of its own to test: it calls `make test`."""
    assert re.search(r"^make test\b", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)


def test_the_changelog_has_a_place_for_news() -> None:
    """Every change finds the heading under which its line belongs."""
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_license_is_whole() -> None:
    """The file is the license that pyproject.toml names."""
    text = (ROOT / "LICENSE").read_text("utf-8")

    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
