"""targets.yaml -> Configuration, or every problem in it at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from build_orchestrator.configuration.checks import check
from build_orchestrator.configuration.findings import Findings, Place
from build_orchestrator.configuration.reading import read
from build_orchestrator.configuration.rows import (
    BudgetRow,
    DefaultsRow,
    DistroRow,
    FlavourRow,
    ImageRow,
    LaunchRow,
    OutputRow,
    RecipeRow,
    SizeRow,
    SshRow,
    TargetRow,
    TargetsFile,
)
from build_orchestrator.costs import Budget
from build_orchestrator.errors import UsageError
from build_orchestrator.model import (
    Deadlines,
    Distro,
    Flavour,
    ImageSource,
    Output,
    Recipe,
    Size,
    Target,
    through_vagrant,
)

FILE = "targets.yaml"

REPLACED = {
    "subnet_id": {"zones"},
    "zones": {"subnet_id"},
    "region": {"zones", "subnet_id", "security_group_id"},
}
"""Who says this of his own machines does not mean what stands there for all others."""

Layered = TypeVar("Layered", Size, Deadlines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a project can build. Everything is in the order of the file."""

    project: Path
    """Absolute path of the project root."""
    distros: Mapping[str, Distro]
    targets: Mapping[str, Target]
    """By name, ``<distro>_<provider>``."""
    recipes: Mapping[str, Recipe]
    default_recipe: str
    default_provider: str
    """The provider of selectors that name none."""
    budget: Budget = field(default_factory=Budget)
    flavours: Mapping[str, Flavour] = field(default_factory=dict)


def find_project(start: Path) -> Path:
    """The nearest folder with a targets.yaml, from ``start`` upwards.

    Raises:
        UsageError: there is none.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder
    raise UsageError(
        f"no {FILE} in {start} or in a folder above it",
        resolution="Run inside a project, or name it with --project DIR.",
    )


def load(
    project: Path, *, providers: frozenset[str], default_provider: str = "qemu"
) -> Configuration:
    """Read a project's targets.yaml.

    Args:
        providers: every provider that this tool knows.
        default_provider: what holds where the file names none, and a target has it.

    Raises:
        ConfigurationError: with every problem in the file.
    """
    project = project.absolute()
    findings = Findings(_called(project / FILE))
    content = _content(project / FILE, findings)
    rows = None if content is None else read(content, findings)
    if rows is not None:
        check(rows, findings, project=project, providers=providers)
    findings.raise_any()
    assert rows is not None, "no rows without a problem"
    offered = {provider for distro in rows.distros.values() for provider in distro.providers}
    fallback = default_provider if default_provider in offered else "qemu"
    return _configuration(rows, project, rows.default_provider or fallback)


def refuse(project: Path, found: Mapping[Place, str]) -> None:
    """Raise what only counts for who builds a target, such as a disk that this host does not have.

    Args:
        found: what is wrong, by its place in the project's targets.yaml, which was loaded before.

    Raises:
        ConfigurationError: with each of these problems.
    """
    if not found:
        return
    findings = Findings(_called(project / FILE))
    if (content := _content(project / FILE, findings)) is not None:
        read(content, findings)
    for place, message in found.items():
        findings.add(place, message)
    findings.raise_any()


def _called(path: Path) -> str:
    """A path as the user would open it from where he is."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):  # He is elsewhere, or in a folder that is gone.
        return str(path)


def _content(path: Path, findings: Findings) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        findings.add((), f"cannot be read: {error.strerror}")
        return None


def _configuration(rows: TargetsFile, project: Path, default_provider: str) -> Configuration:
    defaults = rows.defaults or DefaultsRow()
    distros = {name: _distro(name, row) for name, row in rows.distros.items()}
    targets = {
        f"{name}_{provider}": _target(distros[name], provider, defaults, row, target)
        for name, row in rows.distros.items()
        for provider, target in row.providers.items()
    }
    return Configuration(
        project=project,
        distros=distros,
        targets=targets,
        recipes={name: _recipe(name, row, defaults, project) for name, row in rows.recipes.items()},
        flavours={name: _flavour(name, row, rows, defaults) for name, row in rows.flavours.items()},
        default_recipe=defaults.recipe,
        default_provider=default_provider,
        budget=Budget(**vars(rows.budget or BudgetRow())),
    )


def _distro(name: str, row: DistroRow) -> Distro:
    ssh = row.ssh or SshRow()
    return Distro(
        name=name,
        distribution=row.distribution,
        release=row.release,
        arch=row.arch,
        windows=row.windows,
        legacy=row.legacy,
        ssh_user=ssh.user or ("Administrator" if row.windows else "root"),
        ssh_options=ssh.options,
    )


