"""What S3's errors mean to a user: what happened, where, and what to set. Secrets are left out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import DestinationUnreachable

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

CREDENTIALS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
ENDPOINT = "Is it up, and is --s3-endpoint or AWS_ENDPOINT_URL_S3 right?"

NO_CREDENTIALS = re.compile("Credential|Token|SSO|Profile|Login")
"""In the names of the errors that botocore raises when it finds no usable credentials."""

REFUSED = {
    "InvalidAccessKeyId": "The server does not know this AWS_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID.",
    "ExpiredToken": "Renew the session: AWS_SESSION_TOKEN has expired.",
    "RequestTimeTooSkewed": "Set this host's clock: it differs from the server's.",
    "NoSuchBucket": "Create the bucket, or correct the destination in targets.yaml.",
}


@contextlib.contextmanager
def explained(
    bucket: str, endpoint: str, deadline: Deadline | None, cancel: Cancel
) -> Iterator[None]:
    """Turn what botocore raises into DestinationUnreachable, or into why we had to stop."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        cancel.check()
        if deadline is not None:
            deadline.check()
        if isinstance(error, ClientError):
            raise _refused(error, bucket) from error
        raise _out_of_reach(error, bucket, endpoint) from error


def status_of(error: ClientError) -> int:
    """HTTP status; 0 where there was none."""
    status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status


def _refused(error: ClientError, bucket: str) -> DestinationUnreachable:
    """The server answered, and did not like it."""
    answer = error.response.get("Error", {})
    code = answer.get("Code") or str(status_of(error))
    # Some servers send no message at all, and then it is None.
    message = _without_secrets(answer.get("Message") or "no message")
    resolution = REFUSED.get(code, "")
    if not resolution and status_of(error) in (401, 403):
        resolution = f"The credentials need s3:PutObject and s3:GetObject on bucket {bucket}."
    return DestinationUnreachable(
        f"s3://{bucket}: {error.operation_name} was refused with {code}",
        details=message,
        resolution=resolution,
    )


def _out_of_reach(error: BotoCoreError, bucket: str, endpoint: str) -> DestinationUnreachable:
    """There was no answer, or not even a question."""
    if NO_CREDENTIALS.search(type(error).__name__):
        return DestinationUnreachable(
            f"s3://{bucket}: this host has no usable credentials for S3",
            details=_without_secrets(str(error)),
            resolution=CREDENTIALS,
        )
    return DestinationUnreachable(
        f"s3://{bucket} cannot be reached",
        details=_without_secrets(str(error)),
        resolution=f"Endpoint: {_without_secrets(endpoint) or 'Amazon S3'}. {ENDPOINT}",
    )


def _without_secrets(text: str) -> str:
    """Addresses may carry a user's name and password."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)
