"""A fake ``triton_python_backend_utils`` that fails as the real one fails.

As in the real stub process, importing the module gives helper functions only; the classes appear when the stub adds
them, after the model file was imported. ``install()`` gives the module as it is at import time, ``install_classes()``
adds the rest. A module-level use of ``pb_utils.TritonError`` therefore fails here and not first in the cluster.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

MODULE_NAME = "triton_python_backend_utils"

_NUMPY_TO_TRITON = {
    np.dtype(np.bool_): 1,
    np.dtype(np.uint8): 2,
    np.dtype(np.uint16): 3,
    np.dtype(np.uint32): 4,
    np.dtype(np.uint64): 5,
    np.dtype(np.int8): 6,
    np.dtype(np.int16): 7,
    np.dtype(np.int32): 8,
    np.dtype(np.int64): 9,
    np.dtype(np.float16): 10,
    np.dtype(np.float32): 11,
    np.dtype(np.float64): 12,
    np.dtype(np.object_): 13,
}


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = 1) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class TritonModelException(Exception):  # noqa: N818 (Triton's name)
    pass


class Tensor:
    def __init__(self, name: str, numpy_array: np.ndarray[Any, Any]) -> None:
        if not isinstance(numpy_array, np.ndarray):
            raise TypeError("__init__(): incompatible constructor arguments")
        if numpy_array.dtype not in _NUMPY_TO_TRITON:
            raise TritonModelException(f"unsupported dtype {numpy_array.dtype}")
        self._name = name
        self._array = numpy_array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self._array

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def triton_dtype(self) -> int:
        return _NUMPY_TO_TRITON[self._array.dtype]

    def is_cpu(self) -> bool:
        return True


class InferenceResponse:
    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        parameters: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        self._output_tensors = list(output_tensors)
        self._error = error
        self._parameters = dict(parameters or {})

    def output_tensors(self) -> list[Tensor]:
        if self._error is not None:
            raise TritonModelException("response has an error, so it has no tensors")
        return self._output_tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        return json.dumps(self._parameters)


class PreferredMemory:
    def __init__(self, preferred_memory_type: int, preferred_device_id: int = 0) -> None:
        self.preferred_memory_type = preferred_memory_type
        self.preferred_device_id = preferred_device_id


class InferenceTrace:
    """Triton's trace of a request. It is freed with the request: the real server crashes over a later use."""

    def __init__(self, context: str | None = None) -> None:
        self._context = context
        self.freed = False

    def get_context(self) -> str | None:
        return self._context


class InferenceRequest:
    """A request as the stub hands it to ``execute``, or as a model makes one for a BLS call."""

    bls: Callable[[InferenceRequest], InferenceResponse] | None = None
    """Answers ``exec``; without it BLS calls fail, as they do in the real ``initialize``."""

    def __init__(
        self,
        model_name: str = "",
        requested_output_names: Sequence[str] = (),
        inputs: Sequence[Tensor] = (),
        request_id: str = "",
        correlation_id: int | str = 0,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: Mapping[str, str | int | bool] | None = None,
        *,
        cancelled: bool = False,
    ) -> None:
        self._model_name = model_name
        self._requested_output_names = list(requested_output_names)
        self._inputs = list(inputs)
        self._request_id = request_id
        self._correlation_id = correlation_id
        self._model_version = model_version
        self._flags = flags
        self._timeout = timeout
        self._preferred_memory = preferred_memory
        if not isinstance(trace, InferenceTrace | None):
            raise TypeError("__init__(): incompatible constructor arguments")
        self._trace = trace or InferenceTrace()
        self._parameters = dict(parameters or {})
        self._cancelled = cancelled

    def model_name(self) -> str:
        return self._model_name

    def requested_output_names(self) -> list[str]:
        return list(self._requested_output_names)

    def inputs(self) -> list[Tensor]:
        return list(self._inputs)

    def request_id(self) -> str:
        return self._request_id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def model_version(self) -> int:
        return self._model_version

    def flags(self) -> int:
        return self._flags

    def timeout(self) -> int:
        return self._timeout

    def preferred_memory(self) -> PreferredMemory | None:
        return self._preferred_memory

    def trace(self) -> InferenceTrace:
        return self._trace

    def parameters(self) -> str:
        return json.dumps(self._parameters)

    def is_cancelled(self) -> bool:
        return self._cancelled

    def exec(self, decoupled: bool = False) -> InferenceResponse:
        if decoupled:
            raise TritonModelException("the fake has no decoupled models")
        if self._trace.freed:
            raise SystemError("Signal (11) received: the trace was freed with its request")
        call = type(self).bls
        if call is None:
            raise TritonModelException("BLS is not available here")
        return call(self)

    def async_exec(self, decoupled: bool = False) -> Awaitable[InferenceResponse]:
        async def answer() -> InferenceResponse:
            return self.exec(decoupled)

        return answer()