def _target(
    distro: Distro, provider: str, defaults: DefaultsRow, row: DistroRow, target: TargetRow
) -> Target:
    return Target(
        name=f"{distro.name}_{provider}",
        distro=distro,
        provider=provider,
        image=_image(target.image or ImageRow()),
        size=_size(provider, defaults.size, row.size, target.size),
        deadlines=_layered(Deadlines(), defaults.deadlines, row.deadlines, target.deadlines),
        attempts=target.attempts or defaults.attempts,
        communicator=target.communicator or _communicator(distro, provider),
        options=_options(provider, defaults, target),
    )


def _communicator(distro: Distro, provider: str) -> str:
    return "winrm" if distro.windows and through_vagrant(provider) else "ssh"


def _options(provider: str, defaults: DefaultsRow, target: TargetRow) -> Mapping[str, str]:
    """What only the provider understands. How to launch is typed in the file, and text here."""
    if provider != "aws":
        return target.options
    general, own = _launch(defaults.launch), _launch(target.launch)
    # A subnet has a zone of its own, and what is of one region is not of another.
    for name, others in REPLACED.items():
        if name in own and own[name] != general.get(name):
            general = {key: value for key, value in general.items() if key not in others}
    return general | own


def _launch(row: LaunchRow | None) -> dict[str, str]:
    said = {
        name: value for name, value in vars(row or LaunchRow()).items() if value or value is False
    }
    return {name: _as_text(value) for name, value in said.items()}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _size(provider: str, defaults: SizeRow | None, *rows: SizeRow | None) -> Size:
    if not through_vagrant(provider):
        return _layered(Size(), defaults, *rows)
    # A box's disk can only grow, and most are larger than what suits an image of ours.
    own_disk = dataclasses.replace(defaults, disk_mib=None) if defaults else None
    return _layered(Size(disk_mib=0), own_disk, *rows)


def _image(row: ImageRow) -> ImageSource:
    given: dict[str, str] = dict(vars(row))
    for name in ("sha256", "kernel_sha256", "initrd_sha256"):
        given[name] = given[name].lower()
    return ImageSource(**given)


def _flavour(name: str, row: FlavourRow, rows: TargetsFile, defaults: DefaultsRow) -> Flavour:
    every = (name for name, distro in rows.distros.items() if not distro.windows)
    return Flavour(
        name=name,
        script=row.script,
        packages=row.packages,
        distros=row.distros or tuple(every),
        max_age_s=_age_s(defaults.max_image_age),
    )


def _recipe(name: str, row: RecipeRow, defaults: DefaultsRow, project: Path) -> Recipe:
    own = row.destinations
    return Recipe(
        name=name,
        script=row.script,
        windows_script=row.windows_script,
        inputs=row.inputs,
        outputs=_outputs(row.outputs),
        windows_outputs=_outputs(row.windows_outputs),
        destinations=defaults.destinations if own is None else own,
        environment=row.environment,
        secrets=tuple(_secret(entry, project) for entry in row.secrets),
        requirements_lock=row.requirements_lock,
        max_artifact_age_s=_age_s(defaults.max_artifact_age),
        flavour=row.flavour,
        pass_host_trust=row.pass_host_trust,
    )


def _age_s(text: str) -> float:
    """Seconds of a number with h or d."""
    return int(text[:-1]) * {"h": 3600.0, "d": 86400.0}[text[-1]]


def recipe_on(recipe: Recipe, distro: Distro) -> Recipe:
    """The recipe as a distro's builds have it: with the script and the outputs of its system.

    Raises:
        UsageError: it has no script for Windows.
    """
    if not distro.windows:
        return recipe
    if not recipe.windows_script:
        raise UsageError(
            f"recipe {recipe.name} has no windows_script, so {distro.name} cannot build it",
            resolution="Name one in targets.yaml, or choose other targets.",
        )
    outputs = recipe.windows_outputs or recipe.outputs
    return dataclasses.replace(recipe, script=recipe.windows_script, outputs=outputs)


def _outputs(rows: tuple[OutputRow, ...]) -> tuple[Output, ...]:
    return tuple(Output(name=each.name, members=each.members) for each in rows)


def _secret(entry: str, project: Path) -> str:
    """``NAME``, or ``NAME=path`` with the path made absolute (``~`` is for who reads it)."""
    name, equals, path = entry.partition("=")
    return f"{name}={path if path.startswith('~') else project / path}" if equals else entry


def _layered(base: Layered, *layers: Any) -> Layered:
    """The model's own defaults, overlaid by each row that says otherwise; the last one wins."""
    said = {
        name: value
        for layer in layers
        if layer is not None
        for name, value in vars(layer).items()
        if value is not None
    }
    return dataclasses.replace(base, **said)
