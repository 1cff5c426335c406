"""A bucket with an S3 API as a destination.

A key is written by one conditional PUT (``If-None-Match: *``), which only the first publisher
wins. Not every server keeps to the rules: some ignore the condition, and many take a wrong
checksum. So we look before we put, and read back what lies there afterwards; only Amazon's own
word on a checksum is taken.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
from typing import IO, TYPE_CHECKING

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, HostNotReady, PublishConflict
from build_orchestrator.publish.contract import Item, changed, opened
from build_orchestrator.publish.s3_errors import explained, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

LARGEST_BYTES = 5 * 1000**3
"""What one PUT can carry; an upload in parts cannot be made conditional everywhere."""

CONNECT_S = 10
READ_S = 60
ATTEMPTS = 4
CHUNK = 1 << 20
CONFLICT_PAUSE_S = 0.5

_clients: dict[tuple[str, str], S3Client] = {}
_lock = threading.Lock()


class S3Destination:
    """Artifacts in a bucket, below a prefix."""

    def __init__(self, name: str, bucket: str, prefix: str, endpoint: str) -> None:
        """
        Args:
            prefix: without slashes around it; may be empty.
            endpoint: address of the server; empty for Amazon's own.
        """
        self.name = name
        self._bucket = bucket
        self._prefix = prefix
        self._endpoint = endpoint

    def address(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._place(key)}"

    def check(self) -> None:
        import boto3.session
        from botocore.exceptions import BotoCoreError

        try:
            if boto3.session.Session().get_credentials() is not None:
                return
            why = ""
        except BotoCoreError as error:
            why = str(error)
        raise HostNotReady(
            f"destination {self.name}: this host has no credentials for S3",
            details=why,
            resolution="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        )

    def put(self, item: Item, *, deadline: Deadline, cancel: Cancel) -> None:
        if item.size_bytes > LARGEST_BYTES:
            raise EnvironmentFailure(
                f"{item.key} is larger than the 5 GB that one S3 PUT can carry",
                resolution="Publish it to a folder, or let the script leave smaller outputs.",
            )
        with self._errors(deadline, cancel):
            while not self._is_there(item):
                deadline.check()
                if self._put_once(item, deadline, cancel):
                    self._compare(item)
                    return
                cancel.sleep(min(CONFLICT_PAUSE_S, deadline.remaining_s))
            self._compare(item)

    def read(self, key: str) -> bytes | None:
        from botocore.exceptions import ClientError

        with self._errors():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._place(key))
                return bytes(answer["Body"].read())
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                    return None
                raise

    def point_latest(self, folder: str) -> None:
        """A bucket has no links, and a key never changes: there is no ``latest``."""

    def _is_there(self, item: Item) -> bool:
        """Whether the key exists. Where the answer is a refusal, PUT says why, or succeeds."""
        from botocore.exceptions import ClientError

        try:
            self._head(item)
        except ClientError as error:
            if 400 <= status_of(error) < 500:
                return False
            raise
        return True

    def _head(self, item: Item) -> HeadObjectOutputTypeDef:
        return self._client.head_object(
            Bucket=self._bucket, Key=self._place(item.key), ChecksumMode="ENABLED"
        )

    def _put_once(self, item: Item, deadline: Deadline, cancel: Cancel) -> bool:
        """PUT unless the key exists. False: ask again, two publishers got in each other's way."""
        from botocore.exceptions import ClientError

        with opened(item.content) as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != item.sha256:  # type: ignore[arg-type]
                raise changed(item)
            content.seek(0)
            try:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._place(item.key),
                    Body=_Body(content, deadline, cancel),  # type: ignore[arg-type]
                    ContentLength=item.size_bytes,
                    ContentType=item.media_type,
                    ChecksumSHA256=_base64(item.sha256),
                    IfNoneMatch="*",
                )
            except ClientError as error:
                # 412: it exists by now, whoever wrote it; an answer of ours may have been lost.
                if status_of(error) == 412:
                    return True
                if error.response.get("Error", {}).get("Code") == "ConditionalRequestConflict":
                    return False
                raise
        return True

    def _compare(self, item: Item) -> None:
        """What lies there must be what we were to put there, whoever did it."""
        head = self._head(item)
        if head["ContentLength"] == item.size_bytes:
            trusted = self._is_amazon and head.get("ChecksumType") == "FULL_OBJECT"
            if trusted and head.get("ChecksumSHA256") == _base64(item.sha256):
                return
            if self._stored_sha256(item) == item.sha256:
                return
        raise PublishConflict(
            f"{self.address(item.key)} holds other bytes",
            resolution="Published bytes never change: give another VERSION, PRERELEASE or BUILD.",
        )

    def _stored_sha256(self, item: Item) -> str:
        digest = hashlib.sha256()
        answer = self._client.get_object(Bucket=self._bucket, Key=self._place(item.key))
        for chunk in answer["Body"].iter_chunks(CHUNK):
            digest.update(chunk)
        return digest.hexdigest()

    def _place(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    @property
    def _is_amazon(self) -> bool:
        host = self._client.meta.endpoint_url.removeprefix("https://").partition("/")[0]
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    @property
    def _client(self) -> S3Client:
        return _client_for(self._endpoint)

    def _errors(
        self, deadline: Deadline | None = None, cancel: Cancel = NEVER
    ) -> contextlib.AbstractContextManager[None]:
        return explained(self._bucket, self._endpoint, deadline, cancel)


class _Body:
    """A request's body that stops flowing when time is up; botocore reads it for each attempt."""

    def __init__(self, content: IO[bytes], deadline: Deadline, cancel: Cancel) -> None:
        self._content = content
        self._deadline = deadline
        self._cancel = cancel

    def read(self, size: int = -1) -> bytes:
        self._cancel.check()
        self._deadline.check()
        return self._content.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._content.seek(offset, whence)

    def tell(self) -> int:
        return self._content.tell()


def endpoint_of(s3_endpoint: str | None) -> str:
    """The address that was asked for, else the environment's; empty for Amazon's own."""
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return s3_endpoint or next((os.environ[name] for name in variables if os.environ.get(name)), "")


def _client_for(endpoint: str) -> S3Client:
    """The one client for an endpoint and region; clients may be shared between threads."""
    import boto3.session
    from botocore.config import Config

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    with _lock:
        if (endpoint, region) not in _clients:
            session = boto3.session.Session()
            _clients[endpoint, region] = session.client(
                "s3",
                region_name=region or session.region_name or "us-east-1",
                endpoint_url=endpoint or None,
                config=Config(
                    connect_timeout=CONNECT_S,
                    read_timeout=READ_S,
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                    # Other servers seldom have a name for each bucket.
                    s3={"addressing_style": "path" if endpoint else "auto"},
                ),
            )
        return _clients[endpoint, region]


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()
