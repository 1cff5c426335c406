"""Run a recipe's script inside a machine, as provision/README.md promises it.

What the script needs goes over the standard input of one shell: its variables, the host's CA
bundle, its secrets. Nothing of that is an argument, and nothing of it is written to the machine's
disk (the CA bundle lies in /run, which is memory).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from build_orchestrator import packager
from build_orchestrator.configuration.files import places_of
from build_orchestrator.configuration.words import is_text
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import HostNotReady
from build_orchestrator.machine.contract import Machine
from build_orchestrator.masking import credentials_in
from build_orchestrator.model import Build, Distro, Recipe
from build_orchestrator.render import exports, script_variables
from build_orchestrator.sources import FOLDER, LIST, host_sources, places
from build_orchestrator.transport.windows import batch, in_windows

CA_BUNDLE = PurePosixPath("/run/build-orchestrator-ca.pem")
WINDOWS_CA_BUNDLE = "host-trust/ca.pem"
"""Below ``$BUILD_INPUTS``: a batch file cannot hold it."""

CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""Where Debian's and Red Hat's families keep what the host trusts."""

TEMPORARY_FAILURE = 75
"""EX_TEMPFAIL: how a script says that its environment failed."""


@dataclass(frozen=True, slots=True)
class Inside:
    """Where a machine has what it is given, and what it leaves."""

    place: PurePosixPath

    @property
    def inputs(self) -> PurePosixPath:
        """``$BUILD_INPUTS``"""
        return self.place / "inputs"

    @property
    def output(self) -> PurePosixPath:
        """``$BUILD_OUTPUT``"""
        return self.place / "output"


def inside(distro: Distro) -> Inside:
    """The places of a distro's machines."""
    return Inside(PurePosixPath("/build" if distro.windows else "/var/lib/build-orchestrator"))


PHASE = re.compile(r"::phase (?P<name>\S.*?)\s*$")


def gather_inputs(build: Build, project: Path, into: Path) -> None:
    """Copy the recipe's inputs and script into an empty folder, with their places kept.

    Raises:
        HostNotReady: one of them is not there any more.
    """
    recipe = build.recipe
    names = dict.fromkeys(filter(None, (*recipe.inputs, recipe.script, recipe.requirements_lock)))
    # Folders come before what lies in them, so that what is there already is complete.
    for name in sorted(names, key=lambda each: len(PurePosixPath(each).parts)):
        _copy(places_of(project, name) or (project / name,), into / name)
    if packager.is_wanted_by(recipe):
        (into / packager.NAME).write_bytes(packager.content())
    if build.target.distro.windows and (bundle := build.host_trust.get("CA_BUNDLE")):
        _copy((Path(bundle),), into / WINDOWS_CA_BUNDLE)
    sources = host_sources(recipe, project)
    where = places(sources)
    for written, path in sources.items():
        _copy((path,), into / where[written])
    if sources:
        listed = {written: str(place) for written, place in where.items()}
        (into / FOLDER / LIST).write_text(json.dumps(listed))


