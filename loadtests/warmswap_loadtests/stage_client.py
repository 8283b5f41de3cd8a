"""Calls of a single stage over gRPC, and the size of their messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from warmswap_loadtests.errors import BenchError

CHANNEL_ARGS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each client, as with clients that share no process
)


class StageClient:
    """A connection to one server.

    tritonclient's own client does the same; it does not show the messages, whose size is asked for here.

    Attributes:
        sent_bytes: Size of the last request message.
        received_bytes: Size of its answer.
    """

    def __init__(self, address: str) -> None:
        """Prepare a connection to ``host:port``."""
        self._channel = grpc.insecure_channel(address, options=CHANNEL_ARGS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.sent_bytes = self.received_bytes = 0

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._channel.close()

    def infer(
        self, model: str, version: str, inputs: Mapping[str, NDArray[Any]], output_names: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Run a model and return the named outputs; they are views of the answer.

        Raises:
            BenchError: the server refused.
        """
        request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
        for name, array in inputs.items():
            request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        for name in output_names:
            request.outputs.add(name=name)
        try:
            answer = self._stub.ModelInfer(request)
        except grpc.RpcError as error:
            raise BenchError(f"{model} {version} refused a request: {error.details()}") from error
        self.sent_bytes, self.received_bytes = request.ByteSize(), answer.ByteSize()
        return {
            output.name: np.frombuffer(data, triton_to_np_dtype(output.datatype)).reshape(output.shape)
            for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
