"""``python -m build_orchestrator`` is ``build``."""

from __future__ import annotations

from build_orchestrator.cli import main

if __name__ == "__main__":
    main()
