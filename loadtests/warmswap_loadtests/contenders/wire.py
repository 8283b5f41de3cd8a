"""How a swap looks on the wire, over HTTP: a form for the FastAPI servers, Triton's binary protocol for Triton."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import aiohttp

from warmswap_ensemble.contract import FACE_SWAP
from warmswap_loadtests.open_loop import RequestFailedError
from warmswap_loadtests.payloads import ONE_FACE, Payload

KEEPALIVE_S: Final = 2.0
"""Shorter than the servers' own (uvicorn: 5 s), or a request could meet a connection that is just being closed."""

_BOUNDARY: Final = "warmswap-7d1f0c5e2b"
_HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class Wire(Protocol):
    """The form of requests and answers."""

    path: str

    def encode(self, payload: Payload) -> tuple[bytes, Mapping[str, str]]:
        """Return body and headers."""

    def decode(self, headers: Mapping[str, str], body: bytes) -> bytes:
        """Return the picture of an answer.

        Raises:
            RequestFailedError: there is none in it.
        """


class FormWire:
    """``POST /swap`` with a multipart form of two files; the answer's body is the picture.

    Nobody asks these servers for anything but ``ONE_FACE``, so it is not sent.
    """

    path = "/swap"

    def encode(self, payload: Payload) -> tuple[bytes, Mapping[str, str]]:
        """As in ``Wire``."""
        parts: list[bytes] = []
        for name, data in (("source", payload.source), ("target", payload.target)):
            disposition = f'form-data; name="{name}"; filename="{name}.jpg"'
            head = f"--{_BOUNDARY}\r\nContent-Disposition: {disposition}\r\nContent-Type: image/jpeg\r\n\r\n"
            parts += [head.encode(), data, b"\r\n"]
        body = b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])
        return body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}

    def decode(self, headers: Mapping[str, str], body: bytes) -> bytes:
        """As in ``Wire``."""
        return body


class TritonWire:
    """``POST /v2/models/face_swap/infer`` with the pictures as binary tensors."""

    path = f"/v2/models/{FACE_SWAP.name}/infer"

    def encode(self, payload: Payload) -> tuple[bytes, Mapping[str, str]]:
        """As in ``Wire``."""
        # Triton's form of a string: its length in four bytes, then the string.
        tensors = [len(data).to_bytes(4, "little") + data for data in (payload.source, payload.target)]
        inputs = [
            {"name": name, "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tensor)}}
            for name, tensor in zip(("source_image", "target_image"), tensors, strict=True)
        ]
        outputs = [{"name": "image", "parameters": {"binary_data": True}}]
        head = json.dumps({"parameters": {"face_selector": ONE_FACE}, "inputs": inputs, "outputs": outputs}).encode()
        return b"".join([head, *tensors]), {_HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}

    def decode(self, headers: Mapping[str, str], body: bytes) -> bytes:
        """As in ``Wire``."""
        try:
            tensor = body[int(headers[_HEADER_LENGTH]) :]
        except (KeyError, ValueError):
            raise RequestFailedError(f"the answer has no binary tensor: {body[:200]!r}") from None
        return tensor[4:]


@dataclass(frozen=True, slots=True)
class HttpSender:
    """Sends swaps to one server; a ``Send`` of ``open_loop``.

    Attributes:
        session: Connections; make a new one for each server (``new_session``).
        base_url: ``http://host:port``.
        wire: The server's form.
        payload: What the request of a number holds.
    """

    session: aiohttp.ClientSession
    base_url: str
    wire: Wire
    payload: Callable[[int], Payload]

    async def __call__(self, index: int) -> bytes:
        """Send a request and return the picture.

        Raises:
            RequestFailedError: the server is not there or does not say 200.
        """
        body, headers = self.wire.encode(self.payload(index))
        try:
            async with self.session.post(self.base_url + self.wire.path, data=body, headers=headers) as response:
                answer = await response.read()
                if response.status != 200:
                    text = answer[:300].decode(errors="replace")
                    raise RequestFailedError(f"HTTP {response.status}: {text}")
                return self.wire.decode(response.headers, answer)
        except (aiohttp.ClientError, OSError) as error:
            raise RequestFailedError(f"{type(error).__name__}: {error}") from error


def new_session() -> aiohttp.ClientSession:
    """Return a session without connections, limits or time-outs: the open loop has its own."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
