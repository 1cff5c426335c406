"""`python -m build_orchestrator.agent`, and `python build_orchestrator/agent` without a package."""

import sys
from pathlib import Path

if not __package__:
    # Run by its path, as in a synced folder: this folder's own names must not hide anybody's.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from build_orchestrator.agent.cli import main

if __name__ == "__main__":
    main()
