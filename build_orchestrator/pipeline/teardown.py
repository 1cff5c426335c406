"""The end of a machine, whatever was done in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from build_orchestrator import events
from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import OrchestratorError
from build_orchestrator.machine.contract import Machine
from build_orchestrator.model import MachineFate
from build_orchestrator.pipeline.run import Record, Run


def destroy(run: Run, record: Record, machine: Machine, deadline: Deadline) -> None:
    """Destroy a machine and say what became of it; never raise, since another error may be on its
    way."""
    name = machine.identity.name
    try:
        machine.destroy(deadline=deadline)
    except Exception as error:  # noqa: BLE001 - a teardown may not hide another error
        record.settle(MachineFate.LEAKED, name)
        if isinstance(error, OrchestratorError):
            record.leak = error
        else:
            run.bugs.append(error)
        _warn(run, record, f"teardown: {error}")
        return
    bury(run, record, name)


def bury(run: Run, record: Record, name: str) -> None:
    """Say that a machine is proven dead; where that cannot be written, a sweep proves it again."""
    record.settle(MachineFate.DESTROYED, name)
    try:
        run.journal.bury(name)
    except OSError as error:
        _warn(run, record, f"{name} is gone, but that could not be written down: {error}")


def mask_console(run: Run, record: Record, console: Path) -> None:
    """Hide secrets that the machine has shown so far: its own writer knows none."""
    if not any(run.secrets.values()) or not console.is_file():
        return
    aside = console.with_name(f".{console.name}")
    shapes: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        with console.open(**shapes) as shown, aside.open("w", **shapes) as masked:
            masked.writelines(run.masker.mask(line) for line in shown)
        aside.replace(console)
    except OSError as error:
        # A console with secrets in it is worse than none.
        aside.unlink(missing_ok=True)
        console.unlink(missing_ok=True)
        _warn(run, record, f"{console} is removed, since its secrets could not be hidden: {error}")


def _warn(run: Run, record: Record, text: str) -> None:
    record.tell(events.Warned(target=record.target, text=run.masker.mask(text)))