class Logger:
    lines: list[tuple[str, str]] = []  # noqa: RUF012 (one log for the whole process, as in the stub)

    @classmethod
    def log_info(cls, message: str) -> None:
        cls.lines.append(("info", message))

    @classmethod
    def log_warn(cls, message: str) -> None:
        cls.lines.append(("warn", message))

    @classmethod
    def log_error(cls, message: str) -> None:
        cls.lines.append(("error", message))

    @classmethod
    def log_verbose(cls, message: str) -> None:
        cls.lines.append(("verbose", message))


class Metric:
    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._value = 0.0
        self.observed: list[float] = []

    def increment(self, value: float) -> None:
        if self._kind == MetricFamily.COUNTER and value < 0:
            raise TritonModelException("a counter cannot be decremented")
        self._value += value

    def set(self, value: float) -> None:
        if self._kind != MetricFamily.GAUGE:
            raise TritonModelException("set is for gauges")
        self._value = value

    def observe(self, value: float) -> None:
        if self._kind != MetricFamily.HISTOGRAM:
            raise TritonModelException("observe is for histograms")
        self.observed.append(value)

    def value(self) -> float:
        return self._value


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, name: str, description: str, kind: int) -> None:
        self.name = name
        self.description = description
        self.kind = kind
        self.metrics: dict[tuple[tuple[str, str], ...], Metric] = {}

    def Metric(  # noqa: N802 (Triton's name)
        self, labels: Mapping[str, str] | None = None, buckets: Sequence[float] | None = None
    ) -> Metric:
        if (self.kind == self.HISTOGRAM) != (buckets is not None):
            raise TritonModelException("buckets are for histograms, and histograms need them")
        return self.metrics.setdefault(tuple(sorted((labels or {}).items())), Metric(self.kind))


_CLASSES = {
    "TritonError": TritonError,
    "TritonModelException": TritonModelException,
    "Tensor": Tensor,
    "InferenceRequest": InferenceRequest,
    "InferenceTrace": InferenceTrace,
    "InferenceResponse": InferenceResponse,
    "PreferredMemory": PreferredMemory,
    "Logger": Logger,
    "Metric": Metric,
    "MetricFamily": MetricFamily,
    "TRITONSERVER_MEMORY_CPU": 0,
    "TRITONSERVER_MEMORY_GPU": 1,
}


def _by_name(tensors: Sequence[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


def install() -> ModuleType:
    """Put the module, as it is while a model file is imported, into ``sys.modules``."""
    module = ModuleType(MODULE_NAME)
    helpers: dict[str, Any] = {
        "get_input_tensor_by_name": lambda request, name: _by_name(request.inputs(), name),
        "get_output_tensor_by_name": lambda response, name: _by_name(response.output_tensors(), name),
        "numpy_to_triton_type": lambda dtype: _NUMPY_TO_TRITON[np.dtype(dtype)],
        "TRITONSERVER_RESPONSE_COMPLETE_FINAL": 1,
    }
    vars(module).update(helpers)
    sys.modules[MODULE_NAME] = module
    return module


def install_classes() -> ModuleType:
    """Add what the real stub adds once the model file has been imported."""
    module = sys.modules.get(MODULE_NAME) or install()
    vars(module).update(_CLASSES)
    return module


def uninstall() -> None:
    """Take the module out of ``sys.modules``."""
    sys.modules.pop(MODULE_NAME, None)
    InferenceRequest.bls = None
    Logger.lines.clear()
