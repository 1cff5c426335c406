"""What must hold between the fields of targets.yaml, and between it and the project's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from build_orchestrator.configuration.files import is_there, place_of
from build_orchestrator.configuration.findings import Findings, Place, did_you_mean
from build_orchestrator.configuration.rows import (
    DefaultsRow,
    DistroRow,
    FlavourRow,
    ImageRow,
    LaunchRow,
    OutputRow,
    RecipeRow,
    TargetRow,
    TargetsFile,
)
from build_orchestrator.configuration.words import (
    address_problem,
    destination_problem,
    members_problem,
    option_problem,
    output_name_problem,
    packer_problem,
    range_problem,
    same_destination,
    ssh_option_problem,
    value_problem,
    variable_problem,
)
from build_orchestrator.model import OWN_PROVIDERS, through_vagrant

WITHOUT_IMAGE = frozenset({"fake"})
"""Providers whose machines start from nothing."""


BOXES_MADE = frozenset({"libvirt", "virtualbox"})
"""Providers of Vagrant's whose boxes can be made on this host."""


def check(
    file: TargetsFile, findings: Findings, *, project: Path, providers: frozenset[str]
) -> None:
    """Note everything that is wrong with rows that were read; wrong fields are empty in them."""
    defaults = file.defaults or DefaultsRow()
    for position, name in enumerate(file.vagrant_providers):
        if name in OWN_PROVIDERS:
            findings.add(("vagrant_providers", position), f"{name} is not one of Vagrant's")
    providers |= frozenset(file.vagrant_providers)
    if file.default_provider and file.default_provider not in providers:
        message = f"unknown provider {file.default_provider}"
        near = did_you_mean(file.default_provider, providers)
        findings.add(("default_provider",), message + near)
    if file.recipes and defaults.recipe not in file.recipes:
        message = f"unknown recipe {defaults.recipe}{did_you_mean(defaults.recipe, file.recipes)}"
        findings.add(("defaults", "recipe") if file.defaults else ("recipes",), message)
    _check_destinations(defaults.destinations, findings, ("defaults", "destinations"))
    general = defaults.launch or LaunchRow()
    _check_launch(general, general, findings, ("defaults", "launch"))
    targets: dict[str, str] = {}
    for name, distro in file.distros.items():
        _check_distro(name, distro, general, findings, providers)
        _check_joined(name, distro, findings, targets)
    for name, flavour in file.flavours.items():
        _check_flavour(flavour, file.distros, findings, ("flavours", name), project)
    for name, recipe in file.recipes.items():
        _check_recipe(recipe, findings, ("recipes", name), project)
        if recipe.flavour and recipe.flavour not in file.flavours:
            near = did_you_mean(recipe.flavour, file.flavours)
            findings.add(("recipes", name, "flavour"), f"unknown flavour {recipe.flavour}{near}")


def _check_distro(
    name: str,
    distro: DistroRow,
    general: LaunchRow,
    findings: Findings,
    providers: frozenset[str],
) -> None:
    place: Place = ("distros", name)
    for provider in sorted(providers):
        if name.endswith(f"_{provider}"):
            findings.add(place, f"a distro's name must not end in a provider's (_{provider})")
    ends_in_arch = distro.arch == "x86_64" or name.endswith(f"_{distro.arch}")
    if not ends_in_arch and findings.clean((*place, "arch")):
        findings.add((*place, "arch"), f"the distro's name must then end in _{distro.arch}")
    _check_ssh(distro, findings, (*place, "ssh"))
    for provider, target in distro.providers.items():
        here: Place = (*place, "providers", provider)
        if provider not in providers:
            message = f"unknown provider {provider}{did_you_mean(provider, providers)}"
            findings.add(here, message)
            continue
        if target.image is None:
            if provider not in WITHOUT_IMAGE:
                findings.add((*here, "image"), "is missing: what its machines start from")
        elif findings.clean((*here, "image")):
            if provider == "aws":
                _check_ami(target.image, findings, (*here, "image"))
            elif through_vagrant(provider):
                _check_box(target.image, provider, findings, (*here, "image"))
            else:
                _check_image(target.image, findings, (*here, "image"))
            _check_addresses(target.image, findings, (*here, "image"))
        _check_communicator(distro, provider, target, findings, (*here, "communicator"))
        for name, value in target.options.items():
            _note(findings, (*here, "options", name), option_problem(provider, name, value))
        if target.launch is not None and provider != "aws":
            findings.add((*here, "launch"), "only machines of aws are launched")
        _check_launch(target.launch, general, findings, (*here, "launch"))


def _check_joined(
    name: str, distro: DistroRow, findings: Findings, targets: dict[str, str]
) -> None:
    """Two pairs of distro and provider may read the same once they are joined."""
    for provider in distro.providers:
        target = f"{name}_{provider}".casefold()
        if target in targets:
            message = f"target {target} exists already, of distro {targets[target]}"
            findings.add(("distros", name, "providers", provider), message)
        targets.setdefault(target, name)


