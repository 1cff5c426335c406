"""Folders as tar streams, and what may come out of one."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from build_orchestrator.errors import EnvironmentFailure, VerificationFailed
from build_orchestrator.transport.tree import Digest, Unpacker, pack


def packed(folder: Path) -> bytes:
    return b"".join(pack(folder))


def unpack(chunks: Iterable[bytes], target: Path) -> None:
    with Unpacker(target) as unpacker:
        for chunk in chunks:
            unpacker(chunk)
        unpacker.close()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **fields: int) -> bytes:
    """One member without content, as its raw header."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.PAX_FORMAT)


END = bytes(2 * tarfile.BLOCKSIZE)


def small_tree(folder: Path) -> Path:
    (folder / "b/c").mkdir(parents=True)
    (folder / "b/file").write_bytes(b"content\n" * 100)
    (folder / "a").write_bytes(b"")
    (folder / "link").symlink_to("b/file")
    os.utime(folder / "b", (1000, 1000))
    return folder


# --- packing ----------------------------------------------------------------------------------


def test_a_packed_tree_is_a_tar_that_others_read(tmp_path: Path) -> None:
    """Members are sorted, and belong to root without a name."""
    small_tree(tmp_path)
    (tmp_path / "b/file").chmod(0o4750)
    os.utime(tmp_path / "b/file", (1.9, 1234567890.9))
    stream = packed(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        members = archive.getmembers()
        content = archive.extractfile("b/file")
        assert content is not None
        assert content.read() == b"content\n" * 100
    assert [found.name for found in members] == ["a", "b", "b/c", "b/file", "link"]
    assert {(found.uid, found.gid, found.uname, found.gname) for found in members} == {
        (0, 0, "", "")
    }
    assert (members[3].mode, members[3].mtime) == (0o4750, 1234567890)
    assert (members[4].issym(), members[4].linkname) == (True, "b/file")
    assert len(stream) % tarfile.RECORDSIZE == 0


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """Neither the order on disk nor access times nor fractions of a second count."""
    one, other = small_tree(tmp_path / "one"), tmp_path / "other"
    (other / "b").mkdir(parents=True)
    (other / "link").symlink_to("b/file")
    (other / "b/file").write_bytes(b"content\n" * 100)
    (other / "a").touch()
    (other / "b/c").mkdir()
    for root in (one, other):
        for path in (root, *root.rglob("*")):
            os.utime(path, (len(root.name), 1000 + len(root.name) / 10), follow_symlinks=False)
    assert packed(one) == packed(other)


def test_a_large_file_comes_in_chunks(tmp_path: Path) -> None:
    """Nothing is held in memory as a whole."""
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    assert max(len(chunk) for chunk in pack(tmp_path)) < 200_000


def test_a_socket_is_refused_by_name(tmp_path: Path) -> None:
    """What cannot be copied is not left out in silence."""
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # A socket's path must be short.
        try:
            listener.bind("the-socket")
        finally:
            os.chdir(here)
        with pytest.raises(EnvironmentFailure, match="the-socket: a socket, device or fifo"):
            packed(tmp_path)


@pytest.mark.parametrize("size", [0, 100_000, 300_001], ids=["emptied", "shortened", "grown"])
def test_a_file_that_changes_its_size_is_an_error(tmp_path: Path, size: int) -> None:
    """A member never holds other bytes than its header says."""
    (tmp_path / "file").write_bytes(bytes(300_000))
    chunks = pack(tmp_path)
    next(chunks)
    os.truncate(tmp_path / "file", size)
    with pytest.raises(EnvironmentFailure, match="file: changed its size while it was read"):
        list(chunks)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """The error names what cannot be read."""
    with pytest.raises(EnvironmentFailure, match="none: cannot be read"):
        packed(tmp_path / "none")


def test_a_digest_sees_what_passes_both_ways() -> None:
    """Chunks pass unchanged, and their checksum is that of the whole."""
    out, into, taken = Digest(), Digest(), bytearray()
    consume = into.into(taken.extend)
    for chunk in out.through([b"one", b"", b"two"]):
        consume(chunk)
    assert taken == b"onetwo"
    assert out.sha256 == into.sha256 == hashlib.sha256(b"onetwo").hexdigest()


# --- unpacking --------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 511, 512, 513, 1 << 20])
def test_a_stream_may_be_cut_into_any_chunks(tmp_path: Path, length: int) -> None:
    """Where a chunk ends means nothing; packing the result again gives the same bytes."""
    stream = packed(small_tree(tmp_path / "source"))
    chunks = (stream[start : start + length] for start in range(0, len(stream), length))
    unpack(chunks, tmp_path / "target")
    for link in ("source", "target"):
        os.utime(tmp_path / link / "link", (0, 0), follow_symlinks=False)
    assert packed(tmp_path / "target") == packed(tmp_path / "source")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_common_format_is_taken(tmp_path: Path, form: int) -> None:
    """Each distribution's tar has a format that it likes best."""
    content = io.BytesIO()
    name = "long/" * 30 + "file"
    with tarfile.open(fileobj=content, mode="w", format=form) as archive:
        info = tarfile.TarInfo(name)
        info.size = 5
        archive.addfile(info, io.BytesIO(b"bytes"))
    unpack([content.getvalue()], tmp_path)
    assert (tmp_path / name).read_bytes() == b"bytes"


def test_modes_lose_what_could_harm(tmp_path: Path) -> None:
    """No setuid, nobody else writes, and the owner can always read and remove."""
    unpack(
        [
            member("suid", mode=0o6755),
            member("open", mode=0o666),
            member("closed", mode=0o011),
            member("folder", tarfile.DIRTYPE, mode=0o3077),
            END,
        ],
        tmp_path,
    )
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"suid": 0o755, "open": 0o644, "closed": 0o600, "folder": 0o755}


