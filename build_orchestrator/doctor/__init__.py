"""What this host lacks, how to get it, and which providers work.

``examine`` looks at everything for a person; ``require`` looks at what one plan needs, before
anything starts, and decides for the whole plan.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from build_orchestrator import cache
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.doctor.baking import installed, needed_to_bake
from build_orchestrator.doctor.check import Check as Check
from build_orchestrator.doctor.check import commands
from build_orchestrator.errors import HostNotReady
from build_orchestrator.image import packer
from build_orchestrator.locks import cache_home, state_home
from build_orchestrator.machine.contract import Cloud
from build_orchestrator.machine.vagrant import ready
from build_orchestrator.model import Plan, Size, Target, through_vagrant

OVERHEAD_MIB = 512
"""What QEMU needs beside the machine's own memory."""

FREE_MIB = 4096
"""A disk with less than this left will not see a build through."""

MACHINE_COMMANDS = ("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "timeout")
BOOTSTRAP_COMMANDS = ("mmdebstrap", "mke2fs")
UNPRIVILEGED_COMMANDS = ("newuidmap", "fakeroot")
RANGE = "100000-165535"
"""As many sub-ids as Debian gives to a new user."""


def examine(*, probe: bool, cancel: Cancel = NEVER) -> Iterator[Check]:
    """Everything about this host, as it is found.

    Args:
        probe: boot the newest image's kernel for some seconds where KVM's verdict is unknown.
    """
    yield from commands("run machines", MACHINE_COMMANDS, "qemu")
    yield from _image_tools()
    yield from _folders()
    yield _accelerator(probe, cancel)
    yield _mirror()
    yield from _vagrants(ready.present())
    yield installed(tuple(packer.NEEDED))


def examine_aws(cloud: Cloud, targets: Sequence[Target]) -> Iterator[Check]:
    """Everything about machines of AWS, as it is found; nothing is made there.

    Args:
        targets: those of aws that the project has; the first tells what is launched.
    """
    from build_orchestrator.machine.ec2 import permissions

    host = list(_aws())
    yield from host
    if not all(check.ok for check in host):
        return
    for region in cloud.regions:
        here = [each for each in targets if each.options.get("region", region) == region]
        for each in permissions.examine(region, cloud.endpoint, here):
            yield Check(
                name=f"{each.action} in {region}",
                ok=each.allowed,
                finding=each.finding,
                remedy="" if each.allowed else each.remedy,
                provider="aws",
            )


def working_providers(checks: Sequence[Check]) -> tuple[str, ...]:
    """The providers that nothing stands against; of Vagrant's those that were looked at."""
    blocked = {check.provider for check in checks if not check.ok}
    seen = {check.provider for check in checks}
    return tuple(
        name
        for name in ("qemu", *ready.TOOLS)
        if (name in seen or name == "qemu") and not blocked & {name, ""}
    )


def require(plan: Plan, *, baking: bool = False, booting: bool = True) -> None:
    """Raise HostNotReady with everything that this plan lacks on this host.

    Args:
        baking: whether Packer makes images for it.
        booting: whether its own machines are booted.
    """
    checks = [*_needed(plan, booting=booting)]
    baked = [each for each in plan.builds if each.flavour]
    if baking and baked:
        checks += needed_to_bake(baked)
    _refuse([check for check in checks if not check.ok])


def require_image_tools() -> None:
    """Raise HostNotReady with everything that making an image or a box lacks on this host."""
    checks = (*_folders(), *commands("make boxes", ("qemu-img",), "qemu"), *_image_tools())
    _refuse([check for check in checks if not check.ok])


def _refuse(missing: list[Check]) -> None:
    if missing:
        raise HostNotReady(
            "this host is not ready; nothing was started",
            details="\n".join(f"{check.name}: {check.finding}" for check in missing),
            resolution="\n".join(dict.fromkeys(check.remedy for check in missing if check.remedy)),
        )


def _image_tools() -> Iterator[Check]:
    yield from commands("make images", BOOTSTRAP_COMMANDS, "qemu")
    if os.geteuid() != 0:
        yield from _unprivileged()


def _needed(plan: Plan, *, booting: bool) -> Iterator[Check]:
    from build_orchestrator.image import box
    from build_orchestrator.image.bootstrap import KIND, key_of

    targets = [build.target for build in plan.builds if build.target.provider == "qemu"]
    through = [build.target for build in plan.builds if through_vagrant(build.target.provider)]
    yield from _folders()
    yield from _vagrants(dict.fromkeys(each.provider for each in through), booting=booting)
    yield from map(_target, through)
    yield from (_image_file(Path(plan.project), target) for target in through)
    boxes = {(each.image.bootstrap, each.provider) for each in through if each.image.bootstrap}
    if any(not cache.is_cached(box.KIND, box.key_of(*each)) for each in boxes):
        yield from _image_tools()
    if through:
        yield _memory(through)
    launched = [build.target for build in plan.builds if build.target.provider == "aws"]
    yield from _aws() if launched else ()
    yield from map(_target, launched)
    if not targets:
        return
    yield from commands("run machines", MACHINE_COMMANDS, "qemu")
    suites = {target.image.bootstrap for target in targets if target.image.bootstrap}
    if any(not cache.is_cached(KIND, key_of(suite)) for suite in suites):
        yield from _image_tools()
    yield from (_image_file(Path(plan.project), target) for target in targets)
    yield _memory(targets)


def _aws() -> Iterator[Check]:
    """What this host needs to launch machines of AWS; AWS itself is not asked."""
    from build_orchestrator.machine.ec2.api import check_credentials

    yield from commands("talk to machines", ("ssh", "ssh-keygen"), "aws")
    try:
        check_credentials()
    except HostNotReady as error:
        yield Check(
            name="AWS credentials",
            ok=False,
            finding=error.details or "none",
            remedy=error.resolution,
            provider="aws",
        )


def _unprivileged() -> Iterator[Check]:
    """What an ordinary user needs to make images: uidmap, sub-ids and fakeroot."""
    yield from commands("make images without root", UNPRIVILEGED_COMMANDS, "qemu")
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # Sub-ids may be given to a number, too.
        user = str(os.geteuid())
    for file in ("/etc/subuid", "/etc/subgid"):
        found = _has_range(Path(file), user)
        yield Check(
            name=file,
            ok=found,
            finding=f"{'has' if found else 'has no'} range of sub-ids for {user}",
            remedy=""
            if found
            else f"as root: usermod --add-subuids {RANGE} --add-subgids {RANGE} {user}",
            provider="qemu",
        )


def _has_range(path: Path, user: str) -> bool:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return False
    return any(line.split(":")[0] in (user, str(os.geteuid())) for line in lines)


def _folders() -> Iterator[Check]:
    for name, place in (("state folder", state_home), ("cache folder", cache_home)):
        try:
            folder = place()
        except HostNotReady as error:
            yield Check(name=name, ok=False, finding=error.brief, remedy=error.resolution)
            continue
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            free_mib = shutil.disk_usage(folder).free >> 20
            writable = os.access(folder, os.W_OK)
        except OSError as error:
            yield Check(
                name=name,
                ok=False,
                finding=f"{folder}: {error.strerror}",
                remedy="Set XDG_STATE_HOME and XDG_CACHE_HOME to folders that you may write.",
            )
            continue
        yield Check(
            name=name,
            ok=writable and free_mib >= FREE_MIB,
            finding=f"{folder}: {free_mib} MiB free{'' if writable else ', not writable'}",
            remedy=""
            if writable and free_mib >= FREE_MIB
            else f"Make room: builds need {FREE_MIB} MiB below {folder}.",
        )


def _accelerator(probe: bool, cancel: Cancel) -> Check:
    """Which accelerator machines get. TCG is slow, not wrong."""
    from build_orchestrator.machine.qemu.accelerator import DEVICE, choose, known_verdict

    try:
        verdict = known_verdict()
        kernels = sorted(
            cache_home().glob("images/*/vmlinuz"), key=lambda path: path.stat().st_mtime
        )
        if not verdict and probe and kernels:
            verdict = choose(str(kernels[-1]), cancel=cancel)
    except HostNotReady as error:
        return Check(name="accelerator", ok=False, finding=error.brief, provider="qemu")
    if verdict == "kvm":
        finding = "KVM works"
    elif not os.access(DEVICE, os.R_OK | os.W_OK):
        finding = f"TCG: {DEVICE} is not there, or this user may not open it"
    elif verdict == "tcg":
        finding = f"TCG: {DEVICE} opens, but a kernel does not start under it"
    else:
        finding = f"{DEVICE} opens; the first build tries whether a kernel starts under it"
    return Check(name="accelerator", ok=True, finding=finding, provider="qemu")


def _mirror() -> Check:
    """Whether the package mirror of this host answers."""
    import urllib.error
    import urllib.request

    from build_orchestrator.image.mirror import package_sources

    name = "package mirror"
    sources = package_sources("stable", deadline=Deadline("image", 20))[0]
    if not sources:
        return Check(name=name, ok=True, finding="mmdebstrap's own default (not tried)")
    address = sources[0].split()[1]
    try:
        # A file that every archive has; many mirrors list no folders.
        with urllib.request.urlopen(f"{address.rstrip('/')}/dists/stable/InRelease", timeout=10):
            return Check(name=name, ok=True, finding=f"{address} answers")
    except (urllib.error.URLError, OSError) as error:
        return Check(
            name=name,
            ok=False,
            finding=f"{address} does not answer: {getattr(error, 'reason', error)}",
            remedy="Images cannot be made until it does; those in the cache work.",
            provider="qemu",
        )


def _vagrants(providers: Iterable[str], *, booting: bool = True) -> Iterator[Check]:
    """What Vagrant and each of these providers of its need."""
    for provider in providers:
        for each in ready.examine(provider, booting=booting):
            yield Check(
                name=each.name,
                ok=each.ok,
                finding=each.finding,
                remedy=each.remedy,
                provider=provider,
            )


def _target(target: Target) -> Check:
    """Whether its machine can be as it should, and be talked to."""
    finding, remedy = "once it runs", ""
    if target.distro.windows and target.distro.legacy:
        finding = (
            "too old: `build up` needs what Windows has had since Server 2019, OpenSSH and tar"
        )
        remedy = "Choose a newer one."
    elif through_vagrant(target.provider):
        finding, remedy = ready.lacks(target)
    return Check(
        name=target.name, ok=not remedy, finding=finding, remedy=remedy, provider=target.provider
    )


def _image_file(project: Path, target: Target) -> Check:
    """An image given as a path must be there before anything starts."""
    source = target.image
    path = project / source.path
    ok = not source.path or path.is_file()
    return Check(
        name="image",
        ok=ok,
        finding=f"{path}: there is no such file" if not ok else "declared",
        remedy="" if ok else "Correct image.path in targets.yaml.",
        provider=target.provider,
    )


def _memory(targets: Sequence[Target]) -> Check:
    largest = max(targets, key=lambda target: target.size.memory_mib)
    size = largest.size
    available_mib = available_memory_mib()
    ok = available_mib >= size.memory_mib
    return Check(
        name="memory",
        ok=ok,
        finding=f"{available_mib} MiB available, {size.memory_mib} MiB needed for one machine",
        remedy="" if ok else "Free some memory, or lower size.memory_mib in targets.yaml.",
        provider=largest.provider,
    )


def available_memory_mib() -> int:
    """What this host can still give to machines."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # Not Linux: no qemu provider either.
        return 1 << 20
    facts = dict(line.split(":", 1) for line in lines)
    return int(facts["MemAvailable"].split()[0]) >> 10


def default_jobs(sizes: Iterable[Size]) -> int:
    """How many machines this host carries at once: as many as it has cores and memory for."""
    largest_mib = max((size.memory_mib for size in sizes), default=1024) + OVERHEAD_MIB
    by_memory = (available_memory_mib() * 3 // 4) // largest_mib
    return max(1, min(os.cpu_count() or 1, by_memory))
