"""RetinaFace as biubug6/Pytorch_Retinaface trains it, on MobileNet-0.25 or ResNet-50.

Source: Deng et al. 2020, arXiv:1905.00641; ``models/retinaface.py``, ``models/net.py`` and ``data/config.py`` of that
repository, phase ``test``. The ResNet-50 body has torchvision's keys. A published checkpoint may prefix each key with
``module.``. ``convert_to_onnx.py`` names the first output ``output0`` and leaves the other two to the exporter, whose
numbers differ from one PyTorch to the next; here they are ``output1`` and ``output2``.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from warmswap_export.networks.network import PublishedForm, PublishedNetwork

NUM_ANCHORS: Final = 2
LEVELS: Final = 3
SLOPE: Final = 0.1
"""Of the leaky ReLU in the narrow network."""

FORM: Final = PublishedForm(inputs={"input0": (1, 3, 640, 640)}, outputs=("output0", "output1", "output2"))
"""bbox, scores and landmarks of a picture of exactly 640 x 640; a larger ``--long_side`` fixes that size instead."""


def _slope(width: int) -> float:
    """Return the slope below zero of an activation next to layers of ``width`` channels."""
    return SLOPE if width <= 64 else 0.0


def _conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def _plain(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3x3 convolution with batch norm, not activated."""
    return nn.Sequential(*_conv_bn(inputs, outputs))


