"""What the pipelines ask of Triton: calls of other models, tensors, parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from warmswap_ensemble.canary import CandidateError
from warmswap_ensemble.contract import ERROR_CODES
from warmswap_ensemble.errors import (
    InvalidTensorError,
    OverloadedError,
    PipelineError,
    StageFailedError,
    StageNotReadyError,
)
from warmswap_ensemble.options import Parameters
from warmswap_ensemble.request_scope import current_request_id, current_scope, note
from warmswap_ensemble.stage_calls import Arrays
from warmswap_ensemble.types import Stage

NOT_READY_TEXTS: Final = ("no available versions", "not ready")
"""What Triton says of a model that is being unloaded, or of a server that is shutting down."""

DEAD_TEXT: Final = "is not healthy"
"""What Triton says of a model whose process died."""

_REQUEST_ID: Final = re.compile(r"\[request id: [^\]]*\] ?")
"""What Triton puts before some of its texts."""


def call_stage(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
    """Call a stage through BLS, pinned to its version, under the id and the trace of the request that it is for.

    Raises:
        OverloadedError: its queue is full, or it is being unloaded; the request may be sent again.
        StageFailedError: it failed.
    """
    scope = current_scope()
    of_request: dict[str, Any] = {}
    if scope is not None:
        of_request = {"request_id": scope.request_id}
        if scope.trace is not None:
            of_request["trace"] = scope.trace
    request = pb_utils.InferenceRequest(
        model_name=stage.model,
        model_version=stage.version,
        requested_output_names=list(output_names),
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        **of_request,
    )
    try:
        response = request.exec()
    except pb_utils.TritonModelException as error:
        raise _stage_error(stage, str(error), None) from error
    if response.has_error():
        failure = response.error()
        raise _stage_error(stage, failure.message(), failure.code())
    # Copied, since the arrays lie in shared memory that goes with the response.
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in response.output_tensors()}


def _stage_error(stage: Stage, message: str, code: int | None) -> PipelineError:
    name = f"{stage.model} {stage.version}"
    message = _REQUEST_ID.sub("", message)  # the log has it already, and texts that differ by it cannot be counted
    if any(text in message.lower() for text in NOT_READY_TEXTS):
        return StageNotReadyError(f"{name} is not loaded now ({message}); try again")
    if DEAD_TEXT in message.lower():
        return OverloadedError(f"the process of {name} died and will be replaced ({message}); try again")
    if code == pb_utils.TritonError.UNAVAILABLE:
        return OverloadedError(f"{name} takes no request now ({message}); try again")
    return StageFailedError(f"{name} failed: {message}")


def forward(
    model: str, pictures: Mapping[str, bytes | None], parameters: Parameters, output_names: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Let another pipeline answer a request.

    Raises:
        CandidateError: it gave an error.
    """
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=list(output_names),
        inputs=[bytes_tensor(name, data) for name, data in pictures.items() if data is not None],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        request_id=current_request_id(),
        parameters={name: str(value) for name, value in parameters.items()},
    )
    try:
        response = request.exec()
    except pb_utils.TritonModelException as error:
        raise CandidateError(str(error)) from error
    if response.has_error():
        message = response.error().message()
        code = next((code for code in ERROR_CODES if message.startswith(f"{code}: ")), "stage_failed")
        raise CandidateError(message, code)
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in response.output_tensors()}


def read_picture(request: pb_utils.InferenceRequest, name: str, *, optional: bool = False) -> bytes | None:
    """Return the one element of a BYTES input, or None when an optional input is not there.

    Raises:
        InvalidTensorError: it is missing or has another number of elements.
    """
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        if optional:
            return None
        raise InvalidTensorError(f"input {name} is missing")
    array = tensor.as_numpy()
    if array.size != 1:
        raise InvalidTensorError(f"{name} must hold one picture, got shape {array.shape}")
    data = bytes(array.reshape(-1)[0])
    note(**{f"{name}_bytes": len(data)})
    return data


def trace_of(request: pb_utils.InferenceRequest) -> pb_utils.InferenceTrace | None:
    """Return the trace of a request, which must not be used once it is answered; None where Triton has no traces."""
    trace = getattr(request, "trace", None)  # absent before 23.11
    return trace() if trace else None


def read_parameters(request: pb_utils.InferenceRequest) -> Parameters:
    """Return the request parameters."""
    text = request.parameters()
    return cast(Mapping[str, Any], json.loads(text)) if text else {}


def bytes_tensor(name: str, data: bytes) -> pb_utils.Tensor:
    """Return a BYTES tensor of one element."""
    array: npt.NDArray[Any] = np.array([data], dtype=np.object_)
    return pb_utils.Tensor(name, array)
