"""One build on a real machine behind the EC2 stand-in: Debian's own cloud-init asks the metadata
service who it is, makes and prints its host keys, lets our key in, and runs our user data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.conftest import require
from tests.contract.projects import OUTPUT
from tests.real.aws_projects import TARGET, AwsProject
from tests.standins.ami import cloud_image
from tests.standins.ec2 import CREDENTIALS, Ec2, ec2_server

PLANTED = "planted-secret-of-a-recipe-4711"
# No program is given the secret as an argument: `printf` is the shell's own.
SCRIPT = f"""\
cat /var/lib/cloud/instance/datasource
systemctl is-active --quiet build-orchestrator-limit.timer && echo the limit is armed
[ "${{#TOKEN}}" = {len(PLANTED)} ] && echo the secret is here
printf %s "$TOKEN" | grep -aqFf - /proc/[0-9]*/cmdline || echo no process was told it
echo made >"$BUILD_OUTPUT/{OUTPUT}"
cat "$0" >/var/tmp/seen
sync
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Ec2]:
    require("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "mmdebstrap", "mke2fs")
    with ec2_server(cloud_image()) as server:
        yield server


def test_a_real_machine_builds_and_nothing_remains(server: Ec2, tmp_path: Path) -> None:
    """Boot, provision, collect, publish to S3 on the same endpoint, terminate; no secret anywhere:
    not in the run folder, in the machine's disk, or in what AWS was told."""
    s3 = boto3.Session(
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    ).client("s3", region_name="us-east-1", endpoint_url=server.endpoint)
    s3.create_bucket(Bucket="releases")
    project = AwsProject(tmp_path / "home", server)
    project.limit_s = 800
    project.write(
        script=SCRIPT,
        ami=server.machine_ami,
        destinations=("s3://releases/agents",),
        secrets=("TOKEN",),
        launch={"user": "admin"},
        boot_s=600,
    )
    done = project.up(TOKEN=PLANTED)
    assert done.status == 0, done.words
    row = project.row()
    assert (row["host_key"], row["start"], row["machine"]) == ("console", "cold", "destroyed")
    log = project.log(TARGET)
    for word in (
        "DataSourceEc2Local",
        "limit is armed",
        "secret is here",
        "no process was told it",
    ):
        assert word in log, log
    (asked,) = (path.read_text().splitlines() for path in server.folder.glob("*.asked"))
    assert "PUT /latest/api/token 200" in asked
    assert [line for line in asked if line.endswith("/user-data 200")], asked
    (address,) = [each["url"] for each in row["published"]]
    key = address.removeprefix("s3://releases/")
    assert s3.get_object(Bucket="releases", Key=key)["Body"].read() == b"made\n"
    (machine,) = project.launched()
    assert machine["tokens"] == "required"
    assert server.left() == []
    project.assert_nothing_left()
    secrets = [PLANTED, CREDENTIALS["AWS_SECRET_ACCESS_KEY"], "PRIVATE KEY"]
    told = json.dumps(server.shown()) + done.words
    kept = [path.read_bytes() for path in project.run.rglob("*") if path.is_file()]
    for secret in secrets:
        assert secret not in told
        assert not [each for each in kept if secret.encode() in each]
    (disk,) = server.folder.glob("*.ended")
    content = disk.read_bytes()
    assert b"the limit is armed" in content, "what it wrote is there to be found"
    assert not [each for each in secrets[:2] if each.encode() in content]
