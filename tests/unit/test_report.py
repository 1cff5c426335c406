"""The report as a table, JSON, JUnit and HTML."""

from __future__ import annotations

import html.parser
import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_orchestrator.errors import UsageError
from build_orchestrator.model import (
    Artifact,
    Failure,
    MachineFate,
    Outcome,
    Published,
    PublishedArtifact,
    Report,
    Result,
    Stage,
)
from build_orchestrator.report import decode, encode, junit, summary, table
from build_orchestrator.report import html as page_of
from build_orchestrator.report.characters import duration, fit_for_xml, harmless, size

SHA256 = "0123456789abcdef" * 4
NASTY = "</pre><script>alert(1)</script> ]]> & \x1b[31mred\x1b[0m \x00\x08\ud800\ufffe"

BUILT = Result(
    target="debian_bookworm_qemu",
    outcome=Outcome.BUILT,
    machine=MachineFate.DESTROYED,
    published=(
        PublishedArtifact(
            destination="dist",
            name="Debian-bookworm-agent.tar.gz",
            url="dist/dev/012345678901/Debian-bookworm-agent.tar.gz",
            state=Published.YES,
        ),
    ),
    artifacts=(
        Artifact(
            name="Debian-bookworm-agent.tar.gz",
            path="runs/r1/debian_bookworm_qemu/Debian-bookworm-agent.tar.gz",
            size_bytes=12_345_678,
            sha256=SHA256,
            md5="0" * 32,
        ),
    ),
    attempts=1,
    stages_s={Stage.QUEUE: 0.0, Stage.BOOT: 4.25, Stage.PROVISION: 62.0, Stage.DESTROY: 0.1},
    start="warm",
    host_key="image",
    key="ab" * 32,
    log="runs/r1/debian_bookworm_qemu/log.txt",
)
FAILED = Result(
    target="debian_trixie_qemu",
    outcome=Outcome.FAILED,
    machine=MachineFate.KEPT,
    kept_until="2026-11-21T05:45:00Z",
    attempts=2,
    stages_s={Stage.BOOT: 3.0, Stage.PROVISION: 1.0},
    log="runs/r1/debian_trixie_qemu/log.txt",
    failure=Failure(
        stage="provision",
        brief="the script ended with status 7",
        details="provision/provision.sh\non the machine",
        resolution="Read the last lines.\nThen repair the script.",
        rule="the machine was alive, its disk had room",
    ),
)
LOST = Result(
    target="debian_bullseye_qemu",
    outcome=Outcome.ENVIRONMENT,
    machine=MachineFate.LEAKED,
    machine_name="bo-1-debian_bullseye_qemu-1",
    failure=Failure(stage="boot", brief=f"lost {NASTY}", details=NASTY),
    log="runs/r1/debian_bullseye_qemu/log.txt",
)
CANCELLED = Result(target="windows_2022_qemu", outcome=Outcome.CANCELLED, machine=MachineFate.NONE)
TAILS = {"debian_trixie_qemu": ("line one", f"line {NASTY}"), "debian_bookworm_qemu": ("fine",)}


def report(*results: Result) -> Report:
    return Report(
        run_id="20261121T014500Z-3f9c",
        run_uuid="0" * 32,
        started_at="2026-11-21T01:45:00Z",
        seconds=70.5,
        exit_code=5,
        results=results,
    )


EVERYTHING = report(BUILT, FAILED, LOST, CANCELLED)


# --- the terminal -------------------------------------------------------------------------------


def test_a_wide_terminal_gets_one_row_per_target() -> None:
    """Where there is room, a target is a row that holds everything about it."""
    head, built, failed, *_ = table(EVERYTHING.results, columns=250).splitlines()
    assert " ".join(head.split()) == (
        "target outcome machine published attempts boot provision destroy size sha256 log"
    )
    assert " ".join(built.split()) == (
        "debian_bookworm_qemu built destroyed yes 1 4.2s 1m02s 0.1s 12.3 MB 0123456789ab "
        "runs/r1/debian_bookworm_qemu/log.txt"
    )
    assert "kept until 2026-11-21T05:45:00Z" in failed


@pytest.mark.parametrize("columns", [20, 80, 120])
def test_a_narrow_terminal_gets_paragraphs(columns: int) -> None:
    """Where a row does not fit, nothing is cut: every fact stands on a line of its own."""
    lines = table(EVERYTHING.results, columns=columns).splitlines()
    assert lines[:6] == [
        "debian_bookworm_qemu  built",
        "  machine   destroyed",
        "  published yes",
        "  stages    boot 4.2s, provision 1m02s, destroy 0.1s",
        f"  artifact  Debian-bookworm-agent.tar.gz, 12.3 MB, sha256 {SHA256}",
        "  log       runs/r1/debian_bookworm_qemu/log.txt",
    ]
    assert "  machine   kept until 2026-11-21T05:45:00Z, 2 attempts" in lines


