"""What GHOST and HyperSwap share: a U-Net reads the attributes of the target, a generator adds the identity to them.

Source: Li et al. 2019, arXiv:1912.13457 (FaceShifter), as built in ``network/AEI_Net.py`` and ``network/AADLayer.py``
of ai-forever/ghost and in ``hyperswap/src/networks`` of facefusion/facefusion-labs. Those two name their layers
differently, and so do their checkpoints: here is what has no names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

IDENTITY_SIZE: Final = 512
CROP_SIZE: Final = 256
START_WIDTH: Final = 1024
"""Channels of the 2 x 2 cells that the generator starts from."""
LEAK: Final = 0.1

DOWN_CHANNELS: Final = ((3, 32), (32, 64), (64, 128), (128, 256), (256, 512), (512, 1024), (1024, 1024))
"""Channels in and out of the steps down, 256 x 256 to 2 x 2."""
UP_CHANNELS: Final = ((1024, 1024), (2048, 512), (1024, 256), (512, 128), (256, 64), (128, 32))
"""Channels in and out of the steps up, 2 x 2 to 128 x 128, before what was seen on the way down is put beside it."""
BLOCK_CHANNELS: Final = (
    (1024, 1024, 1024),
    (1024, 1024, 2048),
    (1024, 1024, 1024),
    (1024, 512, 512),
    (512, 256, 256),
    (256, 128, 128),
    (128, 64, 64),
    (64, 3, 64),
)
"""Channels in, out and of the attributes, for each block of the generator, 2 x 2 to 256 x 256."""

ModulationFactory = Callable[[int, int], nn.Module]
"""Makes a modulation of so many channels by so many attribute channels."""


class ModulatedConvs(nn.Sequential):
    """Modulation, ReLU, 3 x 3 convolution, once or several times over; only the last convolution changes the width."""

    def __init__(self, modulation: ModulationFactory, channels: tuple[int, int, int], repeats: int) -> None:
        """Map the channels of an entry of ``BLOCK_CHANNELS``."""
        inputs, outputs, attributes = channels
        layers: list[nn.Module] = []
        for repeat in range(repeats):
            width = outputs if repeat == repeats - 1 else inputs
            layers += [modulation(inputs, attributes), nn.ReLU(), nn.Conv2d(inputs, width, 3, padding=1, bias=False)]
        super().__init__(*layers)

    def forward(self, x: Tensor, attributes: Tensor, identity: Tensor) -> Tensor:
        """Map (N, inputs, H, W), given (N, C, H, W) attributes and (N, 512) identities."""
        for index, layer in enumerate(self):
            x = layer(x, attributes, identity) if index % 3 == 0 else layer(x)
        return x


def sampling_layers(conv: type[nn.Module], inputs: int, outputs: int) -> list[nn.Module]:
    """Return a step of the U-Net: a 4 x 4 (transposed) convolution of stride 2, batch norm and leaky ReLU."""
    return [
        conv(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(LEAK),
    ]


def read_attributes(
    target: Tensor, downs: Iterable[nn.Module], ups: Iterable[nn.Module], *, align_corners: bool
) -> list[Tensor]:
    """Run the U-Net.

    Args:
        target: (N, 3, 256, 256) crops, -1 to 1.
        downs: Steps down.
        ups: Steps up.
        align_corners: How the last attributes are doubled in size.

    Returns:
        Attributes for each block of the generator, (N, 1024, 2, 2) to (N, 64, 256, 256).
    """
    seen = []
    x = target
    for down in downs:
        x = down(x)
        seen.append(x)
    attributes = [seen.pop()]
    for up in ups:
        attributes.append(torch.cat((up(attributes[-1]), seen.pop()), dim=1))
    return [*attributes, double(attributes[-1], align_corners=align_corners)]


def generate(
    start: Tensor, blocks: Iterable[nn.Module], attributes: list[Tensor], identity: Tensor, *, align_corners: bool
) -> Tensor:
    """Run the blocks of a generator, doubling the size between them.

    Args:
        start: (N, 1024, 2, 2), made of the identity.
        blocks: Blocks that take what the last one gave, attributes and identity.
        attributes: What ``read_attributes`` gave.
        identity: (N, 512) identities.
        align_corners: How the size is doubled.

    Returns:
        (N, 3, 256, 256) pictures, -1 to 1.
    """
    x = start
    for index, (block, seen) in enumerate(zip(blocks, attributes, strict=True)):
        if index:
            x = double(x, align_corners=align_corners)
        x = block(x, seen, identity)
    return torch.tanh(x)


def modulate(
    x: Tensor, attribute_style: tuple[Tensor, Tensor], identity_style: tuple[Tensor, Tensor], gate: nn.Module
) -> Tensor:
    """Normalise features, then mix what the attributes and what the identity make of them.

    Args:
        x: (N, C, H, W) features.
        attribute_style: Scale and shift, each (N, C, H, W).
        identity_style: Scale and shift, each (N, C).
        gate: Maps normalised features to (N, 1, H, W): how much of the identity, before the sigmoid.

    Returns:
        (N, C, H, W) features.
    """
    x = functional.instance_norm(x)
    attribute_scale, attribute_shift = attribute_style
    identity_scale, identity_shift = (style.unsqueeze(2).unsqueeze(3) for style in identity_style)
    share = torch.sigmoid(gate(x))
    return (1 - share) * (attribute_scale * x + attribute_shift) + share * (identity_scale * x + identity_shift)


def double(x: Tensor, *, align_corners: bool) -> Tensor:
    """Map (N, C, H, W) to (N, C, 2H, 2W), bilinear."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align_corners)
