"""The standard streams: closed, full or gone, they never decide how a command ends."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

import click

from build_orchestrator.errors import OrchestratorError


def fill() -> None:
    """Open /dev/null in the place of every standard stream that was closed before we began.

    In this order each gets the number it should have, so that no file of ours takes it and no
    command that we start writes into one.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - it stays


def say(text: str, *, err: bool = False) -> None:
    """Print a line of a command that has an effect, which must not depend on who reads it."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(text, err=err)


def complain(error: OrchestratorError) -> None:
    """Print what happened, where, and what to try, as a person reads it."""
    parts = [f"build: {error.brief}"]
    parts += [f"  {line}" for line in error.details.splitlines()]
    parts += [f"  {line}" for line in error.resolution.splitlines()]
    say("\n".join(parts), err=True)


def let_go() -> None:
    """Flush both streams; what nobody takes is dropped, now and when the process ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _drop(stream)


def _drop(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
        stream.flush()
