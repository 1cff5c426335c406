"""The page docs/reference/commands.md, made of what every ``build COMMAND --help`` says.

Write it with ``python -m build_orchestrator.cli.reference >docs/reference/commands.md``.
"""

from __future__ import annotations

import click

from build_orchestrator.cli import COMMANDS, cli

COLUMNS = 90

HEAD = """\
# Commands

<!-- Made by `python -m build_orchestrator.cli.reference`; a test sees it drift. -->

What each command says for `--help`. All of them look for the project (the nearest folder with a
`targets.yaml`) from the current folder upwards, or take `build --project DIR COMMAND`; `status`
and `sweep` work without one, and `doctor` needs none. `--json`, where it is, is for programs. Exit
codes have a [page of their own](exit-codes.md).

A *selector* is a target, or a glob over targets. Where it does not end in a provider's name it is
about distros, and means the default provider only (`build list` marks it with a star).
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, *(_section(name) for name in COMMANDS)]
    return "\n".join([*parts, _text("build", cli)])


def _section(name: str) -> str:
    with click.Context(cli) as context:
        command = cli.get_command(context, name)
    assert command is not None
    parts = [_text(f"build {name}", command)]
    if isinstance(command, click.Group):
        parts += [_text(f"build {name} {sub}", each) for sub, each in command.commands.items()]
    return "\n".join(parts)


def _text(name: str, command: click.Command) -> str:
    context = click.Context(
        command, info_name=name, terminal_width=COLUMNS, help_option_names=["-h", "--help"]
    )
    lines = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return f"## {name}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    print(page(), end="")
