"""``python -m build_orchestrator.agent.wagon``: the wagon commands where only the packager is."""

from build_orchestrator.agent.wagon.cli import main

if __name__ == "__main__":
    main()
