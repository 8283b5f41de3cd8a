"""What each gRPC status means; needs no gRPC library, so that the fake can fail in the same way."""

from __future__ import annotations

import re
from typing import Final

from warmswap_client import errors
from warmswap_client.error_codes import refusal, split_code, without_request_id

STATUS_ERRORS: Final[dict[str, type[errors.WarmswapError]]] = {
    "OK": errors.ServerFailedError,  # an error that calls itself a success
    "CANCELLED": errors.RequestCancelledError,
    "UNKNOWN": errors.ServerFailedError,
    "INVALID_ARGUMENT": errors.InvalidRequestError,
    "DEADLINE_EXCEEDED": errors.RequestTimeoutError,
    "NOT_FOUND": errors.UnknownModelError,
    "ALREADY_EXISTS": errors.ServerFailedError,
    "PERMISSION_DENIED": errors.AccessDeniedError,
    "RESOURCE_EXHAUSTED": errors.InvalidRequestError,  # in practice: the message is larger than a proxy allows
    "FAILED_PRECONDITION": errors.ServerFailedError,
    "ABORTED": errors.ServerFailedError,
    "OUT_OF_RANGE": errors.InvalidRequestError,
    "UNIMPLEMENTED": errors.ServerFailedError,
    "INTERNAL": errors.ServerFailedError,
    "UNAVAILABLE": errors.ServerBusyError,  # or unreachable, see below
    "DATA_LOSS": errors.ServerFailedError,
    "UNAUTHENTICATED": errors.AccessDeniedError,
}
"""Keys are the names of ``grpc.StatusCode``; a test checks that none is missing."""

# gRPC reports its own connection troubles as UNAVAILABLE too, and tritonclient keeps only the text. Seen with grpcio
# 1.85: "failed to connect to all addresses; ... Connection refused", "Stream removed (Socket closed)", "errors
# resolving host:port: ...", "connection attempt timed out before receiving SETTINGS frame".
_NO_CONNECTION: Final = re.compile(
    r"failed to connect|connection (refused|reset|attempt|closed|timed out)|socket closed|stream removed|broken pipe"
    r"|resolving|dns resolution|lookup failed|unreachable|no route to host|handshake"
    r"|endpoint closing|goaway|ping timeout",
    re.IGNORECASE,
)


def status_error(status: str | None, message: str, *, url: str, model: str | None) -> errors.WarmswapError:
    """Build the error for a gRPC call that failed.

    Args:
        status: ``UNAVAILABLE`` or ``StatusCode.UNAVAILABLE``; None if tritonclient itself complains.
        message: The details of the status.
        url: The server.
        model: The model that was asked, if any.
    """
    message = without_request_id(message)
    name = (status or "UNKNOWN").removeprefix("StatusCode.")
    if name == "UNAVAILABLE" and split_code(message)[0] is None and _NO_CONNECTION.search(message):
        reason = message.rpartition("Failed to connect to remote host: ")[2]  # the last address tells enough
        return errors.ServerUnreachableError(reason, url=url, model=model)
    return refusal(STATUS_ERRORS.get(name, errors.ServerFailedError), message, url=url, model=model)
