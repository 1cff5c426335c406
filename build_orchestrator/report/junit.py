"""``junit.xml``: the report for CI systems.                                               (pure)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from build_orchestrator.errors import ExitCode
from build_orchestrator.model import Outcome, Published, Report, Result, Stage
from build_orchestrator.report.characters import fit_for_xml
from build_orchestrator.report.verdict import failures, verdict

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

SUITE = "build-orchestrator"


def junit(report: Report, *, tails: Mapping[str, Sequence[str]] | None = None) -> str:
    """One test suite per run, one test case per target.

    A build that failed for its own reasons is a failure; what its surroundings did to it is an
    error; a cancelled build is skipped.

    Args:
        tails: the last lines of each target, for its system-out.
    """
    from xml.etree import ElementTree

    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite")
    _properties(suite, {"run_id": report.run_id, "run_uuid": report.run_uuid})
    kinds = [
        _case(suite, result, report.run_id, (tails or {}).get(result.target, ()))
        for result in report.results
    ]
    counts = {
        "tests": len(kinds),
        "failures": kinds.count("failure"),
        "errors": kinds.count("error"),
        "skipped": kinds.count("skipped"),
    }
    for element in (suites, suite):
        _set(element, name=SUITE, time=f"{report.seconds:.3f}")
        _set(element, **{name: str(count) for name, count in counts.items()})
    # The format has no place for a time zone: this is UTC.
    _set(suite, timestamp=report.started_at[:19], hostname="")
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def kind(result: Result) -> str:
    """``passed``, ``failure``, ``error`` or ``skipped``."""
    conflict = any(one.state is Published.CONFLICT for one in result.published)
    if result.outcome is Outcome.FAILED or conflict:
        return "failure"
    worst = verdict(result)
    if result.outcome is Outcome.CANCELLED and worst is not ExitCode.LEAKED:
        return "skipped"
    return "passed" if worst is ExitCode.OK else "error"


def _case(suite: Element, result: Result, run_id: str, tail: Sequence[str]) -> str:
    from xml.etree import ElementTree

    case = ElementTree.SubElement(suite, "testcase")
    seconds = sum(time for stage, time in result.stages_s.items() if stage != Stage.QUEUE)
    _set(case, name=result.target, classname=SUITE, time=f"{seconds:.3f}")
    _properties(case, _facts(result))
    what = kind(result)
    if what != "passed":
        found = failures(result, run_id=run_id)
        mark = ElementTree.SubElement(case, what)
        _set(mark, message="; ".join(f"{one.stage}: {one.brief}" for one in found))
        if what != "skipped":
            _set(mark, type=found[0].stage if found else result.outcome)
        blocks = (
            "\n".join(part for part in (one.brief, one.details, one.resolution, one.rule) if part)
            for one in found
        )
        mark.text = fit_for_xml("\n\n".join(blocks))
    output = ElementTree.SubElement(case, "system-out")
    output.text = fit_for_xml("\n".join([*tail, f"log: {result.log}"]))
    return what


def _facts(result: Result) -> dict[str, str]:
    facts = {
        "outcome": str(result.outcome),
        "machine": str(result.machine),
        "kept_until": result.kept_until,
        "published": " ".join(dict.fromkeys(str(one.state) for one in result.published)),
        "attempts": str(result.attempts),
        "image": result.image,
        "start": result.start,
        "host_key": result.host_key,
        "key": result.key,
    }
    facts |= {f"{stage}_s": f"{seconds:.3f}" for stage, seconds in result.stages_s.items()}
    facts |= {f"used {one.machine}": f"{one.what}, {one.seconds:g} s" for one in result.used}
    facts |= {f"sha256 {one.name}": one.sha256 for one in result.artifacts}
    return {name: value for name, value in facts.items() if value}


def _properties(parent: Element, facts: Mapping[str, str]) -> None:
    from xml.etree import ElementTree

    group = ElementTree.SubElement(parent, "properties")
    for name, value in facts.items():
        _set(ElementTree.SubElement(group, "property"), name=name, value=value)


def _set(element: Element, **attributes: str) -> None:
    for name, value in attributes.items():
        element.set(name, fit_for_xml(value))
