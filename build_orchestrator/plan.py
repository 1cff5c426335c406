"""Configuration + selectors -> Plan: what one run will do, decided before anything boots. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from build_orchestrator.configuration import Configuration, recipe_on
from build_orchestrator.configuration.findings import did_you_mean
from build_orchestrator.configuration.words import (
    FOLDERS,
    LONGEST_NAMING,
    RESERVED_PREFIXES,
    destination_problem,
    final_name_problem,
    is_text,
    same_destination,
)
from build_orchestrator.errors import UsageError
from build_orchestrator.model import Build, Image, Input, Naming, Output, Plan, Recipe, Target

COSTS_MONEY = frozenset({"aws"})
"""Providers whose targets are built only when named."""

NAMING = ("VERSION", "PRERELEASE", "BUILD")
"""The variables that name artifacts."""

SOURCE_DATE_EPOCH = 1704067200
"""2024-01-01T00:00:00Z: the time of what has no time of its own."""

SCHEMA = 1
"""The version of ``plan.json``."""

ToPublish = tuple[str, str, str]
"""Destination, folder and name."""

Value = TypeVar("Value")


def make_plan(
    configuration: Configuration,
    selectors: Sequence[str],
    *,
    run_id: str,
    run_uuid: str,
    created_at: str,
    jobs: int,
    recipe: str | None = None,
    naming: Naming = Naming(),  # noqa: B008 - frozen and empty
    settings: Mapping[str, str] | None = None,
    destinations: tuple[str, ...] | None = None,
    no_publish: bool = False,
    host_trust: Mapping[str, str] | None = None,
    provision_s: float | None = None,
    source_date_epoch: int = SOURCE_DATE_EPOCH,
) -> Plan:
    """Decide what a run does.

    Args:
        settings: what ``--set KEY=VALUE`` gave; VERSION, PRERELEASE and BUILD there win over
            ``naming``.
        destinations: instead of the recipe's own.
        host_trust: handed to recipes that ask for it with ``pass_host_trust``.
        provision_s: instead of every target's own limit.

    Raises:
        UsageError: nothing was selected, a name is unknown, or builds would publish the same.
    """
    settings = _checked(settings or {})
    naming = _named(naming, settings)
    chosen = _recipe(configuration, recipe)
    chosen = dataclasses.replace(chosen, destinations=_to(chosen, destinations, no_publish))
    _check_limits(jobs, provision_s)
    run = {"BUILD_RUN_ID": run_id, "SOURCE_DATE_EPOCH": str(source_date_epoch)}
    said = {name: value for name, value in settings.items() if name not in NAMING}
    variables = run | {**chosen.environment, **said} | _naming_variables(naming)
    trust = _trusted(host_trust or {}) if chosen.pass_host_trust else {}
    builds = tuple(
        _build(_hurried(one, provision_s), recipe_on(chosen, one.distro), naming, variables, trust)
        for one in select(configuration, selectors)
    )
    _check_published_once(builds)
    return Plan(
        run_id=run_id,
        run_uuid=run_uuid,
        project=str(configuration.project),
        created_at=created_at,
        jobs=jobs,
        builds=builds,
    )


# --- which targets ------------------------------------------------------------------------------


def select(configuration: Configuration, selectors: Iterable[str]) -> tuple[Target, ...]:
    """The targets that selectors mean, in the order of the file, each once.

    A selector that does not end in a provider's name is about distros, and means the default
    provider. A target that costs money is meant only by its name, or by its distro's where its
    provider is the default, or by a glob that ends in its provider's name.

    Raises:
        UsageError: no selector was given, or one of them means nothing.
    """
    selectors = tuple(selectors)
    targets = configuration.targets
    if not selectors:
        raise UsageError(
            "no target was named",
            details="Targets: " + ", ".join(targets),
            resolution="Name one, or a glob such as 'debian_*'.",
        )
    meant: set[str] = set()
    unmatched: list[str] = []
    for selector in selectors:
        found = {each.name for each in targets.values() if _means(selector, each, configuration)}
        if not found:
            unmatched.append(_why_unmatched(selector, configuration))
        meant |= found
    if unmatched:
        raise UsageError(
            "no target matches",
            details="\n".join(unmatched),
            resolution="`build list` shows every target.",
        )
    return tuple(target for target in targets.values() if target.name in meant)


def _means(selector: str, target: Target, configuration: Configuration) -> bool:
    if selector == target.name:
        return True
    if named := _provider_of(selector, configuration):
        return named == target.provider and fnmatchcase(target.name, selector)
    if target.provider != configuration.default_provider:
        return False
    if target.provider in COSTS_MONEY:
        return selector == target.distro.name
    return fnmatchcase(target.distro.name, selector)


def _provider_of(selector: str, configuration: Configuration) -> str:
    """The provider that a selector ends in, as in ``debian_*_qemu`` and ``*aws``, or nothing."""
    for target in configuration.targets.values():
        if re.search(rf"(^|[_*?\]]){re.escape(target.provider)}$", selector):
            return target.provider
    return ""


def _why_unmatched(selector: str, configuration: Configuration) -> str:
    targets = configuration.targets
    elsewhere = [
        target.name
        for target in targets.values()
        if fnmatchcase(target.distro.name, selector) or fnmatchcase(target.name, selector)
    ]
    if elsewhere:
        return (
            f"{selector}: without a provider at its end it means {configuration.default_provider}"
            f" only (and nothing that costs money); there is {', '.join(elsewhere)}"
        )
    distros = (target.distro.name for target in targets.values())
    return selector + did_you_mean(selector, dict.fromkeys((*distros, *targets)))


# --- what each build does -----------------------------------------------------------------------


def _build(
    target: Target,
    recipe: Recipe,
    naming: Naming,
    variables: Mapping[str, str],
    host_trust: Mapping[str, str],
) -> Build:
    environment = {"BUILD_TARGET": target.name, "BUILD_DISTRO": target.distro.name, **variables}
    return Build(
        target=target,
        recipe=recipe,
        naming=naming,
        outputs=tuple(
            Output(name=_final_name(output.name, target, naming), members=output.members)
            for output in recipe.outputs
        ),
        environment=environment,
        host_trust=host_trust,
        folder=folder_of(naming, ""),
    )


def _final_name(template: str, target: Target, naming: Naming) -> str:
    name = output_name(template, target, naming)
    if problem := final_name_problem(name):
        raise UsageError(f"{target.name}: {template} makes the output's name {name!r}: {problem}")
    return name


def output_name(template: str, target: Target, naming: Naming) -> str:
    """An output's name with its placeholders filled in, safe as a file name."""
    distro = target.distro
    words = {
        "distribution": distro.distribution,
        "release": distro.release + ("" if distro.arch == "x86_64" else f"-{distro.arch}"),
        "version": version_suffix(naming),
        "target": target.name,
        "distro": distro.name,
    }
    return _safe(re.sub("{([a-z]+)}", lambda found: words[found[1]], template))