HOSTILE = {
    "climbing": [member("../escaped")],
    "climbing in the middle": [member("a/../../escaped")],
    "absolute": [member("/tmp/escaped")],
    "device": [member("null", tarfile.CHRTYPE)],
    "block device": [member("disk", tarfile.BLKTYPE)],
    "fifo": [member("fifo", tarfile.FIFOTYPE)],
    "unknown type": [member("odd", b"Z")],
    "no name": [member("./")],
    "link out": [member("link", tarfile.SYMTYPE, "..")],
    "absolute link": [member("link", tarfile.SYMTYPE, "/etc/passwd")],
    "link that climbs too high": [member("a/b/link", tarfile.SYMTYPE, "../../../x")],
    "link that climbs after a name": [member("a/b/link", tarfile.SYMTYPE, "../c/../../../x")],
    "links that climb together": [
        member("d/up", tarfile.SYMTYPE, ".."),
        member("out", tarfile.SYMTYPE, "d/up/.."),
    ],
    "file through a link": [
        member("folder", tarfile.DIRTYPE),
        member("link", tarfile.SYMTYPE, "folder"),
        member("link/escaped"),
    ],
    "folder through a link": [
        member("link", tarfile.SYMTYPE, "."),
        member("link", tarfile.DIRTYPE),
    ],
    "file in place of a folder": [member("folder", tarfile.DIRTYPE), member("folder")],
    "hard link out": [member("link", tarfile.LNKTYPE, "../outside")],
    "hard link to a stranger": [member("link", tarfile.LNKTYPE, "there before")],
    "hard link to a link": [
        member("a/file"),
        member("a/file", tarfile.SYMTYPE, "../x"),
        member("link", tarfile.LNKTYPE, "a/file"),
    ],
    "endless name": [member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=1 << 30)],
    "endless header": [member("pax", tarfile.XHDTYPE, size=1 << 30)],
}


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_stream_is_refused(tmp_path: Path, stream: list[bytes]) -> None:
    """Nothing lands, and nothing points, outside the folder."""
    (tmp_path / "outside").write_text("untouched")
    target = tmp_path / "target"
    target.mkdir()
    (target / "there before").write_text("untouched")
    with pytest.raises(VerificationFailed):
        unpack([*stream, END], target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "target"]
    assert (tmp_path / "outside").read_text() == "untouched"
    assert all(path.resolve().is_relative_to(target) for path in target.rglob("*"))


def test_what_exists_is_replaced_and_never_followed(tmp_path: Path) -> None:
    """A link that lay in the folder before does not lead a file out of it."""
    (tmp_path / "outside").write_text("untouched")
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").symlink_to("../outside")
    unpack([member("file"), END], target)
    assert (tmp_path / "outside").read_text() == "untouched"
    assert not (target / "file").is_symlink()
    (target / "folder").symlink_to("..")
    with pytest.raises(VerificationFailed, match="not a folder"):
        unpack([member("folder/escaped"), END], target)
    assert not (tmp_path / "escaped").exists()


def test_a_hard_link_to_what_came_with_it_is_taken(tmp_path: Path) -> None:
    """tar stores the second name of a file as a link to the first."""
    unpack([member("./a/file"), member("./b/same", tarfile.LNKTYPE, "./a/file"), END], tmp_path)
    assert (tmp_path / "a/file").samefile(tmp_path / "b/same")


def test_a_truncated_stream_is_noticed_wherever_it_ends(tmp_path: Path) -> None:
    """Every block counts, up to the first of the two that mark the end."""
    stream = packed(small_tree(tmp_path / "source"))
    whole = stream.rstrip(b"\0")
    last = -(-len(whole) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    for end in (*range(0, last + 1, tarfile.BLOCKSIZE), 700, last + 100):
        with pytest.raises(EnvironmentFailure, match=r"truncated|damaged"):
            unpack([stream[:end]], tmp_path / "target")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    """Python's tarfile ends in silence there."""
    damaged = bytearray(member("second"))
    damaged[0] ^= 1
    with pytest.raises(EnvironmentFailure, match="damaged"):
        unpack([member("first"), bytes(damaged), END], tmp_path)


def test_giving_up_a_stream_leaves_no_thread_behind(tmp_path: Path) -> None:
    """An error elsewhere is the one that is seen."""
    before = threading.active_count()

    def broken() -> Iterator[bytes]:
        yield member("file")
        raise KeyError

    with pytest.raises(KeyError):
        unpack(broken(), tmp_path)
    assert threading.active_count() == before


def test_a_target_that_cannot_be_written_is_the_environments_fault(tmp_path: Path) -> None:
    """The error names the member that could not be written."""
    with pytest.raises(EnvironmentFailure, match="cannot be written"):
        unpack([member("x" * 300), END], tmp_path)
