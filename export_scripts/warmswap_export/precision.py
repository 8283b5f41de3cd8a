"""Half precision: weights and products in fp16, the tensors of the contract and what needs the range in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Final

import onnx

from warmswap_export.errors import ExportError

PRECISIONS: Final = ("fp32", "fp16")
SINGLE_OPERATORS: Final = (
    "NonMaxSuppression", "TopK", "Range", "Resize", "Gather", "GatherElements", "GatherND", "ScatterND", "Expand",
    "InstanceNormalization", "LayerNormalization", "ReduceMean", "ReduceSum", "ReduceL2", "Exp", "Where", "Greater",
)  # fmt: skip
"""Operators that stay in single precision: sums over many values, and the exact ones of decode and suppression."""
SINGLE_PREFIXES: Final = ("decode/", "frame/", "inputs/", "crop/")
"""Tensors before and behind the network: pixels of 0 to 255, coordinates, the suppression."""


ELEMENTWISE: Final = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "ReduceMean", "Cast"}
STATISTICS_DEPTH: Final = 5
"""Steps from a mean to the value that is divided by the deviation."""


def to_half(model: onnx.ModelProto, keep_single: Sequence[str]) -> onnx.ModelProto:
    """Return a graph whose network computes in half precision.

    Args:
        model: Graph of a stage; not changed.
        keep_single: Patterns (``fnmatch``) of node names that stay in single precision.

    Raises:
        ExportError: the graph has nothing to convert.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for index, node in enumerate(copy.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    statistics = _statistics(copy)
    blocked = [node.name for node in copy.graph.node if node.name in statistics or _stays(node, keep_single)]
    if len(blocked) == len(copy.graph.node):
        raise ExportError("no node of the graph can be converted to fp16")
    half: onnx.ModelProto = convert_float_to_float16(
        copy, keep_io_types=True, node_block_list=blocked, op_block_list=list(SINGLE_OPERATORS)
    )
    return half


def _statistics(model: onnx.ModelProto) -> set[str]:
    """Return the nodes of normalisations that are written out: what goes into a mean, and what comes of it.

    Sums over thousands of squares overflow half precision, and their small epsilons vanish in it.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: set[str] = set()
    means = [node for node in model.graph.node if node.op_type == "ReduceMean"]
    before = [producers[name] for node in means for name in node.input if name in producers]
    found |= {node.name for node in [*means, *before] if node.op_type in {"ReduceMean", *ELEMENTWISE}}
    level = means
    for _ in range(STATISTICS_DEPTH):
        level = [
            reader
            for node in level
            for name in node.output
            for reader in readers.get(name, [])
            if reader.op_type in ELEMENTWISE
        ]
        found |= {node.name for node in level}
    return found


def _stays(node: onnx.NodeProto, keep_single: Sequence[str]) -> bool:
    names = [node.name, *node.input, *node.output]
    if node.name.startswith(SINGLE_PREFIXES) or any(name.startswith(SINGLE_PREFIXES) for name in node.output):
        return True
    return any(fnmatch(name, pattern) for name in names for pattern in keep_single)
