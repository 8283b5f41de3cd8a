"""Layers shared by the networks that keep their published uint8 weights.

The graph holds the uint8 values and turns them into float32 when a session is created (constant folding), so a file
is a quarter of the size and the result is the same to the last bit.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from warmswap_export.tfjs_weights import TfjsWeight


class StoredTensor(nn.Module):
    """A weight kept as it was published (mostly uint8), float32 on use."""

    stored: Tensor

    def __init__(self, weight: TfjsWeight, axes: tuple[int, ...] | None = None) -> None:
        """Store ``weight``, its axes permuted to ``axes`` when given."""
        super().__init__()
        values = weight.stored if axes is None else weight.stored.transpose(axes)
        self.register_buffer("stored", torch.from_numpy(np.array(values)))
        self.scale = float(weight.scale)
        self.minimum = float(weight.minimum)

    def forward(self) -> Tensor:
        """Return the weight as float32."""
        if self.stored.dtype == torch.float32:
            return self.stored
        return self.stored.float() * self.scale + self.minimum


SWAPPER_INPUT_AXES: Final = {
    "target_crop_rgb": {0: "N", 1: "H", 2: "W"},
    "source_crop_rgb": {0: "N", 1: "source_H", 2: "source_W"},
    "target_landmarks": {0: "N"},
    "source_landmarks": {0: "N"},
    "source_embedding": {0: "N", 1: "D"},
}
"""Open axes of the inputs of every ``face_swapper``, for tracing."""


def same_padding(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad (N, C, H, W) as TensorFlow's ``same`` does: the odd pixel goes to the right and the bottom."""
    pads: list[int] = []
    for size in (int(x.shape[3]), int(x.shape[2])):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads) if any(pads) else x


def image_to_float(image_rgb: Tensor, size: int) -> Tensor:
    """Turn (N, H, W, 3) uint8 into (N, 3, size, size) float32, 0 to 255, resized bilinearly where it must be."""
    x = image_rgb.permute(0, 3, 1, 2).float()
    return functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


RGB_MEAN = (122.782, 117.001, 104.298)
"""Mean colour that dlib and face-api subtract (dlib ``input_rgb_image_sized``)."""


def subtract_mean(x: Tensor) -> Tensor:
    """Subtract ``RGB_MEAN`` from (N, 3, H, W)."""
    return x - torch.tensor(RGB_MEAN).reshape(1, 3, 1, 1)
