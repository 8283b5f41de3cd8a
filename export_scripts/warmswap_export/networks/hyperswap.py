"""HyperSwap: FaceFusion's swapper, GHOST's layout with two modulations in each block and a mask of its own.

Source: ``hyperswap/src/models/generator.py``, ``networks/`` and ``exporting.py`` of facefusion/facefusion-labs
(ResearchRAIL-MS), with the settings of its README: ``output_size = 256``, ``num_blocks = 2``, ``mask_factor = 0.01``.
The project publishes ONNX files, exported from a Lightning module, where each key begins with ``generator.`` once
more; the keys here are those of its ``Generator``. The published files compute in float16 between float32 inputs and
outputs; this network computes in float32.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from warmswap_export.networks.attribute_unet import (
    BLOCK_CHANNELS,
    CROP_SIZE,
    DOWN_CHANNELS,
    IDENTITY_SIZE,
    START_WIDTH,
    UP_CHANNELS,
    ModulatedConvs,
    generate,
    modulate,
    read_attributes,
    sampling_layers,
)
from warmswap_export.networks.network import PublishedForm, PublishedNetwork

REPEATS: Final = 2
MASK_WIDTH: Final = 16
EROSION: Final = 3
"""Pixels that the exported mask is eroded by: ``mask_factor`` of 256, rounded."""
FORM: Final = PublishedForm(
    inputs={"source": (1, IDENTITY_SIZE), "target": (1, 3, CROP_SIZE, CROP_SIZE)},
    outputs=("output", "mask"),
    opset=15,
)


class Step(nn.Module):
    """Layers one after another. Source: the many classes with ``sequences`` in ``hyperswap/src/networks``."""

    def __init__(self, *layers: nn.Module) -> None:
        """Run ``layers``."""
        super().__init__()
        self.sequences = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers in order."""
        return self.sequences(x)


class Encoder(nn.Module):
    """Reads the attributes of a crop at eight sizes. Source: ``networks/unet.py``."""

    def __init__(self) -> None:
        """Make the layers for crops of 256 x 256."""
        super().__init__()
        self.down_samples = nn.ModuleList(Step(*sampling_layers(nn.Conv2d, *pair)) for pair in DOWN_CHANNELS)
        self.up_samples = nn.ModuleList(Step(*sampling_layers(nn.ConvTranspose2d, *pair)) for pair in UP_CHANNELS)

    def forward(self, target: Tensor) -> list[Tensor]:
        """Map (N, 3, 256, 256) to attributes, (N, 1024, 2, 2) to (N, 64, 256, 256)."""
        return read_attributes(target, self.down_samples, self.up_samples, align_corners=False)


