"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack

from warmswap_client.endpoint import DEFAULT_URL, parse_url
from warmswap_client.files import ImageSource
from warmswap_client.options import AnalyzeOptions, SwapOptions
from warmswap_client.plans import Planner
from warmswap_client.results import AnalysisResult, SwapResult
from warmswap_client.retry import DEFAULT_RETRY, RetryPolicy
from warmswap_client.status import ServerStatus
from warmswap_client.steps import Plan, run
from warmswap_client.tls import TlsFiles
from warmswap_client.transport import Transport, make_transport
from warmswap_ensemble.contract import FACE_SWAP

T = TypeVar("T")

DEFAULT_TIMEOUT_S: Final = 30.0


class FaceSwapClient:
    """A warmswap server, for blocking calls.

    Usage:
        with FaceSwapClient("grpc://127.0.0.1:8001") as client:
            client.swap("source.jpg", "target.jpg").save("out.jpg")

    Several threads may share one client. Over gRPC they share one connection, over HTTP each has its own.
    All methods raise errors of ``warmswap_client.errors``; the tree is drawn there.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        tls: TlsFiles | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy = DEFAULT_RETRY,
        transport: Transport | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is sent before the first call.

        Args:
            url: ``grpc://host:port`` or ``http://host:port``; ``grpcs`` and ``https`` for TLS.
            tls: Certificates for the TLS forms; ``None`` = trust whom the system trusts.
            timeout_s: Deadline of each call in seconds, retries included, unless the call brings its own.
            retry: When to try again.
            transport: Used instead of the network; see ``fake_transport``.
            sleep: Waits for a number of seconds.
            clock: Monotonic seconds.

        Raises:
            InvalidUrlError: the URL has another form.
            InvalidTlsError: TLS files cannot be used.
            ModuleNotFoundError: tritonclient is not installed.
        """
        endpoint = parse_url(url, tls)
        self._plans = Planner(endpoint.url, timeout_s, retry, clock)
        self._transport = make_transport(endpoint) if transport is None else transport
        self._sleep = sleep
        self._closed = False

    @property
    def url(self) -> str:
        """The server, with its port."""
        return self._plans.url

    def swap(
        self,
        source: ImageSource,
        target: ImageSource,
        *,
        reference: ImageSource | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[SwapOptions],
    ) -> SwapResult:
        """Put the face of one picture into another.

        Args:
            source: Whose face; a path, or the bytes of a JPEG, PNG or WebP file. So are the others.
            target: Where it goes.
            reference: Whose face is replaced; needs ``face_selector="reference"``.
            timeout_s: Deadline in seconds, retries included.
            request_id: Names the request in the server's log and its traces; made up unless given.
            options: See ``SwapOptions``; only those that are given are sent.
        """
        return self._run(self._plans.swap(source, target, reference, timeout_s, request_id, options))

    def analyze(
        self,
        image: ImageSource,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[AnalyzeOptions],
    ) -> AnalysisResult:
        """Find the faces of a picture.

        Args:
            image: A path, or the bytes of a JPEG, PNG or WebP file.
            timeout_s: Deadline in seconds, retries included.
            request_id: Names the request in the server's log and its traces; made up unless given.
            options: See ``AnalyzeOptions``; only those that are given are sent.
        """
        return self._run(self._plans.analyze(image, timeout_s, request_id, options))

    def is_live(self) -> bool:
        """Whether the server runs; no answer is a no."""
        return self._run(self._plans.is_live())

    def is_ready(self, model: str = FACE_SWAP.name) -> bool:
        """Whether the model answers requests; no answer is a no."""
        return self._run(self._plans.is_ready(model))

    def status(self) -> ServerStatus:
        """Ask for versions, readiness and models.

        Raises:
            ServerUnreachableError: there is no server to ask.
        """
        return self._run(self._plans.status())

    def wait_until_ready(self, timeout_s: float = DEFAULT_TIMEOUT_S, model: str = FACE_SWAP.name) -> None:
        """Return as soon as the model answers requests.

        Raises:
            NotReadyError: it does not within ``timeout_s``; the reason is the last state seen. May come up to a second
                later than that, for a last question.
        """
        self._run(self._plans.wait_until_ready(timeout_s, model))

    def close(self) -> None:
        """Give up the connection."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def _run(self, plan: Plan[T]) -> T:
        if self._closed:
            raise RuntimeError("this client is closed")
        return run(plan, self._transport, self._sleep)
