"""Python client of the warmswap server; see ``client/README.md`` for a tour.

Importing it loads neither gRPC nor HTTP libraries; a client loads those of its URL.
"""

from warmswap_client.async_client import AsyncFaceSwapClient
from warmswap_client.client import FaceSwapClient
from warmswap_client.errors import (
    AccessDeniedError,
    FaceIndexError,
    ImageTooLargeError,
    InputFileError,
    InvalidImageError,
    InvalidOptionError,
    InvalidRequestError,
    InvalidTensorError,
    InvalidTlsError,
    InvalidUrlError,
    ModelLoadingError,
    ModelNotLoadedError,
    NoFaceError,
    NotReadyError,
    OutputFileError,
    ProbeFailedError,
    ProbeTooSlowError,
    RequestCancelledError,
    RequestTimeoutError,
    ServerBusyError,
    ServerFailedError,
    ServerUnreachableError,
    UnknownModelError,
    WarmswapError,
)
from warmswap_client.results import AnalysisResult, DetectedFace, SourceFace, SwappedFace, SwapResult
from warmswap_client.retry import NO_RETRIES, RetryPolicy
from warmswap_client.status import ModelStatus, ServerStatus
from warmswap_client.tls import TlsFiles

__all__ = [
    "NO_RETRIES",
    "AccessDeniedError",
    "AnalysisResult",
    "AsyncFaceSwapClient",
    "DetectedFace",
    "FaceIndexError",
    "FaceSwapClient",
    "ImageTooLargeError",
    "InputFileError",
    "InvalidImageError",
    "InvalidOptionError",
    "InvalidRequestError",
    "InvalidTensorError",
    "InvalidTlsError",
    "InvalidUrlError",
    "ModelLoadingError",
    "ModelNotLoadedError",
    "ModelStatus",
    "NoFaceError",
    "NotReadyError",
    "OutputFileError",
    "ProbeFailedError",
    "ProbeTooSlowError",
    "RequestCancelledError",
    "RequestTimeoutError",
    "RetryPolicy",
    "ServerBusyError",
    "ServerFailedError",
    "ServerStatus",
    "ServerUnreachableError",
    "SourceFace",
    "SwapResult",
    "SwappedFace",
    "TlsFiles",
    "UnknownModelError",
    "WarmswapError",
]