class Modulation(nn.Module):
    """Styles from attributes and identity, mixed by a learned mask. Source: ``FeatureModulation``.

    The second linear layer is the scale and the first one the shift, the other way round than in GHOST.
    """

    def __init__(self, channels: int, attributes: int) -> None:
        """Style ``channels`` channels by ``attributes`` channels and an identity."""
        super().__init__()
        self.conv1 = nn.Conv2d(attributes, channels, 1)
        self.conv2 = nn.Conv2d(attributes, channels, 1)
        self.conv3 = nn.Conv2d(channels, 1, 1)
        self.linear1 = nn.Linear(IDENTITY_SIZE, channels)
        self.linear2 = nn.Linear(IDENTITY_SIZE, channels)

    def forward(self, x: Tensor, attributes: Tensor, identity: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        attribute_style = self.conv1(attributes), self.conv2(attributes)
        return modulate(x, attribute_style, (self.linear2(identity), self.linear1(identity)), self.conv3)


class ResidualBlock(nn.Module):
    """Modulated convolutions beside a shortcut, which has one of its own where the width shrinks.

    Source: ``AdaptiveFeatureModulation``.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        """Map the channels of an entry of ``BLOCK_CHANNELS``."""
        super().__init__()
        self.primary_layers = ModulatedConvs(Modulation, channels, REPEATS)
        self.shortcut_layers = ModulatedConvs(Modulation, channels, 1) if channels[0] > channels[1] else None

    def forward(self, x: Tensor, attributes: Tensor, identity: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        shortcut = x if self.shortcut_layers is None else self.shortcut_layers(x, attributes, identity)
        return self.primary_layers(x, attributes, identity) + shortcut


class Generator(nn.Module):
    """Makes a picture of attributes and identity. Source: ``networks/aad.py``."""

    def __init__(self) -> None:
        """Make the layers for pictures of 256 x 256."""
        super().__init__()
        self.pixel_shuffle_up_sample = Step(nn.Conv2d(IDENTITY_SIZE, 4 * START_WIDTH, 3, padding=1), nn.PixelShuffle(2))
        self.layers = nn.ModuleList(ResidualBlock(channels) for channels in BLOCK_CHANNELS)

    def forward(self, attributes: list[Tensor], identity: Tensor) -> Tensor:
        """Return (N, 3, 256, 256), -1 to 1."""
        start = self.pixel_shuffle_up_sample(identity.unsqueeze(2).unsqueeze(3))
        return generate(start, self.layers, attributes, identity, align_corners=False)


class Bottleneck(Step):
    """Two convolutions and a shortcut around them. Source: ``BottleNeck`` in ``networks/masknet.py``."""

    def __init__(self, channels: int) -> None:
        """Keep the number of ``channels``."""
        super().__init__(*_conv_layers(channels, channels), *_conv_layers(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return functional.relu(self.sequences(x) + x)


class Masker(nn.Module):
    """Says where the swapped face is to replace the target. Source: ``networks/masknet.py``."""

    def __init__(self) -> None:
        """Take a crop and the largest attributes."""
        super().__init__()
        widths = (3 + BLOCK_CHANNELS[-1][2], MASK_WIDTH, 2 * MASK_WIDTH, 4 * MASK_WIDTH)
        downs, ups = pairwise(widths), pairwise((*widths[:0:-1], MASK_WIDTH))
        self.down_samples = nn.ModuleList(Step(*_conv_layers(*pair), nn.MaxPool2d(2)) for pair in downs)
        self.up_samples = nn.ModuleList(Step(nn.ConvTranspose2d(*pair, 2, 2), nn.ReLU()) for pair in ups)
        self.bottleneck = Bottleneck(widths[-1])
        self.conv = nn.Conv2d(MASK_WIDTH, 1, 1)

    def forward(self, target: Tensor, attributes: Tensor) -> Tensor:
        """Map (N, 3, H, W) crops and (N, 64, H, W) attributes to (N, 1, H, W), 0 to 1."""
        x = torch.cat((target, attributes), dim=1)
        for step in (*self.down_samples, self.bottleneck, *self.up_samples):
            x = step(x)
        return torch.sigmoid(self.conv(x))


class HyperSwap(PublishedNetwork):
    """Encoder, generator and masker, and the crop put together.

    Takes ``source`` (N, 512), a w600k embedding of length one, and ``target`` (N, 3, 256, 256), an aligned crop, RGB,
    -1 to 1. Returns ``output`` (N, 3, 256, 256), the swapped crop, RGB, -1 to 1, with the target where the mask is
    zero, and ``mask`` (N, 1, 256, 256), 0 to 1, which is the mask after erosion: ``output`` was put together without.
    """

    form = FORM

    def __init__(self) -> None:
        """Make the three parts."""
        super().__init__()
        self.encoder = Encoder()
        self.generator = Generator()
        self.masker = Masker()

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the swapped crops and their masks for embeddings and aligned crops."""
        attributes = self.encoder(target)
        swapped = self.generator(attributes, source)
        mask = self.masker(target, attributes[-1])
        eroded = -functional.max_pool2d(-mask, 2 * EROSION + 1, stride=1, padding=EROSION)
        return swapped * mask + target * (1 - mask), eroded


def create(name: str) -> PublishedNetwork:
    """Return "hyperswap_256"."""
    return HyperSwap()


def _conv_layers(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
