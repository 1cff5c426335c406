"""The bare commands of ``bare.sh``, given the same image, arguments, inputs and script as a build.

What a user of bare commands would have lying ready is made beforehand and not timed: keys, seed,
ssh_config, inputs, script.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from benchmarks.measuring import Cost, measured
from build_orchestrator.cache import is_cached
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.locks import cache_home
from build_orchestrator.machine.qemu import snapshot
from build_orchestrator.machine.qemu.accelerator import choose
from build_orchestrator.machine.qemu.identity import make_keys, write_seed
from build_orchestrator.machine.qemu.launch import Launch, command
from build_orchestrator.model import Build
from build_orchestrator.provision import gather_inputs, host_trust, provision_script

SCRIPT = Path(__file__).with_name("bare.sh")
GUARD = 3
"""Arguments of the ``timeout`` in front of QEMU, which the bare commands do without."""
STATE_DESCRIPTOR = 3
SSH_CONFIG = """\
Host machine
    HostName 127.0.0.1
    Port {port}
    User root
    IdentityFile {folder}/{key}
    IdentitiesOnly yes
    HostKeyAlias machine
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
    ControlMaster auto
    ControlPersist 600
    ControlPath {folder}/mux
"""


def run_bare(build: Build, project: Path, folder: Path, *, warm: bool) -> Cost:
    """Do one build with the bare commands, in an empty folder; its outputs lie in ``output/``."""
    assert build.image is not None
    image, size = build.image, build.target.size
    accelerator = choose(image.kernel, cancel=NEVER)
    (folder / "inputs").mkdir()
    gather_inputs(build, project, folder / "inputs")
    secrets = host_trust(os.environ)[1] if build.recipe.pass_host_trust else {}
    (folder / "script.sh").write_bytes(provision_script(build, secrets))
    if warm:
        saved = _saved(build, accelerator)
        (folder / "seed").mkdir()
        key, host_public = shutil.copy(saved.user_key, folder / "key"), saved.host_public
        backing, size_mib, state = str(saved.disk), "", str(saved.state)
    else:
        keys = make_keys(folder, deadline=Deadline("keys", 30))
        write_seed(folder / "seed", keys, host_name="bare")
        key, host_public = keys.user_private, keys.host_public
        backing, size_mib, state = image.disk, f"{size.disk_mib}M", ""
    port = _free_port()
    (folder / "known_hosts").write_text(f"machine {host_public}\n")
    (folder / "ssh_config").write_text(
        SSH_CONFIG.format(port=port, folder=folder, key=Path(key).name)
    )
    qemu = _qemu(build, folder, accelerator, port, warm=warm)
    return measured(
        [str(SCRIPT), str(port), backing, size_mib, state, *qemu],
        cwd=folder,
        output=folder / "bare.out",
    )


def _qemu(build: Build, folder: Path, accelerator: str, port: int, *, warm: bool) -> list[str]:
    """Our own command line: without the guard and the monitor, and with a port of our choice."""
    assert build.image is not None
    argv = command(
        Launch(
            name="bare",
            image=build.image,
            size=build.target.size,
            accelerator=accelerator,
            limit_s=1,
            console=folder / "console.txt",
            incoming_descriptor=STATE_DESCRIPTOR if warm else -1,
        )
    )[GUARD:]
    at = argv.index("socket,id=qmp,fd=-1") - 1
    del argv[at : at + 4]  # -chardev socket,... -mon ...
    return [part.replace("127.0.0.1:0-:22", f"127.0.0.1:{port}-:22") for part in argv]


def _saved(build: Build, accelerator: str) -> snapshot.Snapshot:
    assert build.image is not None
    key = snapshot.key_of(build.image, build.target.size, accelerator)
    assert is_cached(snapshot.KIND, key), "a build before this one has made it"
    return snapshot.Snapshot(cache_home() / snapshot.KIND / key)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
