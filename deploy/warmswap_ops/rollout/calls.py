"""Calls of models over gRPC, for the operations side: the rollout agent, and what a candidate is measured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from warmswap_ops.control import HasClientArguments
from warmswap_ops.errors import ControlError, ControlTimeoutError, ServerUnreachableError

Arrays = Mapping[str, NDArray[Any]]
DEFAULT_TIMEOUT_S: Final = 30.0


class ModelCaller:
    """A connection to one server; safe to share between threads."""

    def __init__(self, grpc_address: str, tls: HasClientArguments | None = None) -> None:
        """Prepare a connection to ``host:port``."""
        self._address = grpc_address
        self._client = InferenceServerClient(grpc_address, **(tls.client_arguments() if tls else {}))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def infer(
        self,
        model: str,
        inputs: Arrays,
        output_names: Sequence[str],
        *,
        version: str = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> dict[str, NDArray[Any]]:
        """Run a model; arrays of ``object`` hold bytes.

        Raises:
            ServerUnreachableError: the server is not there.
            ControlTimeoutError: no answer in time.
            ControlError: the model refused.
        """
        tensors = []
        for name, array in inputs.items():
            tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        wanted = [InferRequestedOutput(name) for name in output_names]
        try:
            answer = self._client.infer(model, tensors, model_version=version, outputs=wanted, client_timeout=timeout_s)
        except InferenceServerException as error:
            status = str(error.status() or "").removeprefix("StatusCode.")
            text = f"{model} {version}".strip()
            if status == "DEADLINE_EXCEEDED":
                raise ControlTimeoutError(f"{text} at {self._address} has not answered in {timeout_s:g} s") from error
            if status in ("UNAVAILABLE", "CANCELLED"):
                raise ServerUnreachableError(f"{self._address} does not answer: {error.message()}") from error
            raise ControlError(f"{text} at {self._address}: {error.message()}") from error
        arrays = {name: answer.as_numpy(name) for name in output_names}
        return {name: array for name, array in arrays.items() if array is not None}


def bytes_array(data: bytes) -> NDArray[Any]:
    """Return a BYTES tensor of one element."""
    return np.array([data], dtype=np.object_)
