"""Only whole, declared outputs are collected, and an archive is looked at to its last byte."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_orchestrator.collect import (
    _Digested,
    _problems_inside,
    collect,
    collect_partial,
    sidecars,
    verify,
    write_sidecars,
)
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    Interrupted,
    MachineLost,
    VerificationFailed,
)
from build_orchestrator.machine.fake import FakeMachine
from build_orchestrator.model import Artifact, Build, Identity, Output
from tests.contract.publishing import build_to

AGENT = Output(name="agent.tar.gz", members="cloudify/env/")
OUTPUT = PurePosixPath("/output")
NO_GZIP = "is not gzip to its end: Error -3 while decompressing data: incorrect header check"


def file(name: str, content: bytes = b"content") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def odd(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = link
    return member, b""


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return odd(name, tarfile.DIRTYPE)


def symlink(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return odd(name, tarfile.SYMTYPE, to)


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


PYTHON = file("cloudify/env/bin/python3")
GOOD = tar(PYTHON, file("cloudify/env/lib/large", os.urandom(100_000)))


def problems_of(content: bytes, members: str = "cloudify/env/") -> list[str]:
    """What is wrong with a .tar.gz of these bytes."""
    source = _Digested(io.BytesIO(content), lambda: None)
    return _problems_inside(source, Output(name="agent.tar.gz", members=members))


def left(place: Path, files: dict[str, bytes]) -> Path:
    """A folder in which a script has left these files."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


def build_of(*outputs: Output) -> Build:
    return dataclasses.replace(build_to(), outputs=outputs)


def machine_at(place: Path, **options: str) -> FakeMachine:
    identity = Identity(
        provider="fake", name="bo", run_uuid="0", target="t", attempt=1, folder=str(place)
    )
    return FakeMachine(identity, options)


def soon() -> Deadline:
    return Deadline("collect", 30)


# --- verify ------------------------------------------------------------------------------------


def test_a_declared_output_becomes_an_artifact_with_its_digests(tmp_path: Path) -> None:
    """Size, SHA-256 and MD5 are those of the file, and the order is that of the declaration."""
    archive = gzip.compress(GOOD)
    left(tmp_path, {"agent.tar.gz": archive, "notes.txt": b"hello"})

    notes, agent = verify(tmp_path, (Output(name="notes.txt"), AGENT))

    assert agent == Artifact(
        name="agent.tar.gz",
        path=str(tmp_path / "agent.tar.gz"),
        size_bytes=len(archive),
        sha256=hashlib.sha256(archive).hexdigest(),
        md5=hashlib.md5(archive).hexdigest(),
    )
    assert (notes.size_bytes, notes.md5) == (5, "5d41402abc4b2a76b9719d911017c592")


def test_everything_wrong_is_named_at_once(tmp_path: Path) -> None:
    """Missing, undeclared, empty and odd outputs, and a bad archive, come in one error."""
    left(tmp_path, {"empty": b"", "extra": b"x", "agent.tar.gz": b"no gzip"})
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to("extra")
    (tmp_path / "surprise").mkdir()
    names = ("missing", "empty", "place", "link")

    with pytest.raises(VerificationFailed) as caught:
        verify(tmp_path, (*(Output(name=name) for name in names), AGENT))

    assert caught.value.brief == "7 problems with the script's outputs"
    assert caught.value.details.splitlines() == [
        "'extra': is not declared",
        "'surprise': is not declared (a folder)",
        "missing: is missing",
        "empty: is empty",
        "place: is not a plain file",
        "link: is not a plain file",
        f"agent.tar.gz: {NO_GZIP}",
    ]


def test_verifying_stops_at_its_deadline_and_when_asked_to(tmp_path: Path) -> None:
    """A large output cannot outlast the stage, nor hold up an interruption."""
    left(tmp_path, {"notes.txt": b"hello"})
    outputs = (Output(name="notes.txt"),)
    cancel = Cancel()
    cancel.set(2)

    with pytest.raises(DeadlineExceeded):
        verify(tmp_path, outputs, deadline=Deadline("collect", 0))
    with pytest.raises(Interrupted):
        verify(tmp_path, outputs, cancel=cancel)


def test_sidecars_are_what_sha256sum_and_md5sum_check(tmp_path: Path) -> None:
    """Beside an artifact lie ``<hex> <name>`` files that the usual programs understand."""
    left(tmp_path, {"notes.txt": b"hello"})
    [notes] = verify(tmp_path, (Output(name="notes.txt"),))

    write_sidecars(notes)

    assert (tmp_path / "notes.txt.md5").read_text() == f"{notes.md5} notes.txt\n"
    assert [name for name, _ in sidecars(notes)] == ["notes.txt.sha256", "notes.txt.md5"]
    for program in ("sha256", "md5"):
        argv = [f"{program}sum", "-c", f"notes.txt.{program}"]
        subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True)


