"""What each HTTP status means; needs no HTTP library."""

from __future__ import annotations

from typing import Final

from warmswap_client import errors
from warmswap_client.error_codes import refusal, without_request_id

STATUS_ERRORS: Final[dict[int, type[errors.WarmswapError]]] = {
    400: errors.InvalidRequestError,
    401: errors.AccessDeniedError,
    403: errors.AccessDeniedError,
    404: errors.UnknownModelError,
    408: errors.RequestTimeoutError,
    413: errors.InvalidRequestError,
    429: errors.ServerBusyError,  # rate limit of a proxy
    499: errors.RequestCancelledError,
    500: errors.ServerFailedError,
    501: errors.ServerFailedError,
    502: errors.ServerFailedError,
    503: errors.ServerBusyError,
    504: errors.RequestTimeoutError,  # a proxy lost its patience
}
"""Other numbers mean what their first digit says."""


def status_error(status: str | None, message: str, *, url: str, model: str | None) -> errors.WarmswapError:
    """Build the error for an HTTP answer other than 200.

    Args:
        status: The number as text; None if tritonclient itself complains.
        message: The ``error`` field of the body.
        url: The server.
        model: The model that was asked, if any.
    """
    number = int(status) if status is not None and status.isdigit() else 500
    default = errors.InvalidRequestError if 400 <= number < 500 else errors.ServerFailedError
    return refusal(STATUS_ERRORS.get(number, default), without_request_id(message), url=url, model=model)