def _check_ssh(distro: DistroRow, findings: Findings, place: Place) -> None:
    if distro.ssh is None:
        return
    if distro.ssh.options and not distro.legacy:
        findings.add((*place, "options"), "only a distro with legacy: true may have them")
    for position, option in enumerate(distro.ssh.options):
        _note(findings, (*place, "options", position), option and ssh_option_problem(option))


def _check_communicator(
    distro: DistroRow, provider: str, target: TargetRow, findings: Findings, place: Place
) -> None:
    if target.communicator and not (through_vagrant(provider) or provider == "aws"):
        findings.add(place, "only machines of Vagrant's and of aws have one")
    if target.communicator == "winrm" and not distro.windows:
        findings.add(place, "winrm is for distros with windows: true")


def _check_box(image: ImageRow, provider: str, findings: Findings, place: Place) -> None:
    """What a machine of Vagrant's starts from: bootstrap, or box with version, url or path."""
    if image.bootstrap and provider not in BOXES_MADE:
        names = " and ".join(sorted(BOXES_MADE))
        findings.add((*place, "bootstrap"), f"boxes are made for {names} only")
    _refuse_ami(image, findings, place)
    for name in ("kernel", "kernel_sha256", "initrd", "initrd_sha256"):
        if getattr(image, name):
            findings.add((*place, name), "a machine of Vagrant's starts its own kernel")
    if bool(image.bootstrap) == bool(image.box):
        found = "both" if image.box else "none of them"
        findings.add(place, f"wants exactly one of bootstrap and box, not {found}")
        return
    given = [name for name in ("version", "url", "path") if getattr(image, name)]
    if image.bootstrap and given:
        findings.add((*place, given[0]), "goes with a box only")
    if image.box and len(given) != 1:
        found = " and ".join(given) or "none of them"
        findings.add(place, f"a box wants exactly one of version, url and path, not {found}")
    if (image.url or image.path) and not image.sha256:
        findings.add((*place, "sha256"), f"is missing; {given[0]} needs it")
    if image.sha256 and not (image.url or image.path):
        findings.add((*place, "sha256"), "goes with url or path only")


AMI = ("ami", "ami_name", "ami_parameter")
DISK = ("bootstrap", "url", "path", "sha256", "kernel", "initrd", "box", "version")


def _refuse_ami(image: ImageRow, findings: Findings, place: Place) -> None:
    for name in (*AMI, "ami_owner"):
        if getattr(image, name):
            findings.add((*place, name), "only aws starts from images of AWS")


def _check_ami(image: ImageRow, findings: Findings, place: Place) -> None:
    for name in DISK:
        if getattr(image, name):
            findings.add((*place, name), "aws starts from images of its own: ami, ami_name")
            return
    given = [name for name in AMI if getattr(image, name)]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        findings.add(place, f"wants exactly one of {', '.join(AMI)}, not {found}")
    if bool(image.ami_name) != bool(image.ami_owner):
        findings.add(place, "ami_name and ami_owner go together: anybody may take any name")


def _check_launch(
    launch: LaunchRow | None, general: LaunchRow, findings: Findings, place: Place
) -> None:
    if launch is None:
        return
    if launch.subnet_id and launch.zones:
        findings.add((*place, "zones"), "a subnet has its own zone; give one or the other")
    region = launch.region or general.region
    for position, zone in enumerate(launch.zones):
        if not zone.startswith(region):
            findings.add((*place, "zones", position), f"{zone} is not a zone of {region}")
    if launch.host_key == "first-use" and launch.address != "private":
        message = "first-use goes with address: private; anybody may answer for a public one"
        findings.add((*place, "host_key"), message)
    if launch.allow_from not in ("", "auto") and range_problem(launch.allow_from):
        findings.add((*place, "allow_from"), range_problem(launch.allow_from))


def _check_image(image: ImageRow, findings: Findings, place: Place) -> None:
    _refuse_ami(image, findings, place)
    for name in ("box", "version"):
        if getattr(image, name):
            findings.add((*place, name), "only Vagrant's providers start from boxes")
    given = [name for name in ("bootstrap", "url", "path") if getattr(image, name)]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        findings.add(place, f"wants exactly one of bootstrap, url and path, not {found}")
    if (image.url or image.path) and not image.sha256:
        needing = "url" if image.url else "path"
        findings.add((*place, "sha256"), f"is missing; {needing} needs it")
    for name in ("url", "path"):
        _note(findings, (*place, name), packer_problem(getattr(image, name)))
    if image.bootstrap and (image.sha256 or image.kernel or image.initrd):
        findings.add(place, "a bootstrapped image has a kernel and checksum of its own")
    for name in ("kernel", "initrd"):
        if bool(getattr(image, name)) != bool(getattr(image, f"{name}_sha256")):
            message = f"{name} and {name}_sha256 go together"
            findings.add((*place, name), message)
    if image.initrd and not image.kernel:
        findings.add((*place, "initrd"), "goes with a kernel only")


