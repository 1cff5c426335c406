"""``report.json``: the report as data, for programs.                                      (pure)"""

from __future__ import annotations

import json

from build_orchestrator.errors import UsageError
from build_orchestrator.model import Report

SCHEMA = 1


def encode(report: Report) -> str:
    """The content of ``report.json``. ASCII only, so any path survives; ends with a newline."""
    import msgspec

    return json.dumps(msgspec.to_builtins(report), indent=2) + "\n"


def decode(text: str | bytes) -> Report:
    """The report that ``encode`` was given. Fields that a later version added are ignored.

    Raises:
        UsageError: the text is no report, or one of another schema.
    """
    import msgspec

    try:
        report = msgspec.convert(json.loads(text), Report)
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError("this is not a report.json", details=str(error)) from error
    if report.schema != SCHEMA:
        raise UsageError(
            f"this report.json has schema {report.schema}; this version reads {SCHEMA}",
            resolution="Read it with the version of build-orchestrator that wrote it.",
        )
    return report
