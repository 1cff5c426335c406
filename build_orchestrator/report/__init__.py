"""What a run did, as text: terminal summary, JSON, JUnit, HTML. Pure: prints nothing.

Rich, Jinja2 and msgspec are imported by the functions that need them.
"""

from __future__ import annotations

from build_orchestrator.report.document import decode, encode
from build_orchestrator.report.html import html
from build_orchestrator.report.junit import junit
from build_orchestrator.report.summary import summary, table
from build_orchestrator.report.verdict import exit_code, failures, verdict

__all__ = [
    "decode",
    "encode",
    "exit_code",
    "failures",
    "html",
    "junit",
    "summary",
    "table",
    "verdict",
]
