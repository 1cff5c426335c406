"""What a machine is, and what supplies machines.

``PurePosixPath`` is inside the machine, ``Path`` is on this host: the type says on which side you
are. Every provider passes the same contract tests (tests/contract).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, OrchestratorError
from build_orchestrator.model import Distro, Identity, Image, Size

OnLine = Callable[[str], None]
Notify = Callable[[str], None]
"""Hears what takes time and belongs to no single build."""


def silent(text: str) -> None:
    """The Notify that nobody listens to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRequest:
    """Everything a provider needs to boot one machine; journalled before it acts."""

    identity: Identity
    """Name, run, target and attempt; ``folder`` is where disk and keys go."""
    distro: Distro
    image: Image
    size: Size
    limit_s: float
    """The machine ends itself after this many seconds, whether we live or not."""
    console: Path
    """Where the machine's console is kept: appended to, in the run folder."""
    cold: bool = False
    """Boot from power-on even where a warm start could be had."""
    communicator: str = "ssh"
    """``ssh``, or ``winrm``: how Vagrant talks to it, or on aws we do."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What only this provider understands."""
    project: Path | None = None
    """Whose own templates win over the shipped ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a provider can do."""

    parallel_boots: bool = True
    windows: bool = False
    console: bool = True
    warm_start: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Where a provider that is no part of this host is asked."""

    endpoint: str = ""
    """Address of its API; empty for its own."""
    regions: tuple[str, ...] = ()
    """Where leftovers are looked for."""


class NotAllAsked(EnvironmentFailure):
    """A provider has places that did not say what they show."""

    def __init__(self, errors: Sequence[OrchestratorError], shown: list[Identity]) -> None:
        """
        Args:
            errors: why, one for each place; at least one.
            shown: what the other places show.
        """
        first, *rest = errors
        details = [first.details, *(f"{each.brief}\n{each.details}" for each in rest)]
        said = "\n".join(text.strip() for text in details if text.strip())
        super().__init__(first.brief, details=said, resolution=first.resolution)
        self.shown = shown


class Machine(Protocol):
    """One VM between boot and destroy."""

    @property
    def identity(self) -> Identity: ...

    @property
    def host_key(self) -> str:
        """How the machine's host key was first known: image, console or first-use."""
        ...

    @property
    def start(self) -> str:
        """``cold`` or ``warm``."""
        ...

    def run(
        self,
        script: bytes,
        *,
        deadline: Deadline,
        cancel: Cancel = NEVER,
        on_line: OnLine | None = None,
    ) -> int:
        """Run a shell script given on the shell's standard input; return its exit status.

        The script's own commands see an empty standard input. Both outputs arrive as lines in
        the order in which they were written.

        Raises:
            MachineLost: the connection broke or the machine died.
            DeadlineExceeded, Interrupted
        """
        ...

    def push(
        self, source: Path, target: PurePosixPath, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        """Copy the content of a folder into a folder of the machine.

        Returns the SHA-256 of the tar stream, which both sides computed and agree on.

        Raises:
            EnvironmentFailure: it did not arrive as it was sent.
        """
        ...

    def pull(
        self, source: PurePosixPath, target: Path, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        """Copy the content of a folder of the machine into a folder on this host.

        Returns the SHA-256 of the tar stream, which both sides computed and agree on. Only plain
        files and folders are taken, and nothing lands outside ``target``.
        """
        ...

    def alive(self) -> bool:
        """Whether the machine itself is still there, answering or not."""
        ...

    def release(self) -> None:
        """Let go of a machine that stays alive: close our connection, destroy nothing."""
        ...

    def destroy(self, *, deadline: Deadline) -> None:
        """Destroy the machine and everything of it. Twice is harmless.

        Raises:
            MachineLeaked: it could not be proven dead.
        """
        ...


class Provider(Protocol):
    """What supplies machines."""

    @property
    def name(self) -> str: ...

    @property
    def abilities(self) -> Abilities: ...

    def rendered(self, request: MachineRequest) -> Mapping[str, str]:
        """The files that show a person how this machine is made: name -> text. Starts nothing."""
        ...

    def boot(
        self,
        request: MachineRequest,
        *,
        deadline: Deadline,
        cancel: Cancel,
        identified: Callable[[Identity], None],
    ) -> Machine:
        """Return a live machine that answers, or raise and leave none at all.

        ``identified`` is called as soon as the provider knows how to find what it is starting,
        before anything else can fail.
        """
        ...

    def adopt(self, identity: Identity) -> Machine:
        """Take up a machine that another process started: for sweep, ssh and logs, never to
        continue a build."""
        ...

    def leftovers(self) -> list[Identity]:
        """Every machine of ours that this provider shows, by name alone, whoever started it.

        Raises:
            NotAllAsked: some of it does not answer.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is still there though its run is over."""

    text: str
    """What and where it is."""
    machine: Identity | None = None
    """Where it is a machine: then it costs money, and is exit code 5."""
    target: str = ""
    """Whose machine it is."""


@runtime_checkable
class Shares(Protocol):
    """A provider whose machines share something that is there for one run."""

    def close(self, *, deadline: Deadline) -> tuple[Left, ...]:
        """The run is over: remove it, and say what is left. A sweep of this provider finds that."""
        ...


@runtime_checkable
class ShowsHeartbeats(Protocol):
    """A provider that shows to any host whether a machine's orchestrator lives."""

    def living(self, identity: Identity) -> str:
        """When it was last seen to live, in words; empty where that is too long ago.

        Raises:
            EnvironmentFailure: the provider does not say.
        """
        ...
