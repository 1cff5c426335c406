"""What a person reads at the end of a run: a table, then what went wrong, then what there is.

Pure: returns text for a terminal of a given width, plain unless colour is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, cast

from build_orchestrator.model import MachineFate, Outcome, Report, Result, Stage
from build_orchestrator.report.characters import duration, harmless, size
from build_orchestrator.report.verdict import failures

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SHORT_SHA256 = 12
"""Digits, in a row; a paragraph has room for all of them."""
SHORT_QUEUE_S = 1.0
"""A wait in the queue that is shorter than this for every target is not worth a column."""

STYLES = {
    Outcome.BUILT: "green",
    Outcome.UNCHANGED: "green",
    Outcome.FAILED: "bold red",
    Outcome.ENVIRONMENT: "yellow",
    Outcome.CANCELLED: "yellow",
}


def summary(
    report: Report,
    *,
    columns: int,
    colour: bool = False,
    tails: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The closing words of a run.

    Args:
        columns: the terminal's width. Where the table does not fit, each target gets a paragraph.
        tails: the last lines of each target, shown where it failed.
    """
    parts = [table(report.results, columns=columns, colour=colour)]
    for result in report.results:
        parts += _failures(result, report.run_id, (tails or {}).get(result.target, ()))
    kept = [result for result in report.results if result.machine is MachineFate.KEPT]
    parts += [
        f"{one.target}: its machine is kept until {one.kept_until}; `build ssh {one.target}`\n"
        for one in kept
    ]
    parts += _costs(report.results)
    places = dict.fromkeys(place for result in report.results for place in _places(result))
    if places:
        parts.append("artifacts:\n" + "".join(f"  {place}\n" for place in places))
    return "\n".join(parts)


def table(results: Sequence[Result], *, columns: int, colour: bool = False) -> str:
    """Each target with what became of it: one row where that fits, else a paragraph."""
    from rich.console import Console

    console = Console(
        file=cast("IO[str]", _Nowhere()),
        width=columns,
        force_terminal=colour,
        color_system="standard" if colour else None,
        emoji=False,
        markup=False,
        highlight=False,
        _environ={},
    )
    if not results:
        return ""
    wide = _wide(results)
    with console.capture() as capture:
        if console.measure(wide, options=console.options.update(width=10_000)).maximum <= columns:
            console.print(wide)
        else:
            _narrow(results, console)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


class _Nowhere:
    """Where rich writes nothing, at the end of what it has captured: the real one may be full."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def _wide(results: Sequence[Result]) -> Table:
    from rich.table import Table
    from rich.text import Text

    stages = _stages(results)
    wide = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("target", "outcome", "machine", "published"):
        wide.add_column(name, no_wrap=True)
    for name in ("attempts", *stages, "size"):
        wide.add_column(name, no_wrap=True, justify="right")
    for name in ("sha256", "log"):
        wide.add_column(name, no_wrap=True)
    for result in results:
        times = [duration(result.stages_s[one]) if one in result.stages_s else "" for one in stages]
        cells = [result.target, str(result.outcome), _machine(result), _published(result)]
        cells += [str(result.attempts), *times]
        cells.append("\n".join(size(one.size_bytes) for one in result.artifacts))
        cells.append("\n".join(one.sha256[:SHORT_SHA256] for one in result.artifacts))
        cells.append(harmless(result.log))
        row = [Text(cell) for cell in cells]
        row[1].stylize(STYLES[result.outcome])
        if result.machine is MachineFate.LEAKED:
            row[2].stylize("bold red")
        wide.add_row(*row)
    return wide


def _narrow(results: Sequence[Result], console: Console) -> None:
    """A paragraph per target. Lines are not cut, so that paths can be copied."""
    from rich.text import Text

    stages = _stages(results)
    for result in results:
        head = Text(f"{result.target}  ")
        head.append(str(result.outcome), style=STYLES[result.outcome])
        console.print(head, soft_wrap=True)
        again = f", {result.attempts} attempts" if result.attempts > 1 else ""
        known = [stage for stage in stages if stage in result.stages_s]
        lines = {
            "machine": f"{_machine(result)}{again}",
            "published": _published(result).replace("\n", ", "),
            "stages": ", ".join(f"{stage} {duration(result.stages_s[stage])}" for stage in known),
            "artifact": "\n            ".join(
                f"{one.name}, {size(one.size_bytes)}, sha256 {one.sha256}"
                for one in result.artifacts
            ),
            "log": result.log,
        }
        for name, text in lines.items():
            if text:
                console.print(Text(f"  {name:<10}{text}"), soft_wrap=True)


def _stages(results: Sequence[Result]) -> list[Stage]:
    """The stages that any of the builds went through, in order."""
    longest = {
        stage: max((result.stages_s.get(stage, -1.0) for result in results), default=-1.0)
        for stage in Stage
    }
    return [
        stage
        for stage, seconds in longest.items()
        if seconds >= (SHORT_QUEUE_S if stage is Stage.QUEUE else 0)
    ]


def _machine(result: Result) -> str:
    if result.machine is MachineFate.NONE:
        return "-"
    return f"{result.machine} until {result.kept_until}" if result.kept_until else result.machine


def _published(result: Result) -> str:
    """The one state of all destinations, or each destination with its own."""
    worst: dict[str, str] = {}
    for one in result.published:
        if worst.get(one.destination, "yes") == "yes":
            worst[one.destination] = str(one.state)
    if len(set(worst.values())) <= 1:
        return next(iter(worst.values()), "-")
    return "\n".join(f"{destination} {state}" for destination, state in worst.items())


def _failures(result: Result, run_id: str, tail: Sequence[str]) -> Iterator[str]:
    """A block for each failure of a build: what happened, where, what to try, the log, the end."""
    found = failures(result, run_id=run_id)
    for failure in found:
        lines = [f"{result.target}: {failure.stage}: {failure.brief}"]
        lines += [f"  {line}" for line in failure.details.split("\n") if line]
        if failure.resolution:
            lines += f"  try: {failure.resolution}".replace("\n", "\n       ").split("\n")
        if failure.rule:
            lines.append(f"  decided by: {failure.rule}")
        if failure is found[-1]:
            lines.append(f"  log: {result.log}" if result.log else "  log: none was begun")
            if tail:
                lines += ["  last lines:", *(f"  | {line}" for line in tail)]
        yield "".join(f"{harmless(line)}\n" for line in lines)


def _costs(results: Sequence[Result]) -> Iterator[str]:
    """What was paid for, where anything was."""
    used = [(result.target, one) for result in results for one in result.used]
    if not used:
        return
    known = sum(one.usd or 0.0 for _, one in used)
    more = " and what has no known price" if any(one.usd is None for _, one in used) else ""
    lines = [f"paid for, at most about {known:.2g} USD{more}:"]
    lines += [f"  {target}: {one.what}, {duration(one.seconds)}" for target, one in used]
    yield "".join(f"{harmless(line)}\n" for line in lines)


def _places(result: Result) -> list[str]:
    """Where a build's artifacts are: where they are published, else in the run folder."""
    places = [one.url for one in result.published if one.state == "yes"]
    return places or [one.path for one in result.artifacts]
