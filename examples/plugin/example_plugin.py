"""The smallest plugin that needs something."""

import yaml


def operation(text: str) -> object:
    """What a YAML text says."""
    return yaml.safe_load(text)
