"""What `build up --bake` tells of the machine in which an image was made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from build_orchestrator.cli.images import _builds
from build_orchestrator.configuration import load
from build_orchestrator.deadline import NEVER
from build_orchestrator.errors import ExitCode, MachineLeaked, OrchestratorError, ScriptFailed
from build_orchestrator.image import baked, lock
from build_orchestrator.machine import PROVIDERS
from build_orchestrator.masking import Masker
from build_orchestrator.model import Image, MachineFate
from build_orchestrator.pipeline import bake, schedule
from build_orchestrator.pipeline.run import Record
from build_orchestrator.report.verdict import exit_code, failures

ROOT = Path(__file__).parents[2]
NAME = "bo-machine-bake-1"


@pytest.mark.parametrize("error", [None, ScriptFailed("the image's script ended with status 3")])
def test_one_that_may_be_alive_is_told_whatever_became_of_the_image(
    error: OrchestratorError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leak(_run: Any, _build: Any, record: Record, _trying: Any) -> None:
        record.settle(MachineFate.LEAKED, NAME)
        if error is not None:
            raise error

    monkeypatch.setattr(bake, "try_until_done", leak)
    run: Any = SimpleNamespace(
        observer=lambda _: None, masker=Masker(), folder_of=tmp_path.joinpath
    )
    build = _builds(load(ROOT, providers=frozenset(PROVIDERS)))[0]
    with pytest.raises(MachineLeaked) as caught:
        bake.bake_first(run, build, Image(source="", sha256="", disk=""), (), "key")
    assert (error.brief in caught.value.details) if error else caught.value.details == NAME
    row = schedule._without_image(run, build, caught.value)
    assert exit_code([row]) is ExitCode.LEAKED
    (told,) = failures(row, run_id="r")
    assert NAME in told.details


def test_an_image_of_aws_is_named_before_anybody_may_remove_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who prunes knows of it only from images.lock.yaml."""
    done: list[str] = []

    @contextlib.contextmanager
    def recorded(*_: Any, **__: Any) -> Iterator[Any]:
        yield SimpleNamespace(ami="ami-00000001")
        done.append("may be removed")

    monkeypatch.setattr(baked, "recorded", recorded)
    monkeypatch.setattr(lock, "write_baked", lambda *_: done.append("named"))
    run: Any = SimpleNamespace(
        settings=SimpleNamespace(force=False),
        cancel=NEVER,
        plan=SimpleNamespace(project=str(tmp_path)),
    )
    build = _builds(load(ROOT, providers=frozenset(PROVIDERS)))[0]
    record = Record(target=build.name, observer=lambda _: None)
    assert bake.BakeAttempt(run, build, record).go() == ()
    assert done == ["named", "may be removed"]
