"""What the instances of the EC2 stand-in are: a process each, with a disk or without.

One without a disk is a real sshd in namespaces of its own: its folders below /var/lib are nobody
else's, and nothing of it outlives it. It starts in a tenth of a second, so faults and numbers are
tried on it. One with a disk is a QEMU machine. From an image of ``ami.cloud_image`` it starts as in
AWS: its firmware says where it is, and cloud-init asks the metadata service for all else. From our
own bookworm image, whose start is quicker, its first start plays cloud-init: it makes host keys and
prints them, takes the key pair, and runs the user data. One of Windows is what ``windows.py`` says.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator.machine.qemu.accelerator import known_verdict
from tests.standins import imds, windows, winrm
from tests.standins.ami import HAS_CLOUD_INIT
from tests.standins.namespaces import isolated
from tests.standins.windows import POWERED_OFF

BEGIN, END = "-----BEGIN SSH HOST KEY KEYS-----", "-----END SSH HOST KEY KEYS-----"
OVERLAY = "overlay.qcow2"

# What user data calls; here it may not reach the host's own service manager.
SHIMS = {
    "systemd-run": "exit 1",
    "poweroff": "touch {folder}/{powered_off}; kill -TERM 1",
    "shutdown": "touch {folder}/{powered_off}; kill -TERM 1",
}

# Of what OpenSSH 5.3 knows, what ssh of today has not given up, and its one kind of host key. A
# sshd of today tells ssh that it takes better signatures than SHA-1, so those of our key are such.
OLD = """KexAlgorithms diffie-hellman-group-exchange-sha256
Ciphers aes128-ctr
MACs hmac-sha1
HostKeyAlgorithms ssh-rsa
PubkeyAcceptedKeyTypes ssh-rsa,rsa-sha2-256,rsa-sha2-512
"""

NETWORK = "169.254.169.0/24"
METADATA = "169.254.169.254"
"""QEMU hands over only what goes to an address of the machine's own network."""

KERNEL = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet systemd.ssh_auto=no TERM=dumb"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a machine is made from."""

    folder: Path
    """Its own, new."""
    name: str
    """What its Name tag says: its processes carry it."""
    address: str
    port: int
    public_key: str
    user_data: str
    instance: dict[str, str]
    """What it may know of itself; see ``imds.metadata``."""
    image: Path | None
    """The folder of an image; None for a machine without a disk."""
    prefix: Path | None = None
    """The drive C that a machine of Windows starts from."""
    password: str = ""
    """That of its administrator, where it has one; only WinRM asks for it."""
    old: bool = False
    """Whether its sshd takes no more than that of CentOS 6 does."""


