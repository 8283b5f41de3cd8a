"""The seam: a client decides, a transport moves bytes.

Every method takes ``timeout_s``, seconds for this call alone, and raises only errors of ``errors``. ``make_transport``
picks the implementation; tritonclient is imported there and nowhere else.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from warmswap_client.endpoint import Endpoint
from warmswap_client.options import Parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[Any]]


class Transport(Protocol):
    """A connection to one server, for blocking calls."""

    def connect(self, *, timeout_s: float) -> None:
        """Open and close a TCP connection, or raise ``ServerUnreachableError``."""

    def infer(
        self,
        *,
        model: str,
        inputs: Mapping[str, bytes],
        outputs: Sequence[str],
        parameters: Parameters,
        request_id: str,
        timeout_s: float,
    ) -> Tensors:
        """Run a model; each input is one BYTES element of shape (1,). Return the outputs that the server sent."""

    def server_live(self, *, timeout_s: float) -> bool:
        """Whether the server runs."""

    def server_ready(self, *, timeout_s: float) -> bool:
        """Whether every model that the server ever tried to load is ready."""

    def model_ready(self, *, model: str, timeout_s: float) -> bool:
        """Whether a version of the model answers requests."""

    def server_metadata(self, *, timeout_s: float) -> Mapping[str, str]:
        """``name`` and ``version`` of the server."""

    def repository_index(self, *, timeout_s: float) -> Sequence[Mapping[str, str]]:
        """``name``, ``version``, ``state`` and ``reason`` of every model version; missing keys are empty."""

    def close(self) -> None:
        """Give up the connection; calling it twice is fine."""


class AsyncTransport(Protocol):
    """The same for an event loop; see ``Transport``."""

    async def connect(self, *, timeout_s: float) -> None:
        """As in ``Transport``."""

    async def infer(
        self,
        *,
        model: str,
        inputs: Mapping[str, bytes],
        outputs: Sequence[str],
        parameters: Parameters,
        request_id: str,
        timeout_s: float,
    ) -> Tensors:
        """As in ``Transport``."""

    async def server_live(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""

    async def server_ready(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""

    async def model_ready(self, *, model: str, timeout_s: float) -> bool:
        """As in ``Transport``."""

    async def server_metadata(self, *, timeout_s: float) -> Mapping[str, str]:
        """As in ``Transport``."""

    async def repository_index(self, *, timeout_s: float) -> Sequence[Mapping[str, str]]:
        """As in ``Transport``."""

    async def close(self) -> None:
        """As in ``Transport``."""


_MODULES: Final = {"grpc": "warmswap_client.grpc_transport", "http": "warmswap_client.http_transport"}


def make_transport(endpoint: Endpoint) -> Transport:
    """Open a blocking transport; nothing is sent yet.

    Raises:
        ModuleNotFoundError: tritonclient is not installed; the text says how to install it.
    """
    return cast(Transport, importlib.import_module(_MODULES[endpoint.protocol]).SyncTransport(endpoint))


def make_async_transport(endpoint: Endpoint) -> AsyncTransport:
    """Open an asynchronous transport; may be called outside an event loop.

    Raises:
        ModuleNotFoundError: tritonclient is not installed; the text says how to install it.
    """
    return cast(AsyncTransport, importlib.import_module(_MODULES[endpoint.protocol]).AioTransport(endpoint))
