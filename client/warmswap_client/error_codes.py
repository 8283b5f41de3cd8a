"""From the text of a refusal to the class of its error; the same for both transports.

Pipelines answer ``<code>: <sentence>``. Triton, its Python backend or a proxy may put words of their own before
that, so the code is searched, not expected at the start.
"""

from __future__ import annotations

import re
from typing import Final

from warmswap_client import errors
from warmswap_ensemble.contract import ERROR_CODES, MODELS

CODE_ERRORS: Final[dict[str, type[errors.WarmswapError]]] = {
    "invalid_image": errors.InvalidImageError,
    "image_too_large": errors.ImageTooLargeError,
    "invalid_option": errors.InvalidOptionError,
    "invalid_tensor": errors.InvalidTensorError,
    "no_face": errors.NoFaceError,
    "face_index_out_of_range": errors.FaceIndexError,
    "overloaded": errors.ServerBusyError,
    "model_loading": errors.ModelLoadingError,
    "cancelled": errors.RequestCancelledError,
    "stage_failed": errors.ServerFailedError,
    "self_test_failed": errors.ServerFailedError,
    "internal": errors.ServerFailedError,
}
"""Every code of the contract; a test holds the two together."""

_CODE: Final = re.compile(rf"(?<![\w.])({'|'.join(ERROR_CODES)}): ")

# Texts of Triton's core and front ends, looked for where no code is; they come with different statuses over gRPC and
# HTTP and in different releases (2.51: NOT_FOUND and 404, before that also 400), so the text decides.
_TEXT_ERRORS: Final[tuple[tuple[re.Pattern[str], type[errors.WarmswapError]], ...]] = (
    (re.compile(r"unknown model: .* has no available versions"), errors.ModelNotLoadedError),
    # A server that has just been started has none of our models yet, and a load balancer may know it from before.
    (re.compile(rf"unknown model: '({'|'.join(MODELS)})' is not found"), errors.ModelNotLoadedError),
    (re.compile(r"unknown model: .* is not found"), errors.UnknownModelError),
    (re.compile(r"Stub process '.*' is not healthy"), errors.ServerBusyError),  # it died and will be replaced
    (re.compile(r"This (protocol|API) is restricted"), errors.AccessDeniedError),
)


_REQUEST_ID: Final = re.compile(r"\[request id: [^\]]*\] ?")


def without_request_id(message: str) -> str:
    """Take out what Triton puts before some of its texts: the error has the id, and an id may read like a reason."""
    return _REQUEST_ID.sub("", message)


def split_code(message: str) -> tuple[str | None, str]:
    """Find the machine-readable code in a message of the server.

    Returns:
        The code and the sentence behind it; (None, message) if there is no code.
    """
    found = _CODE.search(message)
    if found is None:
        return None, message.strip()
    return found[1], message[found.end() :].strip()


def refusal(
    status_error: type[errors.WarmswapError], message: str, *, url: str, model: str | None
) -> errors.WarmswapError:
    """Build the error for an answer that is not a success.

    Args:
        status_error: What the status alone means; a code or a well-known text in the message knows better.
        message: The server's text.
        url: The server.
        model: The model that was asked, if any.
    """
    code, reason = split_code(message)
    if code is not None:
        return CODE_ERRORS[code](reason, url=url, model=model, code=code)
    for pattern, text_error in _TEXT_ERRORS:
        if pattern.search(reason):
            return text_error(reason, url=url, model=model)
    return status_error(reason, url=url, model=model)
