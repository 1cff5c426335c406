"""The command line of wagons: what each command takes, and what it does.

``python -m build_orchestrator.agent.wagon`` runs it where only the packager's one file is;
``build wagon`` makes its own commands of the same list.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Callable, NamedTuple, NoReturn, Sequence

from build_orchestrator.agent.cli import described, version
from build_orchestrator.agent.errors import PackagerError
from build_orchestrator.agent.signals import Stopped, heard
from build_orchestrator.agent.wagon.errors import Status

PROGRAM = "python -m build_orchestrator.agent.wagon"
Options = argparse.Namespace


class Command(NamedTuple):
    """One command."""

    brief: str
    text: str
    examples: tuple[str, ...]
    """Without the name of the program."""
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Options], int]


def parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """What the command line understands."""
    made = argparse.ArgumentParser(prog=program, description=DESCRIPTION)
    made.add_argument("--version", action="version", version=f"{program} {version()}")
    made.add_argument("-v", "--verbose", action="store_true", help=VERBOSE)
    commands = made.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        examples = "\n".join(f"  {program} {line}" for line in command.examples)
        each = commands.add_parser(
            name,
            help=command.brief,
            description=f"{command.brief}\n\n{command.text}".rstrip(),
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(each)
        unsaid = argparse.SUPPRESS  # what was said before the command holds
        each.add_argument("-v", "--verbose", action="store_true", default=unsaid, help=VERBOSE)
        each.set_defaults(run=command.run)
    made.set_defaults(run=None)
    return made


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every error becomes words and a number."""
    understood = parser()
    options = understood.parse_args(arguments)
    if options.run is None:
        understood.print_help()
        return int(Status.DONE)
    show_log(verbose=options.verbose)
    try:
        with heard():
            done: int = options.run(options)
        return done
    except Stopped as stopped:
        print(f"wagon: {stopped}", file=sys.stderr, flush=True)
        return stopped.status
    except PackagerError as error:
        print(described(error, "wagon"), file=sys.stderr, flush=True)
        return int(status_of(error))
    except OSError as error:
        print(f"wagon: this host failed: {error}", file=sys.stderr, flush=True)
        return int(Status.ENVIRONMENT)


def status_of(error: PackagerError) -> Status:
    """The number of an error; those of the packager beneath are no numbers of ours."""
    from build_orchestrator.agent.errors import Code

    if isinstance(error.code, Code):
        return Status.ENVIRONMENT if error.code == Code.FAILED_TO_CREATE_TAR else Status.FAILED
    return Status(error.code)


def show_log(*, verbose: bool) -> None:
    """Let progress appear on standard error: standard output is for what was asked for."""
    log = logging.getLogger("build_orchestrator.agent")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


DESCRIPTION = "Pack a Python package with every wheel that it needs, and install it offline."
VERBOSE = "Say what pip says, too"
VALIDATE = "Check it, and install it in a new environment, before it is put in place"
SOURCE_TEXT = """\
SOURCE is NAME, NAME==VERSION, a folder with a pyproject.toml or setup.py, an archive of such a
folder, or the address of one."""


# --- create ---------------------------------------------------------------------------------------


def _create_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="What to pack")
    add = parser.add_argument
    add(*("-r", "--requirements-file"), action="append", metavar="FILE",
        help="Pack what FILE asks for, too; may be repeated")  # fmt: skip
    add("-t", "--format", choices=("zip", "tar.gz"), default="zip", help="Kind of archive")
    add("-f", "--force", action="store_true", help="Replace a wagon that is there")
    add("--keep-wheels", action="store_true", help="Leave the wheels in a folder beside the wagon")
    add("-o", "--output-directory", metavar="DIR", default=".", help="Where the wagon goes")
    add("--pyver", action="append", metavar="X",
        help="A Python that it is for, such as 311 or py3; may be repeated")  # fmt: skip
    add("--build-tag", metavar="TAG", default="", help="A part of its name, after the version")
    add("--validate", action="store_true", help=VALIDATE)
    add(*("-a", "--wheel-args"), metavar="ARGS", default="",
        help="More for `pip wheel`, as one word: --wheel-args='--no-cache-dir'")  # fmt: skip
    add("--pip", action="append", metavar="PATH",
        help="A pip to make wheels with; may be repeated, once for each Python")  # fmt: skip
    add("--supported-platform", metavar="PLATFORM",
        help="The platform that it is for, instead of what its wheels say")  # fmt: skip
    add("--add-file", nargs="+", action="extend", metavar="FILE",
        help="Carry FILE along; more may follow after SOURCE")  # fmt: skip


def _create(options: Options) -> int:
    from build_orchestrator.agent.wagon.creating import create

    made = create(
        options.source,
        requirement_files=options.requirements_file,
        force=options.force,
        keep_wheels=options.keep_wheels,
        archive_destination_dir=options.output_directory,
        python_versions=options.pyver,
        validate_archive=options.validate,
        wheel_args=options.wheel_args,
        archive_format=options.format,
        build_tag=options.build_tag,
        pip_paths=options.pip,
        supported_platform=options.supported_platform,
        add_file=options.add_file,
    )
    print(made)
    return int(Status.DONE)


