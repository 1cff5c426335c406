"""Which run was the last one."""

from __future__ import annotations

import os
from pathlib import Path

from build_orchestrator.history import newest_first


def test_runs_of_one_second_are_told_apart_by_what_was_written_last(tmp_path: Path) -> None:
    for at, name in enumerate(("20261126T064446Z-878e", "20261126T064446Z-5b93")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (at, at))
    older = tmp_path / "20261126T064445Z-ffff"
    older.mkdir()
    (tmp_path / "not-a-folder").touch()
    names = [run.name for run in newest_first(tmp_path)]
    assert names == ["20261126T064446Z-5b93", "20261126T064446Z-878e", older.name]