def _copy(sources: Sequence[Path], place: Path) -> None:
    """Copy a file, or a tree of several places, the first one's own first, unless an earlier input
    brought it; a named link, as what it means."""
    try:
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        if not sources[0].is_dir():
            shutil.copy2(sources[0], place)
            return
        for source in filter(Path.is_dir, sources):
            not_wanted = _not_wanted(source, place)
            shutil.copytree(source, place, symlinks=True, ignore=not_wanted, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise HostNotReady(f"the input {sources[0]} could not be read: {error}") from error


def _not_wanted(source: Path, place: Path) -> Callable[[str, list[str]], set[str]]:
    """What ``copytree`` leaves out: what is there already, and what Python makes."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        at = place / Path(folder).relative_to(source)
        there = {each for each in names if os.path.lexists(at / each)}
        both = {each for each in there if (at / each).is_dir() and Path(folder, each).is_dir()}
        return (there - both) | {"__pycache__"}

    return left_out


def read_secrets(recipe: Recipe, environ: Mapping[str, str]) -> dict[str, str]:
    """The values of a recipe's secrets, from this host's variables or files.

    An entry is ``NAME`` (the variable of that name) or ``NAME=path`` (the content of a file).

    Raises:
        HostNotReady: one is missing; its name is told, never a value.
    """
    values = {}
    for entry in recipe.secrets:
        name, _, path = entry.partition("=")
        try:
            values[name] = _content(path) if path else environ[name]
        except (KeyError, OSError, RuntimeError) as error:
            raise HostNotReady(
                f"recipe {recipe.name}: the secret {name} is not there",
                details=f"expected in the file {path}" if path else "expected as a host variable",
                resolution=f"Set {name}, or take it out of the recipe's secrets.",
            ) from error
        if not is_text(values[name]):
            raise HostNotReady(
                f"recipe {recipe.name}: the secret {name} is not text",
                details=f"{path or name} holds bytes that are not UTF-8, or a NUL",
                resolution="Encode it, for instance as base64, and decode it in the script.",
            )
    return values


def _content(path: str) -> str:
    data = Path(path).expanduser().read_bytes()
    return data.decode(errors="surrogateescape")


def provision(
    machine: Machine,
    build: Build,
    *,
    secrets: Mapping[str, str],
    deadline: Deadline,
    cancel: Cancel,
    on_line: Callable[[str], None],
) -> int:
    """Run the build's script and return its exit status."""
    make = windows_script if build.target.distro.windows else provision_script
    script = make(build, secrets)
    return machine.run(script, deadline=deadline, cancel=cancel, on_line=on_line)


def provision_script(build: Build, secrets: Mapping[str, str]) -> bytes:
    """What the machine's shell reads: clear the environment, set ours, run the script.

    ``MACHINE_ROOT`` is empty in a real machine; on the fake provider it is the folder that plays
    the machine's disk.
    """
    bundle = build.host_trust.get("CA_BUNDLE", "")
    where = inside(build.target.distro)
    lines = [
        "umask 022",
        "for v in $(env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\\1/p'); do",
        '  case $v in MACHINE_*) ;; *) unset "$v" ;; esac',
        "done",
        *exports(_variables(build, secrets)),
        f'export BUILD_INPUTS="${{MACHINE_ROOT:-}}"{shlex.quote(str(where.inputs))}',
        f'export BUILD_OUTPUT="${{MACHINE_ROOT:-}}"{shlex.quote(str(where.output))}',
        'mkdir -p "$BUILD_OUTPUT"',
        *(_ca_lines(bundle) if bundle else ()),
        'cd "$BUILD_INPUTS"',
        f"script={shlex.quote('./' + build.recipe.script)}",
        'if [ -x "$script" ]; then exec "$script"; else exec sh "$script"; fi',
    ]
    return "\n".join(lines).encode(errors="surrogateescape") + b"\n"


def windows_script(build: Build, secrets: Mapping[str, str]) -> bytes:
    """What cmd runs on Windows; see ``transport.windows.batch``.

    Raises:
        UsageError: cmd cannot hold one of the values.
    """
    where = inside(build.target.distro)
    inputs, output = in_windows(where.inputs), in_windows(where.output)
    variables = _variables(build, secrets)
    variables |= {"BUILD_INPUTS": inputs, "BUILD_OUTPUT": output}
    if "CA_BUNDLE" in build.host_trust:
        bundle = in_windows(where.inputs / WINDOWS_CA_BUNDLE)
        variables |= dict.fromkeys(CA_VARIABLES, bundle)
    # Its name holds nothing but a space that cmd could take for something else. cmd takes the outer
    # quotes away, and no script's own exit can end ours.
    script = build.recipe.script.replace("/", "\\")
    text = f'md "{output}"\ncd /d "{inputs}"\ncmd /d /q /c "".\\{script}""\n'
    return batch(variables, text)


def _variables(build: Build, secrets: Mapping[str, str]) -> dict[str, str]:
    """A recipe's secrets win over its variables, and those win over what the host trusts."""
    own = {entry.partition("=")[0] for entry in build.recipe.secrets}
    given = {name for name in secrets if name in own or name not in build.environment}
    return script_variables(build) | {name: secrets[name] for name in secrets if name in given}


def _ca_lines(bundle: str) -> list[str]:
    place = f'"${{MACHINE_ROOT:-}}{CA_BUNDLE}"'
    try:
        content = _content(bundle)  # A comment in it may be in any encoding.
    except OSError as error:
        raise HostNotReady(f"the CA bundle {bundle} could not be read: {error}") from error
    return [
        f'mkdir -p "$(dirname {place})"',
        f"cat >{place} <<'END_OF_CA_BUNDLE'\n{content.rstrip()}\nEND_OF_CA_BUNDLE",
        *(f"export {name}={place}" for name in CA_VARIABLES),
    ]


def host_trust(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What this host needs to reach packages, for machines that may use it too.

    Returns ``(shown, secret)``: variables that stand in the plan, and the values of those whose
    addresses hold credentials: they stand there as ``***`` and travel as secrets, of which a
    ``Masker`` hides each address and each password too. ``CA_BUNDLE`` is a path on this host.
    """
    shown: dict[str, str] = {}
    secret: dict[str, str] = {}
    candidates = (*(environ.get(name, "") for name in CA_VARIABLES), *SYSTEM_BUNDLES)
    if bundle := next((path for path in candidates if path and Path(path).is_file()), ""):
        shown["CA_BUNDLE"] = bundle
    found = {**_pip_settings(environ), **_proxies(environ)}
    for name, value in found.items():
        # What is not text is refused by the plan, and only if the recipe asks for it.
        if is_text(value) and any(_is_secret(word) for word in value.split()):
            secret[name] = value
        shown[name] = "***" if name in secret else value
    return shown, secret


def _is_secret(address: str) -> bool:
    """Whether an address holds ``user:password@``, or a query, in which a token may stand."""
    return bool(credentials_in(address).credentials) or ("://" in address and "?" in address)


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    names = ("http_proxy", "https_proxy", "no_proxy")
    spellings = (spelling for name in names for spelling in (name, name.upper()))
    return {name: environ[name] for name in spellings if environ.get(name)}


def _pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's index settings: from its variables, else from its configuration files."""
    import configparser

    files = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        files.read(_pip_files(environ))
    settings = {}
    for option in ("index-url", "extra-index-url", "trusted-host"):
        name = "PIP_" + option.upper().replace("-", "_")
        value = environ.get(name) or files.get("global", option, fallback="") or ""
        # A folder of this host means nothing inside a machine.
        if words := [word for word in value.split() if not word.startswith(("file:", "/", "."))]:
            settings[name] = " ".join(words)
    return settings


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    home = Path(environ.get("HOME", "/nonexistent"))
    last = [Path(environ["PIP_CONFIG_FILE"])] if environ.get("PIP_CONFIG_FILE") else []
    return [Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf", *last]