@pytest.mark.parametrize("columns", [80, 250])
def test_colour_only_when_asked_for(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text has no escape codes, whatever the environment says; colour adds nothing else."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    plain = summary(EVERYTHING, columns=columns, tails=TAILS)
    colour = summary(EVERYTHING, columns=columns, tails=TAILS, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[32mbuilt" in colour
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", colour)
    assert re.sub(" +\n", "\n", stripped) == re.sub(" +\n", "\n", plain)


def test_destinations_that_differ_are_named() -> None:
    """Where one destination has the artifact and another has not, each is shown."""
    elsewhere = PublishedArtifact(
        destination="s3://b", name="a", url="s3://b/a", state=Published.NO
    )
    half = Result(
        target="t",
        outcome=Outcome.BUILT,
        machine=MachineFate.DESTROYED,
        published=(*BUILT.published, elsewhere),
    )
    assert "published dist yes, s3://b no" in table([half], columns=50)


def test_a_failure_says_what_where_why_and_what_to_try() -> None:
    """The block of a failed target has all that a person needs, and ends with the last lines."""
    text = summary(EVERYTHING, columns=80, tails=TAILS)
    assert (
        "debian_trixie_qemu: provision: the script ended with status 7\n"
        "  provision/provision.sh\n"
        "  on the machine\n"
        "  try: Read the last lines.\n"
        "       Then repair the script.\n"
        "  decided by: the machine was alive, its disk had room\n"
        "  log: runs/r1/debian_trixie_qemu/log.txt\n"
        "  last lines:\n"
        "  | line one\n"
        "  | line </pre><script>alert(1)</script> ]]> & red \n"
    ) in text
    assert "| fine" not in text


def test_the_end_says_what_there_is() -> None:
    """Kept machines, machines that may live, and published artifacts are named."""
    text = summary(EVERYTHING, columns=80)
    assert "debian_trixie_qemu: its machine is kept until 2026-11-21T05:45:00Z" in text
    assert "bo-1-debian_bullseye_qemu-1" in text
    assert "`build sweep`" in text
    assert text.endswith("artifacts:\n  dist/dev/012345678901/Debian-bookworm-agent.tar.gz\n")


def test_a_hundred_targets_and_none() -> None:
    """The table of no targets is empty, and of many has a row each."""
    assert table([], columns=80) == ""
    assert len(table([BUILT] * 100, columns=250).splitlines()) == 101


# --- JSON ---------------------------------------------------------------------------------------


def test_json_round_trip() -> None:
    """What is decoded is what was encoded, and a program finds plain names in it."""
    assert decode(encode(EVERYTHING)) == EVERYTHING
    document = json.loads(encode(EVERYTHING))
    assert document["schema"] == 1
    assert document["results"][1]["outcome"] == "failed"
    assert document["results"][0]["stages_s"]["boot"] == 4.25


@given(st.text(), st.floats(0, 1e9))
def test_json_round_trip_of_any_text(text: str, seconds: float) -> None:
    """Any text survives, as does a path that is no UTF-8."""
    odd = Result(
        target="t",
        outcome=Outcome.FAILED,
        machine=MachineFate.NONE,
        log=text + "\udc80",
        stages_s={Stage.BOOT: seconds},
    )
    assert decode(encode(report(odd))) == report(odd)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', "\x00"])
def test_something_else_is_no_report(text: str) -> None:
    """A file that is no report is a usage error, not a stack trace."""
    with pytest.raises(UsageError):
        decode(text)


def test_another_schema_is_refused() -> None:
    """A report of a later schema is not guessed at."""
    with pytest.raises(UsageError, match="schema 2"):
        decode(encode(EVERYTHING).replace('"schema": 1', '"schema": 2'))


# --- JUnit --------------------------------------------------------------------------------------


def test_junit() -> None:
    """Targets are test cases; failed, environment and cancelled are failure, error and skipped."""
    root = ElementTree.fromstring(junit(EVERYTHING, tails=TAILS))
    (suite,) = root
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    assert suite.get("timestamp") == "2026-11-21T01:45:00"
    built, failed, lost, cancelled = suite.findall("testcase")
    assert built.get("name") == "debian_bookworm_qemu"
    assert built.get("time") == "66.350"
    assert {child.tag for child in built} == {"properties", "system-out"}
    properties = {one.get("name"): one.get("value") for one in built.iter("property")}
    assert properties["outcome"] == "built"
    assert properties["sha256 Debian-bookworm-agent.tar.gz"] == SHA256
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("message") == "provision: the script ended with status 7"
    assert "Then repair the script." in (failure.text or "")
    assert lost.find("error") is not None
    assert cancelled.find("skipped") is not None
    output = failed.findtext("system-out") or ""
    assert output.startswith("line one\nline </pre>")
    assert output.endswith("log: runs/r1/debian_trixie_qemu/log.txt")


@pytest.mark.parametrize(
    ("state", "kind"), [(Published.CONFLICT, "failure"), (Published.NO, "error")]
)
def test_junit_of_a_build_that_is_not_published(state: Published, kind: str) -> None:
    """A conflict is the build's failure; a destination out of reach is an error around it."""
    place = PublishedArtifact(destination="d", name="a", url="d/a", state=state)
    row = Result(
        target="t", outcome=Outcome.BUILT, machine=MachineFate.DESTROYED, published=(place,)
    )
    assert ElementTree.fromstring(junit(report(row))).find(f".//{kind}") is not None


@given(st.text(st.characters()))
def test_junit_is_xml_whatever_was_said(text: str) -> None:
    """Characters that XML forbids are removed, and the rest comes back as it was."""
    row = Result(target="t", outcome=Outcome.BUILT, machine=MachineFate.DESTROYED, log=text)
    root = ElementTree.fromstring(junit(report(row), tails={"t": [text]}).encode())
    said = root.findtext(".//system-out") or ""
    # Lines that end in a bare return join with what follows: the text is fit as a whole.
    assert said == fit_for_xml(f"{text}\nlog: {text}")


# --- HTML ---------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "rect"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_html_is_one_safe_page() -> None:
    """The page is well nested, loads nothing, and what a machine said stays text."""
    page = Page(page_of(EVERYTHING, tails=TAILS))
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe"}
    assert not any({"src", "style", "onclick"} & attributes.keys() for _, attributes in page.tags)
    assert "<script>alert(1)</script>" in page.words
    assert "\x1b" not in page.words
    for words in (
        SHA256,
        "12.3 MB",
        "the script ended with status 7",
        "until 2026-11-21T05:45:00Z",
    ):
        assert words in page.words


def test_html_links_web_addresses_only() -> None:
    """An address that could be a script is no link."""
    places = [
        PublishedArtifact(destination="d", name="a", url=url, state=Published.YES)
        for url in ("https://files/a", "javascript:alert(1)", "s3://b/a")
    ]
    row = Result(
        target="t", outcome=Outcome.BUILT, machine=MachineFate.NONE, published=tuple(places)
    )
    tags = Page(page_of(report(row))).tags
    assert [attributes["href"] for tag, attributes in tags if tag == "a"] == ["https://files/a"]


def test_html_waterfall() -> None:
    """A build's bars follow one another, and the longest build fills the width."""
    page = Page(page_of(EVERYTHING))
    drawn = [attributes for tag, attributes in page.tags if tag == "rect" and "x" in attributes]
    ours = [(float(one["x"] or 0), float(one["width"] or 0)) for one in drawn[:4]]
    ends = [round(x + width, 1) for x, width in ours]
    assert [x for x, _ in ours[1:]] == pytest.approx(ends[:-1], abs=0.2)
    assert ends[-1] == pytest.approx(1000, abs=0.2)


def test_html_of_nothing() -> None:
    """A run without builds has a page, too."""
    assert Page(page_of(report())).open == []


# --- characters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\tb", "a       b"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("\x1b[2J\x1b[Hgone\x1bc", "gone"),
        (" 10%\r 20%\r", " 20%"),
        ("a\x00\x08\x7fb\x85\u202ec\ud800", "abc"),
        ("日本 ö", "日本 ö"),
        ("\r", ""),
    ],
)
def test_harmless(text: str, shown: str) -> None:
    """Output reads as on a terminal, and cannot steer one."""
    assert harmless(text) == shown


@given(st.text(st.characters() | st.sampled_from("\x1b[]m;\x07\r\x9b")))
def test_harmless_leaves_no_control_character(text: str) -> None:
    """No control character is left, whatever a machine says."""
    assert not re.search("[\x00-\x1f\x7f-\x9f]", harmless(text))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0s"), (59.94, "59.9s"), (59.96, "1m00s"), (3599.6, "1h00m"), (7384, "2h03m")],
)
def test_duration(seconds: float, words: str) -> None:
    """Durations are short, and never say 60 seconds."""
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (5 * 10**12, "5.0 TB")],
)
def test_size(count: int, words: str) -> None:
    """Sizes have one decimal, and never say 1000 of a unit."""
    assert size(count) == words
