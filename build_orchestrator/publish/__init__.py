"""Put artifacts where users fetch them.

Each destination is served by a thread of its own, so that one that hangs holds up no other. When
time is up, or somebody asks to stop, the threads are left behind: whatever they still do is whole
or nothing, and the same bytes may always be put again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from build_orchestrator.configuration.words import destination_problem
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import HostNotReady, UsageError
from build_orchestrator.events import Observer, Warned
from build_orchestrator.model import Artifact, Build, Published, PublishedArtifact
from build_orchestrator.publish.contract import Destination as Destination
from build_orchestrator.publish.contract import Item as Item
from build_orchestrator.publish.folder import FolderDestination
from build_orchestrator.publish.layout import RESERVED, key_of_record, named_in
from build_orchestrator.publish.publisher import Look, Publisher, wait
from build_orchestrator.publish.s3 import S3Destination, endpoint_of

ENDPOINT = re.compile(r"https?://([^\s/@]+@)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[^\s?#]*)?")

__all__ = ["Destination", "Item", "check", "destination_for", "publish", "published_already"]


def publish(
    artifacts: tuple[Artifact, ...],
    build: Build,
    *,
    project: Path,
    s3_endpoint: str | None,
    deadline: Deadline,
    cancel: Cancel,
    observer: Observer,
) -> tuple[PublishedArtifact, ...]:
    """Put a build's artifacts, their sidecars and its key record at each of its destinations.

    A destination that cannot be reached, or that takes too long, and somebody who asks to stop
    give rows and no error: the caller decides what follows from them.

    Returns:
        A row for each destination and artifact, in order, and one for a key record that could
        not be put although all artifacts could.

    Raises:
        UsageError: a destination is malformed, or the version has a name of ours.
    """
    _check_folder(build)
    publishers = [
        Publisher(
            destination_for(name, project=project, s3_endpoint=s3_endpoint),
            artifacts,
            build,
            deadline=deadline,
            cancel=cancel,
            observer=observer,
        )
        for name in build.recipe.destinations
    ]
    wait(publishers, deadline=deadline, cancel=cancel)
    rows = tuple(row for publisher in publishers for row in publisher.rows())
    for row in rows:
        if row.state is not Published.YES:
            text = f"{row.url} is not published ({row.state}): {row.reason}"
            observer(Warned(target=build.name, text=text))
    return rows


def published_already(
    build: Build, *, project: Path, s3_endpoint: str | None, deadline: Deadline, cancel: Cancel
) -> tuple[PublishedArtifact, ...]:
    """A row for each artifact and destination where every destination has the build, wholly;
    none where one of them has not, or does not say.

    A destination is asked one question: for the record of the build's key, which is written last.
    """
    places = [
        destination_for(name, project=project, s3_endpoint=s3_endpoint)
        for name in build.recipe.destinations
    ]
    looks = [Look(place, key_of_record(build)) for place in places]
    wait(looks, deadline=deadline, cancel=cancel)
    rows: list[PublishedArtifact] = []
    for look in looks:
        named = named_in(look.stored or b"")
        if not named:
            return ()
        rows += [
            PublishedArtifact(
                destination=look.destination.name,
                name=name,
                url=look.destination.address(key),
                state=Published.YES,
            )
            for name, key in named
        ]
    return tuple(rows)


def check(destinations: Iterable[str], *, project: Path, s3_endpoint: str | None) -> None:
    """Find out before anything boots what would keep us from publishing. Changes nothing.

    For S3 only the spelling is checked, and that this host has credentials.

    Raises:
        UsageError: a destination or the endpoint is malformed.
        HostNotReady: naming everything that this host lacks.
    """
    lacking = []
    for name in dict.fromkeys(destinations):
        destination = destination_for(name, project=project, s3_endpoint=s3_endpoint)
        try:
            destination.check()
        except HostNotReady as error:
            lacking.append(error)
    if len(lacking) == 1:
        raise lacking[0]
    if lacking:
        raise HostNotReady(
            f"{len(lacking)} destinations cannot be published to",
            details="\n".join(str(error) for error in lacking),
        )


def destination_for(name: str, *, project: Path, s3_endpoint: str | None) -> Destination:
    """The destination that a name means: a folder (``dist/``, ``/srv/dist``, ``file:///srv/dist``),
    relative to the project, or ``s3://bucket/prefix``.

    Raises:
        UsageError: the name, or the address of the S3 server, is malformed.
    """
    if name.startswith("file:///"):
        return FolderDestination(name, Path(unquote(name.removeprefix("file://"))))
    if problem := destination_problem(name):
        raise UsageError(f"destination {name!r}: {problem}")
    if not name.startswith("s3://"):
        return FolderDestination(name, project / name)
    endpoint = endpoint_of(s3_endpoint)
    if endpoint and not ENDPOINT.fullmatch(endpoint):
        raise UsageError(
            "the S3 endpoint is not of the form http://host:port or https://host",
            resolution="Correct --s3-endpoint, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL.",
        )
    bucket, _, prefix = name.removeprefix("s3://").partition("/")
    return S3Destination(name, bucket, prefix.strip("/"), endpoint)


def _check_folder(build: Build) -> None:
    assert build.folder and build.key, "both are resolved with the image"
    first = build.folder.partition("/")[0]
    if first in RESERVED:
        raise UsageError(
            f"VERSION={first} is a name that destinations use themselves",
            resolution="Give the version another name.",
        )
