"""What `build up` costs over the bare commands doing the same.

Both do one build after another on the same host, in turns (bare, ours, ours, bare, ...), with the
same image, QEMU arguments, inputs and script. A first build of each kind is not counted: it makes
what is missing in the cache.

    python -m benchmarks.overhead [--runs N] [--recipe small|agent|both] [--start warm|cold|both]
                                  [--target debian_bookworm_qemu] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bare import run_bare
from benchmarks.measuring import Cost, host, load, middle
from benchmarks.ours import Up, make_project, run_up

HEADS = (
    *("recipe", "start", "bare s", "ours s", "own cost s", "ratio"),
    *("first line s", "artifact s", "own cpu s", "load"),
)


def main() -> None:
    """Measure, print a table or JSON."""
    options = _options()
    rows = []
    with _workplace() as place:
        for recipe in _both(options.recipe, ("small", "agent")):
            for start in _both(options.start, ("warm", "cold")):
                rows.append(_compare(place, options.target, recipe, start, options.runs))
                if not options.json:
                    _show(rows[-1:], heads=len(rows) == 1)
    if options.json:
        print(json.dumps({"host": host(), "rows": rows}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="pairs that are counted")
    parser.add_argument("--recipe", choices=("small", "agent", "both"), default="both")
    parser.add_argument("--start", choices=("warm", "cold", "both"), default="both")
    parser.add_argument("--target", default="debian_bookworm_qemu")
    parser.add_argument("--json", action="store_true", help="every single number, as JSON")
    return parser.parse_args()


def _both(choice: str, all_of_them: tuple[str, ...]) -> tuple[str, ...]:
    return all_of_them if choice == "both" else (choice,)


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A folder with a project and a state folder. Its path is short, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        (place / "project").mkdir()
        (place / "state").mkdir()
        make_project(place / "project")
        yield place


def _compare(place: Path, target: str, recipe: str, start: str, runs: int) -> dict[str, Any]:
    """One row: ``runs`` pairs of one build with the bare commands and one with ours."""
    warm = start == "warm"

    def ours() -> Up:
        return run_up(place / "project", place / "state", target, recipe, warm=warm)

    def bare(first: Up) -> Cost:
        folder = place / "bare"
        folder.mkdir()
        try:
            cost = run_bare(first.build, place / "project", folder, warm=warm)
            names = {path.name for path in (folder / "output").iterdir()}
            assert {output.name for output in first.build.outputs} <= names, names
            return cost
        finally:
            shutil.rmtree(folder)

    first = ours()
    bare(first)
    pairs = []
    for number in range(runs):
        before = load()
        # Which one goes first changes, so that a host that grows slower favours neither.
        if number % 2 == 0:
            by_hand, up = bare(first), ours()
        else:
            up, by_hand = ours(), bare(first)
        pairs.append((by_hand, up, before))
        said = f"{recipe} {start} {number + 1}/{runs}: bare {by_hand.wall_s:.2f} s"
        print(f"{said}, ours {up.cost.wall_s:.2f} s", file=sys.stderr)
    return _row(recipe, start, pairs)


def _row(recipe: str, start: str, pairs: list[tuple[Cost, Up, float]]) -> dict[str, Any]:
    """Medians. Own cost and ratio are medians over the pairs: two neighbours share their host."""
    bare_s = [bare.wall_s for bare, _, _ in pairs]
    ours_s = [up.cost.wall_s for _, up, _ in pairs]
    stages = sorted({stage for _, up, _ in pairs for stage in up.stages_s})
    return {
        "recipe": recipe,
        "start": start,
        "bare s": middle(bare_s),
        "ours s": middle(ours_s),
        "own cost s": middle(ours - bare for bare, ours in zip(bare_s, ours_s, strict=True)),
        "ratio": middle(ours / bare for bare, ours in zip(bare_s, ours_s, strict=True)),
        "first line s": middle(up.first_line_s for _, up, _ in pairs),
        "artifact s": middle(up.artifact_s for _, up, _ in pairs),
        "own cpu s": middle(up.cost.own_cpu_s for _, up, _ in pairs),
        "load": middle(before for _, _, before in pairs),
        "stages": {stage: middle(up.stages_s[stage] for _, up, _ in pairs) for stage in stages},
        "every bare s": [round(value, 3) for value in bare_s],
        "every ours s": [round(value, 3) for value in ours_s],
    }


def _show(rows: list[dict[str, Any]], *, heads: bool) -> None:
    if heads:
        facts = host()
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
        print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
    for row in rows:
        print("| " + " | ".join(str(row[head]) for head in HEADS) + " |", flush=True)


if __name__ == "__main__":
    main()