def _check_addresses(image: ImageRow, findings: Findings, place: Place) -> None:
    for name in ("url", "path", "kernel", "initrd"):
        _note(findings, (*place, name), address_problem(getattr(image, name)))


def _check_recipe(recipe: RecipeRow, findings: Findings, place: Place, project: Path) -> None:
    _check_path(recipe.script, findings, (*place, "script"), project, kind="file")
    windows_script = recipe.windows_script
    _check_path(windows_script, findings, (*place, "windows_script"), project, kind="file")
    for position, path in enumerate(recipe.inputs):
        here: Place = (*place, "inputs", position)
        _check_path(path, findings, here, project)
        # The same words twice are told where the list is read.
        before = recipe.inputs[:position]
        if path and path not in before and Path(path) in map(Path, before):
            findings.add(here, f"{path} is listed twice")
    lock = recipe.requirements_lock
    _check_path(lock, findings, (*place, "requirements_lock"), project, kind="file")
    for name in ("outputs", "windows_outputs"):
        _check_outputs(getattr(recipe, name), findings, (*place, name))
    if recipe.windows_outputs and not windows_script:
        findings.add((*place, "windows_outputs"), "goes with a windows_script only")
    _check_destinations(recipe.destinations or (), findings, (*place, "destinations"))
    for name, value in recipe.environment.items():
        problem = variable_problem(name) or value_problem(value)
        _note(findings, (*place, "environment", name), problem)
    names = [entry.partition("=")[0] for entry in recipe.secrets]
    for position, name in enumerate(names):
        here = (*place, "secrets", position)
        _note(findings, here, variable_problem(name))
        # The same entry twice is told where the list is read.
        if name in names[:position] and len(set(recipe.secrets)) == len(names):
            findings.add(here, f"{name} is listed twice")
        if name and name in recipe.environment:
            findings.add(here, f"{name} stands in environment too")


def _check_flavour(
    flavour: FlavourRow,
    distros: Mapping[str, DistroRow],
    findings: Findings,
    place: Place,
    project: Path,
) -> None:
    _check_path(flavour.script, findings, (*place, "script"), project, kind="file")
    for position, name in enumerate(flavour.distros):
        here: Place = (*place, "distros", position)
        if name not in distros:
            findings.add(here, f"unknown distro {name}{did_you_mean(name, distros)}")
        elif distros[name].windows:
            findings.add(here, f"{name} is Windows, of which no image is baked")


def _check_outputs(outputs: tuple[OutputRow, ...], findings: Findings, place: Place) -> None:
    seen: set[str] = set()
    for position, output in enumerate(outputs):
        here: Place = (*place, position)
        _note(findings, (*here, "name"), output.name and output_name_problem(output.name))
        if output.name in seen and output.name:
            findings.add((*here, "name"), f"{output.name} is listed twice")
        seen.add(output.name)
        if output.members and findings.clean((*here, "members")):
            _note(findings, (*here, "members"), members_problem(output.name, output.members))


def _check_destinations(destinations: tuple[str, ...], findings: Findings, place: Place) -> None:
    seen: dict[str, str] = {}
    for position, destination in enumerate(destinations):
        here: Place = (*place, position)
        if not findings.clean(here):
            continue
        _note(findings, here, destination_problem(destination))
        same = same_destination(destination)
        if same in seen:
            findings.add(here, f"{destination} is the same place as {seen[same]}")
        seen[same] = destination


def _check_path(
    path: str, findings: Findings, place: Place, project: Path, *, kind: str = "file or folder"
) -> None:
    """A path of the project must be relative, stay inside, and exist."""
    if not path:
        return
    if Path(path).is_absolute() or ".." in Path(path).parts:
        findings.add(place, f"{path!r} must be a path inside the project")
        return
    if not Path(path).parts:
        findings.add(place, f"{path} is the whole project, runs included; list what is needed")
        return
    there = place_of(project, path)
    if not is_there(there):
        findings.add(place, f"{path} does not exist{_nearest_path(path, project)}")
    elif kind == "file" and there.is_dir():
        findings.add(place, f"{path} is a folder, not a file")
    elif path.endswith("/") and there.is_file():
        findings.add(place, f"{path} is a file; write it without its last /")
    elif not there.is_file() and not there.is_dir():
        findings.add(place, f"{path} is neither a file nor a folder")


def _nearest_path(path: str, project: Path) -> str:
    """What lies where the path leads to, as a suggestion."""
    folder = (project / path).parent
    if not (is_there(folder) and folder.is_dir()):
        return f"; there is no folder {folder.relative_to(project)}"
    known: Mapping[str, str] = {
        each.name: str(each.relative_to(project)) for each in folder.iterdir()
    }
    near = did_you_mean(str(Path(path)), known.values(), nearness=0.8)
    return near if near.startswith(", ") else ""


def _note(findings: Findings, place: Place, problem: str) -> None:
    if problem:
        findings.add(place, problem)
