"""The command line: the only place that prints and exits.

Commands are imported when they are called, so that `build --help` stays instant.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import click

from build_orchestrator.cli import streams
from build_orchestrator.errors import ExitCode, OrchestratorError

COMMANDS = {
    "list": ("look", "Show every target: its name, image and provider."),
    "plan": ("look", "Show what a run would do, without doing it."),
    "render": ("look", "Show the files that a build is made with."),
    "up": ("up", "Build targets in clean machines: the main job."),
    "lock": ("lock", "Write down which images names mean now."),
    "bake": ("bake", "Make images that hold the prerequisites already, with Packer."),
    "images": ("images", "Show the images that were baked, and remove old ones."),
    "why": ("why", "Say what has changed since a build or an image."),
    "box": ("box", "Make a Vagrant box on this host."),
    "status": ("machines", "Show runs, and machines that are alive."),
    "logs": ("machines", "Show the log of a build."),
    "ssh": ("machines", "Open a shell in a machine that is alive."),
    "sweep": ("machines", "Destroy machines that were left behind."),
    "publish": ("again", "Publish again what a run has collected."),
    "agent": ("agent", "Build an agent on this very host, without any machine."),
    "wagon": ("wagon", "Pack a Python package for offline installation."),
    "doctor": ("host", "Say what this host lacks, and how to get it."),
}
"""Command -> its module here and its line in the list."""


class Commands(click.Group):
    """A group that knows its commands by name alone until one is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"build_orchestrator.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("list", "list_targets"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and name not in COMMANDS and not name.startswith("-"):
            from build_orchestrator.configuration.findings import did_you_mean

            ctx.fail(f"there is no command {name!r}{did_you_mean(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`build COMMAND --help` shows examples. Exit codes: docs/reference/exit-codes.md.",
)
@click.option(
    "--project",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The folder with targets.yaml  [default: the nearest one, from here upwards]",
)
@click.version_option(package_name="build-orchestrator", message="build-orchestrator %(version)s")
@click.pass_context
def cli(ctx: click.Context, project: Path | None) -> None:
    """Boot a clean virtual machine, build an artifact in it, publish it, destroy the machine.

    \b
    Examples:
      build list
      build up debian_bookworm_qemu
      build up 'debian_*_qemu' -j2
    """
    ctx.obj = project


def main() -> NoReturn:
    """Run the command line and exit with one of the documented codes."""
    streams.fill()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; every error becomes words and an exit code."""
    try:
        return _called(arguments)
    finally:
        streams.let_go()


def _called(arguments: list[str]) -> int:
    try:
        # Not cli.main(), which makes exit code 1 of a pipe that nobody reads.
        with cli.make_context("build", list(arguments)) as ctx:
            code = cli.invoke(ctx)
        return code if isinstance(code, int) else ExitCode.OK
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.Abort:
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return ExitCode.USAGE
    except OrchestratorError as error:
        streams.complain(error)
        return error.exit_code
    except BrokenPipeError:
        return ExitCode.OK  # Whoever read us has enough, as in `build list | head`.
    except OSError as error:
        # A bug of ours does not look like this; a full disk or a folder that is gone does.
        streams.say(f"build: this host failed us: {error}", err=True)
        streams.say("  `build doctor` looks at folders and free space.", err=True)
        return ExitCode.ENVIRONMENT
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last net: no trace for a user
        streams.say(f"build: a bug of ours: {type(error).__name__}: {error}", err=True)
        streams.say(f"The trace is in {_keep_trace()}; please report it.", err=True)
        return ExitCode.BUG


def _keep_trace() -> str:
    from build_orchestrator.locks import private_folder, state_home

    trace = traceback.format_exc()
    with contextlib.suppress(Exception):  # Whatever stands in the way: the trace is not lost.
        place = private_folder(state_home() / "bugs") / f"{time.time_ns()}.txt"
        place.write_text(trace)
        return str(place)
    streams.say(trace, err=True)
    return "the lines above"
