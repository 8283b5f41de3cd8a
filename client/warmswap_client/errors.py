"""Errors of the client, grouped by what a caller can do.

    WarmswapError                     url, model, code, request_id
    ├── InvalidUrlError               fix the URL
    ├── InvalidTlsError               fix the TLS files, or the URL that they do not go with
    ├── InputFileError                fix the path: a picture cannot be read
    ├── OutputFileError               fix the path: a picture cannot be written
    ├── ServerUnreachableError      * cannot connect, or the connection broke
    ├── NotReadyError                 waited, and the server is still not ready
    ├── RequestTimeoutError           too slow
    ├── RequestCancelledError         cancelled, on either side
    ├── AccessDeniedError             the server, or a proxy before it, wants credentials
    ├── InvalidRequestError           the server refused the input; code says why
    │   ├── InvalidImageError         invalid_image
    │   ├── ImageTooLargeError        image_too_large
    │   ├── InvalidOptionError        invalid_option
    │   ├── InvalidTensorError        invalid_tensor
    │   ├── NoFaceError               no_face
    │   └── FaceIndexError            face_index_out_of_range
    ├── UnknownModelError             the server has no model of that name
    ├── ServerBusyError             * overloaded: retry later
    │   ├── ModelLoadingError       * model_loading: loaded on demand; retry_after_s says when to try again
    │   └── ModelNotLoadedError     * no version of the model is loaded: starting, draining or unloaded
    ├── ServerFailedError             the server's fault
    └── ProbeFailedError              a probe was answered, but wrongly
        └── ProbeTooSlowError         or rightly, but late

Classes with a star are retried. ``code`` is a key of ``contract.ERROR_CODES``, or None where no pipeline answered.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

_READY_IN: Final = re.compile(r"ready in about (\d+(?:\.\d+)?) s")


class WarmswapError(Exception):
    """Base of everything that the client raises on purpose.

    Attributes:
        reason: What happened, without the words of the class around it.
        url: The server that was asked.
        model: The model that was asked.
        code: The server's machine-readable code.
        request_id: Under which the request stands in the server's log; None where there was no request.
        sentence: How ``str`` words the error.
        retryable: Whether the same call may succeed a moment later.
        exit_code: What the command line returns; see ``cli``.
    """

    sentence: ClassVar[str] = "{reason}"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(
        self, reason: str, *, url: str | None = None, model: str | None = None, code: str | None = None
    ) -> None:
        """Take the facts; the class words the sentence."""
        super().__init__(reason)
        self.reason = reason
        self.url = url
        self.model = model
        self.code = code
        self.request_id: str | None = None

    def __str__(self) -> str:
        """One sentence for a person."""
        reason = f"{self.code}: {self.reason}" if self.code else self.reason
        return self.sentence.format(reason=reason, url=self.url or "the server", model=self.model or "the server")


class InvalidUrlError(WarmswapError):
    """The URL is not ``grpc://host:port``, ``http://host:port`` or one of their TLS forms."""

    exit_code = 2


class InvalidTlsError(WarmswapError):
    """TLS files cannot be used, or the URL has no TLS."""

    exit_code = 2


class InputFileError(WarmswapError):
    """A picture cannot be read."""

    exit_code = 2


class OutputFileError(WarmswapError):
    """A picture cannot be written."""

    exit_code = 2


class ServerUnreachableError(WarmswapError):
    """Nobody answers at the URL, or the connection broke before the answer was complete."""

    sentence = "cannot reach {url}: {reason}"
    retryable = True
    exit_code = 3


class NotReadyError(WarmswapError):
    """``wait_until_ready`` gave up; the reason is the last state seen."""

    sentence = "{model} at {url} is not ready: {reason}"
    exit_code = 3


class RequestTimeoutError(WarmswapError):
    """The deadline passed before the answer was complete."""

    sentence = "{url} is too slow: {reason}"
    exit_code = 4


class RequestCancelledError(WarmswapError):
    """The request was given up, by the server or because the client was closed."""

    sentence = "the request was cancelled: {reason}"


class AccessDeniedError(WarmswapError):
    """The server, or a proxy before it, does not let this client do that."""

    sentence = "{url} denies access: {reason}"


class InvalidRequestError(WarmswapError):
    """The server refused the input; sending it again does not help."""

    sentence = "the server refused the input: {reason}"
    exit_code = 5


class InvalidImageError(InvalidRequestError):
    """The bytes are not a picture that can be read."""


class ImageTooLargeError(InvalidRequestError):
    """More bytes or pixels than the server accepts."""


class InvalidOptionError(InvalidRequestError):
    """An unknown option, or a value outside its range."""


class InvalidTensorError(InvalidRequestError):
    """A tensor of the wrong shape or datatype."""


class NoFaceError(InvalidRequestError):
    """No face was found, or none that the selector accepts."""


class FaceIndexError(InvalidRequestError):
    """``index:K`` names a face that is not there."""


class UnknownModelError(WarmswapError):
    """The server has no model of that name."""

    sentence = "{url} does not serve that model: {reason}"
    exit_code = 3


class ServerBusyError(WarmswapError):
    """A queue is full or the server is about to stop; the same request may succeed later."""

    sentence = "the server is busy: {reason}"
    retryable = True


class ModelLoadingError(ServerBusyError):
    """The request needs a model that is loaded on demand, and its load has begun."""

    sentence = "the server loads a model: {reason}"

    @property
    def retry_after_s(self) -> float | None:
        """When the server expects to be done, in seconds from its answer; None if it does not say."""
        found = _READY_IN.search(self.reason)
        return float(found[1]) if found else None


class ModelNotLoadedError(ServerBusyError):
    """The model has no loaded version: the server is starting or draining, or somebody unloaded it."""

    sentence = "the model is not loaded: {reason}"
    exit_code = 3


class ServerFailedError(WarmswapError):
    """A fault of the server, or an answer that cannot be understood."""

    sentence = "the server failed: {reason}"


class ProbeFailedError(WarmswapError):
    """A probe was answered, but not by a server that swaps faces."""

    sentence = "{url} gave a wrong answer: {reason}"


class ProbeTooSlowError(ProbeFailedError):
    """A probe was answered rightly, but later than it may be."""

    sentence = "{url} is right, but too slow: {reason}"
    exit_code = 4
