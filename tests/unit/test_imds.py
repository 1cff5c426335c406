"""The stand-in for AWS's metadata service: what cloud-init relies on."""

from __future__ import annotations

import io
import json
from pathlib import Path

from tests.standins import imds

INSTANCE = {
    "instanceId": "i-1",
    "imageId": "ami-1",
    "instanceType": "t3.medium",
    "availabilityZone": "eu-west-1a",
    "region": "eu-west-1",
    "keyName": "bo-1",
}
KEY = "ssh-ed25519 AAAA of-a-test"
TOKEN = "a-token"


def asked(folder: Path, path: str, *headers: str, method: str = "GET") -> tuple[int, str]:
    """Status and text of one answer."""
    file = folder / "i-1.metadata"
    known = imds.metadata(
        instance=INSTANCE, address="127.9.0.1", public_key=KEY, user_data="#!/bin/sh\n", token=TOKEN
    )
    file.write_text(json.dumps(known))
    sink = io.BytesIO()
    lines = [f"{method} {path} HTTP/1.1", *headers, "", ""]
    imds.serve(file, io.BytesIO("\r\n".join(lines).encode()), sink)
    head, _, body = sink.getvalue().decode().partition("\r\n\r\n")
    assert f"Content-Length: {len(body)}" in head.split("\r\n")
    return int(head.split()[1]), body


def told(folder: Path, path: str) -> tuple[int, str]:
    return asked(folder, path, f"X-aws-ec2-metadata-token: {TOKEN}")


def test_nothing_is_told_without_a_token(tmp_path: Path) -> None:
    """One has to be asked for first, and for how long; what was asked is noted."""
    assert asked(tmp_path, "/latest/user-data") == (401, "")
    assert asked(tmp_path, "/latest/user-data", "X-aws-ec2-metadata-token: other") == (401, "")
    assert asked(tmp_path, "/latest/api/token", method="PUT") == (400, "")
    ttl = "X-aws-ec2-metadata-token-ttl-seconds: 21600"
    assert asked(tmp_path, "/latest/user-data", ttl, method="PUT") == (400, "")
    assert asked(tmp_path, "/latest/api/token", ttl, method="PUT") == (200, TOKEN)
    assert told(tmp_path, "/latest/user-data") == (200, "#!/bin/sh\n")
    noted = (tmp_path / "i-1.asked").read_text().splitlines()
    assert noted[0] == "GET /latest/user-data 401"
    assert noted[-1] == "GET /latest/user-data 200"


def test_folders_are_listed_and_keys_have_numbers(tmp_path: Path) -> None:
    """As AWS lists them: a key by number and name, and its text below its number."""
    status, names = told(tmp_path, "/2021-03-23/meta-data/")
    assert status == 200
    assert {"instance-id", "placement/", "public-keys/"} <= set(names.split("\n"))
    assert told(tmp_path, "/2021-03-23/meta-data/public-keys/") == (200, "0=bo-1")
    assert told(tmp_path, "/latest/meta-data/public-keys/0/openssh-key") == (200, KEY)
    assert told(tmp_path, "/latest/meta-data/placement/region") == (200, "eu-west-1")
    assert told(tmp_path, "/latest/meta-data/instance-id") == (200, "i-1")
    assert told(tmp_path, "/latest/meta-data/public-ipv4") == (200, "127.9.0.1")
    assert told(tmp_path, "/latest/meta-data/local-ipv4") == (200, imds.LOCAL)
    assert told(tmp_path, "/2021-03-23/dynamic/instance-identity") == (200, "document")
    _, document = told(tmp_path, "/2021-03-23/dynamic/instance-identity/document")
    assert json.loads(document)["region"] == "eu-west-1"


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    """Also below what is no folder, and the token itself."""
    paths = ("meta-data/spot", "user-data/s", "token", "meta-data/mac/5")
    for path in (*(f"/latest/{each}" for each in paths), "/x/user-data", "/latest2/user-data"):
        assert told(tmp_path, path) == (404, ""), path
