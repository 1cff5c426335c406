"""``build agent``: build an agent on this very host, without any machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from build_orchestrator.errors import (
    BuildFailure,
    EnvironmentFailure,
    HostNotReady,
    Interrupted,
    OrchestratorError,
    UsageError,
)

if TYPE_CHECKING:
    from build_orchestrator.agent.errors import PackagerError

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

WRONG = {2, 4, 8, 9, 11, 12, 13}
"""Numbers of ``cfy-ap`` for what the user asked for and cannot have."""
UNAVAILABLE = {3}
UNREADY = {1}


@click.command()
@click.option("-c", "--config", type=FILE, default="packager.yaml", metavar="FILE",
              help="YAML, or INI where it ends in .ini  [default: packager.yaml]")  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Replace an environment and a tar that are there")
@click.option("-d", "--dryrun", is_flag=True, help="Show what would be done as JSON; do nothing")
@click.option("-n", "--no-validation", is_flag=True, help="Do not look at what came out")
@click.option("-v", "--verbose", is_flag=True, help="Name each module, too")
@click.option("-o", "--output", type=FOLDER, metavar="DIR",
              help="Where the tar and its lock go  [default: the current folder]")  # fmt: skip
@click.option("--wheelhouse", type=FOLDER, metavar="DIR", help="Install from the files in DIR, too")
@click.option("--offline", is_flag=True, help="Install from the wheelhouse only, without network")
@click.option("--locked", type=FILE, metavar="FILE", help="Install exactly what this lock names")
@click.version_option(package_name="build-orchestrator", message="build agent %(version)s")
def agent(
    config: Path,
    force: bool,
    dryrun: bool,
    no_validation: bool,
    verbose: bool,
    output: Path | None,
    wheelhouse: Path | None,
    offline: bool,
    locked: Path | None,
) -> None:
    """Build an agent on this host, as a recipe does in a machine.

    The tar holds an interpreter and modules. It runs in any folder of any machine of this host's
    distribution. Beside it lies a lock of everything that was installed.

    \b
    Examples:
      build agent
      build agent -c packager.yaml --dryrun
      build agent -f --locked Debian-bookworm-agent.requirements.lock
      build agent --offline --wheelhouse wheels
    """
    from build_orchestrator.agent.cli import show_log
    from build_orchestrator.agent.errors import PackagerError
    from build_orchestrator.agent.packager import create
    from build_orchestrator.agent.signals import Stopped, heard

    if wheelhouse and not wheelhouse.is_dir():
        raise UsageError(
            f"--wheelhouse: there is no folder {wheelhouse}",
            resolution="`pip download --dest DIR` fills one.",
        )
    show_log(verbose=verbose)
    try:
        with heard():
            create(
                config_file=config,
                force=force,
                dryrun=dryrun,
                no_validate=no_validation,
                verbose=verbose,
                output=output,
                wheelhouse=wheelhouse,
                offline=offline,
                locked=locked,
            )
    except Stopped as stopped:
        raise Interrupted(stopped.number) from stopped
    except PackagerError as error:
        raise _translated(error) from error


def _translated(error: PackagerError) -> OrchestratorError:
    """The same with the exit code that this product has for it."""
    kind: type[OrchestratorError] = BuildFailure
    if error.code in WRONG:
        kind = UsageError
    elif error.code in UNAVAILABLE:
        kind = EnvironmentFailure
    elif error.code in UNREADY:
        kind = HostNotReady
    return kind(error.brief, details=error.details, resolution=error.resolution)
