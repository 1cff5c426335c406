"""Where packages of an image come from: what apt on this host says, asked once."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_orchestrator.deadline import Deadline
from build_orchestrator.image.mirror import package_sources

MAIN, SECURITY = "http://mirror.example/debian", "http://mirror.example/security"
BOTH = f"Debian {MAIN}\nDebian-Security {SECURITY}\n"
ONLY_MAIN = (f"deb {MAIN} bookworm main",)
ALL = (
    *ONLY_MAIN,
    f"deb {MAIN} bookworm-updates main",
    f"deb {SECURITY} bookworm-security main",
)


@pytest.mark.parametrize(
    ("told", "sources"),
    [
        (f"{BOTH}Debian http://later.example\n", [ALL, ONLY_MAIN]),
        (f"Debian-Security {SECURITY}\nDebian \nDebian {MAIN}\n", [ALL, ONLY_MAIN]),
        (f"Others http://others.example\nDebian {MAIN}\n", [ONLY_MAIN]),
        (f"Debian-Security {SECURITY}\n", [()]),
        ("", [()]),
    ],
    ids=["first", "without address", "no security", "only security", "nothing"],
)
def test_the_sources_of_this_host_are_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: str,
    sources: list[tuple[str, ...]],
) -> None:
    """apt takes half a second to say it, so it is asked once."""
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    (tmp_path / "told").write_text(told)
    apt.write_text(f'#!/bin/sh\necho "$1" >>{tmp_path}/asked\nexec cat {tmp_path}/told\n')
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:/usr/bin:/bin")
    assert package_sources("bookworm", deadline=Deadline("image", 10)) == sources
    assert (tmp_path / "asked").read_text().split() == ["indextargets"]


def test_without_apt_the_tool_knows_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert package_sources("bookworm", deadline=Deadline("image", 10)) == [()]
