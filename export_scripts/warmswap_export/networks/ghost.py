"""GHOST: the swapper of ai-forever, with one, two or three modulations in each block of its generator.

Source: Groshev et al. 2022, IEEE Access 10 (GHOST); ``network/AEI_Net.py`` and ``network/AADLayer.py`` of
ai-forever/ghost (Apache-2.0), ``AEI_Net("unet", num_blocks, c_id=512)``. Checkpoints: ``G_unet_1block.pth``,
``G_unet_2blocks.pth``, ``G_unet_3blocks.pth``. The original also returns the attributes; the published ONNX files have
the picture alone, as ``781``, ``1165`` and ``1549`` in the oldest of them.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

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

REPEATS: Final = {"ghost_1": 1, "ghost_2": 2, "ghost_3": 3}
"""Network name to modulations in each block."""
FORM: Final = PublishedForm(
    inputs={"target": (1, 3, CROP_SIZE, CROP_SIZE), "source": (1, IDENTITY_SIZE)}, outputs=("output",)
)


class UpStep(nn.Module):
    """A step up of the encoder. Source: ``deconv4x4``, without the skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Map ``inputs`` channels to ``outputs``."""
        super().__init__()
        self.deconv, self.bn, self.lrelu = sampling_layers(nn.ConvTranspose2d, inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, 2H, 2W)."""
        return self.lrelu(self.bn(self.deconv(x)))


class Encoder(nn.Module):
    """Reads the attributes of a crop at eight sizes. Source: ``MLAttrEncoder``."""

    def __init__(self) -> None:
        """Make the layers of the "unet" backbone."""
        super().__init__()
        for number, (inputs, outputs) in enumerate(DOWN_CHANNELS, 1):
            self.add_module(f"conv{number}", nn.Sequential(*sampling_layers(nn.Conv2d, inputs, outputs)))
        for number, (inputs, outputs) in enumerate(UP_CHANNELS, 1):
            self.add_module(f"deconv{number}", UpStep(inputs, outputs))

    def forward(self, target: Tensor) -> list[Tensor]:
        """Map (N, 3, 256, 256) to attributes, (N, 1024, 2, 2) to (N, 64, 256, 256)."""
        steps = list(self.children())
        downs, ups = steps[: len(DOWN_CHANNELS)], steps[len(DOWN_CHANNELS) :]
        return read_attributes(target, downs, ups, align_corners=True)


class Modulation(nn.Module):
    """Styles from attributes and identity, mixed by a learned mask. Source: ``AADLayer``."""

    def __init__(self, channels: int, attributes: int) -> None:
        """Style ``channels`` channels by ``attributes`` channels and an identity."""
        super().__init__()
        self.conv1 = nn.Conv2d(attributes, channels, 1)
        self.conv2 = nn.Conv2d(attributes, channels, 1)
        self.fc1 = nn.Linear(IDENTITY_SIZE, channels)
        self.fc2 = nn.Linear(IDENTITY_SIZE, channels)
        self.conv_h = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor, attributes: Tensor, identity: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        attribute_style = self.conv1(attributes), self.conv2(attributes)
        return modulate(x, attribute_style, (self.fc1(identity), self.fc2(identity)), self.conv_h)


class ResidualBlock(nn.Module):
    """Modulated convolutions beside a shortcut, which has one of its own where the width changes.

    Source: ``AAD_ResBlk``.
    """

    def __init__(self, channels: tuple[int, int, int], repeats: int) -> None:
        """Map the channels of an entry of ``BLOCK_CHANNELS``."""
        super().__init__()
        self.add_blocks = ModulatedConvs(Modulation, channels, repeats)
        self.last_add_block = ModulatedConvs(Modulation, channels, 1) if channels[0] != channels[1] else None

    def forward(self, x: Tensor, attributes: Tensor, identity: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        shortcut = x if self.last_add_block is None else self.last_add_block(x, attributes, identity)
        return self.add_blocks(x, attributes, identity) + shortcut


class Generator(nn.Module):
    """Makes a picture of attributes and identity. Source: ``AADGenerator``."""

    def __init__(self, repeats: int) -> None:
        """Have ``repeats`` modulations in each block."""
        super().__init__()
        self.up1 = nn.ConvTranspose2d(IDENTITY_SIZE, START_WIDTH, 2)
        for number, channels in enumerate(BLOCK_CHANNELS, 1):
            self.add_module(f"AADBlk{number}", ResidualBlock(channels, repeats))

    def forward(self, attributes: list[Tensor], identity: Tensor) -> Tensor:
        """Return (N, 3, 256, 256), -1 to 1."""
        _, *blocks = self.children()
        start = self.up1(identity.unsqueeze(2).unsqueeze(3))
        return generate(start, blocks, attributes, identity, align_corners=True)


class Ghost(PublishedNetwork):
    """Encoder and generator.

    Takes ``target`` (N, 3, 256, 256), an aligned crop, RGB, -1 to 1, and ``source`` (N, 512), an embedding of GHOST's
    ArcFace as it is, not scaled to length one. Returns ``output`` (N, 3, 256, 256), the swapped crop, RGB, -1 to 1.
    """

    form = FORM

    def __init__(self, repeats: int) -> None:
        """Have ``repeats`` modulations in each block of the generator."""
        super().__init__()
        self.encoder = Encoder()
        self.generator = Generator(repeats)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """Return the swapped crops for aligned crops and embeddings."""
        return self.generator(self.encoder(target), source)


def create(name: str) -> PublishedNetwork:
    """Return "ghost_1", "ghost_2" or "ghost_3"."""
    return Ghost(REPEATS[name])
