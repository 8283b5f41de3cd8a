"""Graph surgery shared by the exporters: clean up a published graph, fold it, and put stages around it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import torch
from onnx import helper, numpy_helper, version_converter
from torch import Tensor, nn

from warmswap_export.errors import ExportError

OPSET: Final = 17
IR_VERSION: Final = 8
"""What ONNX Runtime reads since 1.10, so every Triton of the last years does too."""

FloatArray = npt.NDArray[Any]
DynamicAxes = Mapping[str, Mapping[int, str]]


def export_module(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: DynamicAxes,
    *,
    opset: int = OPSET,
    fold_constants: bool = False,
) -> onnx.ModelProto:
    """Trace a PyTorch module into a graph; unless constants are folded, weights stay as the module stores them."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The tracing exporter is deprecated in favour of one that needs onnxscript and renames every tensor.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example_inputs,
            buffer,
            dynamo=False,
            opset_version=opset,
            do_constant_folding=fold_constants,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes={name: dict(axes) for name, axes in dynamic_axes.items()},
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.ir_version = IR_VERSION
    _declare_unused_inputs(model, example_inputs, input_names, dynamic_axes)
    return model


def _declare_unused_inputs(
    model: onnx.ModelProto, example_inputs: tuple[Tensor, ...], input_names: Sequence[str], dynamic_axes: DynamicAxes
) -> None:
    """Put back, in order, the inputs that the exporter dropped because nothing reads them."""
    kept = {value.name: value for value in model.graph.input}
    del model.graph.input[:]
    for name, example in zip(input_names, example_inputs, strict=True):
        axes = dynamic_axes.get(name, {})
        shape = [axes.get(index, size) for index, size in enumerate(example.shape)]
        dtype = helper.np_dtype_to_tensor_dtype(example.numpy().dtype)
        model.graph.input.append(kept.get(name) or helper.make_tensor_value_info(name, dtype, shape))


