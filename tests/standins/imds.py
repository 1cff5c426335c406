"""The metadata service of one machine of the EC2 stand-in, as AWS has it in version 2.

``python -S imds.py FILE`` reads one request from its standard input and answers on its standard
output: QEMU starts one for each connection that its machine makes to 169.254.169.254. FILE is what
``metadata`` returns, as JSON. Nothing is told without a token. What was asked for is noted beside
it, in a file called ``.asked``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO

TOKEN = "x-aws-ec2-metadata-token"
TTL = "x-aws-ec2-metadata-token-ttl-seconds"
VERSION = re.compile(r"latest|\d{4}-\d\d-\d\d")
DOMAIN = "eu-west-1.compute.internal"
LOCAL = "169.254.169.15"
"""What QEMU's own DHCP gives the machine, whose network is the one of the metadata service."""


def metadata(
    *, instance: dict[str, str], address: str, public_key: str, user_data: str, token: str
) -> dict[str, Any]:
    """All that a machine is told.

    Args:
        instance: ``instanceId``, ``imageId``, ``instanceType``, ``availabilityZone``, ``region``,
            and ``keyName``.
    """
    host = f"ip-{address.replace('.', '-')}.{DOMAIN}"
    mac = "52:54:00:12:34:56"  # QEMU's first card.
    card = {"device-number": "0", "mac": mac, "local-hostname": host, "local-ipv4s": LOCAL}
    tree = {
        "ami-id": instance["imageId"],
        "ami-launch-index": "0",
        "hostname": host,
        "instance-id": instance["instanceId"],
        "instance-life-cycle": "on-demand",
        "instance-type": instance["instanceType"],
        "local-hostname": host,
        "local-ipv4": LOCAL,
        "mac": mac,
        "network": {"interfaces": {"macs": {mac: card}}},
        "placement": {
            "availability-zone": instance["availabilityZone"],
            "region": instance["region"],
        },
        "public-ipv4": address,
        "public-keys": {f"0={instance['keyName']}": {"openssh-key": public_key}},
        "services": {"domain": "amazonaws.com", "partition": "aws"},
    }
    document = {name: instance[name] for name in instance if name != "keyName"}
    return {
        "token": token,
        "user-data": user_data,
        "meta-data": tree,
        "dynamic": {"instance-identity": {"document": json.dumps(document)}},
    }


def serve(file: Path, source: BinaryIO, sink: BinaryIO) -> None:
    """Answer one request."""
    known = json.loads(file.read_text())
    method, path, _ = source.readline().decode("latin-1").split(" ", 2)
    headers = {}
    while line := source.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    status, text = _answer(known, method, path, headers)
    with file.with_suffix(".asked").open("a") as asked:
        asked.write(f"{method} {path} {status}\n")
    body = text.encode()
    sink.write(
        f"HTTP/1.1 {status} -\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    )
    sink.write(body)
    sink.flush()


def _answer(
    known: dict[str, Any], method: str, path: str, headers: dict[str, str]
) -> tuple[int, str]:
    if method == "PUT":
        is_asked = path == "/latest/api/token" and headers.get(TTL, "").isdigit()
        return (200, known["token"]) if is_asked else (400, "")
    if headers.get(TOKEN) != known["token"]:
        return 401, ""
    version, *parts = [part for part in path.split("/") if part] or [""]
    if not VERSION.fullmatch(version):
        return 404, ""
    found: Any = {name: known[name] for name in ("dynamic", "meta-data", "user-data")}
    for part in parts:
        names = found if isinstance(found, dict) else {}
        found = next((names[name] for name in names if name.partition("=")[0] == part), "")
    if isinstance(found, dict):
        found = "\n".join(
            f"{name}/" if isinstance(value, dict) and "=" not in name else name
            for name, value in found.items()
        )
    return (200, found) if found else (404, "")


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
