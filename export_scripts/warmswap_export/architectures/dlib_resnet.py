"""dlib's face recognition ResNet, 128 numbers per face, with face-api's uint8 weights.

Source: architecture from dlib ``dnn_face_recognition_ex.cpp`` (weights ``dlib_face_recognition_resnet_model_v1``, CC0),
as ported in npm package ``@vladmandic/face-api``, ``src/faceRecognitionNet`` (MIT). Pixels are divided by 256 as dlib
does; the port divides by 255.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from warmswap_export.architectures.layers import StoredTensor, image_to_float, subtract_mean
from warmswap_export.built import BuiltStage, StageSource, torch_reference
from warmswap_export.graph import export_module
from warmswap_export.tfjs_weights import TfjsWeight, read_tfjs_weights

CROP_SIZE = 150
EMBEDDING_LENGTH = 128

BLOCKS = (
    "conv32_1", "conv32_2", "conv32_3",
    "conv64_down", "conv64_1", "conv64_2", "conv64_3",
    "conv128_down", "conv128_1", "conv128_2",
    "conv256_down", "conv256_1", "conv256_2", "conv256_down_out",
)  # fmt: skip


class ScaledConv(nn.Module):
    """Convolution, bias, then a scale and a shift per channel (dlib's affine form of batch normalisation)."""

    def __init__(self, weights: dict[str, TfjsWeight], prefix: str, *, down: bool = False) -> None:
        """Take the tensors under ``prefix``; ``down`` means stride 2 without padding."""
        super().__init__()
        self.filters = StoredTensor(weights[f"{prefix}/conv/filters"], (3, 2, 0, 1))
        self.bias = StoredTensor(weights[f"{prefix}/conv/bias"])
        self.scale = StoredTensor(weights[f"{prefix}/scale/weights"])
        self.shift = StoredTensor(weights[f"{prefix}/scale/biases"])
        self.stride, self.padding = (2, 0) if down else (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W'); scale and shift are folded into the convolution."""
        scale = self.scale()
        filters = self.filters() * scale.reshape(-1, 1, 1, 1)
        bias = self.bias() * scale + self.shift()
        return functional.conv2d(x, filters, bias, stride=self.stride, padding=self.padding)


class Residual(nn.Module):
    """Two convolutions around a shortcut; the ``down`` form halves the size and may widen the channels."""

    def __init__(self, weights: dict[str, TfjsWeight], prefix: str) -> None:
        """Take the tensors under ``prefix``."""
        super().__init__()
        self.down = "down" in prefix
        self.conv1 = ScaledConv(weights, f"{prefix}/conv1", down=self.down)
        self.conv2 = ScaledConv(weights, f"{prefix}/conv2")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape, or to half the size."""
        out = self.conv2(functional.relu(self.conv1(x)))
        if not self.down:
            return functional.relu(out + x)
        shortcut = functional.avg_pool2d(x, 2, 2)
        rows, columns = shortcut.shape[2] - out.shape[2], shortcut.shape[3] - out.shape[3]
        out = functional.pad(out, (0, int(columns), 0, int(rows)))
        channels = int(out.shape[1] - shortcut.shape[1])
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, channels))
        return functional.relu(out + shortcut)


class DlibResNet(nn.Module):
    """The ``face_embedder`` contract over dlib's network."""

    def __init__(self, weights: dict[str, TfjsWeight]) -> None:
        """Build the network from the published tensors."""
        super().__init__()
        self.stem = ScaledConv(weights, "conv32_down", down=True)
        self.blocks = nn.ModuleList([Residual(weights, name) for name in BLOCKS])
        self.fc = StoredTensor(weights["fc"])

    def forward(self, aligned_crop_rgb: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 to (N, 128) float32 of L2 norm 1."""
        x = subtract_mean(image_to_float(aligned_crop_rgb, CROP_SIZE)) / 256.0
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2)
        for block in self.blocks:
            x = block(x)
        descriptor = torch.matmul(x.mean(dim=(2, 3)), self.fc())
        return descriptor / descriptor.norm(dim=1, keepdim=True)


def build(source: StageSource) -> BuiltStage:
    """Build the stage from ``manifest`` (JSON) and ``weights`` (binary) as published."""
    module = DlibResNet(read_tfjs_weights(source.files["manifest"], source.files["weights"])).eval()
    graph = export_module(
        module,
        (torch.zeros(2, CROP_SIZE, CROP_SIZE, 3, dtype=torch.uint8),),
        ["aligned_crop_rgb"],
        ["embedding"],
        {"aligned_crop_rgb": {0: "N", 1: "H", 2: "W"}, "embedding": {0: "N"}},
    )
    return BuiltStage(graph, {"pytorch": torch_reference(module, ("embedding",))}, {"embedding": 1e-5})
