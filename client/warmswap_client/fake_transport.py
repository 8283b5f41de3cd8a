"""A server made of your function, for tests of code that uses the clients.

    def handler(request: FakeRequest) -> Tensors:
        if request.parameters.get("face_selector") == "index:9":
            raise request.failure("INVALID_ARGUMENT", "face_index_out_of_range: there is 1 face")
        return swap_answer(b"a picture")

    client = FaceSwapClient(transport=FakeTransport(handler))
    async_client = AsyncFaceSwapClient(transport=FakeTransport(handler).as_async())

It fails as the real transports fail: ``request.failure`` takes a gRPC status and the server's text through the same
table, a server that needs longer (``answer_after_s``) than the caller waits ends in ``RequestTimeoutError``, and
``reachable = False`` makes every call a refused connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from warmswap_client.errors import RequestTimeoutError, ServerUnreachableError, WarmswapError
from warmswap_client.grpc_errors import status_error
from warmswap_client.options import Parameters
from warmswap_ensemble.contract import MODELS

Tensors = Mapping[str, NDArray[Any]]

FAKE_URL: Final = "grpc://fake:8001"


@dataclass(frozen=True, slots=True)
class FakeRequest:
    """What the handler sees.

    Attributes:
        model: The model that is asked.
        inputs: Encoded pictures by tensor name.
        parameters: Options that the caller gave.
        timeout_s: How long the caller waits.
        request_id: Id of the request, the same in every attempt.
    """

    model: str
    inputs: Mapping[str, bytes]
    parameters: Parameters
    timeout_s: float
    request_id: str = ""

    def failure(self, status: str, message: str) -> WarmswapError:
        """Build the error that the gRPC transport raises for this status, such as ``UNAVAILABLE``, and text."""
        return status_error(status, message, url=FAKE_URL, model=self.model)


@dataclass(slots=True)
class FakeTransport:
    """A ``Transport`` that calls a function; change the attributes at any time.

    Attributes:
        handler: Answers inference requests, or raises.
        answer_after_s: How long the server pretends to need; nothing really waits.
        reachable: Whether anybody listens.
        live: Answer to ``server_live``.
        ready: Models that are ready.
        name: Server name.
        version: Server version.
        requests: Every inference request so far.
        calls: Name of every call so far.
        closed: Whether ``close`` was called.
    """

    handler: Callable[[FakeRequest], Tensors]
    answer_after_s: float = 0.0
    reachable: bool = True
    live: bool = True
    ready: set[str] = field(default_factory=lambda: set(MODELS))
    name: str = "warmswap/0.1.0 onnxruntime/1.32.0"
    version: str = "2.51.0"
    requests: list[FakeRequest] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    closed: bool = False

    def _enter(self, call: str, timeout_s: float) -> None:
        self.calls.append(call)
        if not self.reachable:
            raise ServerUnreachableError("Connection refused", url=FAKE_URL)
        if call != "connect" and self.answer_after_s > timeout_s:
            raise RequestTimeoutError(f"no answer within {timeout_s:.3g} s", url=FAKE_URL)

    def connect(self, *, timeout_s: float) -> None:
        """As in ``Transport``."""
        self._enter("connect", timeout_s)

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
        """As in ``Transport``."""
        request = FakeRequest(model, dict(inputs), dict(parameters), timeout_s, request_id)
        self.requests.append(request)
        self._enter("infer", timeout_s)
        answer = self.handler(request)
        return {name: answer[name] for name in outputs if name in answer}

    def server_live(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        self._enter("server_live", timeout_s)
        return self.live

    def server_ready(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        self._enter("server_ready", timeout_s)
        return self.live and set(MODELS) <= self.ready

    def model_ready(self, *, model: str, timeout_s: float) -> bool:
        """As in ``Transport``."""
        self._enter("model_ready", timeout_s)
        return self.live and model in self.ready

    def server_metadata(self, *, timeout_s: float) -> dict[str, str]:
        """As in ``Transport``."""
        self._enter("server_metadata", timeout_s)
        return {"name": self.name, "version": self.version}

    def repository_index(self, *, timeout_s: float) -> list[dict[str, str]]:
        """As in ``Transport``."""
        self._enter("repository_index", timeout_s)
        return [
            {"name": name, "version": "1", "state": "READY" if name in self.ready else "UNAVAILABLE", "reason": ""}
            for name in MODELS
        ]

    def close(self) -> None:
        """As in ``Transport``."""
        self.closed = True

    def as_async(self) -> AsyncFakeTransport:
        """Return the same server for ``AsyncFaceSwapClient``."""
        return AsyncFakeTransport(self)


@dataclass(frozen=True, slots=True)
class AsyncFakeTransport:
    """A ``FakeTransport`` behind the asynchronous interface.

    Attributes:
        fake: The server.
    """

    fake: FakeTransport

    async def connect(self, *, timeout_s: float) -> None:
        """As in ``Transport``."""
        self.fake.connect(timeout_s=timeout_s)

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
        return self.fake.infer(
            model=model,
            inputs=inputs,
            outputs=outputs,
            parameters=parameters,
            request_id=request_id,
            timeout_s=timeout_s,
        )

    async def server_live(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        return self.fake.server_live(timeout_s=timeout_s)

    async def server_ready(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        return self.fake.server_ready(timeout_s=timeout_s)

    async def model_ready(self, *, model: str, timeout_s: float) -> bool:
        """As in ``Transport``."""
        return self.fake.model_ready(model=model, timeout_s=timeout_s)

    async def server_metadata(self, *, timeout_s: float) -> dict[str, str]:
        """As in ``Transport``."""
        return self.fake.server_metadata(timeout_s=timeout_s)

    async def repository_index(self, *, timeout_s: float) -> list[dict[str, str]]:
        """As in ``Transport``."""
        return self.fake.repository_index(timeout_s=timeout_s)

    async def close(self) -> None:
        """As in ``Transport``."""
        self.fake.close()


def swap_answer(image: bytes, *, num_faces: int = 1, image_format: str = "jpeg") -> dict[str, NDArray[Any]]:
    """Build a valid answer of ``face_swap``, with every face swapped."""
    face = {"bbox": [10.0, 20.0, 110.0, 140.0], "score": 0.9, "swapped": True}
    report = {
        "faces": [{**face, "similarity_before": 0.05, "similarity_after": 0.75} for _ in range(num_faces)],
        "timings_ms": {"detect": 5.0, "swap": 12.5},
        "models": {"face_detector": "1", "face_swapper": "1"},
        "source": {"bbox": [1.0, 2.0, 101.0, 122.0], "score": 0.8, "cached": False},
        "image": {"format": image_format, "width": 640, "height": 480},
    }
    return {
        "image": np.array([image], dtype=np.object_),
        "report": np.array([json.dumps(report).encode()], dtype=np.object_),
    }


def analysis_answer(num_faces: int = 1, embedding_dim: int = 512) -> dict[str, NDArray[Any]]:
    """Build a valid answer of ``face_analysis``; 0 faces is the empty answer."""
    return {
        "bbox": np.tile(np.array([10, 20, 110, 140], np.float32), (num_faces, 1)),
        "score": np.full((num_faces,), 0.5, np.float32),
        "kps": np.full((num_faces, 5, 2), 50, np.float32),
        "embedding": np.full((num_faces, embedding_dim), 0.25, np.float32),
    }
