"""Every error this product raises on purpose, and the exit code of each.

::

    OrchestratorError            brief, details, resolution; exit_code
    +-- UsageError               2   the command line or targets.yaml is wrong; nothing was started
    |   +-- ConfigurationError   2   a list of Problems, each with file:line:column
    +-- HostNotReady             4   this host lacks something; decided before anything starts
    +-- BuildFailure             1   the target's own fault; never retried
    |   +-- ScriptFailed
    |   +-- VerificationFailed
    |   +-- PublishConflict
    +-- EnvironmentFailure       3   provider, network, disk, lost machine: try again
    |   +-- DeadlineExceeded         a stage's limit passed (provision's is a BuildFailure)
    |   +-- MachineLost
    |   +-- NoCapacity               nothing was started: there is no room for it
    |   +-- Refused                  nothing was started, and nothing would be the next time
    |   +-- DiskFull                 this host has no room
    |   +-- DestinationUnreachable
    +-- MachineLeaked            5   a machine may still be alive
    +-- Interrupted              128 + signal number

Anything else that escapes is a bug of ours: exit code 70, the trace in the log.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass


class ExitCode(enum.IntEnum):
    """What the process says to its caller (documented in docs/reference/exit-codes.md)."""

    OK = 0
    BUILD_FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3
    HOST_NOT_READY = 4
    LEAKED = 5
    BUG = 70
    HANGUP = 128 + signal.SIGHUP
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


class OrchestratorError(Exception):
    """What happened (brief), where (details), and what to try (resolution)."""

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, brief: str, *, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return "\n".join(part for part in (self.brief, self.details, self.resolution) if part)


class UsageError(OrchestratorError):
    """The command line asks for something that cannot be."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in a file that the user wrote."""

    file: str
    line: int
    """1-based."""
    column: int
    """1-based."""
    key: str
    """Dotted path of the key, such as ``distros.debian_bookworm.release``."""
    message: str
    """What is wrong, and the nearest valid name where there is one."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.key}: {self.message}"


class ConfigurationError(UsageError):
    """Everything that is wrong in the configuration, at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        count = len(problems)
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} in the configuration; nothing was started",
            details="\n".join(str(problem) for problem in problems),
        )
        self.problems = problems


class HostNotReady(OrchestratorError):
    """This host lacks something that the plan needs."""

    exit_code = ExitCode.HOST_NOT_READY


class BuildFailure(OrchestratorError):
    """The target failed for its own reasons. Retrying would fail again."""

    exit_code = ExitCode.BUILD_FAILED


class ScriptFailed(BuildFailure):
    """The recipe's script ended with a non-zero status, or ran into provision's deadline."""


class VerificationFailed(BuildFailure):
    """An output is missing, not declared, or not what it should be."""


class PublishConflict(BuildFailure):
    """A published key holds other bytes. Published bytes never change."""


class EnvironmentFailure(OrchestratorError):
    """Something around the build failed, so trying again may help."""

    exit_code = ExitCode.ENVIRONMENT


class DeadlineExceeded(EnvironmentFailure):
    """A stage did not end within its limit."""

    def __init__(self, stage: str, limit_s: float, waiting_for: str) -> None:
        super().__init__(
            f"{stage}: no end within its limit of {limit_s:g} s",
            details=f"It was waiting for {waiting_for}.",
            resolution=f"Raise deadlines.{stage}_s in targets.yaml if this host is just slow.",
        )
        self.stage = stage
        self.limit_s = limit_s


class MachineLost(EnvironmentFailure):
    """The machine died, or stopped answering, while it was in use."""


class NoCapacity(EnvironmentFailure):
    """The provider has no room for the machine. Nothing was started, and nothing was paid."""

    def __init__(
        self, brief: str, *, details: str = "", resolution: str = "", elsewhere: bool = False
    ) -> None:
        """``elsewhere``: the next attempt is made in another place, so this one costs none."""
        super().__init__(brief, details=details, resolution=resolution)
        self.elsewhere = elsewhere


class Refused(EnvironmentFailure):
    """The provider said no, and would say it again: it is not asked another time."""


class DiskFull(EnvironmentFailure):
    """A file system of this host has no room left."""


class DestinationUnreachable(EnvironmentFailure):
    """A destination could not be reached, or refused to answer sensibly."""


class MachineLeaked(OrchestratorError):
    """A machine could not be proven dead."""

    exit_code = ExitCode.LEAKED


class Interrupted(OrchestratorError):
    """A signal, or the failure of another target with --fail-fast, asked us to stop."""

    def __init__(self, signum: int) -> None:
        """``signum`` is 0 where no signal was involved."""
        cause = signal.Signals(signum).name if signum else "the failure of another target"
        super().__init__(f"stopped by {cause}")
        self.exit_code = ExitCode(128 + signum) if signum else ExitCode.BUILD_FAILED
        self.signum = signum
