"""libvirt's own tool, ``virsh``: networks, pools and volumes, and domains by their name."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, OrchestratorError
from build_orchestrator.locks import locked, state_home

URI = "qemu:///system"
POOL = "default"
POOL_FOLDER = "/var/lib/libvirt/images"
NETWORK = "vagrant-libvirt"
# What vagrant-libvirt itself would make. It keeps ours, so that no machine's end takes the network
# from under another one that starts.
NETWORK_XML = f"""\
<network ipv6='yes'>
  <name>{NETWORK}</name>
  <forward mode='nat'/>
  <bridge stp='on' delay='0'/>
  <ip address='192.168.121.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.121.1' end='192.168.121.254'/></dhcp>
  </ip>
</network>
"""
ASK_S = 30.0
"""How long a question may take: libvirt is asked on this host."""

OURS = re.compile(r"(bo-[0-9a-f]{32}-.+?-\d+)([._].*)?")
"""A domain's name, or that of one of its volumes: ``NAME.img``, ``NAME_1.img``."""


def uri() -> str:
    """Which libvirt: the one that vagrant-libvirt takes."""
    return os.environ.get("LIBVIRT_DEFAULT_URI") or URI


class Libvirt:
    """Domains and volumes of ours."""

    def prepare(
        self, box: Path, name: str, version: str, *, deadline: Deadline, cancel: Cancel
    ) -> None:
        with locked(state_home() / "locks" / "libvirt", deadline=deadline, cancel=cancel):
            if POOL not in self._names("pool-list"):
                self._make_pool(deadline)
            if NETWORK not in self._names("net-list"):
                self._make_network(deadline)
            for disk, volume in _disks(box, name, version):
                self._make_volume(disk, volume, deadline, cancel)

    def shown(self) -> Mapping[str, str]:
        names = dict.fromkeys((*self._names("list", "--all"), *self._volumes()))
        found = dict.fromkeys(match[1] for name in names if (match := OURS.fullmatch(name)))
        return {name: self._folder_of(name) for name in found}

    def running(self, name: str) -> bool:
        return name in self._names("list", "--state-running")

    def exists(self, name: str) -> bool:
        return bool(self._domain(name) or self._volumes_of(name))

    def remove(self, name: str, *, deadline: Deadline) -> None:
        if self._domain(name):
            # It may be off already, or have ended this very moment.
            self._virsh("destroy", name, deadline=deadline)
            self._virsh(
                *("undefine", name, "--managed-save", "--snapshots-metadata", "--nvram"),
                deadline=deadline,
            )
        for volume, pool in self._volumes_of(name).items():
            self._virsh("vol-delete", "--pool", pool, volume, deadline=deadline)

    def drop(self, box: Path, name: str, version: str, *, deadline: Deadline) -> None:
        """Remove the disks of a box that ``prepare`` has brought; they may be gone."""
        for _, volume in _disks(box, name, version):
            self._virsh("vol-delete", "--pool", POOL, volume, deadline=deadline)

    # --- what races -------------------------------------------------------------------------

    def _make_pool(self, deadline: Deadline) -> None:
        if POOL not in self._names("pool-list", "--all"):
            self._do("pool-define-as", POOL, "dir", "--target", POOL_FOLDER, deadline=deadline)
            self._do("pool-build", POOL, deadline=deadline)
            self._do("pool-autostart", POOL, deadline=deadline)
        self._do("pool-start", POOL, deadline=deadline)

    def _make_network(self, deadline: Deadline) -> None:
        if NETWORK not in self._names("net-list", "--all"):
            self._do("net-define", "/dev/stdin", deadline=deadline, stdin=NETWORK_XML)
        self._do("net-start", NETWORK, deadline=deadline)

    def _make_volume(self, disk: Path, volume: str, deadline: Deadline, cancel: Cancel) -> None:
        """Bring a box's disk into the pool, whole: Vagrant starts from one that is half there."""
        size = disk.stat().st_size
        if self._bytes_of(volume) >= size:
            return
        self._virsh("vol-delete", "--pool", POOL, volume, deadline=deadline)
        self._do(
            *("vol-create-as", POOL, volume, str(size), "--format", "qcow2"), deadline=deadline
        )
        try:
            self._do(
                *("vol-upload", "--pool", POOL, volume, str(disk)),
                deadline=deadline,
                cancel=cancel,
            )
        except BaseException:
            self._virsh("vol-delete", "--pool", POOL, volume, deadline=Deadline("boot", ASK_S))
            raise
        self._do("pool-refresh", POOL, deadline=deadline)  # It looks at what was brought.

    def _bytes_of(self, volume: str) -> int:
        """The length of a volume's file; 0 where there is none."""
        said = self._virsh("vol-info", "--pool", POOL, "--bytes", "--physical", volume).stdout
        found = re.search(rb"^Physical:\s+(\d+)", said, re.MULTILINE)
        return int(found[1]) if found else 0

    # --- asking -----------------------------------------------------------------------------

    def _domain(self, name: str) -> bool:
        return name in self._names("list", "--all")

    def _volumes(self) -> dict[str, str]:
        """Every volume, and its pool."""
        found = {}
        for pool in self._names("pool-list"):
            said = self._do("vol-list", pool).stdout.decode(errors="replace")
            found.update({line.split()[0]: pool for line in said.splitlines() if line.split()})
        return found

    def _volumes_of(self, name: str) -> dict[str, str]:
        return {
            volume: pool
            for volume, pool in self._volumes().items()
            if (match := OURS.fullmatch(volume)) and match[1] == name
        }

    def _folder_of(self, name: str) -> str:
        """The machine's folder, which its domain is described with."""
        said = self._virsh("desc", name).stdout.decode(errors="replace").strip()
        return said if said.startswith("/") and Path(said).parts[-2:] == ("machines", name) else ""

    def _names(self, what: str, *options: str) -> list[str]:
        said = self._do(what, "--name", *options).stdout.decode(errors="replace")
        return [line.strip() for line in said.splitlines() if line.strip()]

    def _do(
        self,
        *words: str,
        deadline: Deadline | None = None,
        cancel: Cancel = NEVER,
        stdin: str = "",
    ) -> command.Finished:
        finished = self._virsh(*words, deadline=deadline, cancel=cancel, stdin=stdin)
        return finished.check(
            f"libvirt refused: virsh {words[0]}",
            resolution="`build doctor` looks at libvirt.",
        )

    def _virsh(
        self,
        *words: str,
        deadline: Deadline | None = None,
        cancel: Cancel = NEVER,
        stdin: str = "",
    ) -> command.Finished:
        """One call of virsh, whose status is the caller's to judge."""
        return command.run(
            ["virsh", "-q", "-c", uri(), *words],
            deadline=deadline or Deadline("libvirt", ASK_S, f"virsh {words[0]} to answer"),
            cancel=cancel,
            stdin=stdin.encode(),
            env={**os.environ, "LC_ALL": "C"},
        )


def _disks(box: Path, name: str, version: str) -> Iterator[tuple[Path, str]]:
    """The disks of a box, and what vagrant-libvirt calls each one's volume."""
    try:
        facts = json.loads((box / "metadata.json").read_text())
        listed = facts.get("disks") or [{"path": "box.img", "name": "box"}]
        prefix = f"{name.replace('/', '-VAGRANTSLASH-')}_vagrant_box_image_{version}"
        for disk in listed:
            path = box / disk["path"]
            own = disk.get("name") or disk["path"].removesuffix(path.suffix)
            yield path, f"{prefix}_{own.replace('/', '-SLASH-')}.img"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentFailure(
            f"{box}: this is no box for libvirt", details=f"metadata.json: {error}"
        ) from error


def answers() -> str:
    """Nothing where libvirt answers; else why it does not."""
    with contextlib.suppress(OrchestratorError):
        said = Libvirt()._virsh("version")
        return "" if said.status == 0 else said.stderr.decode(errors="replace").strip()
    return "virsh is not installed, or does not answer"
