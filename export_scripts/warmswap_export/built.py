"""What an architecture module hands over: a graph, and the reference that it is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

Arrays = Mapping[str, npt.NDArray[Any]]
Reference = Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True)
class BuiltStage:
    """An exported graph, not yet written.

    Attributes:
        graph: Graph of the stage contract.
        references: Independent implementations by name; each takes the graph's inputs and returns its outputs.
        tolerances: Largest absolute difference per output.
    """

    graph: onnx.ModelProto
    references: Mapping[str, Reference]
    tolerances: Mapping[str, float]


def torch_reference(module: nn.Module, output_names: tuple[str, ...]) -> Reference:
    """Wrap a PyTorch module as a reference."""

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: output.numpy() for name, output in zip(output_names, outputs, strict=True)}

    return run
