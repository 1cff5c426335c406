"""What this host needs to bake images, beside what their base images need."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from build_orchestrator.configuration.words import TAKEN_FOR_PACKERS
from build_orchestrator.doctor.check import Check, commands
from build_orchestrator.errors import HostNotReady
from build_orchestrator.image import packer
from build_orchestrator.image.known_key import check_logins
from build_orchestrator.locks import cache_home, state_home
from build_orchestrator.model import Build, Target
from build_orchestrator.provision import host_trust
from build_orchestrator.render.packerfile import BUILDERS

COMMANDS = ("debugfs", "timeout")
QEMU = ("qemu-system-x86_64", "qemu-img")


def needed_to_bake(builds: Sequence[Build]) -> Iterator[Check]:
    """What baking the images of these builds needs."""
    targets = [each.target for each in builds]
    yield installed([each.provider for each in targets], targets)
    own = QEMU if any(BUILDERS[each.provider] == "qemu" for each in targets) else ()
    yield from commands("bake images", (*own, *COMMANDS), packer.TOOL)
    yield from _handed_over(builds)


def installed(providers: Sequence[str], targets: Sequence[Target] = ()) -> Check:
    """Whether a Packer is here that can bake images for these providers, and these targets."""
    try:
        finding = f"Packer {packer.require(providers)}"
        check_logins(targets)
    except HostNotReady as error:
        words = f"{error.brief}; needed to bake images"
        return Check(
            name=packer.TOOL, ok=False, finding=words, remedy=error.resolution, provider=packer.TOOL
        )
    return Check(name=packer.TOOL, ok=True, finding=finding, provider=packer.TOOL)


def _handed_over(builds: Sequence[Build]) -> Iterator[Check]:
    """What of this host becomes a value of one of Packer's variables, and would be taken for words
    of its own."""
    folders = {"XDG_STATE_HOME": str(state_home()), "XDG_CACHE_HOME": str(cache_home())}
    shown, secret = host_trust(os.environ)
    asked_for = {name for each in builds for name in each.host_trust}
    trust = {name: value for name, value in {**shown, **secret}.items() if name in asked_for}
    for name, value in (folders | trust).items():
        if "{{" in value:
            place = name in folders or name == "CA_BUNDLE"
            way = "choose another path" if place else "write %7B%7B for {{ in an address"
            yield Check(
                name=name,
                ok=False,
                finding=TAKEN_FOR_PACKERS,  # The value itself may hold a password.
                remedy=f"{name}: {way}.",
                provider=packer.TOOL,
            )
