"""SCRFD, a one-stage face detector with five key points per face.

Source: Guo et al. 2021, arXiv:2105.04714; ``detection/scrfd`` of deepinsight/insightface, configurations
``scrfd_10g_bnkps.py`` and ``scrfd_2.5g_bnkps.py``. The first is published as ``det_10g.onnx``. Keys are those of the
mmdet checkpoint's ``state_dict``, including the buffer ``bbox_head.integral.project``, which this forward never reads.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from warmswap_export.networks.network import PublishedForm, PublishedNetwork

STRIDES: Final = (8, 16, 32)
NUM_ANCHORS: Final = 2
"""Anchors per cell; they share one centre."""
HEAD_CHANNELS: Final = (1, 4, 10)
"""Values per anchor: score; left, top, right, bottom distances; x, y of five points."""
DFL_BINS: Final = 9
"""Length of the unused buffer ``bbox_head.integral.project``: ``reg_max`` 8 and zero."""


@dataclass(frozen=True, slots=True)
class ScrfdSize:
    """Widths and depths of one member of the family.

    Attributes:
        blocks: Residual blocks in each of the four stages.
        planes: Channels of each stage; the stem ends with ``planes[0]``.
        neck: Channels of the pyramid.
        head: Channels of the head's trunk.
        trunk_depth: Convolutions in the head's trunk.
    """

    blocks: tuple[int, int, int, int]
    planes: tuple[int, int, int, int]
    neck: int
    head: int
    trunk_depth: int


SIZES: Final = {
    "scrfd_10g": ScrfdSize((3, 4, 2, 3), (56, 88, 88, 224), neck=56, head=80, trunk_depth=3),
    "scrfd_2.5g": ScrfdSize((3, 5, 3, 2), (24, 48, 48, 80), neck=24, head=64, trunk_depth=2),
}

LEGACY_FORM: Final = PublishedForm(
    inputs={"input.1": (1, 3, 640, 640)},
    outputs=("448", "471", "494", "451", "474", "497", "454", "477", "500"),
    dynamic_axes={"input.1": {2: "?", 3: "?"}},
)
"""``det_10g.onnx``; the numbers are what PyTorch's exporter gave to the nine outputs.