def modernize(model: onnx.ModelProto, *, in_place: bool = False) -> onnx.ModelProto:
    """Return ``model`` at ``OPSET``.

    Args:
        model: Graph of any opset.
        in_place: Use the graph up and keep its shapes; else it is copied, and the shapes that an old exporter froze
            into it are dropped.
    """
    if not in_place:
        model = onnx.ModelProto.FromString(model.SerializeToString())
    initializers = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    del model.graph.value_info[:]
    for value in () if in_place else (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        for index, axis in enumerate(shape.dim):
            if index != 1:
                axis.dim_param = {0: "N", 2: "H", 3: "W"}[index] if value in inputs else f"{value.name}_{index}"
    converted = version_converter.convert_version(model, OPSET)
    converted.ir_version = IR_VERSION
    return converted


def fold_batch_norms(model: onnx.ModelProto) -> int:
    """Fold every BatchNormalization into the Conv or ConvTranspose before it; return how many were folded."""
    graph = model.graph
    initializers = {initializer.name: initializer for initializer in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    folded = 0
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = producers.get(norm.input[0])
        if conv is None or conv.op_type not in {"Conv", "ConvTranspose"} or uses[norm.input[0]] != 1:
            continue
        if not {*norm.input[1:5], *conv.input[1:]} <= initializers.keys():
            continue
        scale, shift, mean, variance = (
            numpy_helper.to_array(initializers[name]).astype(np.float32) for name in norm.input[1:5]
        )
        epsilon = next((helper.get_attribute_value(item) for item in norm.attribute if item.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        weight = numpy_helper.to_array(initializers[conv.input[1]])
        stored = weight.dtype  # half stays half
        weight = _scale_output_channels(weight, factor, conv)
        bias = (
            numpy_helper.to_array(initializers[conv.input[2]]).astype(np.float32)
            if len(conv.input) > 2
            else np.zeros_like(mean)
        )
        # Exporters merge equal tensors: one that others read too stays as it is.
        weight_name, bias_name = conv.input[1], conv.input[2] if len(conv.input) > 2 else f"{conv.input[1]}.bias"
        if max(uses.get(name, 1) for name in conv.input[1:]) > 1:
            weight_name, bias_name = f"{norm.output[0]}.weight", f"{norm.output[0]}.bias"
        for name, values in ((weight_name, weight), (bias_name, (bias - mean) * factor + shift)):
            tensor = numpy_helper.from_array(values.astype(stored), name)
            if name in initializers:
                initializers[name].CopyFrom(tensor)
            else:
                graph.initializer.append(tensor)
        conv.input[1:] = [weight_name, bias_name]
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
        folded += 1
    _drop_unused_initializers(graph)
    return folded


def _scale_output_channels(weight: FloatArray, factor: FloatArray, conv: onnx.NodeProto) -> FloatArray:
    """Multiply each output channel of a (transposed) convolution's weight by its factor."""
    if conv.op_type == "Conv":
        return np.asarray(weight * factor.reshape(-1, 1, 1, 1))
    groups = next((helper.get_attribute_value(item) for item in conv.attribute if item.name == "group"), 1)
    inputs, outputs_per_group = weight.shape[:2]
    per_group = weight.reshape(groups, inputs // groups, outputs_per_group, *weight.shape[2:])
    return np.asarray((per_group * factor.reshape(groups, 1, outputs_per_group, 1, 1)).reshape(weight.shape))


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove constants that nothing reads any more, in place; ONNX Runtime warns of each."""
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    dead = [node for node in model.graph.node if node.op_type == "Constant" and node.output[0] not in used]
    for node in dead:
        model.graph.node.remove(node)
    _drop_unused_initializers(model.graph)


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def chain(first: onnx.ModelProto, second: onnx.ModelProto, prefix: str, links: Mapping[str, str]) -> onnx.ModelProto:
    """Feed outputs of ``first`` into inputs of ``second``; ``first`` becomes the whole, so that its weights stay put.

    Args:
        first: Graph that runs first; its tensors get ``prefix``, except its inputs.
        second: Graph whose outputs are the outputs of the whole, after those of ``first`` that nothing takes.
        prefix: Keeps the tensor names of the two apart.
        links: Output of ``first`` to input of ``second``.

    Raises:
        ExportError: both have a tensor of the same name.
    """
    kept = {value.name for value in first.graph.input}
    whole, tail = first.graph, second.graph

    def renamed(name: str) -> str:
        return name if not name or name in kept else prefix + name

    for node in whole.node:
        node.name = prefix + node.name if node.name else ""
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for value in (*whole.output, *whole.initializer):
        value.name = renamed(value.name)
    fed = {target: prefix + output for output, target in links.items()}
    for node in tail.node:
        node.input[:] = [fed.get(name, name) for name in node.input]
    _refuse_clashes(whole, tail)
    taken = set(fed.values())
    outputs = [value for value in whole.output if value.name not in taken]
    inputs = [value for value in tail.input if value.name not in fed]
    del whole.output[:], whole.value_info[:]
    whole.output.extend([*outputs, *tail.output])
    whole.input.extend(inputs)
    whole.node.extend(tail.node)
    whole.initializer.extend(tail.initializer)
    return first


def _refuse_clashes(first: onnx.GraphProto, second: onnx.GraphProto) -> None:
    names = [
        {*(tensor.name for tensor in graph.initializer), *(name for node in graph.node for name in node.output)}
        for graph in (first, second)
    ]
    names[0] |= {value.name for value in first.input}
    both = sorted(names[0] & names[1] - {""})
    if both:
        raise ExportError(f"two graphs cannot be chained, both have {', '.join(both[:3])}")


def append_nms(
    model: onnx.ModelProto,
    *,
    max_faces: int,
    iou_threshold: float,
    score_floor: float,
    num_kps: int,
    whole_pixels: bool = False,
) -> onnx.ModelProto:
    """Replace candidate outputs by the ``face_detector`` contract: greedy NMS, best first, padded with zeros.

    Args:
        model: Graph with outputs ``candidate_bbox`` (N, K, 4), ``candidate_score`` (N, K) and ``candidate_kps``
            (N, K, num_kps, 2); K is at least ``max_faces``.
        max_faces: Rows of each output.
        iou_threshold: A box that overlaps a better one by more than this is dropped.
        score_floor: Candidates at or below it are no faces.
        num_kps: Landmarks per face.
        whole_pixels: Boxes include their last pixel: overlaps are those of boxes one pixel wider and higher.
    """
    covered, margin, widen = "nms_bbox", "", ""
    if whole_pixels:
        covered, margin = "covered", "float[4] margin = {0.0, 0.0, 1.0, 1.0},"
        widen = "covered = Add (nms_bbox, margin)"
    nms = onnx.parser.parse_model(f"""
        <ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>
        nms (float[N, K, 4] nms_bbox, float[N, K] nms_score, float[N, K, {num_kps}, 2] nms_kps)
            => (float[N, {max_faces}, 4] bbox, float[N, {max_faces}] score,
                float[N, {max_faces}, {num_kps}, 2] kps, int32[N, 1] num_faces)
        <int64[1] axis_1 = {{1}}, int64[1] axis_2 = {{2}}, int64[1] first = {{0}}, int64[2] image_and_box = {{0, 2}},
         int64[1] rows = {{{max_faces}}}, int64[3] four_times = {{1, 1, 4}},
         int64[3] per_point = {{1, 1, {2 * num_kps}}}, int64[3] flat_kps = {{0, 0, {2 * num_kps}}},
         int64[4] kps_shape = {{0, 0, {num_kps}, 2}},
         {margin} float[1] iou = {{{iou_threshold}}}, float[1] floor = {{{score_floor}}}, float nothing = {{0.0}}>
        {{
            class_score = Unsqueeze (nms_score, axis_1)
            {widen}
            selected = NonMaxSuppression ({covered}, class_score, rows, iou, floor)
            where = Gather <axis = 1> (selected, image_and_box)
            selected_shape = Shape (selected)
            num_selected = Gather <axis = 0> (selected_shape, first)
            ones = ConstantOfShape <value = float[1] {{1.0}}> (num_selected)
            score_shape = Shape (nms_score)
            nowhere = ConstantOfShape <value = float[1] {{0.0}}> (score_shape)
            kept = ScatterND (nowhere, where, ones)
            kept_score = Mul (nms_score, kept)
            score, order = TopK <axis = 1> (kept_score, rows)

            is_face = Greater (score, nothing)
            face_int = Cast <to = 6> (is_face)
            num_faces = ReduceSum <keepdims = 1> (face_int, axis_1)
            face_float = Cast <to = 1> (is_face)
            face_column = Unsqueeze (face_float, axis_2)
            order_column = Unsqueeze (order, axis_2)

            bbox_order = Tile (order_column, four_times)
            ordered_bbox = GatherElements <axis = 1> (nms_bbox, bbox_order)
            bbox = Mul (ordered_bbox, face_column)

            flat = Reshape (nms_kps, flat_kps)
            kps_order = Tile (order_column, per_point)
            ordered_kps = GatherElements <axis = 1> (flat, kps_order)
            faces_kps = Mul (ordered_kps, face_column)
            kps = Reshape (faces_kps, kps_shape)
        }}
    """)
    links = {"candidate_bbox": "nms_bbox", "candidate_score": "nms_score", "candidate_kps": "nms_kps"}
    return chain(model, nms, "decode/", links)


def open_output_dims(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Make sizes of outputs unknown to shape inference, in place.

    One Triton config serves every version of a model, so a size that differs between versions is -1 there, and Triton
    refuses a graph whose output is of a known size where the config says -1. A cut "up to its own end", where the end
    is computed, changes no value and hides the size; declaring another shape does not, since ONNX Runtime infers its
    own.
    """
    graph = model.graph
    for name in names:
        inner = f"{name}/sized"
        for node in graph.node:
            node.output[:] = [inner if output == name else output for output in node.output]
            node.input[:] = [inner if value == name else value for value in node.input]
        rank = next(len(value.type.tensor_type.shape.dim) for value in graph.output if value.name == name)
        graph.initializer.append(numpy_helper.from_array(np.zeros(rank, np.int64), f"{name}/starts"))
        graph.node.extend(
            [
                helper.make_node("Shape", [inner], [f"{name}/shape"], name=f"{name}/shape"),
                helper.make_node("Max", [f"{name}/shape", f"{name}/starts"], [f"{name}/ends"], name=f"{name}/ends"),
                helper.make_node("Slice", [inner, f"{name}/starts", f"{name}/ends"], [name], name=name),
            ]
        )
