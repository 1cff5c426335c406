"""Text from machines, made fit for a terminal, XML and HTML; and numbers for people.      (pure)"""

from __future__ import annotations

import re

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # titles, links
    r"|\x1b[ -/]*[0-~]"
)
_UNSEEN = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff\ud800-\udfff]"
)
_UNFIT_FOR_XML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
TAB = 8


def harmless(text: str) -> str:
    """One line of output as a terminal would show it, unable to steer the terminal.

    Escape sequences and other unseen characters go, tabs become spaces, and of a progress line that
    overwrites itself (carriage returns) the last state stays.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _SEQUENCES.sub("", text)
    if "\r" in text:
        states = [state for state in text.split("\r") if state.strip()]
        text = states[-1] if states else ""
    return _UNSEEN.sub("", text.expandtabs(TAB))


def fit_for_xml(text: str) -> str:
    """Text without escape sequences and without the characters that XML forbids.

    Carriage returns become line ends here, since every XML parser would make them so.
    """
    text = _UNFIT_FOR_XML.sub("", _SEQUENCES.sub("", text))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def duration(seconds: float) -> str:
    """``0.4s``, ``1m02s``, ``1h02m``."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(size_bytes: int) -> str:
    """``512 B``, ``1.5 kB``, ``12.3 MB``: decimal units."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"