def _active(inputs: int, outputs: int, slope: float, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch norm and leaky ReLU."""
    return nn.Sequential(*_conv_bn(inputs, outputs, kernel, stride), nn.LeakyReLU(slope))


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a depthwise and a pointwise convolution, each with batch norm and leaky ReLU."""
    depthwise = _conv_bn(inputs, inputs, stride=stride, groups=inputs)
    return nn.Sequential(*depthwise, nn.LeakyReLU(SLOPE), *_conv_bn(inputs, outputs, kernel=1), nn.LeakyReLU(SLOPE))


class MobileNetBody(nn.Module):
    """MobileNet-V1 at a quarter of its width: 64, 128 and 256 channels at strides 8, 16 and 32.

    Source: ``MobileNetV1`` in ``models/net.py``, without its classifier.
    """

    channels = (64, 128, 256)

    def __init__(self) -> None:
        """Build the three stages."""
        super().__init__()
        self.stage1 = nn.Sequential(
            _active(3, 8, SLOPE, stride=2),
            _separable(8, 16),
            _separable(16, 32, stride=2),
            _separable(32, 32),
            _separable(32, 64, stride=2),
            _separable(64, 64),
        )
        self.stage2 = nn.Sequential(_separable(64, 128, stride=2), *(_separable(128, 128) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(128, 256, stride=2), _separable(256, 256))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to features at strides 8, 16 and 32."""
        fine = self.stage1(x)
        middle = self.stage2(fine)
        return [fine, middle, self.stage3(middle)]


class Bottleneck(nn.Module):
    """ResNet block of 1x1, 3x3 and 1x1 convolutions; the middle one strides, as in torchvision."""

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        """Map ``inputs`` channels to four times ``planes``."""
        super().__init__()
        outputs = 4 * planes
        self.conv1, self.bn1 = _conv_bn(inputs, planes, kernel=1)
        self.conv2, self.bn2 = _conv_bn(planes, planes, stride=stride)
        self.conv3, self.bn3 = _conv_bn(planes, outputs, kernel=1)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs:
            self.downsample = nn.Sequential(*_conv_bn(inputs, outputs, kernel=1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, 4 * planes, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50Body(nn.Module):
    """ResNet-50 without its classifier: 512, 1024 and 2048 channels at strides 8, 16 and 32.

    Source: He et al. 2016, arXiv:1512.03385; keys as in ``torchvision.models.resnet50``.
    """

    channels = (512, 1024, 2048)

    def __init__(self) -> None:
        """Build the stem and the four stages."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = self._stage(64, 64, blocks=3, stride=1)
        self.layer2 = self._stage(256, 128, blocks=4, stride=2)
        self.layer3 = self._stage(512, 256, blocks=6, stride=2)
        self.layer4 = self._stage(1024, 512, blocks=3, stride=2)

    @staticmethod
    def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (Bottleneck(4 * planes, planes) for _ in range(blocks - 1))
        return nn.Sequential(Bottleneck(inputs, planes, stride), *rest)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to features at strides 8, 16 and 32."""
        stem = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        fine = self.layer2(self.layer1(stem))
        middle = self.layer3(fine)
        return [fine, middle, self.layer4(middle)]


class FeaturePyramid(nn.Module):
    """Adds coarse features to finer ones, the finest last.

    Source: ``FPN`` in ``models/net.py``.
    """

    def __init__(self, inputs: tuple[int, int, int], width: int) -> None:
        """Bring features of ``inputs`` channels to ``width``."""
        super().__init__()
        slope = _slope(width)
        self.output1, self.output2, self.output3 = (_active(channels, width, slope, kernel=1) for channels in inputs)
        self.merge1 = _active(width, width, slope)
        self.merge2 = _active(width, width, slope)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map three features, fine to coarse, to three of the same sizes."""
        fine, middle, coarse = self.output1(features[0]), self.output2(features[1]), self.output3(features[2])
        middle = self.merge2(middle + functional.interpolate(coarse, size=middle.shape[2:], mode="nearest"))
        fine = self.merge1(fine + functional.interpolate(middle, size=fine.shape[2:], mode="nearest"))
        return [fine, middle, coarse]


class ContextModule(nn.Module):
    """Three receptive fields side by side: one, two and three 3x3 convolutions deep.

    Source: Najibi et al. 2017, arXiv:1708.03979; ``SSH`` in ``models/net.py``, whose key names mix x and X.
    """

    def __init__(self, width: int) -> None:
        """Keep ``width`` channels: one half from the shallow branch, a quarter from each of the others."""
        super().__init__()
        slope, quarter = _slope(width), width // 4
        self.conv3X3 = _plain(width, width // 2)
        self.conv5X5_1 = _active(width, quarter, slope)
        self.conv5X5_2 = _plain(quarter, quarter)
        self.conv7X7_2 = _active(quarter, quarter, slope)
        self.conv7x7_3 = _plain(quarter, quarter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        shared = self.conv5X5_1(x)
        branches = (self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared)))
        return functional.relu(torch.cat(branches, dim=1))


class PredictionHead(nn.Module):
    """A 1x1 convolution with ``values`` channels for each anchor.

    Source: ``ClassHead``, ``BboxHead`` and ``LandmarkHead`` in ``models/retinaface.py``.
    """

    def __init__(self, width: int, values: int) -> None:
        """Read features of ``width`` channels."""
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(width, NUM_ANCHORS * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to (N, H * W * anchors, values)."""
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class RetinaFace(PublishedNetwork):
    """RetinaFace on a body that gives three features."""

    form = FORM

    def __init__(self, body: MobileNetBody | ResNet50Body, width: int) -> None:
        """Put the pyramid, the context modules and the heads, all ``width`` channels wide, on ``body``."""
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramid(body.channels, width)
        self.ssh1 = ContextModule(width)
        self.ssh2 = ContextModule(width)
        self.ssh3 = ContextModule(width)
        self.ClassHead, self.BboxHead, self.LandmarkHead = (
            nn.ModuleList(PredictionHead(width, values) for _ in range(LEVELS)) for values in (2, 4, 10)
        )

    def forward(self, image_bgr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find faces.

        Args:
            image_bgr: (N, 3, H, W) float32, BGR, 0 to 255 less (104, 117, 123); H and W are multiples of 32.

        Returns:
            For each of A anchors, the fine level first: offsets of the bbox (N, A, 4), probabilities of background
            and face (N, A, 2), offsets of five landmarks (N, A, 10). Offsets are relative to the anchor boxes, with
            variances 0.1 and 0.2.
        """
        levels = self.fpn(self.body(image_bgr))
        features = [ssh(level) for ssh, level in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        bbox, scores, landmarks = (
            torch.cat([head(feature) for head, feature in zip(heads, features, strict=True)], dim=1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead)
        )
        return bbox, functional.softmax(scores, dim=-1), landmarks


def create(name: str) -> RetinaFace:
    """Return ``retinaface_mnet025`` or ``retinaface_r50``, untrained."""
    if name == "retinaface_mnet025":
        return RetinaFace(MobileNetBody(), width=64)
    return RetinaFace(ResNet50Body(), width=256)
