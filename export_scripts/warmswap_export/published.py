"""Published ONNX files: how they are read, run as they are, and written from a network.

Everything becomes an ONNX file in its published form first: a checkpoint is loaded into its network and published, a
stand-in is a network of random weights that is published. One path leads from there to a graph of the contract, so
what is proven with the one holds for the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto

from warmswap_export.batching import leave_out_empty_inputs, single_ends
from warmswap_export.errors import WeightsError
from warmswap_export.graph import export_module, modernize
from warmswap_export.networks.network import PublishedNetwork

OLDEST_OPSET: Final = 9
NEWEST_OPSET: Final = 17
FLOAT_TYPES: Final = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}

Array = npt.NDArray[Any]


def read_published(path: Path) -> onnx.ModelProto:
    """Read an ONNX file as users have it.

    Raises:
        WeightsError: it is truncated or no ONNX file, of an opset that cannot be brought up to date, or takes and
            gives other than float tensors.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(str(path))  # by its path: no copy of half a gigabyte
    except Exception as error:  # protobuf and onnx have no common base
        raise WeightsError(f"{path} cannot be read as an ONNX file: {_first_line(error)}") from error
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise WeightsError(f"{path} is of ONNX opset {opset}; opsets {OLDEST_OPSET} to {NEWEST_OPSET} can be read")
    for value in (*graph_inputs(model), *model.graph.output):
        if value.type.tensor_type.elem_type not in FLOAT_TYPES:
            found = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            raise WeightsError(f"{path}: tensor {value.name} must be FLOAT or FLOAT16, got {found}")
    return model


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that are fed; old files list their weights among the inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    """Return the dimensions of a tensor; 0 where one is not fixed."""
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim]


def up_to_date(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return a model at the exporter's opset; the one that is given is used up.

    Raises:
        WeightsError: an operator has no counterpart there.
    """
    try:
        modern = modernize(model, in_place=True)
    except Exception as error:  # the converter raises RuntimeError and its own
        raise WeightsError(f"{path} cannot be brought to opset {NEWEST_OPSET}: {_first_line(error)}") from error
    leave_out_empty_inputs(modern)
    single_ends(modern)
    return modern


class PublishedRunner:
    """Runs a published file as it is, unoptimised, one picture at a time: the reference for what is made of it."""

    def __init__(self, path: Path) -> None:
        """Create the session.

        Raises:
            WeightsError: ONNX Runtime refuses the file.
        """
        self._path = path
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no base of their own
            raise WeightsError(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error
        self._types = {
            value.name: np.float16 if value.type == "tensor(float16)" else np.float32
            for value in self._session.get_inputs()
        }
        self.input_names = list(self._types)
        self.output_names = [value.name for value in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Return the outputs for a batch of one, in the file's order, as float32.

        Raises:
            WeightsError: ONNX Runtime cannot run the file.
        """
        feeds = {name: array.astype(self._types[name]) for name, array in inputs.items()}
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        try:
            outputs = self._session.run(None, feeds, options)
        except Exception as error:  # its errors have no base of their own
            raise WeightsError(f"{self._path} cannot be run: {_first_line(error)}") from error
        return [output.astype(np.float32) for output in outputs]


def publish(network: PublishedNetwork, path: Path, extra_initializers: Sequence[onnx.TensorProto] = ()) -> Path:
    """Write a network as the ONNX file that its authors publish.

    Args:
        network: In evaluation mode.
        path: File to write.
        extra_initializers: Tensors that lie in the file though no operator uses them.
    """
    form = network.form
    # PyTorch refuses names that are numbers, which many published files have: they are put in afterwards.
    final = {f"tensor_{name}": name for name in (*form.inputs, *form.outputs)}
    traced = {name: key for key, name in final.items()}
    model = export_module(
        network,
        network.example_inputs(),
        [traced[name] for name in form.inputs],
        [traced[name] for name in form.outputs],
        {traced[name]: axes for name, axes in form.dynamic_axes.items()},
        opset=form.opset,
        fold_constants=True,
    )
    _rename(model, final)
    model.graph.initializer.extend(extra_initializers)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]


def check_published(network: PublishedNetwork, path: Path, tolerance: float = 1e-3) -> float:
    """Compare a published file with the network it was made of, on seeded noise.

    Returns:
        Largest difference, relative to the largest value of each output.

    Raises:
        WeightsError: it is above ``tolerance``, or not a number.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.rand(example.shape, generator=generator) * 2 - 1 for example in network.example_inputs())
    with torch.no_grad():
        expected = network(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = PublishedRunner(path)(
        {name: value.numpy() for name, value in zip(network.form.inputs, inputs, strict=True)}
    )
    worst = 0.0
    for array, tensor in zip(found, expected, strict=True):
        reference = tensor.numpy()
        difference = np.abs(array - reference).max() / max(float(np.abs(reference).max()), 1e-6)
        worst = max(worst, float(difference)) if np.isfinite(difference) else float("nan")
    if not worst <= tolerance:
        raise WeightsError(f"{path} differs from its network by {worst:g} (relative), allowed {tolerance:g}")
    return worst


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
