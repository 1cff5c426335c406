"""How a machine of Vagrant's is reached: said by its own Vagrantfile, beside which it lies."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path

from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.machine.vagrant.windows import USER_KEY
from build_orchestrator.model import Identity
from build_orchestrator.render.vagrantfile import SSH_FACTS
from build_orchestrator.transport.ssh import Ssh
from build_orchestrator.transport.windows import WindowsSsh


def facts_of(folder: Path, *, windows: bool = False) -> dict[str, str]:
    """Host, port, user, key and host keys, as details of an identity.

    Raises:
        EnvironmentFailure: nothing was said, or what was said may not be trusted.
    """
    try:
        said = json.loads((folder / SSH_FACTS).read_text())
        ssh, host_keys = said["ssh"], said["host_keys"]
        key = folder / USER_KEY if windows else Path(str(ssh["private_key_path"][0]))
        details = {
            "host": str(ssh["host"]),
            "port": str(int(ssh["port"])),
            "user": str(ssh["username"]),
            "key": str(key),
            **({"windows": "true"} if windows else {}),
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise EnvironmentFailure(
            "Vagrant did not say how the machine is reached",
            details=f"{folder / SSH_FACTS}: {error}",
        ) from error
    if not key.is_relative_to(folder):
        # A key that came with Vagrant or with the box: everybody has it.
        raise EnvironmentFailure(
            "the machine still accepts the key that came with its box",
            details=f"Vagrant logs in with {key}, and made no key of this machine's own.",
            resolution="Use a box that leaves config.ssh.insert_key and private_key_path alone.",
        )
    _refuse_strange_networks(details["host"])
    (folder / "host_keys").write_text(str(host_keys))
    return details


def _refuse_strange_networks(host: str) -> None:
    """The host key is taken at first sight: nobody else may be able to answer."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host != "localhost" and (address is None or not address.is_private):
        raise EnvironmentFailure(
            f"the machine answers at {host}, which is no private address of this host",
            resolution="Its host key could be anybody's. Use the provider's private network.",
        )


def connection(folder: Path, details: Mapping[str, str], options: tuple[str, ...]) -> Ssh:
    """The connection to a machine; not opened yet."""
    windows = "windows" in details
    return (WindowsSsh if windows else Ssh)(
        folder,
        host=details["host"],
        port=int(details["port"]),
        user=details["user"],
        identity_file=Path(details["key"]),
        options=options,
        become_root=details["user"] != "root" and not windows,
    )


def connection_of(identity: Identity) -> Ssh | None:
    """The connection to an adopted machine; None where it never got that far."""
    if "host" not in identity.details:
        return None
    return connection(Path(identity.folder), identity.details, ())
