"""face-api's 68-point landmark network: four dense blocks of separable convolutions on a 112-pixel crop.

Source: npm package ``@vladmandic/face-api``, ``src/faceFeatureExtractor`` and ``src/faceLandmarkNet`` (MIT).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from warmswap_export.architectures.layers import StoredTensor, image_to_float, same_padding, subtract_mean
from warmswap_export.built import BuiltStage, StageSource, torch_reference
from warmswap_export.graph import export_module
from warmswap_export.tfjs_weights import TfjsWeight, read_tfjs_weights

CROP_SIZE = 112


class SeparableConv(nn.Module):
    """Depthwise 3x3, then pointwise 1x1, plus a bias."""

    def __init__(self, weights: dict[str, TfjsWeight], prefix: str, stride: int) -> None:
        """Take the tensors under ``prefix``."""
        super().__init__()
        self.depthwise = StoredTensor(weights[f"{prefix}/depthwise_filter"], (2, 3, 0, 1))
        self.pointwise = StoredTensor(weights[f"{prefix}/pointwise_filter"], (3, 2, 0, 1))
        self.bias = StoredTensor(weights[f"{prefix}/bias"])
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        depthwise = self.depthwise()
        x = functional.conv2d(same_padding(x, 3, self.stride), depthwise, stride=self.stride, groups=int(x.shape[1]))
        return functional.conv2d(x, self.pointwise(), self.bias())


class FirstConv(nn.Module):
    """Plain 3x3 convolution with stride 2 that opens the network."""

    def __init__(self, weights: dict[str, TfjsWeight], prefix: str) -> None:
        """Take the tensors under ``prefix``."""
        super().__init__()
        self.filters = StoredTensor(weights[f"{prefix}/filters"], (3, 2, 0, 1))
        self.bias = StoredTensor(weights[f"{prefix}/bias"])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, C, H / 2, W / 2)."""
        return functional.conv2d(same_padding(x, 3, 2), self.filters(), self.bias(), stride=2)


class DenseBlock(nn.Module):
    """Four convolutions, each fed with the sum of all before it."""

    def __init__(self, weights: dict[str, TfjsWeight], prefix: str, *, first: bool) -> None:
        """Take the tensors under ``prefix``; the block that opens the network starts with a plain convolution."""
        super().__init__()
        opening = FirstConv(weights, f"{prefix}/conv0") if first else SeparableConv(weights, f"{prefix}/conv0", 2)
        self.convs = nn.ModuleList([opening, *(SeparableConv(weights, f"{prefix}/conv{i}", 1) for i in (1, 2, 3))])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / 2, W / 2)."""
        total = functional.relu(self.convs[0](x))
        activated = total
        for conv in self.convs[1:]:
            total = total + conv(activated)
            activated = functional.relu(total)
        return activated


class Landmark68(nn.Module):
    """The ``face_landmarker`` contract over face-api's network."""

    def __init__(self, weights: dict[str, TfjsWeight]) -> None:
        """Build the network from the published tensors."""
        super().__init__()
        self.blocks = nn.ModuleList([DenseBlock(weights, f"dense{i}", first=i == 0) for i in range(4)])
        self.fc_weights = StoredTensor(weights["fc/weights"], (1, 0))
        self.fc_bias = StoredTensor(weights["fc/bias"])

    def forward(self, crop_rgb: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 to (N, 68, 2) float32, x and y relative to the crop, 0 to 1."""
        x = subtract_mean(image_to_float(crop_rgb, CROP_SIZE)) / 255.0
        for block in self.blocks:
            x = block(x)
        x = functional.avg_pool2d(x, 7, 2).flatten(1)
        x = functional.linear(x, self.fc_weights(), self.fc_bias())
        return x.reshape(-1, 68, 2)


def build(source: StageSource) -> BuiltStage:
    """Build the stage from ``manifest`` (JSON) and ``weights`` (binary) as published."""
    module = Landmark68(read_tfjs_weights(source.files["manifest"], source.files["weights"])).eval()
    graph = export_module(
        module,
        (torch.zeros(2, CROP_SIZE, CROP_SIZE, 3, dtype=torch.uint8),),
        ["crop_rgb"],
        ["landmarks"],
        {"crop_rgb": {0: "N", 1: "H", 2: "W"}, "landmarks": {0: "N"}},
    )
    return BuiltStage(graph, {"pytorch": torch_reference(module, ("landmarks",))}, {"landmarks": 1e-5})
