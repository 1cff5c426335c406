"""The image of the EC2 stand-in's real machines: Debian with its own, unmodified cloud-init.

Made of packages like the images that ``build`` makes, and kept in the same cache.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from build_orchestrator import cache
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.image import bootstrap
from build_orchestrator.machine.contract import silent

SUITE = "bookworm"
PACKAGES = (*bootstrap.PACKAGES, "cloud-init", "sudo")
HOOK = Path(__file__).with_name("ami.sh")
MAKE_S = 800.0
HAS_CLOUD_INIT = "has-cloud-init"
"""A file in the folder of such an image."""


def cloud_image() -> Path:
    """The folder of the image, made where the cache has none."""
    hook = HOOK.read_text()
    text = "\n".join((bootstrap.key_of(SUITE), *PACKAGES, hook))

    def fill(folder: Path) -> None:
        bootstrap.make(
            SUITE, folder, PACKAGES, (hook,), deadline=deadline, cancel=NEVER, on_line=silent
        )
        (folder / HAS_CLOUD_INIT).touch()

    deadline = Deadline("image", MAKE_S)
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache.entry("standins", key, fill, deadline=deadline, cancel=NEVER)
