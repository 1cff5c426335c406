"""What can go wrong, with the number that each kind has had since the first packager."""

from __future__ import annotations

import enum
import re


class Code(enum.IntEnum):
    """Exit status of ``cfy-ap``; names and numbers are those of cloudify-agent-packager."""

    DRYRUN_COMPLETE = 0
    COULD_NOT_CREATE_VIRTUALENV = 1
    VIRTUALENV_ALREADY_EXISTS = 2
    COULD_NOT_DOWNLOAD_FILE = 3
    MISSING_CLOUDIFY_AGENT_CONFIG = 4
    COULD_NOT_UNINSTALL_MODULE = 5
    COULD_NOT_INSTALL_MODULE = 6
    FAILED_TO_CREATE_TAR = 7
    COULD_NOT_IDENTIFY_DISTRIBUTION = 8
    TAR_ALREADY_EXISTS = 9
    INSTALLATION_VALIDATION_FAILED = 10
    COULD_NOT_ACCESS_CONFIG_FILE = 11
    INVALID_YAML_FILE = 12
    COULD_NOT_INSTALL_FROM_REQUIREMENTS_FILE = 13


def without_passwords(text: str) -> str:
    """Text in which no address holds credentials."""
    return re.sub(r"//[^/\s]+@", "//***@", text)


class PackagerError(Exception):
    """What happened (brief), where (details), and what to try (resolution)."""

    def __init__(self, code: int, brief: str, *, details: str = "", resolution: str = "") -> None:
        super().__init__(without_passwords(brief))
        self.code = code
        self.brief = without_passwords(brief)
        self.details = without_passwords(details)
        self.resolution = resolution

    def __str__(self) -> str:
        return "\n".join(part for part in (self.brief, self.details, self.resolution) if part)