class Machine:
    """A running instance."""

    def __init__(self, order: Order) -> None:
        order.folder.mkdir(parents=True)
        self.folder = order.folder
        self.image = order.image
        self.console = order.folder / "console"
        self.console.touch()
        # Not the fake provider's mark, or the next sweep on this host would take it for one.
        make = _qemu if order.image else _windows if order.prefix else _sshd
        log = os.open(order.folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT, 0o600)
        self.child = subprocess.Popen(
            make(order),
            cwd=order.folder,
            env={**os.environ, "STANDIN_NAME": order.name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        os.close(log)

    def wait(self) -> bool:
        """Wait for its end; whether it powered itself off."""
        status = self.child.wait()
        return (self.folder / POWERED_OFF).exists() or status == 0

    def kill(self) -> None:
        """Pull the plug."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def power_off(self) -> None:
        """Stop it; its disk stays."""
        self.child.terminate()
        self.child.wait()

    def keep_disk(self, folder: Path) -> None:
        """Make an image of its disk: a folder as that of the image that it was started from."""
        assert self.image is not None
        folder.mkdir()
        convert = ["qemu-img", "convert", "-O", "qcow2", str(self.folder / OVERLAY)]
        subprocess.run([*convert, str(folder / "disk.qcow2")], check=True)
        for path in self.image.resolve().iterdir():
            if path.name != "disk.qcow2":
                (folder / path.name).symlink_to(path)

    def remove(self) -> None:
        """Remove its folder; a disk is kept, for those who want to look for what is on it."""
        disk = self.folder / OVERLAY
        if disk.exists():
            disk.replace(self.folder.with_suffix(".ended"))
        shutil.rmtree(self.folder, ignore_errors=True)


def _sshd(order: Order) -> list[str]:
    folder = order.folder
    shims = folder / "shims"
    shims.mkdir()
    for name, text in SHIMS.items():
        body = text.format(folder=shlex.quote(str(folder)), powered_off=POWERED_OFF)
        (shims / name).write_text(f"#!/bin/sh\n{body}\n")
        (shims / name).chmod(0o755)
    (folder / "authorized_keys").write_text(order.public_key + "\n")
    (folder / "user-data").write_text(order.user_data)
    path = f"{shims}:{os.environ['PATH']}:/usr/sbin"
    (folder / "sshd_config").write_text(
        f"ListenAddress {order.address}:{order.port}\n"
        f"HostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\n"
        f"SetEnv HOME={folder} PATH={path} STANDIN_NAME={order.name} MACHINE_SHIMS={shims}\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\nMaxStartups 100\nMaxSessions 100\n" + (OLD if order.old else "")
    )
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "sshd"
    script = f"""set -e
mount -t tmpfs none /var/lib
mount -t tmpfs none /run
mkdir -m 755 /run/sshd
hostname {order.address.replace(".", "-")}
ssh-keygen -q -t {"rsa" if order.old else "ed25519"} -N '' -C '' -f host_key
{{ echo '{BEGIN}'; cat host_key.pub; echo '{END}'; }} >console
PATH={shlex.quote(path)} sh user-data &
exec {sshd} -D -f sshd_config -E sshd.log
"""
    return isolated(script)


def _windows(order: Order) -> list[str]:
    assert order.prefix is not None
    prefix = windows.copy_prefix(order.prefix, order.folder / "wine")
    listen = f"{order.address}:{order.port}"
    if order.password:
        wine = [windows.wine(), "cmd", "/d", "/c"]
        env, home = windows.environment(prefix), windows.home_of(prefix)
        winrm.prepare(order.folder, order.password, wine, env, home)
    return isolated(windows.start_machine(prefix, order.folder, listen, order.user_data))


def _qemu(order: Order) -> list[str]:
    assert order.image is not None
    told = _told_by_aws if (order.image / HAS_CLOUD_INIT).exists() else _told_by_a_disk
    subprocess.run(
        [
            *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"),
            str(order.image / "disk.qcow2"),
            OVERLAY,
        ],
        cwd=order.folder,
        check=True,
    )
    return [
        *("qemu-system-x86_64", "-name", order.name, "-nodefaults", "-no-user-config"),
        *("-display", "none", "-machine", "q35", "-cpu", "max"),
        *("-accel", "kvm" if known_verdict() == "kvm" else "tcg,thread=multi,tb-size=256"),
        *("-smp", "1", "-m", "1024", "-no-reboot"),
        *("-serial", f"file:{order.folder / 'console'}"),
        *("-drive", f"file={OVERLAY},format=qcow2,if=none,id=disk,cache=unsafe"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *told(order, f"user,id=net,hostfwd=tcp:{order.address}:{order.port}-:22"),
        *("-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"),
        *("-kernel", str(order.image / "vmlinuz"), "-initrd", str(order.image / "initrd.img")),
        *("-append", KERNEL),
    ]


def _told_by_aws(order: Order, network: str) -> list[str]:
    """Options by which cloud-init finds out where it is, and whom it may ask."""
    file = order.folder.with_suffix(".metadata")
    known = imds.metadata(
        instance=order.instance,
        address=order.address,
        public_key=order.public_key,
        user_data=order.user_data,
        token=uuid.uuid4().hex,
    )
    file.write_text(json.dumps(known))
    answers = f"guestfwd=tcp:{METADATA}:80-cmd:{sys.executable} -S {imds.__file__} {file}"
    own = f"ec2{str(uuid.uuid4())[3:]}"  # In AWS the firmware's ids begin so.
    return [
        *("-smbios", f"type=1,uuid={own},serial={own}"),
        *("-netdev", f"{network},net={NETWORK},{answers}"),
    ]


def _told_by_a_disk(order: Order, network: str) -> list[str]:
    """Options of a machine whose first start plays cloud-init."""
    seed = order.folder / "seed"
    seed.mkdir()
    (seed / "user-data").write_text(order.user_data)
    (seed / "identity.sh").write_text(_first_start(order))
    return [
        *("-blockdev", "driver=vvfat,node-name=seed,dir=seed,label=CIDATA,read-only=on"),
        *("-device", "virtio-blk-pci,drive=seed"),
        *("-netdev", network),
    ]


def _first_start(order: Order) -> str:
    """What cloud-init would do at the first start, in the words of our image's seed disk."""
    return f"""set -eu
ssh-keygen -q -t ed25519 -N '' -C '' -f /etc/ssh/ssh_host_ed25519_key
{{ echo '{BEGIN}'; cat /etc/ssh/ssh_host_ed25519_key.pub; echo '{END}'; }} >/dev/console
mkdir -p /root/.ssh
echo '{order.public_key}' >/root/.ssh/authorized_keys
echo {order.address.replace(".", "-")} >/proc/sys/kernel/hostname
cp /run/seed/user-data /run/user-data
cat >/run/systemd/system/user-data.service <<'EOF'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /run/user-data
EOF
systemctl daemon-reload
systemctl start --no-block user-data.service
"""
