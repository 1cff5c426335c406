"""``build status``, ``logs``, ``ssh`` and ``sweep``: runs and machines that exist."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from build_orchestrator.cli.cloud import cloud_of, endpoint_option, take_old_name
from build_orchestrator.cli.project import (
    configuration_or_none,
    project_of,
    provider_maker,
    run_folder,
)
from build_orchestrator.cli.streams import complain, say
from build_orchestrator.errors import ExitCode, OrchestratorError, UsageError
from build_orchestrator.machine import LOCAL

if TYPE_CHECKING:
    from build_orchestrator.journal import Entry
    from build_orchestrator.machine.contract import Provider
    from build_orchestrator.model import Identity


SWEEP_S = 420.0
"""How long one machine may take to be gone; a launch without an answer needs five minutes."""


@click.command()
@click.argument("run", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.pass_context
def status(ctx: click.Context, run: str, as_json: bool) -> None:
    """Show the newest run, or the one whose id begins with RUN, and every machine that is alive.

    \b
    Examples:
      build status
      build status 20261121T0145 --json
    """
    from build_orchestrator.machine.contract import silent
    from build_orchestrator.sweep import alive_machines

    take_old_name(lambda text: say(text, err=True))
    provider = provider_maker(silent)
    machines = [_machine(entry, provider) for entry in alive_machines(_project_or_none(ctx))]
    folder = _folder_or_none(ctx, run)
    results = _results(folder) if folder else []
    if as_json:
        name = folder.name if folder else None
        click.echo(json.dumps({"run": name, "results": results, "machines": machines}, indent=2))
        return
    if folder:
        click.echo(f"run {folder.name}" + ("" if results else ": going on, or killed"))
    for row in results:
        click.echo(f"  {row['target']}: {row['outcome']}, machine {row['machine']}")
    _show_machines(machines)


def _show_machines(machines: list[dict[str, Any]]) -> None:
    alive = [machine for machine in machines if machine["alive"]]
    gone = [machine for machine in machines if not machine["alive"]]
    click.echo("machines alive:" if alive else "no machine is alive")
    for machine in alive:
        until = f", kept until {machine['kept_until']}" if machine["kept_until"] else ""
        click.echo(f"  {machine['target']} ({machine['provider']}) {machine['name']}{until}")
    if gone:
        click.echo("not running, but known (`build sweep` removes what is left of the dead):")
    for machine in gone:
        click.echo(f"  {machine['target']} ({machine['provider']}) {machine['name']}")


def _machine(entry: Entry, provider: Callable[[str], Provider]) -> dict[str, Any]:
    return {
        "alive": _is_alive(entry.identity, provider),
        "name": entry.identity.name,
        "target": entry.identity.target,
        "provider": entry.identity.provider,
        "kept_until": _utc(entry.kept_until),
        "limit_at": _utc(entry.limit_at),
        "details": dict(entry.identity.details),
    }


def _is_alive(identity: Identity, provider: Callable[[str], Provider]) -> bool:
    """Whether the machine runs; a provider that cannot say is no proof that it does not."""
    try:
        return provider(identity.provider).adopt(identity).alive()
    except (OrchestratorError, OSError):
        return True


def _results(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's report; none where it is not there, or not whole."""
    try:
        rows = json.loads((folder / "report.json").read_text())["results"]
        return [row for row in rows if {"target", "outcome", "machine"} <= row.keys()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def _folder_or_none(ctx: click.Context, run: str) -> Path | None:
    try:
        return run_folder(ctx, run)
    except UsageError:
        if run:
            raise
        return None


def _project_or_none(ctx: click.Context) -> Path | None:
    """The project; None where there is none, since machines are found without one, too."""
    try:
        return project_of(ctx)
    except UsageError:
        return None


@click.command()
@click.argument("target")
@click.option("--run", default="", metavar="RUN", help="Beginning of a run's id  [default: newest]")
@click.option("--console", is_flag=True, help="The machine's console instead of the log")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until interrupted")
@click.pass_context
def logs(ctx: click.Context, target: str, run: str, console: bool, follow: bool) -> None:
    """Show the log of a target's build: everything it said, with times.

    \b
    Examples:
      build logs debian_bookworm_qemu
      build logs debian_bookworm_qemu -f
      build logs debian_bookworm_qemu --console
    """
    from build_orchestrator.locks import is_held

    folder = run_folder(ctx, run)
    path = folder / target / ("console.txt" if console else "log.txt")
    if not path.is_file():
        names = sorted(each.name for each in folder.iterdir() if each.is_dir())
        raise UsageError(
            f"run {folder.name} has no {path.name} of {target!r}",
            details="It has: " + ", ".join(names),
        )
    heartbeat = _heartbeat(folder) if follow else None
    show = _shown(on_terminal=sys.stdout.isatty())
    with path.open("rb") as file:
        while True:
            # Asked before reading, so that no line is missed. A killed run leaves no report.
            ended = (folder / "report.json").exists() or not (heartbeat and is_held(heartbeat))
            while chunk := file.read(1 << 16):
                show(chunk)
            if ended:
                show(b"")
                return
            time.sleep(0.2)


def _shown(*, on_terminal: bool) -> Callable[[bytes], None]:
    """What shows the bytes of a log as they are, or on a terminal as lines that cannot steer it;
    no bytes are the end."""
    from build_orchestrator.command import Lines
    from build_orchestrator.report.characters import harmless

    if not on_terminal:
        return lambda chunk: click.echo(chunk, nl=False)
    # A carriage return would take away what stands before it: the time, too.
    lines = Lines(lambda line: click.echo(harmless(line.replace("\r", " "))))
    return lambda chunk: lines(chunk) if chunk else lines.close()


def _heartbeat(folder: Path) -> Path | None:
    """What the run's orchestrator holds while it lives; nothing where no plan can be read."""
    from build_orchestrator.journal import HEARTBEAT, run_state

    try:
        return run_state(json.loads((folder / "plan.json").read_text())["run_uuid"]) / HEARTBEAT
    except (OSError, ValueError, LookupError, TypeError):
        return None


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("target")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def ssh(ctx: click.Context, target: str, command: tuple[str, ...]) -> None:
    """Open a shell in the machine of TARGET (or with that name), as root, or run COMMAND there.

    It looks only: the machine stays what it is, a used one, and is destroyed at its time.

    \b
    Examples:
      build up debian_bookworm_qemu --keep on-failure
      build ssh debian_bookworm_qemu
      build ssh debian_bookworm_qemu -- journalctl -b
      build sweep debian_bookworm_qemu      destroys it before its time
    """
    from build_orchestrator.machine.contract import silent
    from build_orchestrator.sweep import alive_machines

    take_old_name(lambda text: say(text, err=True))
    provider = provider_maker(silent)
    alive = [
        entry
        for entry in alive_machines(_project_or_none(ctx))
        if _is_alive(entry.identity, provider)
    ]
    found = [
        entry.identity
        for entry in alive
        if target in (entry.identity.target, entry.identity.name)
        and (Path(entry.identity.folder) / "ssh_config").is_file()
    ]
    if not found:
        names = ", ".join(entry.identity.target for entry in alive) or "none"
        if any(target in (entry.identity.target, entry.identity.name) for entry in alive):
            raise UsageError(f"{target} is alive, but is not talked to by ssh")
        raise UsageError(
            f"no machine of {target!r} is alive",
            details=f"Machines alive: {names}",
            resolution="`build up TARGET --keep on-failure` keeps one.",
        )
    folder = Path(found[-1].folder)
    click.echo(f"{found[-1].name}: a used machine, for looking only", err=True)
    os.chdir(folder)
    os.execvp("ssh", ["ssh", "-F", "ssh_config", *_as_root(command, found[-1].details)])


def _as_root(command: tuple[str, ...], details: Mapping[str, str]) -> list[str]:
    """The rest of ssh's arguments, for whoever logs in: root, one of Windows, or a user
    who has sudo."""
    if details.get("user", "root") == "root" or "windows" in details:
        return ["machine", *command]
    if not command:
        return ["-t", "machine", "sudo", "-n", "-i"]
    # The words are joined as ssh itself joins them.
    return ["machine", "sudo", "-n", "-H", "sh", "-c", shlex.quote(" ".join(command))]


@click.command()
@click.argument("only", default="", metavar="[TARGET|NAME|RUN]")
@click.option("--dry-run", is_flag=True, help="List, destroy nothing")
@click.option(
    "--provider",
    type=click.Choice(["aws"]),
    help="Look there, too, for what any host has left behind",
)
@click.option(
    "--region", multiple=True, metavar="REGION", help="Of AWS  [default: the project's and ours]"
)
@endpoint_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.pass_context
def sweep(
    ctx: click.Context,
    only: str,
    dry_run: bool,
    provider: str | None,
    region: tuple[str, ...],
    aws_endpoint: str | None,
    as_json: bool,
) -> int:
    """Destroy machines of this host whose orchestrator is gone, with their disks and keys.

    A machine whose orchestrator lives is spared, and so is a kept one before its time, unless it
    is named. In AWS a launch that was never answered may still become a machine: five minutes
    after it, that is certain, and so long this waits.

    \b
    Examples:
      build sweep --dry-run
      build sweep
      build sweep debian_bookworm_qemu      also before its time
      build sweep --provider aws --region eu-west-1
    """
    import dataclasses

    from build_orchestrator.sweep import sweep as do_sweep

    if (region or aws_endpoint) and not provider:
        raise UsageError(
            "--region and --aws-endpoint say where in AWS to look, and nobody asks for that",
            resolution="Give --provider aws, too.",
        )
    take_old_name(lambda text: say(text, err=True))
    cloud = cloud_of(configuration_or_none(ctx), aws_endpoint or "", region) if provider else None
    unasked: list[OrchestratorError] = []
    found = do_sweep(
        provider_maker(lambda text: say(text, err=True), cloud),
        (*LOCAL, provider) if provider else LOCAL,
        project=_project_or_none(ctx),
        only=only,
        dry_run=dry_run,
        limit_s=SWEEP_S,
        unasked=unasked.append,
    )
    if as_json:
        say(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        for each in found:
            say(f"{each.state:<10} {each.name}  ({each.reason})")
        if not found and not unasked:
            say(f"nothing called {only!r} was left behind" if only else "nothing was left behind")
    leaked = any(each.state == "leaked" for each in found)
    for error in unasked:
        complain(error)
    worst = unasked[0].exit_code if unasked else ExitCode.OK
    return ExitCode.LEAKED if leaked else worst


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) if at else ""
