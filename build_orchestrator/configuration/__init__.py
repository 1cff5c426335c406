"""targets.yaml -> Configuration: strict, every problem at once, each with file:line:column."""

from build_orchestrator.configuration.loading import (
    FILE,
    Configuration,
    find_project,
    load,
    recipe_on,
    refuse,
)

__all__ = ["FILE", "Configuration", "find_project", "load", "recipe_on", "refuse"]
