"""Tensors of the graph against tensors of the configuration (at load) and of a request (at run)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from warmswap_ops.onnxruntime_backend.errors import ConfigError, InvalidRequestError

ANY: Final = -1

_TYPES: Final = {
    "TYPE_BOOL": ("tensor(bool)", np.bool_),
    "TYPE_UINT8": ("tensor(uint8)", np.uint8),
    "TYPE_UINT16": ("tensor(uint16)", np.uint16),
    "TYPE_UINT32": ("tensor(uint32)", np.uint32),
    "TYPE_UINT64": ("tensor(uint64)", np.uint64),
    "TYPE_INT8": ("tensor(int8)", np.int8),
    "TYPE_INT16": ("tensor(int16)", np.int16),
    "TYPE_INT32": ("tensor(int32)", np.int32),
    "TYPE_INT64": ("tensor(int64)", np.int64),
    "TYPE_FP16": ("tensor(float16)", np.float16),
    "TYPE_FP32": ("tensor(float)", np.float32),
    "TYPE_FP64": ("tensor(double)", np.float64),
    "TYPE_STRING": ("tensor(string)", np.object_),
}


class NodeArg(Protocol):
    """What ``onnxruntime.NodeArg`` offers."""

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """One input or output of the graph.

    Attributes:
        name: Tensor name.
        dtype: What numpy calls its type.
        shape: All dimensions, the batch dimension too; ``ANY`` where the graph leaves it open.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def check(self, array: NDArray[Any]) -> None:
        """Compare an array of a request with the graph.

        Raises:
            InvalidRequestError: another dtype, rank or dimension.
        """
        if array.dtype != self.dtype:
            raise InvalidRequestError(f"input {self.name} must be {self.dtype}, got {array.dtype}")
        fits = len(array.shape) == len(self.shape) and all(
            expected in (ANY, actual) for expected, actual in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            raise InvalidRequestError(f"input {self.name} must be {show(self.shape)}, got {show(array.shape)}")


def match_tensors(
    kind: str, declared: Sequence[Mapping[str, Any]], graph: Iterable[NodeArg], max_batch_size: int
) -> dict[str, GraphTensor]:
    """Hold the tensors of a configuration against those of the graph, by the rules of NVIDIA's backend.

    Every input of the graph must be declared; outputs may stay undeclared (they are then not served). The dimensions
    of an output must be the same on both sides, -1 where the graph leaves it open; those of an input must be the same
    where the graph fixes them. With ``max_batch_size`` > 0 the graph has an open first dimension more.

    Args:
        kind: ``input`` or ``output``.
        declared: ``input`` or ``output`` of the configuration (its JSON form).
        graph: What the session reports.
        max_batch_size: Of the configuration.

    Raises:
        ConfigError: they differ; the text names both sides.
    """
    nodes = {node.name: node for node in graph}
    names = [tensor["name"] for tensor in declared]
    for name in names:
        if name not in nodes:
            raise ConfigError(f"config.pbtxt has {kind} {name!r}, the graph has {kind}s {', '.join(sorted(nodes))}")
    if kind == "input" and len(names) != len(nodes):
        missing = ", ".join(sorted(set(nodes) - set(names)))
        raise ConfigError(f"the graph has inputs that config.pbtxt lacks: {missing}")
    return {
        tensor["name"]: _match(kind, tensor, nodes[tensor["name"]], batched=max_batch_size > 0) for tensor in declared
    }


def _match(kind: str, tensor: Mapping[str, Any], node: NodeArg, *, batched: bool) -> GraphTensor:
    name, data_type = tensor["name"], tensor["data_type"]
    if data_type not in _TYPES:
        raise ConfigError(f"{kind} {name}: the portable onnxruntime backend has no {data_type}")
    onnx_type, numpy_type = _TYPES[data_type]
    if node.type != onnx_type:
        raise ConfigError(f"{kind} {name}: config.pbtxt says {data_type}, the graph {node.type}")
    if tensor.get("reshape") or tensor.get("allow_ragged_batch"):
        raise ConfigError(f"{kind} {name}: the portable onnxruntime backend has no reshape and no ragged batches")
    if kind == "input" and batched and tensor.get("optional"):
        raise ConfigError(f"input {name}: optional inputs are for models with max_batch_size 0")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else ANY for dim in node.shape)
    expected = (*((ANY,) if batched else ()), *(int(dim) for dim in tensor["dims"]))
    if batched and (not shape or shape[0] != ANY):
        raise ConfigError(
            f"{kind} {name}: max_batch_size > 0 needs an open first dimension, the graph has {show(shape)}"
        )
    same = len(shape) == len(expected) and all(
        ours == theirs or (ours == ANY and kind == "input") for ours, theirs in zip(shape, expected, strict=True)
    )
    scalar = not shape and all(dim == 1 for dim in expected)
    if not same and not scalar:
        batch = " with the batch dimension" if batched else ""
        raise ConfigError(f"{kind} {name}: config.pbtxt says {show(expected)}{batch}, the graph {show(shape)}")
    return GraphTensor(name, np.dtype(numpy_type), shape)


def show(shape: Sequence[int]) -> str:
    """Format a shape: ``[-1, 68, 2]``."""
    return f"[{', '.join(map(str, shape))}]"
