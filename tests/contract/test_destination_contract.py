"""What every destination promises, asked of a folder and of an S3 server over a real connection."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import (
    EnvironmentFailure,
    PublishConflict,
    UsageError,
)
from build_orchestrator.events import Event, Warned, nobody
from build_orchestrator.model import Artifact, Build, Published, PublishedArtifact
from build_orchestrator.publish import Destination, Item, destination_for, publish
from build_orchestrator.publish.publisher import Publisher, wait
from tests.contract.publishing import KEY, artifact, build_to, item
from tests.standins.s3 import s3_server

RACERS = 8


@dataclasses.dataclass(frozen=True)
class Place:
    """A destination by its name, and what it takes to look at it from outside."""

    name: str
    out_of_reach: str
    """Another one, of the same kind, that cannot be published to."""
    project: Path
    endpoint: str | None

    def open(self) -> Destination:
        return destination_for(self.name, project=self.project, s3_endpoint=self.endpoint)

    def content(self, key: str) -> bytes | None:
        """What lies under a key, read by a destination of its own."""
        return self.open().read(key)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a real S3 server."""
    with s3_server() as address:
        yield address


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.real)])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty destination of each kind."""
    if request.param == "folder":
        return _folder(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    return _bucket(tmp_path, request.getfixturevalue("endpoint"))


def _folder(project: Path) -> Place:
    (project / "full").write_text("a file, where a folder should be")
    return Place("dist/", "full/dist", project, None)


def _bucket(project: Path, endpoint: str) -> Place:
    import boto3

    client: Any = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    bucket = f"plain-{hashlib.sha256(os.fsencode(project)).hexdigest()[:12]}"
    client.create_bucket(Bucket=bucket)
    return Place(f"s3://{bucket}/agents/", "s3://plain-missing/agents", project, endpoint)


def put(destination: Destination, content: bytes) -> bool:
    """Put bytes under the one key; say whether they are what lies there now."""
    try:
        destination.put(item(content), deadline=Deadline("publish", 60), cancel=Cancel())
    except PublishConflict:
        return False
    return True


def published(
    place: Place, build: Build, *artifacts: Artifact, **options: Any
) -> tuple[PublishedArtifact, ...]:
    deadline = Deadline("publish", 60)
    known: dict[str, Any] = {"deadline": deadline, "cancel": Cancel(), "observer": nobody}
    return publish(
        artifacts, build, project=place.project, s3_endpoint=place.endpoint, **(known | options)
    )


# --- one key -----------------------------------------------------------------------------------


def test_the_same_bytes_twice_are_fine(place: Place) -> None:
    """Publishing again is no error and changes nothing."""
    assert put(place.open(), b"first")
    assert put(place.open(), b"first")
    assert place.content(KEY) == b"first"


@pytest.mark.parametrize("other", [b"other", b"longer than the first"])
def test_other_bytes_are_a_conflict_and_the_first_stay(place: Place, other: bytes) -> None:
    """A key never changes, whether the other bytes have the same size or not."""
    assert put(place.open(), b"first")
    assert not put(place.open(), other)
    assert place.content(KEY) == b"first"


def test_a_key_that_nobody_has_put_reads_as_nothing(place: Place) -> None:
    """Nothing and empty are told apart."""
    assert place.content(KEY) is None


def test_of_racing_publishers_one_wins(place: Place) -> None:
    """Many at once, each with bytes of his own: one succeeds, and its bytes are what is there."""
    contents = [f"racer {n}".encode() * 1000 for n in range(RACERS)]
    start = threading.Barrier(RACERS)

    def race(content: bytes) -> bool:
        destination = place.open()
        start.wait()
        return put(destination, content)

    with ThreadPoolExecutor(RACERS) as pool:
        wins = list(pool.map(race, contents))

    assert wins.count(True) == 1
    assert place.content(KEY) == contents[wins.index(True)]


def test_racing_publishers_of_the_same_bytes_all_succeed(place: Place) -> None:
    """Who comes second with the same bytes has published as well."""
    with ThreadPoolExecutor(RACERS) as pool:
        wins = list(pool.map(lambda _: put(place.open(), b"same" * 1000), range(RACERS)))

    assert wins == [True] * RACERS


def test_bytes_that_changed_after_they_were_verified_are_not_published(place: Place) -> None:
    """What is put is what was verified, and never anything else."""
    wrong = dataclasses.replace(item(b"verified"), content=b"tampered")

    with pytest.raises(EnvironmentFailure, match="changed after it was verified"):
        place.open().put(wrong, deadline=Deadline("publish", 60), cancel=Cancel())

    assert place.content(wrong.key) is None


# --- a build -----------------------------------------------------------------------------------


def test_a_build_is_published_with_sidecars_and_a_record(place: Place) -> None:
    """Each artifact has a row and two sidecars; the record names them all; twice is fine."""
    one = artifact(place.project, b"1", "one.tar.gz")
    two = artifact(place.project, b"22", "two.zip")
    build = build_to(place.name)

    rows = published(place, build, one, two)

    assert [(row.name, row.state, row.reason) for row in rows] == [
        ("one.tar.gz", Published.YES, ""),
        ("two.zip", Published.YES, ""),
    ]
    keys = [
        *(f"1.0/build/one.tar.gz{ending}" for ending in ("", ".sha256", ".md5")),
        *(f"1.0/build/two.zip{ending}" for ending in ("", ".sha256", ".md5")),
        f"keys/{build.key}.json",
    ]
    assert all(place.content(key) for key in keys)
    assert place.content(keys[1]) == f"{one.sha256} one.tar.gz\n".encode()
    assert json.loads(place.content(keys[-1]) or b"") == {
        "schema": 1,
        "key": build.key,
        "target": "debian_bookworm_fake",
        "folder": "1.0/build",
        "artifacts": [
            {"name": "one.tar.gz", "sha256": one.sha256, "size_bytes": 1},
            {"name": "two.zip", "sha256": two.sha256, "size_bytes": 2},
        ],
    }
    assert published(place, build, one, two) == rows


def test_sidecars_follow_their_artifact_and_the_record_is_last(place: Place) -> None:
    """Whoever finds a record finds everything that it names, at any moment."""
    order: list[str] = []
    destination = place.open()

    class Witness:
        """The destination, and a list of what was put, in order."""

        def __getattr__(self, name: str) -> Any:
            return getattr(destination, name)

        def put(self, item: Item, *, deadline: Deadline, cancel: Cancel) -> None:
            destination.put(item, deadline=deadline, cancel=cancel)
            order.append(item.key)

    deadline, cancel = Deadline("publish", 60), Cancel()
    publisher = Publisher(
        cast(Destination, Witness()),
        [artifact(place.project, b"1", "two.zip"), artifact(place.project, b"2", "one.zip")],
        build_to(place.name),
        deadline=deadline,
        cancel=cancel,
        observer=nobody,
    )
    wait([publisher], deadline=deadline, cancel=cancel)

    assert order == [
        *(f"1.0/build/two.zip{ending}" for ending in ("", ".sha256", ".md5")),
        *(f"1.0/build/one.zip{ending}" for ending in ("", ".sha256", ".md5")),
        f"keys/{'ab' * 32}.json",
    ]


def test_a_conflict_is_a_row_and_leaves_no_record(place: Place) -> None:
    """The row names the key; the other artifacts are published; the build is not recorded."""
    published(place, build_to(place.name, key="01" * 32), artifact(place.project, b"1", "one.zip"))
    build = build_to(place.name)
    events: list[Event] = []
    other = artifact(place.project, b"changed", "one.zip")
    more = artifact(place.project, b"2", "two.zip")

    one, two = published(place, build, other, more, observer=events.append)

    assert (one.state, two.state) == (Published.CONFLICT, Published.YES)
    assert one.reason.startswith(f"{one.url} holds other bytes. Published bytes never change")
    assert place.content(f"keys/{build.key}.json") is None
    assert [event.text for event in events if isinstance(event, Warned)] == [
        f"{one.url} is not published (conflict): {one.reason}"
    ]


def test_a_record_that_conflicts_has_a_row_of_its_own(place: Place) -> None:
    """A key that already stands for other artifacts is told, not replaced."""
    published(place, build_to(place.name), artifact(place.project, b"1", "one.zip"))

    two, record = published(
        place, build_to(place.name, folder="2.0/build"), artifact(place.project, b"2", "two.zip")
    )

    assert (two.state, record.state) == (Published.YES, Published.CONFLICT)
    assert record.name == f"keys/{'ab' * 32}.json"


def test_an_unreachable_destination_is_a_row_and_stops_no_other(place: Place) -> None:
    """Each artifact has a row with the reason, and the other destination gets everything."""
    build = build_to(place.out_of_reach, place.name)
    one, two = artifact(place.project, b"1", "one.zip"), artifact(place.project, b"2", "two.zip")

    rows = published(place, build, one, two)

    assert [(row.destination, row.name, row.state) for row in rows] == [
        (place.out_of_reach, "one.zip", Published.NO),
        (place.out_of_reach, "two.zip", Published.NO),
        (place.name, "one.zip", Published.YES),
        (place.name, "two.zip", Published.YES),
    ]
    assert "\n" not in rows[0].reason
    assert rows[0].reason == rows[1].reason != ""
    assert place.content(f"keys/{build.key}.json")


def test_after_the_deadline_everything_is_unpublished(place: Place) -> None:
    """Running out of time is a row with the limit in its reason, and no error."""
    one = artifact(place.project, b"1")

    [row] = published(place, build_to(place.name), one, deadline=Deadline("publish", 0))

    assert (row.state, row.reason[:36]) == (Published.NO, "publish: no end within its limit of ")
    assert place.content(KEY) is None


def test_an_interruption_is_heard(place: Place) -> None:
    """Nothing more is put once somebody asked to stop, and the row says why."""
    cancel = Cancel()
    cancel.set(signal.SIGINT)

    [row] = published(place, build_to(place.name), artifact(place.project, b"1"), cancel=cancel)

    assert (row.state, row.reason) == (Published.NO, "stopped by SIGINT")
    assert place.content(KEY) is None


def test_a_lost_artifact_is_a_row(place: Place) -> None:
    """A run folder that somebody emptied is told by name."""
    lost = artifact(place.project, b"1")
    Path(lost.path).unlink()

    [row] = published(place, build_to(place.name), lost)

    assert row.state is Published.NO
    assert row.reason.startswith(f"{lost.path}: cannot be read")


@pytest.mark.parametrize("version", ["latest", "keys", "latest.txt"])
def test_a_version_may_not_be_called_like_our_own_folders(place: Place, version: str) -> None:
    """VERSION=latest would be published through the link of the same name."""
    with pytest.raises(UsageError, match=f"VERSION={version}"):
        published(place, build_to(place.name, folder=f"{version}/build"))
