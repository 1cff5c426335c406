"""EC2 of one region, as this account reaches it: clients for all threads, and AWS's clock."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, HostNotReady
from build_orchestrator.machine.ec2.errors import (
    CREDENTIALS,
    Meaning,
    code_of,
    explained,
    meaning_of,
    raised,
)
from build_orchestrator.machine.ec2.launch import RUN, Root, Seen, seen

CONNECT_S = 10
READ_S = 20
ATTEMPTS = 4
CONNECTIONS = 64
PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0

PATIENT = frozenset({Meaning.BUSY, Meaning.NOT_YET, Meaning.UNREACHED, Meaning.NO_ANSWER})
"""After these the same may be asked again."""

Answer = TypeVar("Answer")

_apis: dict[tuple[str, str], Api] = {}
_lock = threading.Lock()


def api_of(region: str, endpoint: str) -> Api:
    """The one Api of a region; ``endpoint`` is empty for Amazon's own.

    Raises:
        EnvironmentFailure: it cannot be asked anything: no such region, a broken profile.
    """
    with _lock:
        if (region, endpoint) not in _apis:
            with asking(f"EC2 in {region}"):
                _apis[region, endpoint] = Api(region, endpoint)
        return _apis[region, endpoint]


def check_credentials() -> None:
    """Raise HostNotReady where this host has no credentials for AWS. Asks AWS nothing."""
    import boto3.session
    from botocore.exceptions import BotoCoreError

    try:
        if boto3.session.Session().get_credentials() is not None:
            return
        why = ""
    except BotoCoreError as error:
        why = str(error)
    raise HostNotReady("this host has no credentials for AWS", details=why, resolution=CREDENTIALS)


@contextlib.contextmanager
def asking(doing: str) -> Iterator[None]:
    """Turn what botocore raises into our own errors."""
    try:
        yield
    except raised() as error:
        raise explained(error, doing) from error


def persist(
    ask: Callable[[], Answer],
    doing: str,
    *,
    deadline: Deadline,
    cancel: Cancel,
    patient: frozenset[Meaning] = PATIENT,
    elsewhere: bool = False,
) -> Answer:
    """Ask until there is an answer that counts.

    Args:
        patient: the errors after which the same is asked again.

    Raises:
        OrchestratorError: what AWS said last: at once for other errors, else at the deadline.
        Interrupted
    """
    pause_s = PAUSE_S
    while True:
        cancel.check()  # Nobody launches anything after a signal.
        try:
            return ask()
        except raised() as error:
            if meaning_of(error) not in patient or deadline.remaining_s < pause_s:
                raise explained(error, doing, elsewhere=elsewhere) from error
        cancel.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


class Api:
    """EC2 of one region."""

    def __init__(self, region: str, endpoint: str) -> None:
        import boto3.session

        self.region = region
        self.endpoint = endpoint
        self._session: Any = boto3.session.Session()
        self.ec2 = self._client("ec2", ATTEMPTS)
        # For what must not be repeated blindly: we know what each error means, and look first.
        self.once = self._client("ec2", 1)
        self.told_to_end: set[str] = set()
        """The ids of machines that AWS has said it ends; it may show them alive a little longer."""
        self.console_refused = ""
        """With which code AWS would not show a console when it was last asked."""
        self._ahead_s = 0.0
        self._roots: dict[str, Root] = {}
        self._architectures: dict[str, tuple[str, ...]] = {}

    def _client(self, service: str, attempts: int) -> Any:
        """A client, without its types: those of EC2 alone would take mypy a minute."""
        from botocore.config import Config

        client = self._session.client(
            service,
            region_name=self.region,
            endpoint_url=self.endpoint or None,
            config=Config(
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
                max_pool_connections=CONNECTIONS,
                retries={"mode": "standard", "total_max_attempts": attempts},
            ),
        )
        client.meta.events.register("after-call", self._hear_clock)
        return client

    @property
    def ssm(self) -> Any:
        """Where AWS publishes the ids of images."""
        return self._client("ssm", ATTEMPTS)

    @property
    def sts(self) -> Any:
        """Whose credentials these are."""
        return self._client("sts", ATTEMPTS)

    # --- the clock ------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the epoch by AWS's clock, as the last answer told it."""
        return time.time() + self._ahead_s

    def _hear_clock(self, http_response: Any, **_: Any) -> None:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            said = parsedate_to_datetime(http_response.headers["date"])
            self._ahead_s = said.timestamp() - time.time()

    # --- what there is --------------------------------------------------------------------------

    def machines(self, **filters: str) -> list[Seen]:
        """Every machine of ours that AWS shows, also those that ended lately.

        Args:
            filters: ``run`` or ``instance_id``; none of them for all runs.
        """
        wanted = [{"Name": "tag-key", "Values": [RUN]}]
        if run_uuid := filters.get("run"):
            wanted = [{"Name": f"tag:{RUN}", "Values": [run_uuid]}]
        if instance_id := filters.get("instance_id"):  # One that has ended may have lost its tags.
            wanted = [{"Name": "instance-id", "Values": [instance_id]}]
        found: list[Seen] = []
        # By filter, never by id: an id that is not known everywhere yet would fail the question.
        for page in self.ec2.get_paginator("describe_instances").paginate(
            Filters=wanted, PaginationConfig={"PageSize": 500}
        ):
            for reservation in page.get("Reservations", ()):
                found += [seen(instance) for instance in reservation.get("Instances", ())]
        return found

    def root_of(self, ami: str) -> Root:
        """The disk that an image starts from; asked once.

        Raises what botocore raises, and EnvironmentFailure where there is no such image.
        """
        if ami not in self._roots:
            images = self.ec2.describe_images(ImageIds=[ami]).get("Images", [])
            if not images:
                raise EnvironmentFailure(
                    f"image {ami}: {self.region} has none of this id",
                    resolution="Images belong to one region: correct image or launch.region.",
                )
            device = images[0].get("RootDeviceName") or "/dev/xvda"
            sizes = [
                int(mapping["Ebs"].get("VolumeSize") or 1)
                for mapping in images[0].get("BlockDeviceMappings", ())
                if mapping.get("DeviceName") == device and "Ebs" in mapping
            ]
            self._roots[ami] = Root(device=device, size_gib=max(sizes, default=1))
        return self._roots[ami]

    def architectures(self, kinds: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The architectures of each type of machine, in AWS's words; each type is asked for once.

        Raises what botocore raises: there is no such type in this region, above all.
        """
        kinds = tuple(dict.fromkeys(kinds))
        if missing := [kind for kind in kinds if kind not in self._architectures]:
            answer = self.ec2.describe_instance_types(InstanceTypes=missing)
            for each in answer.get("InstanceTypes", ()):
                has = tuple(each.get("ProcessorInfo", {}).get("SupportedArchitectures", ()))
                self._architectures[each["InstanceType"]] = has
        return {kind: self._architectures[kind] for kind in kinds if self._architectures.get(kind)}

    def console(self, instance_id: str) -> str:
        """What a machine has printed so far; empty where AWS has nothing yet, or will not say."""
        for latest in (True, False):  # Only newer machines have the latest.
            try:
                answer = self.ec2.get_console_output(InstanceId=instance_id, Latest=latest)
            except raised() as error:
                self.console_refused = code_of(error)
                continue
            self.console_refused = ""
            text = answer.get("Output") or ""
            return text if isinstance(text, str) else text.decode(errors="replace")
        return ""
