"""``build wagon``: the commands of ``agent/wagon/cli`` with click's looks and our exit codes.

What each of them takes stands there once, since they also run inside machines, without click.
"""

from __future__ import annotations

import argparse
from typing import Any

import click

from build_orchestrator.agent.errors import PackagerError
from build_orchestrator.agent.signals import Stopped, heard
from build_orchestrator.agent.wagon.cli import (
    COMMANDS,
    DESCRIPTION,
    VERBOSE,
    Command,
    show_log,
    status_of,
)
from build_orchestrator.agent.wagon.errors import Status
from build_orchestrator.errors import (
    BuildFailure,
    EnvironmentFailure,
    HostNotReady,
    Interrupted,
    OrchestratorError,
    UsageError,
)

ERRORS: dict[Status, type[OrchestratorError]] = {
    Status.FAILED: BuildFailure,
    Status.USAGE: UsageError,
    Status.ENVIRONMENT: EnvironmentFailure,
    Status.HOST: HostNotReady,
}


EXAMPLES = "\b\nExamples:\n  build wagon create .\n  build wagon COMMAND --help"


@click.group(help=f"{DESCRIPTION}\n\n{EXAMPLES}", invoke_without_command=True)
@click.option("-v", "--verbose", is_flag=True, help=VERBOSE)
@click.pass_context
def wagon(context: click.Context, verbose: bool) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    context.obj = verbose


def _command(name: str, command: Command) -> click.Command:
    parser = argparse.ArgumentParser(add_help=False)
    command.add_options(parser)
    actions = parser._actions  # argparse has no other list of them
    parameters = [_parameter(action) for action in actions]
    listed = [action.dest for action in actions if action.nargs == "+"]
    if listed:
        parameters.append(click.Argument(["more"], nargs=-1, metavar=""))
    verbose = click.Option(["-v", "--verbose"], is_flag=True, help=VERBOSE)

    @click.pass_obj
    def run(loud: bool, /, verbose: bool, more: tuple[str, ...] = (), **values: Any) -> int:
        for dest in listed:
            if more and not values[dest]:
                raise click.UsageError(f"what is {more[0]!r} for?")
            values[dest] = [*values[dest], *more]
        show_log(verbose=loud or verbose)
        try:
            with heard():
                return command.run(argparse.Namespace(**values))
        except Stopped as stopped:
            raise Interrupted(stopped.number) from stopped
        except PackagerError as error:
            kind = ERRORS[status_of(error)]
            raise kind(error.brief, details=error.details, resolution=error.resolution) from error

    examples = "\n".join(f"  build wagon {line}" for line in command.examples)
    text = "\n\n".join(part for part in (command.brief, command.text) if part)
    return click.Command(
        name,
        params=[*parameters, verbose],
        callback=run,
        help=f"{text}\n\n\b\nExamples:\n{examples}",
        short_help=command.brief,
    )


def _parameter(action: argparse.Action) -> click.Parameter:
    """click's of argparse's, for the kinds that are used there."""
    if not action.option_strings:
        return click.Argument([action.dest], metavar=action.metavar)
    names = [*action.option_strings, action.dest]
    if action.nargs == 0:
        return click.Option(names, is_flag=True, help=action.help)
    many = isinstance(action, argparse._AppendAction)  # and what is made of it: extend
    return click.Option(
        names,
        type=click.Choice(list(action.choices)) if action.choices else None,
        multiple=many,
        metavar=None if action.choices else str(action.metavar),
        default=action.default,
        show_default=bool(action.default),
        required=action.required,
        help=action.help,
    )


for _name, _each in COMMANDS.items():
    wagon.add_command(_command(_name, _each))