def version_suffix(naming: Naming) -> str:
    """``_VERSION[-PRERELEASE][-bBUILD]``, or nothing without VERSION."""
    if not naming.version:
        return ""
    prerelease = f"-{naming.prerelease}" if naming.prerelease else ""
    build = f"-b{naming.build}" if naming.build else ""
    # A Cloudify Manager cuts a name at its last _ to find which machines it is for.
    return "_" + f"{naming.version}{prerelease}{build}".replace("_", "-")


def folder_of(naming: Naming, key: str) -> str:
    """Where below a destination artifacts go; empty while that hangs on an unknown key."""
    if naming.version:
        prerelease = f"{_safe(naming.prerelease)}-" if naming.prerelease else ""
        return f"{_safe(naming.version)}/{prerelease}build"
    return f"dev/{key[:12]}" if key else ""


def _safe(name: str) -> str:
    """No folder, no space: a name that is one word in a path, an address and a shell."""
    return re.sub(r"[/\\\s]", "-", name)


def _hurried(target: Target, provision_s: float | None) -> Target:
    if provision_s is None:
        return target
    deadlines = dataclasses.replace(target.deadlines, provision_s=float(provision_s))
    return dataclasses.replace(target, deadlines=deadlines)


def _recipe(configuration: Configuration, name: str | None) -> Recipe:
    wanted = name or configuration.default_recipe
    if wanted not in configuration.recipes:
        near = did_you_mean(wanted, configuration.recipes)
        raise UsageError(f"unknown recipe {wanted}{near}")
    return configuration.recipes[wanted]


def _to(recipe: Recipe, destinations: tuple[str, ...] | None, no_publish: bool) -> tuple[str, ...]:
    if no_publish and destinations:
        raise UsageError("publishing is both asked for and refused")
    if no_publish:
        return ()
    for destination in destinations or ():
        if problem := destination_problem(destination):
            raise UsageError(f"destination {destination!r}: {problem}")
    return recipe.destinations if destinations is None else destinations


