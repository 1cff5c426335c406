"""What earlier runs of a project have left in their run folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from build_orchestrator.errors import UsageError
from build_orchestrator.model import Artifact, Build, Report, Result
from build_orchestrator.plan import decode


def collected(runs: Path, key: str) -> tuple[Artifact, ...]:
    """The artifacts that the newest run with this build key has collected; none where no run has,
    or where they are not whole any more."""
    for folder in newest_first(runs):
        there = (folder / "report.json").exists()
        found = _reported(folder, key) if there else _unreported(folder, key)
        if found and all(map(_is_whole, found)):
            return found
    return ()


def _reported(folder: Path, key: str) -> tuple[Artifact, ...]:
    for result in _results(folder):
        if result.key == key and result.artifacts:
            return result.artifacts
    return ()


def _unreported(folder: Path, key: str) -> tuple[Artifact, ...]:
    """What a run has collected that was killed, maybe while it published: to build once more could
    give other bytes than lie there already. What is verified has its checksums beside it."""
    try:
        builds = decode((folder / "plan.json").read_bytes()).builds
        (build,) = (build for build in builds if build.key == key)
        return tuple(_verified(folder / build.name / output.name) for output in build.outputs)
    except (OSError, ValueError, IndexError, UsageError):
        return ()


def _verified(place: Path) -> Artifact:
    digests = {
        kind: place.with_name(f"{place.name}.{kind}").read_text().split()[0]
        for kind in ("sha256", "md5")
    }
    size_bytes = place.stat().st_size
    return Artifact(name=place.name, path=str(place), size_bytes=size_bytes, **digests)


def last_build(runs: Path, target: str) -> tuple[str, Build] | None:
    """The id of the newest run that built a target, and what it built; None where none did."""
    for folder in newest_first(runs):
        if not any(each.target == target and each.artifacts for each in _results(folder)):
            continue
        try:
            plan = decode((folder / "plan.json").read_bytes())
        except (OSError, UsageError):
            continue
        for build in plan.builds:
            if build.name == target:
                return plan.run_id, build
    return None


def newest_first(runs: Path) -> list[Path]:
    """Run folders by when they started; those of one second by when they were last written to."""
    found = filter(Path.is_dir, runs.glob("*-*"))
    return sorted(found, key=_when, reverse=True)


def _when(run: Path) -> tuple[str, int]:
    return run.name.partition("-")[0], run.stat().st_mtime_ns


def _results(folder: Path) -> tuple[Result, ...]:
    """The rows of a run's report; none of a run that was killed, or of another version's."""
    try:
        return msgspec.json.decode((folder / "report.json").read_bytes(), type=Report).results
    except (OSError, msgspec.MsgspecError):
        return ()


def _is_whole(artifact: Artifact) -> bool:
    try:
        with Path(artifact.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256
    except OSError:
        return False
