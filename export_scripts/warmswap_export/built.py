"""What goes into an architecture module, and what it hands over: a graph and the references that it is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from warmswap_export.errors import PackError

Arrays = Mapping[str, npt.NDArray[Any]]
Reference = Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True)
class StageSource:
    """What a stage is built from.

    Attributes:
        files: Role (``network``, ``weights``, ``converter`` ...) to a verified file. ONNX files are in their published
            form; checkpoints have been brought into it.
        options: ``options`` of the pack file.
        settings: ``settings`` of the pack file.
        precision: Of the network's weights and products: ``fp32`` or ``fp16``.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"

    def colour(self, name: str, default: float) -> tuple[float, float, float]:
        """Return an option of one number per colour.

        Raises:
            PackError: it is not three numbers, or what is divided by (``..._std_rgb``) is not above 0.
        """
        found = self.options.get(name, (default, default, default))
        values = found if isinstance(found, list | tuple) else ()
        if len(values) != 3 or not all(isinstance(value, int | float) for value in values):
            raise PackError(f"option {name} must be three numbers, got {found!r}")
        if name.endswith("std_rgb") and min(values) <= 0:
            raise PackError(f"option {name} must be above 0, got {found!r}")
        red, green, blue = values
        return float(red), float(green), float(blue)


@dataclass(frozen=True, slots=True)
class BuiltStage:
    """An exported graph, not yet written.

    Attributes:
        graph: Graph of the stage contract.
        references: Independent implementations by name; each takes the graph's inputs and returns its outputs.
        tolerances: Largest absolute difference per output.
        half_tolerances: The same for a graph of half precision; empty where none can be made.
        static_references: The references take frames of one size only.
    """

    graph: onnx.ModelProto
    references: Mapping[str, Reference]
    tolerances: Mapping[str, float]
    half_tolerances: Mapping[str, float] = field(default_factory=dict)
    static_references: bool = False


def torch_reference(module: nn.Module, output_names: tuple[str, ...]) -> Reference:
    """Wrap a PyTorch module as a reference."""

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: output.numpy() for name, output in zip(output_names, outputs, strict=True)}

    return run
