"""A stand-in for Packer: what it does when things go wrong, which the real one does not on demand.

Called as Packer is. ``STANDIN_PACKER`` says how it behaves: ``new`` (a version without plugins),
``plugged`` (the same with one), ``aged`` (with an old one), ``other`` (not Packer at all),
``made``, ``nothing`` (ends with 0, makes nothing), ``script-N`` (the image's script ended with N),
``error``, ``killed``, ``hangs`` (with a child in its folder), ``fills`` (whatever room there is,
once there is not much; then its machine stands still, and when it is stopped, it removes the disk).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PLUGINS = "/root/.config/packer/plugins/github.com/hashicorp"
BEHAVIOUR = os.environ.get("STANDIN_PACKER", "made")


def main(arguments: list[str]) -> int:
    """Behave as told; returns the exit status."""
    verb = arguments[0]
    if verb == "version":
        new = "Packer v1.16.0"
        said = {"new": new, "plugged": new, "aged": new, "other": "8472 words packed"}
        print(said.get(BEHAVIOUR, "Packer v1.6.6"))
        return 0
    if verb == "plugins":
        installed = {"plugged": ("1.0.8", "1.0.10"), "aged": ("1.0.8",)}
        for each in installed.get(BEHAVIOUR, ()):
            print(f"{PLUGINS}/qemu/packer-plugin-qemu_v{each}_x5.0_linux_amd64")
        return 0
    assert verb == "build", arguments
    options = dict(each.lstrip("-").partition("=")[::2] for each in arguments[1:-1])
    variables = json.loads(Path(options["var-file"]).read_text())
    json.loads(Path(arguments[-1]).read_text())
    return build(options["only"], variables)


def build(builder: str, variables: dict[str, str]) -> int:
    """``packer build``."""
    output = Path(variables["output"])
    row("", "ui", "say", f"==> {builder}: Standing in")
    if BEHAVIOUR == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if BEHAVIOUR == "hangs":
        (output / "half").mkdir()
        subprocess.Popen(["sleep", "300"])
        row("", "ui", "say", f"==> {builder}: hanging")
        time.sleep(300)
    if BEHAVIOUR == "fills":
        row("", "ui", "say", f"==> {builder}: filling")
        fill(output)
    if BEHAVIOUR.startswith("script-"):
        row("", "ui", "message", f"    {builder}: ::exit {BEHAVIOUR.removeprefix('script-')}")
    if BEHAVIOUR.startswith("script-") or BEHAVIOUR in ("error", "fills"):
        row(builder, "error", "it went wrong, badly")
        return 1
    if BEHAVIOUR == "nothing":
        row("", "ui", "say", "==> Builds finished but no artifacts were created.")
        return 0
    (output / "disk").mkdir()
    shutil.copy(variables["base_disk"], output / "disk" / variables["name"])
    (output / "packages").write_text("gcc 12.2\npython3 3.11\n")
    row(builder, "artifact-count", "1")
    row(builder, "artifact", "0", "id", "VM")
    row(builder, "artifact", "0", "end")
    return 0


def fill(folder: Path) -> None:
    """Wait until the file system is small, and fill it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    while shutil.disk_usage(folder).total > 1 << 26:
        time.sleep(0.05)
    with contextlib.suppress(OSError), (folder / "half").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    signal.sigtimedwait({signal.SIGINT}, 300)
    (folder / "half").unlink()


def row(builder: str, kind: str, *data: str) -> None:
    """Print one line of ``-machine-readable``."""
    escaped = (each.replace(",", "%!(PACKER_COMMA)") for each in data)
    print(",".join((str(int(time.time())), builder, kind, *escaped)), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
