"""Promises about the documentation: links, pages, invariants, codes, commands, words."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from build_orchestrator.cli import COMMANDS
from build_orchestrator.cli.reference import page
from build_orchestrator.errors import ExitCode
from tests.unit.test_layers import PACKAGE, ROOMS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
ARCHITECTURE = ROOT / "ARCHITECTURE.md"

LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?!https?:|mailto:)([^)\s]*)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
INVARIANT = re.compile(r"\*\*Architecture Invariant:\*\*.*?(?=\n\n|\n- |\Z)", re.DOTALL)
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")

# Other words for our nouns, which mean nothing else in these pages.
NEVER_SAID = re.compile(
    r"\b(platforms?|backends?|instances?|guests?|upload\w*|orphan\w*|hypervisors?|VMs)\b",
    re.IGNORECASE,
)


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", text)


def links(place: Path, text: str) -> Iterator[tuple[Path, str]]:
    """File and anchor of every relative link in a page."""
    for target in LINK.findall(prose(text)):
        file, _, anchor = target.partition("#")
        yield (place.parent / file).resolve() if file else place, anchor


def anchors(text: str) -> set[str]:
    """The names by which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(place: Path, text: str) -> list[str]:
    """Every relative link of a page that leads nowhere."""
    found = []
    for file, anchor in links(place, text):
        if not file.exists():
            found.append(f"{place.name}: {file} is not there")
        elif anchor and anchor not in anchors(file.read_text("utf-8")):
            found.append(f"{place.name}: {file.name} has no heading {anchor}")
    return found


def reachable(start: Path) -> set[Path]:
    """Every page that a reader gets to by following links."""
    seen, new = set(), {start}
    while new:
        here = new.pop()
        seen.add(here)
        pages = {file for file, _ in links(here, here.read_text("utf-8")) if file.suffix == ".md"}
        new |= {file for file in pages if file.exists()} - seen
    return seen


def invariants_without_a_test(text: str) -> list[str]:
    """Every invariant that names no test, or one that does not exist."""
    found = []
    for invariant in INVARIANT.findall(text):
        tests = TEST.findall(invariant)
        if not tests:
            found.append(f"names no test: {invariant}")
        found += [f"there is no {file}::{name}" for file, name in tests if not is_test(file, name)]
    return found


def is_test(file: str, name: str) -> bool:
    path = ROOT / file
    if not path.is_file():
        return False
    functions = functions_in(path)
    return name in functions if name else any(each.startswith("test_") for each in functions)


@functools.cache
def functions_in(path: Path) -> set[str]:
    """Every function of a module; many invariants name tests of the same one."""
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def commands_in(text: str) -> set[str]:
    """Each word that follows `build` where a page talks of a command."""
    return set(re.findall(r"`build ([a-z]+)[ `]", text))


@pytest.mark.parametrize("place", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(place: Path) -> None:
    """File and heading of each relative link are there."""
    assert broken_links(place, place.read_text("utf-8")) == []


@pytest.mark.parametrize("link", ["[x](no-such-page.md)", "[x](#no-such-heading)", "[x](docs#y)"])
def test_a_link_into_nothing_is_seen(link: str, tmp_path: Path) -> None:
    """A check that would find nothing guards nothing."""
    (tmp_path / "page.md").write_text(f"# A page\n{link}\n")
    if "docs" in link:
        (tmp_path / "docs").write_text("# x\n")

    assert len(broken_links(tmp_path / "page.md", (tmp_path / "page.md").read_text())) == 1


def test_every_page_can_be_reached() -> None:
    """Whoever starts at docs/README.md finds all pages."""
    assert sorted(set(PAGES) - reachable(INDEX)) == []


def test_every_invariant_names_a_test_that_exists() -> None:
    """An invariant that nobody checks is a wish."""
    text = ARCHITECTURE.read_text("utf-8")

    assert len(INVARIANT.findall(text)) >= 20
    assert invariants_without_a_test(text) == []


@pytest.mark.parametrize("names", ["", "`tests/unit/test_none.py`", "`tests/unit/test_docs.py::x`"])
def test_an_invariant_without_a_test_is_seen(names: str) -> None:
    """No test, no such file, no such function."""
    assert len(invariants_without_a_test(f"- **Architecture Invariant:** so it is. {names}")) == 1


def test_the_rooms_are_all_described_in_their_order() -> None:
    """ARCHITECTURE.md has every room that has code, lowest first."""
    section = ARCHITECTURE.read_text("utf-8").split("## Rooms")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    described = re.findall(r"`(\w+)`", " ".join(cells))
    built = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("_")} - {"py"}

    assert described == [room for room in ROOMS if room in built]


def test_every_exit_code_is_explained() -> None:
    """Each code has a row with its number and its name."""
    text = (DOCS / "reference/exit-codes.md").read_text("utf-8")

    assert [code for code in ExitCode if f"| {code.value} | `{code.name}` |" not in text] == []


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    """The page has what `--help` says, for every command."""
    text = (DOCS / "reference/commands.md").read_text("utf-8")
    again = "python -m build_orchestrator.cli.reference >docs/reference/commands.md"

    assert text == page(), f"write it again: {again}"
    assert [name for name in COMMANDS if f"\n## build {name}\n" not in text] == []


def test_only_commands_that_exist_are_promised() -> None:
    """Wherever a page says `build X`, X is a command."""
    found = {name for place in PAGES for name in commands_in(place.read_text("utf-8"))}

    assert len(found) >= 8
    assert found - set(COMMANDS) == set()


def test_every_rule_of_evidence_is_explained() -> None:
    """What the report shows under "decided by" can be looked up."""
    source = "".join((PACKAGE / name).read_text("utf-8")
                     for name in ("evidence.py", "pipeline/attempt.py"))  # fmt: skip
    rules = set(re.findall(r'Verdict\((?:True|False), "([\w-]+)"|rule = "([\w-]+)"', source))
    names = {name for pair in rules for name in pair if name}
    text = (DOCS / "explanation/environment-or-build-failure.md").read_text("utf-8")

    assert len(names) >= 8
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_pinned_box_is_listed_with_what_is_known_of_it() -> None:
    """Box, version and targets are those of targets.yaml, no more and no less."""
    matrix = yaml.safe_load((ROOT / "targets.yaml").read_text("utf-8"))
    pinned = {
        (row["image"]["box"], str(row["image"]["version"]), f"{name}_{provider}")
        for name, distro in matrix["distros"].items()
        for provider, row in distro["providers"].items()
        if "box" in row["image"]
    }
    text = (DOCS / "reference/boxes.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| ([\w.]+) \| ([^|]+) \|", text, re.MULTILINE)
    listed = {(box, version, each) for box, version, many in rows for each in CODE.findall(many)}

    assert {(box, version, target.strip("`")) for box, version, target in listed} == pinned


@pytest.mark.parametrize("place", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_words_are_used(place: Path) -> None:
    """One word for one idea: none of the other words for our nouns stands in the prose."""
    text = CODE.sub("", prose(place.read_text("utf-8")))

    assert NEVER_SAID.findall(text) == []


def test_another_word_is_seen() -> None:
    """The pattern finds what it is made for."""
    assert NEVER_SAID.findall("Upload it to two instances.") == ["Upload", "instances"]
