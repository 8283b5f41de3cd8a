"""What every module of this package hands over: a network, and the form in which its ONNX file is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class PublishedForm:
    """How the ONNX file of a network is published.

    Attributes:
        inputs: Input name to the shape it was traced with, in the order of ``forward``.
        outputs: Output names, in the order of what ``forward`` returns.
        dynamic_axes: Axes that are not fixed in the file, per tensor; a published file often fixes the batch to one.
        opset: ONNX opset of the file.
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    opset: int = 11


class PublishedNetwork(nn.Module):
    """A network whose ``forward`` computes what its published ONNX file computes.

    ``forward`` takes the tensors of ``form.inputs`` in order and returns one tensor, or a tuple in the order of
    ``form.outputs``. ``state_dict`` has the keys of the published checkpoint, no more and no less.
    """

    form: PublishedForm

    def example_inputs(self) -> tuple[torch.Tensor, ...]:
        """Return zeros of the shapes that the published file was traced with."""
        return tuple(torch.zeros(shape) for shape in self.form.inputs.values())
