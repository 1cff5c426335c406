"""What EC2's errors mean: try elsewhere, wait, ask again, or give up and say why."""

from __future__ import annotations

import enum
import re

from build_orchestrator.errors import (
    EnvironmentFailure,
    NoCapacity,
    OrchestratorError,
    Refused,
)


class Meaning(enum.Enum):
    """What to do about an error."""

    NO_CAPACITY = "this place has no machine for us; another may"
    BUSY = "too many requests: the same one later"
    NOT_YET = "something that we have just made is not known everywhere yet: the same later"
    UNREACHED = "nothing was sent: the same later"
    NO_ANSWER = "nobody knows what became of it: the same, with the same token"
    GONE = "there is no such thing"
    FORBIDDEN = "not allowed; and where only what carries our tag is, there may be no such thing"
    REFUSED = "no, and asking again changes nothing"


NO_CAPACITY = frozenset({
    "InsufficientInstanceCapacity", "InsufficientCapacity", "InsufficientHostCapacity",
    "InsufficientFreeAddressesInSubnet", "Unsupported", "UnsupportedOperation",
    "SpotMaxPriceTooLow", "MaxSpotInstanceCountExceeded", "ReservationCapacityExceeded",
})  # fmt: skip
BUSY = frozenset({
    "RequestLimitExceeded", "Throttling", "ThrottlingException", "EC2ThrottledException",
    "RequestThrottled", "SlowDown", "ConcurrentTagAccess",
})  # fmt: skip
NOT_YET = frozenset({
    "InvalidGroup.NotFound", "InvalidKeyPair.NotFound",
    "InvalidSecurityGroupID.NotFound",  # Of a machine with a network interface of its own.
    # Names hold a run's uuid: it is ours, and its answer was lost.
    "InvalidGroup.Duplicate", "InvalidKeyPair.Duplicate",
})  # fmt: skip
GONE = frozenset({
    "InvalidInstanceID.NotFound", "InvalidVolume.NotFound", "InvalidGroup.NotFound",
    "InvalidGroupId.NotFound", "InvalidSecurityGroupID.NotFound", "InvalidKeyPair.NotFound",
})  # fmt: skip
UNREACHED = frozenset({"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"})
"""botocore's errors for a connection that never was."""
UNAUTHORIZED = "UnauthorizedOperation"
"""With the smallest policy this is said of what is not there, too: it has no tag of ours."""
QUOTA = frozenset({"VcpuLimitExceeded", "InstanceLimitExceeded", "VolumeLimitExceeded"})

CREDENTIALS = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
NO_CREDENTIALS = re.compile("Credential|Token|SSO|Profile|Login")
"""In the names of what botocore raises when it finds no usable credentials."""

ADVICE = {
    "AuthFailure": f"Are the credentials those of this account and region? {CREDENTIALS}",
    "InvalidClientTokenId": f"AWS does not know this access key. {CREDENTIALS}",
    "ExpiredToken": "Renew the session: AWS_SESSION_TOKEN has expired.",
    "RequestExpired": "Renew the session, or set this host's clock.",
    "OptInRequired": "This account has not enabled the region, or not accepted the image's terms.",
    "VPCIdNotSpecified": "The region has no default network: set launch.subnet_id.",
    "DefaultVpcDoesNotExist": "The region has no default network: set launch.subnet_id.",
    "InvalidAMIID.NotFound": "Images belong to one region: correct image or launch.region.",
    "InvalidAMIID.Malformed": "Correct image.ami in targets.yaml.",
    "InvalidInstanceType": "The region has no such type: correct launch.instance_types.",
    "ParameterNotFound": "Correct image.ami_parameter in targets.yaml.",
    "InvalidSubnetID.NotFound": "Correct launch.subnet_id in targets.yaml.",
    **dict.fromkeys(
        QUOTA, "Ask AWS for a higher quota, or give fewer --jobs or smaller launch.instance_types."
    ),
}


def raised() -> tuple[type[Exception], ...]:
    """What botocore raises: AWS's refusals, and that it did not answer, or not as AWS does."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError  # Of a proxy's page, say; no BotoCoreError.

    return BotoCoreError, ClientError, ResponseParserError


def code_of(error: Exception) -> str:
    """AWS's code for an error; empty where AWS did not answer."""
    answer = getattr(error, "response", None) or {}
    return str((answer.get("Error") or {}).get("Code") or "")


def meaning_of(error: Exception) -> Meaning:
    """What to do about what botocore raised."""
    code = code_of(error)
    if code in NO_CAPACITY:  # Some of these come with status 500.
        return Meaning.NO_CAPACITY
    if code in BUSY:
        return Meaning.BUSY
    if code in NOT_YET:
        return Meaning.NOT_YET
    if code in GONE:
        return Meaning.GONE
    if code == UNAUTHORIZED:
        return Meaning.FORBIDDEN
    if not code:
        return _without_answer(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)  # type: ignore[attr-defined]
    return Meaning.NO_ANSWER if status >= 500 else Meaning.REFUSED


def _without_answer(error: Exception) -> Meaning:
    name = type(error).__name__
    if name in UNREACHED:
        return Meaning.UNREACHED
    refused = NO_CREDENTIALS.search(name) or name in ("ParamValidationError", "InvalidRegionError")
    return Meaning.REFUSED if refused else Meaning.NO_ANSWER


def explained(error: Exception, doing: str, *, elsewhere: bool = False) -> OrchestratorError:
    """The error for the user.

    Args:
        doing: what was tried, as the beginning of a sentence.
        elsewhere: for a launch without capacity: whether another place is left to try.
    """
    code = code_of(error)
    message = without_secrets(_message(error))
    if code in NO_CAPACITY:
        return NoCapacity(
            f"{doing}: AWS has no capacity there ({code})",
            details=message,
            resolution="Add launch.zones or launch.instance_types in targets.yaml, or try later.",
            elsewhere=elsewhere,
        )
    if not code and NO_CREDENTIALS.search(type(error).__name__):
        return EnvironmentFailure(
            f"{doing}: this host has no usable credentials for AWS",
            details=message,
            resolution=CREDENTIALS,
        )
    if not code:
        return EnvironmentFailure(
            f"{doing}: AWS did not answer",
            details=message,
            resolution="Is it reachable from here, and are --aws-endpoint and the region right?",
        )
    resolution = ADVICE.get(code, "")
    if not resolution and "Unauthorized" in code:
        resolution = "docs/how-to/aws.md lists the permissions that are needed."
    final = meaning_of(error) in (Meaning.REFUSED, Meaning.FORBIDDEN)
    kind = Refused if final else EnvironmentFailure
    return kind(f"{doing}: AWS refused with {code}", details=message, resolution=resolution)


def _message(error: Exception) -> str:
    answer = (getattr(error, "response", None) or {}).get("Error") or {}
    return str(answer.get("Message") or error)


def without_secrets(text: str) -> str:
    """Addresses may carry a user's name and password."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)
