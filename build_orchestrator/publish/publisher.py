"""One build at one destination: everything in order, and what became of it."""

from __future__ import annotations

import abc
import contextlib
import os
import selectors
import threading
from collections.abc import Iterable, Sequence

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import (
    DestinationUnreachable,
    EnvironmentFailure,
    Interrupted,
    OrchestratorError,
    PublishConflict,
)
from build_orchestrator.events import Observer, Warned
from build_orchestrator.model import Artifact, Build, Published, PublishedArtifact
from build_orchestrator.publish.contract import Destination, Item
from build_orchestrator.publish.layout import alias_of, items_of, record_of


class Worker(abc.ABC):
    """Serves one destination in a thread of its own, from ``start`` to the end of ``wait``."""

    bug: BaseException | None = None

    def start(self) -> int:
        """Begin; return a file descriptor, the caller's to close, that ends when we do."""
        read, write = os.pipe()
        threading.Thread(target=self._work, args=(write,), daemon=True).start()
        return read

    def _work(self, write: int) -> None:
        try:
            self._serve()
        except Interrupted:
            pass  # The one who waits knows already.
        except BaseException as error:  # noqa: BLE001 (raised again where it is waited for)
            self.bug = error
        finally:
            os.close(write)

    @abc.abstractmethod
    def _serve(self) -> None:
        """Do what there is to do at the destination."""


class Look(Worker):
    """Asks a destination for what lies under one key."""

    def __init__(self, destination: Destination, key: str) -> None:
        self.destination = destination
        self._key = key
        self.stored: bytes | None = None
        """None also where the destination did not say."""

    def _serve(self) -> None:
        with contextlib.suppress(EnvironmentFailure):
            self.stored = self.destination.read(self._key)


class Publisher(Worker):
    """Publishes one build.

    The artifacts come first, each followed by its sidecars; the key record is last, and only when
    all of them are in place. So a record says that everything it names is there.
    """

    def __init__(
        self,
        destination: Destination,
        artifacts: Sequence[Artifact],
        build: Build,
        *,
        deadline: Deadline,
        cancel: Cancel,
        observer: Observer,
    ) -> None:
        self._destination = destination
        self._artifacts = artifacts
        self._build = build
        self._deadline = deadline
        self._cancel = cancel
        self._observer = observer
        self._rows: dict[str, PublishedArtifact] = {}

    def rows(self) -> tuple[PublishedArtifact, ...]:
        """What became of each artifact so far; what has not been reached is not published."""
        stopped = Interrupted(self._cancel.signum) if self._cancel.is_set else None
        late = stopped or self._deadline.exceeded()
        unreached = {
            each.name: self._row(each.name, f"{self._build.folder}/{each.name}", late)
            for each in self._artifacts
        }
        return tuple((unreached | self._rows).values())

    def _serve(self) -> None:
        unreachable: DestinationUnreachable | None = None
        for artifact in self._artifacts:
            items = list(items_of(artifact, self._build.folder))
            error = unreachable or self._put_all(items) or self._put_alias(artifact)
            self._rows[artifact.name] = self._row(artifact.name, items[0].key, error)
            if isinstance(error, DestinationUnreachable):
                unreachable = error  # Asking again for each artifact would only take longer.
        if any(row.state is not Published.YES for row in self._rows.values()):
            return
        record = record_of(self._artifacts, self._build)
        if error := self._put_all([record]):
            self._rows[record.key] = self._row(record.key, record.key, error)
            return
        try:
            self._destination.point_latest(self._build.folder)
        except DestinationUnreachable as error:
            self._observer(Warned(target=self._build.name, text=error.brief))

    def _put_alias(self, artifact: Artifact) -> OrchestratorError | None:
        """Put an agent under its common name, too, unless an earlier build of the folder has it."""
        alias = alias_of(artifact, self._build.folder)
        error = self._put_all([alias]) if alias else None
        if alias and isinstance(error, PublishConflict):
            text = f"{alias.key} stays that of an earlier build; {artifact.name} is published"
            self._observer(Warned(target=self._build.name, text=text))
            return None
        return error

    def _put_all(self, items: Iterable[Item]) -> OrchestratorError | None:
        """Put items in order; return what kept one of them from being put."""
        try:
            for item in items:
                self._cancel.check()
                self._deadline.check()
                self._destination.put(item, deadline=self._deadline, cancel=self._cancel)
        except (EnvironmentFailure, PublishConflict) as error:
            return error
        return None

    def _row(self, name: str, key: str, error: OrchestratorError | None) -> PublishedArtifact:
        state = Published.YES
        if error is not None:
            conflict = isinstance(error, PublishConflict)
            state = Published.CONFLICT if conflict else Published.NO
        return PublishedArtifact(
            destination=self._destination.name,
            name=name,
            url=self._destination.address(key),
            state=state,
            reason=_in_one_line(error) if error else "",
        )


def wait(workers: Sequence[Worker], *, deadline: Deadline, cancel: Cancel) -> None:
    """Let workers work side by side until they have ended, time is up or somebody says stop."""
    pipes = [worker.start() for worker in workers]
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(cancel, selectors.EVENT_READ)
            for pipe in pipes:
                selector.register(pipe, selectors.EVENT_READ)
            working = len(pipes)
            while working and not deadline.passed:
                ready = selector.select(deadline.remaining_s)
                if cancel.is_set:
                    break
                for key, _ in ready:
                    selector.unregister(key.fileobj)
                    working -= 1
    finally:
        for pipe in pipes:
            os.close(pipe)
    for worker in workers:
        if worker.bug is not None:
            raise worker.bug


def _in_one_line(error: OrchestratorError) -> str:
    parts = (error.brief, error.details, error.resolution)
    return ". ".join(" ".join(part.split()).removesuffix(".") for part in parts if part)
