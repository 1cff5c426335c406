"""``build up`` on a project of its own, and what its events say about when things happened."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measuring import BUILD, ROOT, Cost, measured
from build_orchestrator.model import Build
from build_orchestrator.plan import decode

SMALL = """\
#!/bin/sh
set -eu
echo started
echo small >"$BUILD_OUTPUT/small.txt"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """One ``build up``."""

    cost: Cost
    build: Build
    first_line_s: float
    """From Enter to the first line of the script."""
    artifact_s: float
    """From Enter to a verified artifact on this host."""
    stages_s: dict[str, float]


def make_project(folder: Path) -> None:
    """A copy of what the checkout builds, with a recipe ``small`` that only writes a file."""
    settings = yaml.safe_load((ROOT / "targets.yaml").read_text())
    settings["recipes"]["small"] = {"script": "small.sh", "outputs": [{"name": "small.txt"}]}
    (folder / "targets.yaml").write_text(yaml.safe_dump(settings))
    (folder / "small.sh").write_text(SMALL)
    shutil.copytree(ROOT / "provision", folder / "provision", symlinks=True)
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copytree(ROOT / "build_orchestrator/agent", folder / "build_orchestrator/agent")
    shutil.copy(ROOT / "packager.yaml", folder)


def run_up(project: Path, state: Path, target: str, recipe: str, *, warm: bool) -> Up:
    """Run ``build up`` for one target of a project, with a state folder of its own."""
    argv = [*BUILD, "up", target, "--recipe", recipe, *([] if warm else ["--cold"])]
    output = project / "up.out"
    cost = measured(argv, cwd=project, env={"XDG_STATE_HOME": str(state)}, output=output)
    run = max((project / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return Up(
        cost=cost,
        build=decode((run / "plan.json").read_text()).builds[0],
        first_line_s=_first_line(events) - cost.started_at,
        artifact_s=_ended(events, "collect") - cost.started_at,
        stages_s={
            event["stage"]: event["seconds"] for event in events if event["event"] == "stage_ended"
        },
    )


def _first_line(events: list[dict[str, Any]]) -> float:
    names = [(event["event"], event.get("stage")) for event in events]
    provision = names.index(("stage_started", "provision"))
    return next(_at(event) for event in events[provision:] if event["event"] == "output_line")


def _ended(events: list[dict[str, Any]], stage: str) -> float:
    return next(
        _at(event)
        for event in events
        if event["event"] == "stage_ended" and event["stage"] == stage
    )


def _at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()
