"""What makes one machine different from every other that starts from the same image.

One script does it, whether it is read from the seed disk at power-on or sent over ssh after a
restore: clock and entropy first, then host key, user key, machine id and host name.

The seed disk is a small FAT volume labelled CIDATA. Images made by us read ``identity.sh`` from
it; images with cloud-init read ``user-data`` (its NoCloud source).
"""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator.command import run
from build_orchestrator.deadline import Deadline

USER_KEY = "id_ed25519"
HOST_KEY = "host_ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The two key pairs of one machine; the private halves lie in its folder, mode 0600."""

    user_private: Path
    user_public: str
    host_private: str
    host_public: str


def make_keys(folder: Path, *, prefix: str = "", deadline: Deadline) -> Keys:
    """Make a machine's user key and host key. The host key's private half does not stay on disk."""
    user, host = prefix + USER_KEY, prefix + HOST_KEY
    for name in (user, host):
        run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "build-orchestrator", "-f", name],
            deadline=deadline,
            cwd=folder,
        ).check("ssh-keygen could not make a key")
    host_private = folder / host
    keys = Keys(
        user_private=folder / user,
        user_public=(folder / f"{user}.pub").read_text().strip(),
        host_private=host_private.read_text(),
        host_public=(folder / f"{host}.pub").read_text().strip(),
    )
    host_private.unlink()
    return keys


def identity_script(keys: Keys, *, host_name: str) -> str:
    """The script that gives a machine its identity. It ends in one piece or not at all.

    Every start of a program costs an emulated machine about 25 ms, so the shell does what it can.
    """
    return f"""set -eu
umask 077
date -u -s '@{time.time():.3f}' >/dev/null
# A restored machine has its twin's random state: mix in fresh bytes and make the kernel use them.
echo {base64.b64encode(os.urandom(64)).decode()} >/dev/urandom
if command -v perl >/dev/null; then
  perl -e 'open(my $f, ">", "/dev/urandom") or exit 0; ioctl($f, 0x5207, 0)' || true
elif command -v python3 >/dev/null; then
  python3 -c 'import fcntl; fcntl.ioctl(open("/dev/urandom", "wb"), 0x5207)' || true
fi
rm -f /etc/ssh/ssh_host_*
printf '%s\\n' '{keys.host_private.strip()}' >/etc/ssh/ssh_host_ed25519_key
echo '{keys.host_public}' >/etc/ssh/ssh_host_ed25519_key.pub
[ -d /root/.ssh ] || mkdir /root/.ssh
echo '{keys.user_public}' >/root/.ssh/authorized_keys
umask 022
echo {uuid.uuid4().hex} >/etc/machine-id
dbus=/var/lib/dbus
[ ! -d $dbus ] || [ -L $dbus/machine-id ] || ln -sf /etc/machine-id $dbus/machine-id
echo {host_name} >/etc/hostname
echo {host_name} >/proc/sys/kernel/hostname
printf '127.0.0.1 localhost\\n127.0.1.1 {host_name}\\n::1 localhost\\n' >/etc/hosts
if [ -f /run/sshd.pid ]; then
  # Restored: sshd runs already and must take up the new key.
  read -r sshd </run/sshd.pid
  kill -HUP "$sshd"
elif command -v resize2fs >/dev/null; then
  # Just powered on, maybe with a disk that is larger than its image: the file system follows.
  resize2fs /dev/vda >/dev/null 2>&1 || true
fi
"""


def write_seed(folder: Path, keys: Keys, *, host_name: str) -> None:
    """Fill the folder that QEMU shows to the machine as the seed disk."""
    folder.mkdir(mode=0o700, exist_ok=True)
    cloud_config = {
        "hostname": host_name,
        "disable_root": False,
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {"ed25519_private": keys.host_private, "ed25519_public": keys.host_public},
        "users": [{"name": "root", "ssh_authorized_keys": [keys.user_public]}],
    }
    files = {
        "identity.sh": identity_script(keys, host_name=host_name),
        "meta-data": json.dumps({"instance-id": uuid.uuid4().hex, "local-hostname": host_name}),
        # JSON is YAML, and cannot be broken by what a key contains.
        "user-data": "#cloud-config\n" + json.dumps(cloud_config),
    }
    for name, text in files.items():
        (folder / name).write_text(text)


def host_name_of(name: str) -> str:
    """A host name made of a machine's name: letters, digits and dashes, at most 63 of them."""
    _, run_uuid, rest = name.split("-", 2)
    return f"{rest.replace('_', '-')}-{run_uuid[:8]}"[:63].strip("-")
