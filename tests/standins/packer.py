"""A stand-in for Packer: what it does when things go wrong, which the real one does not on demand.

Called as Packer is. ``STANDIN_PACKER`` says how it behaves: ``new`` (a version without plugins),
``other`` (not Packer at all), ``made``, ``nothing`` (ends with 0 and makes nothing), ``script-N``
(the image's script ended with N), ``error``, ``killed``, ``hangs`` (with a child in its folder).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

BEHAVIOUR = os.environ.get("STANDIN_PACKER", "made")


def main(arguments: list[str]) -> int:
    """Behave as told; returns the exit status."""
    verb = arguments[0]
    if verb == "version":
        said = {"new": "Packer v1.16.0", "other": "8472 words packed"}
        print(said.get(BEHAVIOUR, "Packer v1.6.6"))
        return 0
    if verb == "plugins":
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
    if BEHAVIOUR.startswith("script-"):
        row("", "ui", "message", f"    {builder}: ::exit {BEHAVIOUR.removeprefix('script-')}")
    if BEHAVIOUR.startswith("script-") or BEHAVIOUR == "error":
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


def row(builder: str, kind: str, *data: str) -> None:
    """Print one line of ``-machine-readable``."""
    escaped = (each.replace(",", "%!(PACKER_COMMA)") for each in data)
    print(",".join((str(int(time.time())), builder, kind, *escaped)), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