# --- archives ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members",
    [
        [PYTHON],
        [folder("./"), folder("./cloudify"), folder("./cloudify/env"), file("./cloudify/env/x")],
        [folder("cloudify/env/bin"), PYTHON, symlink("cloudify/env/bin/python", "python3")],
        [PYTHON, symlink("cloudify/env/bin/python", "/usr/bin/python3")],
        [PYTHON, symlink("cloudify/env/lib64", "lib"), symlink("cloudify/env/a/b", "../bin")],
        [PYTHON, odd("cloudify/env/bin/python", tarfile.LNKTYPE, "./cloudify/env/bin/python3")],
        [file("cloudify/env/" + "long/" * 60 + "name"), file("cloudify/env/\udcff\u00e9")],
    ],
)
def test_a_tree_below_the_declared_folder_is_fine(
    members: list[tuple[tarfile.TarInfo, bytes]],
) -> None:
    """Parent folders, links inside the tree, and links to the system's interpreter may be there."""
    assert problems_of(gzip.compress(tar(*members))) == []


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (file("/cloudify/env/x"), "is an absolute path"),
        (file("cloudify/env/../x"), "has .. in its path"),
        (file("etc/passwd"), "lies outside cloudify/env/"),
        (file("cloudify/other"), "lies outside cloudify/env/"),
        (file("cloudify/environment"), "lies outside cloudify/env/"),
        (symlink("cloudify/env", "elsewhere"), "lies outside cloudify/env/"),
        (PYTHON, "is there twice"),
        (file("./cloudify//env/bin/python3"), "is there twice"),
        (file("cloudify/env/bin/python3/x"), "lies below 'cloudify/env/bin/python3'"),
        (odd("cloudify/env/null", tarfile.CHRTYPE), "is neither file, folder nor link"),
        (odd("cloudify/env/disk", tarfile.BLKTYPE), "is neither file, folder nor link"),
        (odd("cloudify/env/pipe", tarfile.FIFOTYPE), "is neither file, folder nor link"),
        (odd("cloudify/env/what", b"Z"), "is neither file, folder nor link"),
        (symlink("cloudify/env/x", "/etc/passwd"), "leads out of the tree"),
        (symlink("cloudify/env/x", "/usr/../etc/passwd"), "leads out of the tree"),
        (symlink("cloudify/env/x", "../x"), "leads out of the tree"),
        (symlink("cloudify/env/a/x", "../../x"), "leads out of the tree"),
        (symlink("cloudify/env/x", "bin/../../.."), "leads out of the tree"),
        (odd("cloudify/env/x", tarfile.LNKTYPE, "/etc/passwd"), "is no file before it"),
        (odd("cloudify/env/x", tarfile.LNKTYPE, "/cloudify/env/bin/python3"), "is no file before"),
        (odd("cloudify/env/x", tarfile.LNKTYPE, "cloudify/env/later"), "is no file before it"),
    ],
)
def test_a_member_that_does_harm_is_named(
    member: tuple[tarfile.TarInfo, bytes], problem: str
) -> None:
    """No member may lie, or lead, outside of the tree, be a device, or replace another one."""
    found, *_ = problems_of(gzip.compress(tar(PYTHON, member)))

    assert problem in found


def test_nothing_is_written_through_a_link_whichever_comes_first() -> None:
    """A member below a link would land where the link leads, so it may not be there."""
    link, below = symlink("cloudify/env/x", "/usr/lib"), file("cloudify/env/x/evil")

    for members in ([link, below], [below, link]):
        assert problems_of(gzip.compress(tar(*members))) == [
            "member 'cloudify/env/x/evil' lies below 'cloudify/env/x'"
        ]


def test_an_archive_without_a_single_member_in_its_folder_fails() -> None:
    """An empty tar is valid gzip and valid tar, and still no agent."""
    nothing = ["holds nothing below cloudify/env/"]

    assert problems_of(gzip.compress(tar())) == nothing
    assert problems_of(gzip.compress(tar(folder("cloudify"), folder("cloudify/env")))) == nothing
    assert problems_of(gzip.compress(tar(file("anything"))), members="") == []


def test_a_long_list_of_problems_is_cut() -> None:
    """A thousand bad members give a message that can be read."""
    problems = problems_of(gzip.compress(tar(*(file(f"bad/{n}") for n in range(1000)))))

    assert len(problems) == 11
    assert problems[-1] == "and 991 more"


