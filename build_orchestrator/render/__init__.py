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
    # Windows needs many of its own, so there the script's are added to them.
    clean = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    return {**({} if build.target.distro.windows else clean), **trust, **build.environment}


def exports(variables: Mapping[str, str]) -> list[str]:
    """One line of shell for each variable."""
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def environment_file(build: Build) -> dict[str, str]:
    """What the script of this build sees, in the words of its shell: name of the file -> text."""
    windows = build.target.distro.windows
    name, note = ("environment.bat", "rem") if windows else ("environment.sh", "#")
    variables = script_variables(build)
    secrets = [entry.partition("=")[0] for entry in build.recipe.secrets]
    lines = [f"{note} The environment of {build.recipe.script} in {build.name}."]
    # A line for people: cmd is given the values in another way, and expands nothing in them.
    settings = [f'set "{variable}={value}"' for variable, value in variables.items()]
    lines += settings if windows else exports(variables)
    lines += [f"{note} {secret}: a secret, sent over standard input" for secret in secrets]
    if "CA_BUNDLE" in build.host_trust:
        lines.append(f"{note} CA bundle of the host: {build.host_trust['CA_BUNDLE']}")
    return {name: "\n".join(lines) + "\n"}