# --- install, validate, repair --------------------------------------------------------------------


def _wagon(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="WAGON", help="Path or address of a wagon")


def _install_options(parser: argparse.ArgumentParser) -> None:
    _wagon(parser)
    add = parser.add_argument
    add(*("-r", "--requirements-file"), action="append", metavar="FILE",
        help="Install what FILE asks for, too, from the wagon; may be repeated")  # fmt: skip
    add("-u", "--upgrade", action="store_true", help="Replace another version that is installed")
    add("--ignore-platform", action="store_true", help="Try, also where it is for another platform")
    add(*("-a", "--install-args"), metavar="ARGS", default="",
        help="More for `pip install`, as one word: --install-args='--no-deps'")  # fmt: skip
    add("--venv", metavar="DIR",
        help="Install into this virtual environment, and not into the active one")  # fmt: skip


def _install(options: Options) -> int:
    from build_orchestrator.agent.wagon.installing import install

    install(
        options.source,
        venv=options.venv,
        requirement_files=options.requirements_file,
        upgrade=options.upgrade,
        ignore_platform=options.ignore_platform,
        install_args=options.install_args,
    )
    return int(Status.DONE)


def _validate(options: Options) -> int:
    from build_orchestrator.agent.wagon.validating import validate

    wrong = validate(options.source)
    for line in wrong or ["Validation Passed!"]:
        print(line)
    return int(Status.FAILED if wrong else Status.DONE)


def _repair_options(parser: argparse.ArgumentParser) -> None:
    _wagon(parser)
    add = parser.add_argument
    add("--validate", action="store_true", help=VALIDATE)
    add("-o", "--output-directory", metavar="DIR", default=".", help="Where the new wagon goes")
    add("-f", "--force", action="store_true", help="Replace a wagon that is there")


def _repair(options: Options) -> int:
    from build_orchestrator.agent.wagon.repairing import repair

    made = repair(
        options.source,
        validate_archive=options.validate,
        output_directory=options.output_directory,
        force=options.force,
    )
    if made is not None:
        print(made)
    return int(Status.DONE)


# --- show, list-files, get-file -------------------------------------------------------------------


def _show(options: Options) -> int:
    from build_orchestrator.agent.wagon.contents import show

    print(json.dumps(show(options.source), indent=4, sort_keys=True))
    return int(Status.DONE)


def _list_options(parser: argparse.ArgumentParser) -> None:
    _wagon(parser)
    parser.add_argument("--json", action="store_true", help="Print JSON")


def _list_files(options: Options) -> int:
    from build_orchestrator.agent.wagon.contents import list_files

    names = list_files(options.source)
    if options.json:
        print(json.dumps(names, indent=2))
    elif names:
        print("\n".join(names))
    else:
        print("There are no files.", file=sys.stderr)
    return int(Status.DONE)


def _get_options(parser: argparse.ArgumentParser) -> None:
    _wagon(parser)
    add = parser.add_argument
    add("-f", "--filename", metavar="NAME", required=True, help="The file to take out")
    add("-o", "--output-directory", metavar="DIR", default=".", help="Where it goes")


def _get_file(options: Options) -> int:
    from build_orchestrator.agent.wagon.contents import get_file

    print(get_file(options.source, options.filename, options.output_directory))
    return int(Status.DONE)


COMMANDS: dict[str, Command] = {
    "create": Command(
        "Pack a package and every wheel that it needs.",
        f"{SOURCE_TEXT}\nIts path is printed; progress is told on standard error.",
        (
            "create .",
            "create requests==2.32.3 -o wagons --validate",
            "create my-plugin -r dev-requirements.txt --add-file plugin.yaml",
        ),
        _create_options,
        _create,
    ),
    "install": Command(
        "Install a wagon from nothing but its own wheels, in exactly its version.",
        "Into the active virtual environment, else where this command is installed itself.",
        ("install my_plugin-1.0-py311-none-any.wgn --venv /opt/plugins",),
        _install_options,
        _install,
    ),
    "validate": Command(
        "Check a wagon, and install it in a new environment.",
        "Everything that is wrong is printed; the exit code is 1 then.",
        ("validate my_plugin-1.0-py311-none-any.wgn",),
        _wagon,
        _validate,
    ),
    "show": Command(
        "Print what a wagon says of itself, as JSON.",
        "",
        ("show my_plugin-1.0-py311-none-any.wgn",),
        _wagon,
        _show,
    ),
    "list-files": Command(
        "Print the names of the files that were added to a wagon.",
        "",
        ("list-files my_plugin-1.0-py311-none-any.wgn",),
        _list_options,
        _list_files,
    ),
    "get-file": Command(
        "Take a file that was added out of a wagon.",
        "Its path is printed.",
        ("get-file my_plugin-1.0-py311-none-any.wgn -f plugin.yaml -o /tmp",),
        _get_options,
        _get_file,
    ),
    "repair": Command(
        "Make a wagon for every distribution with the same or a newer glibc.",
        "Its wheels are repaired by auditwheel: shared libraries that they need are copied into\n"
        "them. The path of the new wagon is printed.",
        ("repair my_plugin-1.0-py311-none-linux_x86_64.wgn --validate",),
        _repair_options,
        _repair,
    ),
}
