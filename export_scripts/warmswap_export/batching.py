"""Graph surgery that gives a published graph a free batch axis and a free frame size.

Published files are traced with one picture, and the tracer writes that "one" into shapes. Nothing here changes what
the graph computes for one picture; the parity check of every export compares a batch with its rows one by one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from warmswap_export.graph import drop_unused

INTERLEAVED: Final = [2, 3, 0, 1]
"""Axes of a head as ``mmdet`` exported it first: (H, W, N, A*C), so the batch ends up inside the anchor axis."""
BATCH_FIRST: Final = [0, 2, 3, 1]
_ELEMENTWISE: Final = {"Sigmoid", "Cast", "Identity", "Mul"}


def open_batch(model: onnx.ModelProto) -> None:
    """Make axis 0 of every input and output symbolic, and keep it through reshapes, in place."""
    values = _Constants(model)
    for node in model.graph.node:
        if node.op_type == "Reshape":
            shape = values.get(node.input[1])
            if shape is not None and shape.size > 1 and shape[0] == 1:
                values.replace(node, 1, np.concatenate(([0], shape[1:])).astype(np.int64))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    drop_unused(model)


def open_frame_size(model: onnx.ModelProto) -> int:
    """Let a detector that was traced at one frame size take any, in place; return how many resizes were opened.

    A resize to a fixed size becomes one by a fixed factor. Before ``open_batch``: the sizes are read off the trace.
    """
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    opened = 0
    for node in model.graph.node:
        if node.op_type != "Resize" or len(node.input) < 4 or not node.input[3]:
            continue
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if len(before) != 4 or len(after) != 4 or not all((*before, *after)):
            continue
        scales = np.array([1.0, 1.0, after[2] / before[2], after[3] / before[3]], np.float32)
        name = f"{node.output[0]}/scales"
        model.graph.initializer.append(numpy_helper.from_array(scales, name))
        node.input[:] = [node.input[0], "", name]
        opened += 1
    for value in model.graph.input:
        for axis, name in ((2, "H"), (3, "W")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    for value in model.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axis == 1:
                dim.dim_param = f"{value.name}_anchors"
    del model.graph.value_info[:]
    drop_unused(model)
    return opened


def leave_out_empty_inputs(model: onnx.ModelProto) -> None:
    """Leave out inputs of Resize that old exporters gave as empty tensors, in place: same meaning, fewer surprises."""
    values = _Constants(model)
    for node in model.graph.node:
        if node.op_type == "Resize":
            for position, name in enumerate(node.input):
                value = values.get(name)
                if value is not None and value.size == 0:
                    node.input[position] = ""
    drop_unused(model)


def single_ends(model: onnx.ModelProto) -> None:
    """Give a model whose inputs and outputs are of half precision such of single precision, in place."""
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    weights = {tensor.name for tensor in model.graph.initializer}
    for values, to, casts in (
        (model.graph.input, TensorProto.FLOAT16, before),
        (model.graph.output, TensorProto.FLOAT, after),
    ):
        for value in values:
            if value.type.tensor_type.elem_type != TensorProto.FLOAT16 or value.name in weights:
                continue
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            inner = f"{value.name}/half"
            for node in model.graph.node:
                node.input[:] = [inner if name == value.name else name for name in node.input]
                node.output[:] = [inner if name == value.name else name for name in node.output]
            ends = ([value.name], [inner]) if casts is before else ([inner], [value.name])
            casts.append(helper.make_node("Cast", *ends, name=f"{value.name}/cast", to=to))
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def separate_batch_from_anchors(model: onnx.ModelProto) -> int:
    """Give the heads of a legacy SCRFD export a batch axis of their own, in place; return how many were changed.

    Each head ends in Transpose (H, W, N, A*C) and Reshape (-1, C), which is only right for one picture. It becomes
    Transpose (N, H, W, A*C) and Reshape (N, -1, C). For one picture the numbers stay the same.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    values = _Constants(model)
    changed = 0
    for output in model.graph.output:
        node = producers.get(output.name)
        while node is not None and node.op_type in _ELEMENTWISE:
            node = producers.get(node.input[0])
        if node is None or node.op_type != "Reshape":
            continue
        transpose = producers.get(node.input[0])
        if transpose is None or transpose.op_type != "Transpose":
            continue
        axes = next(attribute for attribute in transpose.attribute if attribute.name == "perm")
        if list(axes.ints) != INTERLEAVED:
            continue
        shape = values.get(node.input[1])
        columns = int(shape[-1]) if shape is not None else output.type.tensor_type.shape.dim[-1].dim_value
        axes.ints[:] = BATCH_FIRST
        values.replace(node, 1, np.array([0, -1, columns], np.int64))
        declared = helper.make_tensor_value_info("", 1, ["N", f"{output.name}_anchors", columns])
        output.type.tensor_type.shape.CopyFrom(declared.type.tensor_type.shape)
        changed += 1
    del model.graph.value_info[:]
    return changed


class _Constants:
    """The constant tensors of a graph: initializers and Constant nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.arrays = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                value = next((item.t for item in node.attribute if item.name == "value"), None)
                if value is not None:
                    self.arrays[node.output[0]] = value

    def get(self, name: str) -> np.ndarray | None:  # type: ignore[type-arg]
        """Return a constant, or None where it is computed."""
        tensor = self.arrays.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def replace(self, node: onnx.NodeProto, position: int, values: np.ndarray) -> None:  # type: ignore[type-arg]
        """Give one input of a node a constant of its own; others may share the old one."""
        name = f"{node.output[0]}/{position}"
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        node.input[position] = name
