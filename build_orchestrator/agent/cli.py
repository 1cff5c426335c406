"""The command line `cfy-ap`, under its old name and with its old numbers."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import NoReturn, Sequence

from build_orchestrator.agent.errors import Code, PackagerError
from build_orchestrator.agent.signals import Stopped, heard

DESCRIPTION = """\
Build the agent that a configuration describes: an interpreter and modules in cloudify/env, checked,
and packed as a tar that runs in any folder of any machine of this distribution.
"""
EPILOG = """\
examples:
  cfy-ap -c packager.yaml             build what packager.yaml describes
  cfy-ap -c packager.yaml -d          only show what would be built
  cfy-ap -f --locked agent.lock       build again, held to the lock of an earlier build
  cfy-ap --offline --wheelhouse DIR   build without any network

exit status: 0 built; 1 no environment; 2 environment there already; 3 no download; 4 no agent
asked for; 5 not uninstalled; 6 modules not installed; 7 no tar; 8 unknown distribution; 9 tar there
already; 10 not what was asked for; 11 configuration not readable; 12 configuration wrong; 13
requirements file not readable; 129, 130, 143 stopped by SIGHUP, SIGINT (Ctrl-C) or SIGTERM.
"""


def parser(program: str = "cfy-ap") -> argparse.ArgumentParser:
    """What `cfy-ap` understands."""
    made = argparse.ArgumentParser(
        prog=program,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        *("-c", "--config"),
        metavar="FILE",
        help="YAML, or INI where it ends in .ini  [default: config.yaml, else packager.yaml]",
    )
    made.add_argument(
        *("-f", "--force"),
        action="store_true",
        help="replace an environment and tar that are there",
    )
    made.add_argument(
        *("-d", "--dryrun"), action="store_true", help="show what would be done, and do nothing"
    )
    made.add_argument(
        *("-n", "--no-validation"), action="store_true", help="do not look at what came out"
    )
    made.add_argument("-v", "--verbose", action="store_true", help="name each module, too")
    made.add_argument("-o", "--output", metavar="DIR", help="where the tar and its lock go")
    made.add_argument("--wheelhouse", metavar="DIR", help="install from the files in DIR, too")
    made.add_argument(
        "--offline", action="store_true", help="install from the wheelhouse only, without network"
    )
    made.add_argument("--locked", metavar="FILE", help="install exactly what this lock names")
    made.add_argument("--phases", action="store_true", help="print a line ::phase NAME for each")
    made.add_argument("--version", action="version", version=f"cfy-ap {version()}")
    return made


def version() -> str:
    """Of the project that this is a part of."""
    from importlib import metadata

    try:
        return metadata.version("build-orchestrator")
    except metadata.PackageNotFoundError:
        return "from source"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `cfy-ap` and exit with one of its numbers."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run `cfy-ap`; every error becomes words and a number."""
    options = parser().parse_args(arguments)
    show_log(verbose=options.verbose, phases=options.phases)
    try:
        with heard():
            build(options)
    except Stopped as stopped:
        print(f"cfy-ap: {stopped}", file=sys.stderr, flush=True)
        return stopped.status
    except PackagerError as error:
        print(described(error), file=sys.stderr, flush=True)
        return int(error.code)
    except OSError as error:
        failed = of_machine(error)
        print(described(failed), file=sys.stderr, flush=True)
        return int(failed.code)
    return int(Code.DRYRUN_COMPLETE)


def build(options: argparse.Namespace) -> Path:
    """Build what the options say."""
    from build_orchestrator.agent.packager import CONFIG_FILE, create

    default = CONFIG_FILE if Path(CONFIG_FILE).exists() else "packager.yaml"
    return create(
        config_file=options.config or default,
        force=options.force,
        dryrun=options.dryrun,
        no_validate=options.no_validation,
        verbose=options.verbose,
        output=options.output,
        wheelhouse=options.wheelhouse,
        offline=options.offline,
        locked=options.locked,
    )


def of_machine(error: OSError) -> PackagerError:
    """What the machine did to us, wherever on the way: mostly, its disk was full."""
    return PackagerError(
        Code.COULD_NOT_CREATE_VIRTUALENV,
        f"this machine failed: {error}",
        resolution="Is there room on the file system, and may you write there?",
    )


def described(error: PackagerError, program: str = "cfy-ap") -> str:
    """What happened, where, and what to try, as a person reads it."""
    lines = [f"{program}: {error.brief}"]
    lines += [f"  {line}" for line in error.details.splitlines()]
    lines += [f"  {line}" for line in error.resolution.splitlines()]
    return "\n".join(lines)


def show_log(*, verbose: bool, phases: bool = False) -> None:
    """Let the packager's log appear on standard output as it happens."""
    log = logging.getLogger("build_orchestrator.agent")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False
    phase = logging.getLogger("build_orchestrator.agent.phase")
    phase.propagate = False
    marked = logging.StreamHandler(sys.stdout)
    marked.setFormatter(logging.Formatter("::phase %(message)s"))
    phase.handlers[:] = [marked] if phases else [logging.NullHandler()]
