"""Half precision: weights and products of the published network in fp16, all else in fp32.

Decode, suppression, coordinates and pixels of 0 to 255 are put around the network later and never become half.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Final

import onnx
from onnx import shape_inference

PRECISIONS: Final = ("fp32", "fp16")
SINGLE_OPERATORS: Final = (
    "InstanceNormalization", "LayerNormalization", "ReduceMean", "ReduceSum", "ReduceL2", "Softmax", "Range",
)  # fmt: skip
"""Operators that stay in single precision: sums over many values."""
ELEMENTWISE: Final = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "ReduceMean", "Cast"}
STATISTICS_DEPTH: Final = 5
"""Steps from a mean to the value that is divided by the deviation."""


def at_precision(network: onnx.ModelProto, precision: str, keep_single: Sequence[str] = ()) -> onnx.ModelProto:
    """Return a published network in a precision; what is put around it stays in single precision.

    Args:
        network: Network whose inputs and outputs are float32; they stay so.
        precision: One of ``PRECISIONS``.
        keep_single: Patterns (``fnmatch``) of names of nodes and tensors whose nodes stay in single precision.
    """
    if precision == "fp32":
        return network
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    for index, node in enumerate(network.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    own = {node.name for node in network.graph.node}
    statistics = _statistics(network)
    blocked = [node.name for node in network.graph.node if node.name in statistics or _matches(node, keep_single)]
    inferred = shape_inference.infer_shapes(network)
    # Inputs that are left out have the empty name; the converter would cast it.
    named = [value for value in inferred.graph.value_info if value.name]
    del inferred.graph.value_info[:]
    inferred.graph.value_info.extend(named)
    half: onnx.ModelProto = convert_float_to_float16(
        inferred,
        keep_io_types=True,
        disable_shape_infer=True,
        node_block_list=blocked,
        op_block_list=list(SINGLE_OPERATORS),
    )
    del half.graph.value_info[:]
    _hand_over_single(half, own)
    OnnxModel.graph_topological_sort(half.graph)  # the converter puts its casts at the end
    return half


def _hand_over_single(model: onnx.ModelProto, own: set[str]) -> None:
    """Leave values single between two nodes that are both single, in place.

    The converter makes what leaves such a node half, and single again for the next one: squares overflow on that way.

    Args:
        model: What the converter made.
        own: Names of the nodes that are not the converter's.
    """
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.name not in own]
    halved = {node.output[0]: node.input[0] for node in casts if node.attribute[0].i == onnx.TensorProto.FLOAT16}
    for node in casts:
        if node.attribute[0].i == onnx.TensorProto.FLOAT and node.input[0] in halved:
            node.input[0] = halved[node.input[0]]
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for node in casts:
        if node.output[0] not in read:
            model.graph.node.remove(node)


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


def _matches(node: onnx.NodeProto, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for name in (node.name, *node.input, *node.output) for pattern in patterns)
