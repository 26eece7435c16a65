"""The connection to EC2, and what its errors mean here. Source: docs/reference/ec2.md, Errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.parsers import ResponseParserError

from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.ec2.options import Ec2Options

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, TRIES = 5, 30, 5
FAILED = "provisioning failed"  # what people read when nothing better is known
_TEXTS = {
    ErrorClass.QUOTA: "the cloud account's quota is reached in {region}; "
    "remove or hibernate workspaces nobody needs, or raise the quota",
    ErrorClass.CAPACITY: "no capacity for {type} in {region}; try again or choose another size",
    ErrorClass.TRANSIENT: "cloud provider temporarily unavailable",
    ErrorClass.CONFIG: "EC2 is not configured correctly on this server; ask an administrator",
    ErrorClass.BOOT_FAILED: "the workspace's machine ended while it started; restart the workspace",
}
_MAY_PASS = frozenset({ErrorClass.CAPACITY, ErrorClass.TRANSIENT})
# Error codes, or their beginnings up to a dot or a star.
_CODES: dict[ErrorClass, tuple[str, ...]] = {
    ErrorClass.QUOTA: ("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded"),
    ErrorClass.CAPACITY: (
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientFreeAddressesInSubnet",
        "Unsupported",
        "SpotMaxPriceTooLow",
    ),
    ErrorClass.TRANSIENT: (
        "RequestLimitExceeded",
        "Throttling*",
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "Unavailable",
        "RequestTimeout",
    ),
    ErrorClass.CONFIG: (
        "UnauthorizedOperation",
        "AuthFailure",
        "InvalidAMIID.*",
        "InvalidSubnetID.*",
        "InvalidGroup.*",
        "NoSuchEntity",
        "InvalidParameter*",
    ),
    ErrorClass.BOOT_FAILED: ("IdempotentInstanceTerminated",),
}


def connected(options: Ec2Options) -> EC2Client:
    """A client, safe for threads. Without keys in `options` the SDK looks for its own (role, profile)."""
    client: EC2Client = boto3.session.Session().client(
        "ec2",
        region_name=options.region,
        endpoint_url=options.endpoint_url or None,
        aws_access_key_id=options.access_key_id or None,
        aws_secret_access_key=options.secret_access_key or None,
        aws_session_token=options.session_token or None,
        config=Config(
            retries={"mode": "standard", "max_attempts": TRIES},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
        ),
    )
    return client


def code_of(error: BaseException | None) -> str:
    """EC2's name of what went wrong, or an empty text; also of what `translated` was raised from."""
    cause = error.__cause__ if isinstance(error, BackendError) else error
    return str(cause.response["Error"].get("Code", "")) if isinstance(cause, ClientError) else ""


@contextmanager
def translated(region: str, instance_type: str = "this size") -> Iterator[None]:
    """Raise what EC2 and its SDK raise in the block as BackendError; its own words are the detail."""
    try:
        yield
    except (ClientError, BotoCoreError, ResponseParserError) as error:
        error_class = _class_of(error)
        text = _TEXTS.get(error_class, FAILED).format(region=region, type=instance_type)
        retryable = error_class in _MAY_PASS
        raise BackendError(error_class, text, detail=str(error), retryable=retryable) from error


def _class_of(error: Exception) -> ErrorClass:
    if isinstance(error, ClientError):
        return _class_of_code(code_of(error), _http_status(error.response))
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return ErrorClass.CONFIG
    # What the SDK refuses to send is our fault; anything else is the network's, or of something in between.
    is_ours = type(error).__name__ in {"ParamValidationError", "MissingParametersError"}
    return ErrorClass.INTERNAL if is_ours else ErrorClass.TRANSIENT


def _class_of_code(code: str, http_status: int) -> ErrorClass:
    for error_class, names in _CODES.items():
        for name in names:
            if code == name.rstrip(".*") or (name.endswith("*") and code.startswith(name[:-1])):
                return error_class
    return ErrorClass.TRANSIENT if http_status >= 500 else ErrorClass.INTERNAL


def _http_status(response: Any) -> int:
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