def _checked(settings: Mapping[str, str]) -> Mapping[str, str]:
    """Settings become variables of the script, so their names must be able to."""
    for name, value in settings.items():
        if not re.fullmatch("[A-Z_][A-Z0-9_]*", name):
            raise UsageError(
                f"--set {name}: a name is made of A-Z, 0-9 and _, and does not begin with a digit"
            )
        if name.startswith(RESERVED_PREFIXES):
            raise UsageError(f"--set {name}: is given to the script by the tool itself")
        if not is_text(value):
            raise UsageError(f"--set {name}: its value is not text")
    epoch = settings.get("SOURCE_DATE_EPOCH", "0")
    if not re.fullmatch("[0-9]{1,12}", epoch):
        raise UsageError(f"--set SOURCE_DATE_EPOCH={epoch}: wants seconds since 1970, a number")
    return settings


def _trusted(host_trust: Mapping[str, str]) -> Mapping[str, str]:
    for name in (name for name, value in host_trust.items() if not is_text(value)):
        raise UsageError(f"{name} of this host is not text, so no script can be given it")
    return dict(host_trust)


def _named(naming: Naming, settings: Mapping[str, str]) -> Naming:
    """The naming variables, from ``--set`` or as exported."""
    named = Naming(
        version=settings.get("VERSION", naming.version),
        prerelease=settings.get("PRERELEASE", naming.prerelease),
        build=settings.get("BUILD", naming.build),
    )
    for variable, value in _naming_variables(named).items():
        if not value.isprintable() or value[0] == "." or len(value.encode()) > LONGEST_NAMING:
            raise UsageError(f"{variable}={value!r} cannot be part of a file's name")
    if named.version in FOLDERS:
        raise UsageError(f"VERSION={named.version}: destinations have a folder of that name")
    return named


def _naming_variables(naming: Naming) -> dict[str, str]:
    """Only those that are set: an empty VERSION is no VERSION."""
    words = zip(NAMING, (naming.version, naming.prerelease, naming.build), strict=True)
    return {variable: value for variable, value in words if value}


def _check_limits(jobs: int, provision_s: float | None) -> None:
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one build must run")
    if provision_s is not None and not 0 < provision_s < float("inf"):
        raise UsageError(f"a limit of {provision_s:g} s leaves no time")


def _check_published_once(builds: Iterable[Build]) -> None:
    """Two artifacts at one place would overwrite each other, so the plan is wrong."""
    first: dict[ToPublish, str] = {}
    twice: list[str] = []
    for build in builds:
        for place in _places(build):
            if place in first:
                twice.append(f"{'/'.join(place)}: {first[place]} and {build.name}")
            first.setdefault(place, build.name)
    if twice:
        raise UsageError(
            "two builds would publish the same name",
            details="\n".join(twice),
            resolution="Put {target} or {distro} into the output's name in targets.yaml, "
            "or build one of the targets only.",
        )


def _places(build: Build) -> Iterator[ToPublish]:
    """Where each output goes; in dev/ and in the run folder no two targets share a place."""
    folder = build.folder or f"dev/{build.name}"
    for output in build.outputs:
        for destination in build.recipe.destinations:
            yield same_destination(destination), folder, output.name
        if not build.recipe.destinations:
            yield "runs", build.name, output.name


# --- the plan, frozen and printed ---------------------------------------------------------------


def key_of(inputs: Iterable[Input]) -> str:
    """The key of a build: 64 hex digits over its inputs, in whatever order they are listed."""
    import hashlib  # `build list` imports this module and needs no key.
    import json

    pairs = sorted((each.name, each.value) for each in inputs)
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


def freeze(
    plan: Plan, images: Mapping[str, Image], inputs: Mapping[str, tuple[Input, ...]]
) -> Plan:
    """The plan with image, inputs, key and folder of each build; both mappings are by target.

    A build whose image could not be had stays as it is: it will not start.
    """
    return dataclasses.replace(
        plan,
        builds=tuple(
            _frozen(build, images[build.name], inputs[build.name])
            if build.name in images
            else build
            for build in plan.builds
        ),
    )


def _frozen(build: Build, image: Image, inputs: tuple[Input, ...]) -> Build:
    key = key_of(inputs)
    return dataclasses.replace(
        build, image=image, inputs=inputs, key=key, folder=folder_of(build.naming, key)
    )


def encode(plan: Plan) -> str:
    """The plan as JSON, indented: the content of ``plan.json``."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(plan), indent=2).decode()


def decode(text: str | bytes) -> Plan:
    """The plan that ``encode`` wrote.

    Raises:
        UsageError: this is no plan, or one of another version.
    """
    import msgspec

    try:
        plan = msgspec.json.decode(text, type=Plan)
    except msgspec.DecodeError as error:
        raise UsageError("this is not a plan", details=str(error)) from error
    if plan.schema != SCHEMA:
        raise UsageError(f"this plan has schema {plan.schema}; this version reads {SCHEMA}")
    return plan