``torch.onnx.export`` itself refuses ``output_names`` of digits alone: rename the outputs in the graph it returns.
"""

BATCHED_FORM: Final = PublishedForm(
    inputs={"input.1": (1, 3, 640, 640)},
    outputs=tuple(f"{head}_{stride}" for head in ("score", "bbox", "kps") for stride in STRIDES),
    dynamic_axes={
        "input.1": {0: "batch", 2: "height", 3: "width"},
        **{
            f"{head}_{stride}": {0: "batch", 1: f"anchors_{stride}"}
            for head in ("score", "bbox", "kps")
            for stride in STRIDES
        },
    },
)
"""What ``scrfd2onnx.py`` writes today, with a name of its own for each dynamic axis."""


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _named_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a lone convolution whose keys begin with ``conv``, as mmcv's ``ConvModule`` has them."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    return nn.Sequential(OrderedDict([("conv", conv)]))


def _named_conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3x3 convolution with keys ``conv`` and ``bn``, as mmcv's ``ConvModule`` has them."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv", _conv3x3(inputs, outputs)),
        ("bn", nn.BatchNorm2d(outputs)),
        ("activate", nn.ReLU()),
    ]
    return nn.Sequential(OrderedDict(layers))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a shortcut that shrinks averages before its 1x1 convolution.

    Source: ``mmdet/models/backbones/resnet.py`` and ``utils/res_layer.py`` (``avg_down``).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Map ``inputs`` channels to ``outputs``, height and width divided by ``stride``."""
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Backbone(nn.Module):
    """ResNet-V1e: a stem of three 3x3 convolutions, 2x2 max pooling, four stages of ``BasicBlock``.

    Source: ``ResNetV1e`` in ``mmdet/models/backbones/resnet.py``.
    """

    def __init__(self, size: ScrfdSize) -> None:
        """Build the stages of ``size``."""
        super().__init__()
        widths = (3, size.planes[0] // 2, size.planes[0] // 2, size.planes[0])
        stem: list[nn.Module] = []
        for i in range(3):
            stem += [_conv3x3(widths[i], widths[i + 1], 2 if i == 0 else 1), nn.BatchNorm2d(widths[i + 1]), nn.ReLU()]
        self.stem = nn.Sequential(*stem)
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = self._stage(size, 0)
        self.layer2 = self._stage(size, 1)
        self.layer3 = self._stage(size, 2)
        self.layer4 = self._stage(size, 3)

    @staticmethod
    def _stage(size: ScrfdSize, index: int) -> nn.Sequential:
        planes = size.planes[index]
        first = BasicBlock(size.planes[max(index - 1, 0)], planes, stride=1 if index == 0 else 2)
        return nn.Sequential(first, *(BasicBlock(planes, planes) for _ in range(size.blocks[index] - 1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to the features at strides 8, 16 and 32."""
        features = [self.layer2(self.layer1(self.maxpool(self.stem(x))))]
        features.append(self.layer3(features[-1]))
        features.append(self.layer4(features[-1]))
        return features


class Neck(nn.Module):
    """Path aggregation: a pyramid from coarse to fine and back; convolutions alone, no norm and no activation.

    Source: Liu et al. 2018, arXiv:1803.01534; ``mmdet/models/necks/pafpn.py``.
    """

    def __init__(self, size: ScrfdSize) -> None:
        """Build a pyramid over the last three stages of ``size``."""
        super().__init__()
        width = size.neck
        self.lateral_convs = nn.ModuleList(_named_conv(planes, width, 1) for planes in size.planes[1:])
        self.fpn_convs = nn.ModuleList(_named_conv(width, width, 3) for _ in STRIDES)
        self.downsample_convs = nn.ModuleList(_named_conv(width, width, 3, stride=2) for _ in STRIDES[1:])
        self.pafpn_convs = nn.ModuleList(_named_conv(width, width, 3) for _ in STRIDES[1:])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map three features, fine to coarse, to three of the same sizes with ``neck`` channels."""
        levels = [conv(feature) for conv, feature in zip(self.lateral_convs, features, strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + functional.interpolate(levels[i + 1], size=levels[i].shape[2:], mode="nearest")
        levels = [conv(level) for conv, level in zip(self.fpn_convs, levels, strict=True)]
        for i in (0, 1):
            levels[i + 1] = levels[i + 1] + self.downsample_convs[i](levels[i])
        return [levels[0], *(conv(level) for conv, level in zip(self.pafpn_convs, levels[1:], strict=True))]


class Scale(nn.Module):
    """A learnt factor, as mmcv's ``Scale``."""

    def __init__(self) -> None:
        """Start at one."""
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``."""
        return x * self.scale


class Integral(nn.Module):
    """Holder of ``project``, which the checkpoint has and only a head trained with the distribution loss reads."""

    project: Tensor

    def __init__(self) -> None:
        """Fill the buffer with 0 to 8."""
        super().__init__()
        self.register_buffer("project", torch.arange(DFL_BINS, dtype=torch.float32))


class Head(nn.Module):
    """One trunk per stride, and on it three convolutions: scores, distances, key points.

    Source: ``mmdet/models/dense_heads/scrfd_head.py`` with ``cls_reg_share``, without ``strides_share``.
    """

    def __init__(self, size: ScrfdSize) -> None:
        """Build the branches for every stride."""
        super().__init__()
        keys = [str((stride, stride)) for stride in STRIDES]
        widths = [size.neck] + [size.head] * size.trunk_depth

        def predictors(channels: int) -> nn.ModuleDict:
            return nn.ModuleDict({key: nn.Conv2d(size.head, NUM_ANCHORS * channels, 3, padding=1) for key in keys})

        self.cls_stride_convs = nn.ModuleDict(
            {
                key: nn.Sequential(*(_named_conv_bn_relu(widths[i], widths[i + 1]) for i in range(size.trunk_depth)))
                for key in keys
            }
        )
        self.stride_cls, self.stride_reg, self.stride_kps = (predictors(channels) for channels in HEAD_CHANNELS)
        self.scales = nn.ModuleList(Scale() for _ in STRIDES)
        self.integral = Integral()

    def forward(self, levels: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return for each stride score logits, distances and key points, (N, 2|8|20, H / stride, W / stride)."""
        predictions: list[tuple[Tensor, Tensor, Tensor]] = []
        for key, level, scale in zip(self.cls_stride_convs, levels, self.scales, strict=True):
            trunk = self.cls_stride_convs[key](level)
            predictions.append(
                (self.stride_cls[key](trunk), scale(self.stride_reg[key](trunk)), self.stride_kps[key](trunk))
            )
        return predictions


class Scrfd(PublishedNetwork):
    """SCRFD with batch norm and key points.

    Attributes:
        batched: False for the published graph, which interleaves the pictures of a batch on the anchor axis (row
            ``(cell * N + picture) * 2 + anchor``); True for outputs with a batch axis. The weights are the same.
    """

    def __init__(self, size: ScrfdSize, *, batched: bool = False) -> None:
        """Build the network of ``size``."""
        super().__init__()
        self.batched = batched
        self.backbone = Backbone(size)
        self.neck = Neck(size)
        self.bbox_head = Head(size)

    @property
    def form(self) -> PublishedForm:  # type: ignore[override]
        """Names and axes that go with ``batched``."""
        return BATCHED_FORM if self.batched else LEGACY_FORM

    def forward(self, image_rgb: Tensor) -> tuple[Tensor, ...]:
        """Find faces.

        Args:
            image_rgb: (N, 3, H, W) float32, RGB, (pixel - 127.5) / 128; H and W are multiples of 32.

        Returns:
            Nine tensors of one row per anchor: three scores (0 to 1), three bbox (distances of left, top, right and
            bottom edge from the anchor's centre) and three kps (x, y offsets from it), each for strides 8, 16, 32.
            Distances and offsets are in units of the stride. ``batched`` puts a batch axis before the rows.
        """
        predictions = self.bbox_head(self.neck(self.backbone(image_rgb)))
        heads = zip(*predictions, strict=True)
        scores, bbox, kps = (
            [self._rows(level, channels) for level in levels]
            for levels, channels in zip(heads, HEAD_CHANNELS, strict=True)
        )
        return (*(score.sigmoid() for score in scores), *bbox, *kps)

    def _rows(self, x: Tensor, channels: int) -> Tensor:
        """Turn a (N, anchors * channels, h, w) map into rows of ``channels``."""
        if self.batched:
            return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)
        return x.permute(2, 3, 0, 1).reshape(-1, channels)


def create(name: str, batched: bool = False) -> Scrfd:
    """Return ``scrfd_10g`` or ``scrfd_2.5g``, untrained.

    Args:
        name: A key of ``SIZES``.
        batched: Whether the outputs have a batch axis; the published file has none.
    """
    return Scrfd(SIZES[name], batched=batched)
