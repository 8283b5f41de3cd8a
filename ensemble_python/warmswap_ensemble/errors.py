"""Errors of the pipeline, and whose fault each one is.

    PipelineError                code, sentence and category
    ├── InvalidInputError        the caller must change the request (INVALID_ARG, HTTP 400)
    │   ├── InvalidImageError    invalid_image
    │   ├── ImageTooLargeError   image_too_large
    │   ├── InvalidOptionError   invalid_option
    │   ├── InvalidTensorError   invalid_tensor
    │   ├── NoFaceError          no_face
    │   └── FaceIndexError       face_index_out_of_range
    ├── OverloadedError          overloaded: the caller may retry (UNAVAILABLE, HTTP 503)
    │   ├── StageNotReadyError   overloaded: a stage is not loaded
    │   └── ModelLoadingError    model_loading: a stage is being loaded on demand; says when to try again
    ├── RequestCancelledError    cancelled: nobody waits for the answer (CANCELLED, HTTP 499)
    ├── StageFailedError         stage_failed: the server's fault (INTERNAL, HTTP 500)
    └── SelfTestError            self_test_failed: the server must not take traffic (INTERNAL, HTTP 500)

Data flow: bytes -> image (image.py) -> options (options.py) -> faces (selection.py) -> stages (pipeline.py). The class
says which arrow failed; ``triton_backend`` is the only place that turns one into an answer.
"""

from __future__ import annotations

from typing import ClassVar

from warmswap_ensemble.contract import ERROR_CODES


class PipelineError(Exception):
    """Base of all errors that a caller may see.

    Attributes:
        code: Key of ``contract.ERROR_CODES``.
        category: Name of a ``TritonError`` code.
    """

    code: ClassVar[str] = "internal"
    category: ClassVar[str] = "INTERNAL"

    def __init_subclass__(cls) -> None:
        """Refuse a class whose code is not in the contract."""
        if cls.code not in ERROR_CODES:
            raise TypeError(f"{cls.__name__}.code {cls.code!r} is not in contract.ERROR_CODES")

    @property
    def message(self) -> str:
        """``<code>: <sentence>``, as sent to the caller."""
        return f"{self.code}: {self}"


class InvalidInputError(PipelineError):
    """The caller must change the request."""

    code = "invalid_tensor"
    category = "INVALID_ARG"


class InvalidImageError(InvalidInputError):
    """The bytes are not a picture that can be read."""

    code = "invalid_image"


class ImageTooLargeError(InvalidInputError):
    """More bytes or pixels than the limits allow."""

    code = "image_too_large"


class InvalidOptionError(InvalidInputError):
    """An unknown request parameter, or a value outside its range."""

    code = "invalid_option"


class InvalidTensorError(InvalidInputError):
    """A tensor of the wrong shape or datatype."""

    code = "invalid_tensor"


class NoFaceError(InvalidInputError):
    """No face was found, or none that the selector accepts."""

    code = "no_face"


class FaceIndexError(InvalidInputError):
    """``index:K`` names a face that is not there."""

    code = "face_index_out_of_range"


class OverloadedError(PipelineError):
    """A queue is full; the same request may succeed later."""

    code = "overloaded"
    category = "UNAVAILABLE"


class StageNotReadyError(OverloadedError):
    """A stage is not loaded, or is being unloaded."""


class ModelLoadingError(OverloadedError):
    """A stage that is loaded on demand is being loaded; the text says when to try again."""

    code = "model_loading"


class RequestCancelledError(PipelineError):
    """The client gave up; there is nobody to answer."""

    code = "cancelled"
    category = "CANCELLED"


class StageFailedError(PipelineError):
    """A model behind the pipeline failed."""

    code = "stage_failed"


class SelfTestError(PipelineError):
    """The answer to the golden request is not the golden answer."""

    code = "self_test_failed"
