"""A build -> the files that people can read before and after it. Pure; never holds a secret."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from build_orchestrator.model import Build

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def script_variables(build: Build) -> dict[str, str]:
    """The variables that the script sees, without its secrets and without BUILD_INPUTS and
    BUILD_OUTPUT, which the machine's side sets."""
    trust = {name: value for name, value in build.host_trust.items() if name != "CA_BUNDLE"}
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **trust, **build.environment}


def exports(variables: Mapping[str, str]) -> list[str]:
    """One line of shell for each variable."""
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def environment_file(build: Build) -> str:
    """``environment.sh``: what the script of this build sees."""
    lines = [f"# The environment of {build.recipe.script} in {build.name}."]
    lines += exports(script_variables(build))
    secrets = [entry.partition("=")[0] for entry in build.recipe.secrets]
    lines += [f"# {name}: a secret, sent over standard input" for name in secrets]
    if "CA_BUNDLE" in build.host_trust:
        lines.append(f"# CA bundle of the host: {build.host_trust['CA_BUNDLE']}")
    return "\n".join(lines) + "\n"