def ends(content: bytes) -> Iterable[tuple[str, bytes]]:
    """The same archive, with each of the endings that a mishap gives it."""
    whole = gzip.compress(content)
    yield "is truncated", whole[:-1]
    yield "is truncated", whole[: len(whole) // 2]
    yield "is not gzip to its end", whole + b"garbage"
    yield "is not gzip to its end", whole + b"\0\0\0\0"
    yield "is not gzip to its end", whole[:-8] + b"\0\0\0\0" + whole[-4:]
    yield "does not end as a tar does", gzip.compress(content[:-10240])
    yield "does not end as a tar does", whole + gzip.compress(tar(file("cloudify/env/hidden")))
    yield "unexpected end of data", gzip.compress(content[:50_000])
    yield "holds a damaged header", gzip.compress(content[:1024] + b"X" * 512 + content[1536:])


@pytest.mark.parametrize(("problem", "content"), list(ends(GOOD)))
def test_an_archive_must_be_whole_to_its_very_end(problem: str, content: bytes) -> None:
    """What an interrupted or careless writer leaves is found, in gzip and in the tar inside it."""
    [found] = problems_of(content)

    assert problem in found


def test_gzip_in_several_pieces_is_one_archive() -> None:
    """Parallel compressors write several gzip members; that is one valid file."""
    pieces = gzip.compress(GOOD[:40_000]) + gzip.compress(b"") + gzip.compress(GOOD[40_000:])

    assert problems_of(pieces) == []


def test_an_archive_that_unpacks_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that would fill a disk is not taken."""
    monkeypatch.setattr("build_orchestrator.collect.UNPACKED_LIMIT_BYTES", 1 << 20)
    bomb = gzip.compress(tar(file("cloudify/env/zeros", bytes(2 << 20))))

    [found] = problems_of(bomb)

    assert found.startswith("unpacks to more than")


def test_an_extended_header_that_would_fill_the_memory_is_refused() -> None:
    """tarfile reads such headers at once, so they are small or the archive is bad."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 2 << 20

    assert problems_of(gzip.compress(tar((header, bytes(2 << 20)), PYTHON))) == [
        "holds an extended header of more than 1 MiB"
    ]


@given(st.integers(0, 4095), st.integers(0, 255), st.binary(max_size=3))
def test_hostile_bytes_give_problems_and_never_a_trace(at: int, byte: int, more: bytes) -> None:
    """Whatever stands in an archive, the answer is a list."""
    content = bytearray(tar(*(file("cloudify/env/" + "x" * n) for n in (5, 120)), PYTHON))
    content[at : at + 1] = bytes([byte]) + more

    problems_of(gzip.compress(bytes(content), compresslevel=1))


# --- collect -----------------------------------------------------------------------------------


def test_collecting_leaves_artifacts_with_sidecars_and_nothing_else(tmp_path: Path) -> None:
    """The folder holds each artifact under its name, and no trace of the way there."""
    machine = machine_at(tmp_path / "machine")
    archive = gzip.compress(GOOD)
    left(tmp_path / "machine/root/output", {"agent.tar.gz": archive})
    run = left(tmp_path / "run", {"log.txt": b"lines", "agent.tar.gz": b"of an earlier attempt"})

    [agent] = collect(machine, build_of(AGENT), run, source=OUTPUT, deadline=soon())

    assert agent.path == str(run / "agent.tar.gz")
    assert Path(agent.path).read_bytes() == archive
    assert sorted(place.name for place in run.iterdir()) == [
        "agent.tar.gz",
        "agent.tar.gz.md5",
        "agent.tar.gz.sha256",
        "log.txt",
    ]


def test_what_fails_verification_is_kept_apart(tmp_path: Path) -> None:
    """Unverified outputs are in ``partial/``, and none of them under its final name."""
    machine = machine_at(tmp_path / "machine")
    left(tmp_path / "machine/root/output", {"agent.tar.gz": b"no", "good.txt": b"good"})
    outputs = (AGENT, Output(name="good.txt"))
    run = left(tmp_path / "run", {})

    with pytest.raises(VerificationFailed, match=f"is in {run / 'partial'}"):
        collect(machine, build_of(*outputs), run, source=OUTPUT, deadline=soon())

    assert [place.name for place in run.iterdir()] == ["partial"]
    assert (run / "partial/good.txt").read_bytes() == b"good"


def test_a_machine_lost_while_collecting_leaves_nothing(tmp_path: Path) -> None:
    """What the machine did not give is no artifact, and no leftover either."""
    run = left(tmp_path / "run", {})
    machine = machine_at(tmp_path / "machine", fail_at="collect")

    with pytest.raises(MachineLost):
        collect(machine, build_of(AGENT), run, source=OUTPUT, deadline=soon())

    assert list(run.iterdir()) == []


def test_a_run_folder_that_cannot_be_written_is_the_environment(tmp_path: Path) -> None:
    """A host that cannot keep the outputs is no failure of the target."""
    left(tmp_path, {"run": b"a file, where a folder should be"})

    with pytest.raises(EnvironmentFailure, match="cannot be kept"):
        collect(
            machine_at(tmp_path / "machine"),
            build_of(AGENT),
            tmp_path / "run",
            source=OUTPUT,
            deadline=soon(),
        )


def test_what_a_failed_build_left_is_kept_where_there_is_anything(tmp_path: Path) -> None:
    """``partial/`` appears only with something in it, and a lost machine raises nothing."""
    machine = machine_at(tmp_path / "machine")
    left(tmp_path / "machine/root/output", {"half": b"a file"})
    left(tmp_path / "machine/root/empty", {})
    lost = machine_at(tmp_path / "machine", fail_at="collect")
    kept, empty, none = (tmp_path / name / "partial" for name in ("kept", "empty", "none"))

    assert collect_partial(machine, kept, source=OUTPUT, deadline=soon())
    assert not collect_partial(machine, empty, source=PurePosixPath("/empty"), deadline=soon())
    assert not collect_partial(lost, none, source=OUTPUT, deadline=soon())
    assert (kept / "half").read_bytes() == b"a file"
    assert not empty.exists()
    assert not none.exists()
