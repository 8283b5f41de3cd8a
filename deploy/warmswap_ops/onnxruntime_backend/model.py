"""The interface that Triton's Python backend calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import triton_python_backend_utils as pb_utils  # its classes appear after this import: use them in functions only

from warmswap_ops.onnxruntime_backend.batching import Arrays, Job, run_jobs
from warmswap_ops.onnxruntime_backend.errors import BackendError, InvalidRequestError
from warmswap_ops.onnxruntime_backend.session import Session

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, InferenceResponse, InitializeArgs


class TritonPythonModel:
    """One instance of one ONNX model; name and methods are fixed by Triton."""

    _session: Session

    def initialize(self, args: InitializeArgs) -> None:
        """Load the graph; what does not fit fails the load with one sentence."""
        version_dir = Path(args["model_repository"]) / args["model_version"]
        kind, device_id = args["model_instance_kind"], args["model_instance_device_id"]
        try:
            self._session = Session(json.loads(args["model_config"]), version_dir, kind, device_id)
        except BackendError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        # The launcher reads it, to tell loading from warming up (triton_log).
        pb_utils.Logger.log_info(f"warmswap: initialized {args['model_name']} {args['model_version']}")

    def execute(self, requests: Sequence[InferenceRequest]) -> list[InferenceResponse]:
        """Return one response per request, in order."""
        failures: dict[int, InferenceResponse] = {}
        jobs: list[Job] = []
        for index, request in enumerate(requests):
            if request.is_cancelled():
                failures[index] = _failure("the request was cancelled", pb_utils.TritonError.CANCELLED)
                continue
            try:
                jobs.append(self._read(index, request))
            except InvalidRequestError as error:
                failures[index] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
        results = run_jobs(jobs, self._session.run, batched=self._session.batched)
        return [failures[index] if index in failures else _answer(results[index]) for index in range(len(requests))]

    def _read(self, index: int, request: InferenceRequest) -> Job:
        inputs: Arrays = {}
        for tensor in request.inputs():
            name = tensor.name()
            if name not in self._session.inputs:
                known = ", ".join(self._session.inputs)
                raise InvalidRequestError(f"unknown input {name!r}; the graph has {known}")
            array = tensor.as_numpy()
            self._session.inputs[name].check(array)
            inputs[name] = array
        missing = [name for name in self._session.inputs if name not in inputs]
        if missing:
            raise InvalidRequestError(f"missing input {', '.join(missing)}")
        if self._session.batched and len({array.shape[0] for array in inputs.values()}) > 1:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise InvalidRequestError(f"the first dimension of all inputs must be the same, got {shapes}")
        return Job(index, inputs, tuple(request.requested_output_names()))


def _answer(result: Arrays | Exception) -> InferenceResponse:
    if isinstance(result, Exception):
        return _failure(f"onnxruntime failed: {result}", pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in result.items()])


def _failure(message: str, code: int) -> InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
