"""gRPC, through tritonclient.

``SyncTransport`` may be used by several threads at once. ``AioTransport`` belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from numpy.typing import NDArray

from warmswap_client.endpoint import Endpoint
from warmswap_client.errors import RequestCancelledError, RequestTimeoutError
from warmswap_client.grpc_errors import status_error
from warmswap_client.options import Parameters
from warmswap_client.tcp import knock, knock_async
from warmswap_client.tensors import build_inputs, build_outputs, import_tritonclient, read_outputs

CHANNEL_ARGS: Final = (
    ("grpc.max_send_message_length", -1),  # no limit: pictures are larger than gRPC's 4 MB
    ("grpc.max_receive_message_length", -1),
    # gRPC answers calls from its memory of the last failure until it connects again, after 1 s by default: shorter than
    # our own pauses, or a retry would retry nothing.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A name with several addresses, as a headless Kubernetes service has, is several replicas: use all of them.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.use_local_subchannel_pool", 1),  # no shared memory of failures between clients
)


class _Grpc:
    """What the two transports have in common."""

    def __init__(self, endpoint: Endpoint, module: str) -> None:
        self._endpoint = endpoint
        self._triton = import_tritonclient(module)

    def _connect(self) -> Any:
        endpoint = self._endpoint
        names = ("root_certificates", "private_key", "certificate_chain")
        files = (endpoint.tls_files.ca, endpoint.tls_files.key, endpoint.tls_files.cert)
        tls = {name: str(path) for name, path in zip(names, files, strict=True) if path is not None}
        return self._triton.InferenceServerClient(
            endpoint.address, ssl=endpoint.tls, channel_args=list(CHANNEL_ARGS), **tls
        )

    def _request(
        self,
        model: str,
        inputs: Mapping[str, bytes],
        outputs: Sequence[str],
        parameters: Parameters,
        request_id: str,
    ) -> dict[str, Any]:
        return {
            "model_name": model,
            "inputs": build_inputs(self._triton, inputs),
            "outputs": build_outputs(self._triton, outputs),
            "parameters": dict(parameters),
            "request_id": request_id,
        }

    @contextmanager
    def _translated(self, timeout_s: float, model: str | None = None) -> Iterator[None]:
        """Turn tritonclient's error into ours."""
        url = self._endpoint.url
        try:
            yield
        except self._triton.InferenceServerException as error:
            ours = status_error(error.status(), error.message() or "", url=url, model=model)
            if isinstance(ours, RequestTimeoutError):
                ours = RequestTimeoutError(f"no answer within {timeout_s:.3g} s", url=url, model=model)
            raise ours from error
        except ValueError as error:  # grpcio: "Cannot invoke RPC on closed channel!"
            if "closed channel" not in str(error):
                raise
            raise RequestCancelledError("the client was closed", url=url, model=model) from error


def _metadata(answer: Any) -> dict[str, str]:
    return {"name": answer.name, "version": answer.version}


def _index(answer: Any) -> list[dict[str, str]]:
    return [{key: getattr(row, key) for key in ("name", "version", "state", "reason")} for row in answer.models]


class SyncTransport(_Grpc):
    """Blocking gRPC; see ``Transport``."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Prepare a channel; it connects on the first call."""
        super().__init__(endpoint, "tritonclient.grpc")
        self._client = self._connect()

    def connect(self, *, timeout_s: float) -> None:
        """As in ``Transport``."""
        knock(self._endpoint, timeout_s)

    def infer(
        self,
        *,
        model: str,
        inputs: Mapping[str, bytes],
        outputs: Sequence[str],
        parameters: Parameters,
        request_id: str,
        timeout_s: float,
    ) -> dict[str, NDArray[Any]]:
        """As in ``Transport``."""
        with self._translated(timeout_s, model):
            request = self._request(model, inputs, outputs, parameters, request_id)
            return read_outputs(self._client.infer(**request, client_timeout=timeout_s), outputs)

    def server_live(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        with self._translated(timeout_s):
            return bool(self._client.is_server_live(client_timeout=timeout_s))

    def server_ready(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        with self._translated(timeout_s):
            return bool(self._client.is_server_ready(client_timeout=timeout_s))

    def model_ready(self, *, model: str, timeout_s: float) -> bool:
        """As in ``Transport``."""
        with self._translated(timeout_s, model):
            return bool(self._client.is_model_ready(model, client_timeout=timeout_s))

    def server_metadata(self, *, timeout_s: float) -> dict[str, str]:
        """As in ``Transport``."""
        with self._translated(timeout_s):
            return _metadata(self._client.get_server_metadata(client_timeout=timeout_s))

    def repository_index(self, *, timeout_s: float) -> list[dict[str, str]]:
        """As in ``Transport``."""
        with self._translated(timeout_s):
            return _index(self._client.get_model_repository_index(client_timeout=timeout_s))

    def close(self) -> None:
        """As in ``Transport``; calls under way end with ``RequestCancelledError``."""
        self._client.close()


class AioTransport(_Grpc):
    """gRPC in an event loop; see ``AsyncTransport``."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Prepare; the channel is made on the first call, because it needs the running loop."""
        super().__init__(endpoint, "tritonclient.grpc.aio")
        self._client: Any = None

    @contextmanager
    def _call(self, timeout_s: float, model: str | None = None) -> Iterator[Any]:
        """Lend the client and translate its errors."""
        if self._client is None:
            self._client = self._connect()
        try:
            with self._translated(timeout_s, model):
                yield self._client
        except asyncio.CancelledError as error:
            # grpc.aio raises the same for a call that the other side cancelled; only a task that was really asked to
            # stop may see it.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RequestCancelledError("cancelled by the server", url=self._endpoint.url, model=model) from error

    async def connect(self, *, timeout_s: float) -> None:
        """As in ``Transport``."""
        await knock_async(self._endpoint, timeout_s)

    async def infer(
        self,
        *,
        model: str,
        inputs: Mapping[str, bytes],
        outputs: Sequence[str],
        parameters: Parameters,
        request_id: str,
        timeout_s: float,
    ) -> dict[str, NDArray[Any]]:
        """As in ``Transport``."""
        with self._call(timeout_s, model) as client:
            request = self._request(model, inputs, outputs, parameters, request_id)
            return read_outputs(await client.infer(**request, client_timeout=timeout_s), outputs)

    async def server_live(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        with self._call(timeout_s) as client:
            return bool(await client.is_server_live(client_timeout=timeout_s))

    async def server_ready(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        with self._call(timeout_s) as client:
            return bool(await client.is_server_ready(client_timeout=timeout_s))

    async def model_ready(self, *, model: str, timeout_s: float) -> bool:
        """As in ``Transport``."""
        with self._call(timeout_s, model) as client:
            return bool(await client.is_model_ready(model, client_timeout=timeout_s))

    async def server_metadata(self, *, timeout_s: float) -> dict[str, str]:
        """As in ``Transport``."""
        with self._call(timeout_s) as client:
            return _metadata(await client.get_server_metadata(client_timeout=timeout_s))

    async def repository_index(self, *, timeout_s: float) -> list[dict[str, str]]:
        """As in ``Transport``."""
        with self._call(timeout_s) as client:
            return _index(await client.get_model_repository_index(client_timeout=timeout_s))

    async def close(self) -> None:
        """As in ``Transport``."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()
