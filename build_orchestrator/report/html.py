"""``report.html``: one page that needs nothing else, with a waterfall of the stages.      (pure)

No scripts, and a drawing without style attributes, since CI systems that show the page often forbid
both.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from build_orchestrator.model import Failure, Report, Result, Stage
from build_orchestrator.report.characters import duration, fit_for_xml, size
from build_orchestrator.report.verdict import failures

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "report.html.j2"
WIDTH = 1000.0
"""Units of the drawing for the longest build."""

COLOURS = {
    Stage.QUEUE: "#d0d0d0",
    Stage.IMAGE: "#b07aa1",
    Stage.BOOT: "#4e79a7",
    Stage.TRANSFER: "#76b7b2",
    Stage.PROVISION: "#f28e2b",
    Stage.COLLECT: "#59a14f",
    Stage.DESTROY: "#9c755f",
    Stage.PUBLISH: "#edc948",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One stage of one build in the waterfall."""

    stage: Stage
    x: float
    width: float
    colour: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One build as the page shows it."""

    result: Result
    bars: tuple[Bar, ...]
    failures: tuple[Failure, ...]
    tail: str


def html(report: Report, *, tails: Mapping[str, Sequence[str]] | None = None) -> str:
    """The whole page.

    Args:
        tails: the last lines of each target, shown where it failed.
    """
    longest_s = max((sum(one.stages_s.values()) for one in report.results), default=0.0) or 1.0
    rows = [
        Row(
            result=result,
            bars=bars(result, longest_s=longest_s),
            failures=failures(result, run_id=report.run_id),
            tail="\n".join((tails or {}).get(result.target, ())),
        )
        for result in report.results
    ]
    page = _template().render(report=report, rows=rows, colours=COLOURS, width=WIDTH)
    return page.encode(errors="replace").decode()


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("build_orchestrator", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "size": size, "clean": fit_for_xml}
    environment.tests["web"] = _is_web
    return environment.get_template(TEMPLATE)


def bars(result: Result, *, longest_s: float) -> tuple[Bar, ...]:
    """A build's stages one after another, drawn to the scale of the longest build."""
    drawn = []
    at_s = 0.0
    for stage in Stage:
        seconds = result.stages_s.get(stage)
        if seconds is None:
            continue
        bar = Bar(
            stage=stage,
            x=round(at_s / longest_s * WIDTH, 1),
            width=round(seconds / longest_s * WIDTH, 1),
            colour=COLOURS[stage],
            seconds=seconds,
        )
        drawn.append(bar)
        at_s += seconds
    return tuple(drawn)


def _is_web(url: str) -> bool:
    """Whether an address may become a link: any other scheme could be a script."""
    return url.startswith(("https://", "http://"))
