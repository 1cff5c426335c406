"""Projects whose targets are machines of the EC2 stand-in."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3.session
import pytest
import yaml

from tests.conftest import require
from tests.contract.projects import OUTPUT, SCRIPT, Done, Project
from tests.standins.ec2 import CREDENTIALS, PORT, REGION, Ec2, ec2_server

TARGET = "debian_bookworm_aws"
DEADLINES = {"boot_s": 30, "transfer_s": 20, "provision_s": 60, "collect_s": 20, "destroy_s": 20}


class AwsProject(Project):
    """A checkout with targets on the stand-in, and a home that nobody shares."""

    def __init__(self, home: Path, server: Ec2) -> None:
        self.server = server
        super().__init__(home)
        self.environ |= CREDENTIALS
        self.before = set(server.shown()["instances"])

    def write(  # type: ignore[override]
        self,
        *,
        script: str = SCRIPT,
        ami: str = "",
        image: dict[str, str] | None = None,
        names: tuple[str, ...] = ("debian_bookworm",),
        attempts: int = 1,
        destinations: tuple[str, ...] = ("dist/",),
        launch: dict[str, Any] | None = None,
        budget: dict[str, Any] | None = None,
        secrets: tuple[str, ...] = (),
        distro: dict[str, Any] | None = None,
        **deadlines: float,
    ) -> AwsProject:
        """Write targets.yaml and the script; ``image`` is what its machines start from, instead of
        an ``ami``; ``launch`` adds to how machines are launched, ``distro`` to each distro's row,
        and ``deadlines`` to the limits."""
        providers = {"aws": {"image": image or {"ami": ami or self.server.ami}}}
        row = {"distribution": "Debian", "providers": providers, **(distro or {})}
        content = {
            "schema": 1,
            "budget": budget or {},
            "defaults": {
                "attempts": attempts,
                "destinations": list(destinations),
                "deadlines": {**DEADLINES, **deadlines},
                "launch": {"region": REGION, "port": PORT, **(launch or {})},
            },
            "distros": {name: {"release": name, **row} for name in names},
            "recipes": {
                "agent": {
                    "script": "make.sh",
                    "outputs": [{"name": OUTPUT if len(names) == 1 else "{target}.txt"}],
                    "secrets": list(secrets),
                }
            },
        }
        (self.folder / "targets.yaml").write_text(yaml.safe_dump(content))
        (self.folder / "make.sh").write_text(script)
        return self

    def at_standin(self, *arguments: str, cwd: str | Path | None = None, **environ: str) -> Done:
        """Run ``build`` against the stand-in."""
        at = ("--aws-endpoint", self.server.endpoint)
        return self.build(*arguments, *at, cwd=cwd, **environ)

    def up(self, *arguments: str, **environ: str) -> Done:
        """Run ``build up`` for the one target."""
        return self.at_standin("up", TARGET, *arguments, **environ)

    @contextlib.contextmanager
    def at_the_word(self, word: str, act: Callable[[], object]) -> Iterator[None]:
        """During the block, do something once the script says a word (empty: once there is a
        machine)."""

        def wait() -> None:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                logs = list(self.folder.glob(f"runs/*/{TARGET}/log.txt"))
                said = any(f" {word}\n" in log.read_text() for log in logs)
                if said if word else self.server.alive():
                    act()
                    return
                time.sleep(0.02)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        yield
        thread.join(timeout=10)

    def launched(self) -> list[dict[str, Any]]:
        """Every machine that was ever launched for this project, in no order."""
        shown = self.server.shown()["instances"]
        return [each for name, each in shown.items() if name not in self.before]


@pytest.fixture(scope="module")
def server() -> Iterator[Ec2]:
    """A stand-in whose machines have no disk."""
    require("sshd", "unshare", "ssh", "ssh-keygen")
    with ec2_server() as server:
        yield server


@pytest.fixture
def project(server: Ec2, tmp_path: Path) -> Iterator[AwsProject]:
    """A project on the stand-in; what a failed test leaves is ended and removed."""
    made = AwsProject(tmp_path / "home", server)
    yield made
    made.end()
    server.reset()


@pytest.fixture
def ec2(server: Ec2) -> Any:
    """The API, as somebody else uses it."""
    session = boto3.session.Session(
        aws_access_key_id="AKIAOFSOMEBODYELSE00", aws_secret_access_key="of-somebody-else"
    )
    return session.client("ec2", region_name=REGION, endpoint_url=server.endpoint)
