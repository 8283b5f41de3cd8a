"""One server over one protocol: requests as they go over the wire, and the typed client beside them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.e2e.pictures import COLLINS, HOPPER, decode
from warmswap_client import NO_RETRIES, FaceSwapClient, WarmswapError
from warmswap_ops.launcher import LocalTriton

PROTOCOLS = ("grpc", "http")
WAIT_S = 120.0

STATUS = {
    "OK": {"grpc": "OK", "http": "200"},
    "INVALID_ARG": {"grpc": "StatusCode.INVALID_ARGUMENT", "http": "400"},
    "NOT_FOUND": {"grpc": "StatusCode.NOT_FOUND", "http": "404"},
    "INTERNAL": {"grpc": "StatusCode.INTERNAL", "http": "500"},
    "UNAVAILABLE": {"grpc": "StatusCode.UNAVAILABLE", "http": "503"},
}
"""Category of a ``TritonError`` to what must stand on the wire."""

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    message: str
    outputs: dict[str, NDArray[Any]]


def picture(*data: bytes) -> NDArray[Any]:
    """Return a BYTES tensor."""
    tensor = np.empty(len(data), np.object_)
    tensor[:] = data
    return tensor


def swap_inputs(source: bytes = COLLINS, target: bytes = HOPPER, reference: bytes | None = None) -> dict[str, Any]:
    inputs = {"source_image": picture(source), "target_image": picture(target)}
    return inputs if reference is None else {**inputs, "reference_image": picture(reference)}


def build_inputs(module: Any, inputs: Tensors) -> list[Any]:
    built = []
    for name, array in inputs.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        built.append(tensor)
    return built


def http_body(inputs: Tensors, outputs: Sequence[str] = (), parameters: Any = None) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an HTTP inference request."""
    module = tritonclient.http
    wanted = [module.InferRequestedOutput(name) for name in outputs] or None
    body, json_size = module.InferenceServerClient.generate_request_body(
        build_inputs(module, inputs), outputs=wanted, parameters=parameters
    )
    return body, {} if json_size is None else {"Inference-Header-Content-Length": str(json_size)}


class Service:
    """A server over one protocol."""

    def __init__(self, server: LocalTriton, protocol: str) -> None:
        self.server = server
        self.protocol = protocol
        self.url = f"grpc://{server.grpc_url}" if protocol == "grpc" else f"http://{server.http_url}"
        self.client = FaceSwapClient(self.url, timeout_s=WAIT_S, retry=NO_RETRIES)
        self._grpc = tritonclient.grpc.InferenceServerClient(server.grpc_url)

    def close(self) -> None:
        self.client.close()
        self._grpc.close()

    def status(self, category: str) -> str:
        return STATUS[category][self.protocol]

    def send(
        self, model: str, inputs: Tensors, outputs: Sequence[str] = (), parameters: Mapping[str, Any] | None = None
    ) -> Answer:
        """Send one request and report what came back; may be called by several threads at once."""
        one_way = self._send_grpc if self.protocol == "grpc" else self._send_http
        return one_way(model, inputs, outputs, None if parameters is None else dict(parameters))

    def _send_grpc(self, model: str, inputs: Tensors, outputs: Sequence[str], parameters: Any) -> Answer:
        module = tritonclient.grpc
        try:
            result = self._grpc.infer(
                model,
                build_inputs(module, inputs),
                outputs=[module.InferRequestedOutput(name) for name in outputs] or None,
                parameters=parameters,
                client_timeout=WAIT_S,
            )
        except InferenceServerException as error:
            return Answer(str(error.status()), error.message(), {})
        names = [output.name for output in result.get_response().outputs]
        return Answer("OK", "", {name: result.as_numpy(name) for name in names})

    def _send_http(self, model: str, inputs: Tensors, outputs: Sequence[str], parameters: Any) -> Answer:
        body, headers = http_body(inputs, outputs, parameters)
        connection = http.client.HTTPConnection(self.server.options.host, self.server.ports.http, timeout=WAIT_S)
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            return Answer(str(response.status), json.loads(content)["error"], {})
        size = response.headers["Inference-Header-Content-Length"]  # missing where no tensor has a byte
        header_length = None if size is None else int(size)
        result = tritonclient.http.InferenceServerClient.parse_response_body(content, header_length=header_length)
        names = [output["name"] for output in result.get_response()["outputs"]]
        return Answer("200", "", {name: result.as_numpy(name) for name in names})

    def check_good_swap(self) -> None:
        """The server still does its work, and its answer has not changed."""
        result = self.client.swap(COLLINS, HOPPER)
        (face,) = result.faces
        assert face.swapped
        assert (face.similarity_after or 0.0) - (face.similarity_before or 0.0) >= 0.03
        assert_alike(result.image, self.first_image())

    def first_image(self) -> bytes:
        """The first answer of this server to the good request, whichever protocol asked."""
        return _FIRST_IMAGES.setdefault(self.server.pid, self.client.swap(COLLINS, HOPPER).image)

    def check_refused(
        self,
        error_type: type[WarmswapError],
        code: str,
        source: bytes = COLLINS,
        target: bytes = HOPPER,
        reference: bytes | None = None,
        **options: Any,
    ) -> str:
        """A swap is refused on the wire and by the client, and the next one succeeds; return the message."""
        answer = self.send("face_swap", swap_inputs(source, target, reference), parameters=options)
        self.check_answer(answer, "INVALID_ARG", f"{code}: ")
        with pytest.raises(error_type) as caught:
            self.client.swap(source, target, reference=reference, **options)
        assert type(caught.value) is error_type
        assert caught.value.code == code
        self.check_good_swap()
        return answer.message

    def check_answer(self, answer: Answer, category: str, beginning: str = "") -> None:
        assert answer.status == self.status(category), answer.message
        assert answer.message.startswith(beginning)
        assert "\n" not in answer.message.strip()
        assert "Traceback" not in answer.message


_FIRST_IMAGES: dict[int, bytes] = {}
"""Server's process to its first answer to the good request."""


def assert_alike(image: bytes, expected: bytes) -> None:
    """Two answers to one request are the same, but for a grey level in a few pixels.

    The swapper batches requests that meet, and ONNX Runtime rounds a row of a batch another way than a single one.
    """
    if image == expected:
        return
    arrays = [np.asarray(decode(data).convert("RGB")).astype(int) for data in (image, expected)]
    difference = np.abs(arrays[0] - arrays[1])
    assert difference.max() <= 4, difference.max()  # 1 before the JPEG
    assert difference.mean() < 0.01


@contextmanager
def open_service(server: LocalTriton, protocol: str) -> Iterator[Service]:
    service = Service(server, protocol)
    try:
        yield service
    finally:
        service.close()
