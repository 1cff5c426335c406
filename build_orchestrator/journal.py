"""What is needed to find and destroy machines, synced to disk before the act.

Four records tell a machine's life: ``intent`` (it may exist from now on), ``identity`` (it does,
and this is how to find it), ``kept`` (alive on purpose until a stated time) and ``gone`` (proven
dead, its disk removed). Each is written to two places, the run folder and the host-wide state
folder, so that either alone is enough: a deleted checkout hides nothing.

Layout of the state folder::

    runs/<run uuid>/heartbeat       flock held by the orchestrator while it lives
    runs/<run uuid>/journal.jsonl   the same lines as <project>/runs/<run id>/journal.jsonl
    runs/<run uuid>/machines/<machine name>/    disk, keys, sockets of one machine
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from build_orchestrator.locks import Lock, private_folder, state_home, try_lock
from build_orchestrator.model import Identity

JOURNAL = "journal.jsonl"
HEARTBEAT = "heartbeat"
NAME = re.compile(r"bo-[0-9a-f]{32}-.+-[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the journals know of one machine."""

    identity: Identity
    limit_at: float
    """Seconds since the epoch after which the machine may not live, whatever happens."""
    request: Mapping[str, Any]
    answered: bool
    """Whether the provider has said what the machine is; else it is only possible."""
    intended_at: float = 0.0
    """Seconds since the epoch."""
    kept_until: float = 0.0
    """Seconds since the epoch; 0 when it is not kept."""
    gone: bool = False


def machine_name(run_uuid: str, target: str, attempt: int) -> str:
    """The name that everything of this machine carries."""
    return f"bo-{run_uuid}-{target}-{attempt}"


def run_state(run_uuid: str) -> Path:
    """The state folder of one run."""
    return state_home() / "runs" / run_uuid


class Journal:
    """The journal of a living run. Thread-safe."""

    def __init__(self, run_uuid: str, run_folder: Path) -> None:
        self.run_uuid = run_uuid
        self.state = private_folder(run_state(run_uuid))
        self._paths = (run_folder / JOURNAL, self.state / JOURNAL)
        self._lock = threading.Lock()
        heartbeat = try_lock(self.state / HEARTBEAT)
        assert heartbeat is not None, "the uuid is ours alone"
        self._heartbeat: Lock = heartbeat
        self.is_needed = False
        """Whether something is left that is no machine: that the heartbeat is free tells a sweep
        that it is nobody's any more."""
        self._write("run", folder=str(run_folder))

    def folder_for(self, name: str) -> Path:
        """The machine's own folder in the state folder, made where it is missing."""
        return private_folder(self.state / "machines" / name)

    def intend(self, identity: Identity, *, limit_at: float, request: Mapping[str, Any]) -> None:
        """Say that this machine will exist, before it can."""
        self._write("intent", **_flat(identity), limit_at=limit_at, request=dict(request))

    def identify(self, identity: Identity) -> None:
        """Say how to find the machine, as soon as the provider has told."""
        self._write("identity", **_flat(identity))

    def keep(self, name: str, until: float) -> None:
        """Say that the machine stays alive on purpose until this time (seconds since the epoch)."""
        self._write("kept", name=name, until=until)

    def bury(self, name: str) -> None:
        """Say that the machine is proven dead and its disk removed.

        One of the two places is enough: whoever sweeps believes either.
        """
        with contextlib.suppress(OSError):
            append(self._paths[:1], self._record("gone", name=name), self._lock)
        append(self._paths[1:], self._record("gone", name=name), self._lock)

    def close(self) -> None:
        """Let go of the heartbeat. What is still alive may be swept from now on.

        Where nothing is, the state folder of the run is not needed any more.
        """
        if not self.is_needed and all(entry.gone for entry in read(self.state / JOURNAL)):
            shutil.rmtree(self.state, ignore_errors=True)
        self._heartbeat.release()

    def _write(self, kind: str, **fields: Any) -> None:
        append(self._paths, self._record(kind, **fields), self._lock)

    def _record(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"kind": kind, "at": time.time(), **fields}


def append(
    paths: Iterable[Path], record: Mapping[str, Any], lock: threading.Lock | None = None
) -> None:
    """Append one record to each journal and sync it, file and folder."""
    line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
    with lock or threading.Lock():
        for path in paths:
            new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _write_line(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                _sync_folder(path.parent)


def _write_line(descriptor: int, line: bytes) -> None:
    """Write all of a line, on a line of its own: a crash may have torn the one before it."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    rest = memoryview(b"\n" + line if torn else line)
    while rest:  # A disk that is nearly full takes a part, and fails at the next.
        rest = rest[os.write(descriptor, rest) :]


def read(path: Path) -> list[Entry]:
    """What one journal knows of each machine, in order of appearance.

    A last line that was torn by a crash is ignored: the act that it announces cannot have begun.
    """
    entries: dict[str, Entry] = {}
    for record in records(path):
        # What is damaged, or a later version's, may not make us forget the other machines.
        with contextlib.suppress(KeyError, TypeError, AttributeError, msgspec.ValidationError):
            _take(record, entries)
    return list(entries.values())


def _take(record: Mapping[str, Any], entries: dict[str, Entry]) -> None:
    """Add what one record says."""
    kind, name = record["kind"], record.get("name", "")
    if kind == "intent":
        # Of what is called otherwise, no folder may be removed: it is none of ours.
        if not NAME.fullmatch(name):
            return
        entries[name] = Entry(
            identity=_identity(record),
            limit_at=float(record["limit_at"]),
            request=record["request"],
            answered=False,
            intended_at=float(record.get("at", 0.0)),
        )
    elif name in entries:
        known = entries[name]
        if kind == "identity":
            # After it was called gone: it is not, as the provider has shown since.
            identity = _identity(record)
            known = dataclasses.replace(known, identity=identity, answered=True, gone=False)
        elif kind == "kept":
            known = dataclasses.replace(known, kept_until=float(record["until"]))
        elif kind == "gone":
            known = dataclasses.replace(known, gone=True)
        entries[name] = known


def run_id(path: Path) -> str:
    """The id of the run that a journal tells of: the name of its run folder."""
    for record in records(path):
        if record.get("kind") == "run":
            return Path(str(record.get("folder", ""))).name
    return ""


def records(path: Path) -> list[dict[str, Any]]:
    """The records of one journal, without a torn last line.

    A missing file has none, and so has one of another user: he sweeps his own machines. What is no
    file at all, such as a folder or a pipe, was not written by us.
    """
    try:
        if not path.is_file():
            return []
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, PermissionError):
        return []
    found = []
    for line in lines[:-1]:
        try:
            record = json.loads(line)
        except ValueError:  # Torn in the middle: a crash, then another writer's line.
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _flat(identity: Identity) -> dict[str, Any]:
    flat: dict[str, Any] = msgspec.to_builtins(identity)
    return flat


def _identity(record: Mapping[str, Any]) -> Identity:
    fields = {name: record[name] for name in Identity.__dataclass_fields__ if name in record}
    return msgspec.convert(fields, Identity)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
