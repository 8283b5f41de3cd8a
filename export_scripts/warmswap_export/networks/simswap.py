"""SimSwap's generator: convolutions down, nine residual blocks that take in the identity, convolutions up.

Source: Chen et al. 2020, arXiv:2106.06340, and neuralchen/SimSwap (CC BY-NC 4.0): ``models/fs_networks.py`` for 224
and ``models/fs_networks_512.py`` for 512, the two that ``models/fs_model.py`` takes for the published checkpoints
(``people/latest_net_G.pth``, ``512/550000_net_G.pth``). Both end in tanh, then (x + 1) / 2, and take crops of 0 to 1.
``models/fs_networks_fix.py`` has no tanh and ImageNet-normalised pictures on both sides: it is for training anew, and
what was trained with it is another model under the same keys (so is the community's ``390000_net_G.pth``, which also
has ``down4`` and ``up4``). SimSwap publishes no 256 checkpoint; FaceFusion's ``simswap_256.onnx`` takes
ImageNet-normalised crops and returns 0 to 1, which is why ``fs_networks.py`` is taken for it, unconfirmed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from torch import Tensor, nn

from warmswap_export.networks.channel_norm import ChannelNorm
from warmswap_export.networks.network import PublishedForm, PublishedNetwork

IDENTITY_SIZE: Final = 512
BLOCKS: Final = 9
WIDTHS: Final = (64, 128, 256, 512)
WIDTHS_512: Final = (32, *WIDTHS)
"""Channels from the first layer to the deepest; each step halves height and width."""
SHAPES: Final = {"simswap_224": (224, WIDTHS), "simswap_256": (256, WIDTHS), "simswap_512": (512, WIDTHS_512)}
"""Network name to size of its crop and widths of its layers."""


class ApplyStyle(nn.Module):
    """Scale and shift channels by what a linear layer makes of the identity."""

    def __init__(self, channels: int) -> None:
        """Serve ``channels`` channels."""
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(IDENTITY_SIZE, 2 * channels)

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape, given (N, 512) identities; the scale counts from one."""
        scale, shift = self.linear(identity).unsqueeze(2).unsqueeze(3).split(self.channels, dim=1)
        return x * (scale + 1) + shift


class IdentityBlock(nn.Module):
    """Two rounds of convolution, normalisation and style, and a shortcut around them.

    Source: ``ResnetBlock_Adain``. The biases of the convolutions have no effect, as the normalisation takes them out.
    """

    def __init__(self, channels: int) -> None:
        """Keep the number of ``channels``."""
        super().__init__()
        self.conv1 = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), ChannelNorm())
        self.style1 = ApplyStyle(channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), ChannelNorm())
        self.style2 = ApplyStyle(channels)

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape, given (N, 512) identities."""
        y = self.act1(self.style1(self.conv1(x), identity))
        return x + self.style2(self.conv2(y), identity)


class SimSwap(PublishedNetwork):
    """The generator.

    Takes ``source`` (N, 512), an identity of length one from SimSwap's own ArcFace, and ``target`` (N, 3, H, W), an
    aligned crop, RGB, 0 to 1 (ImageNet-normalised for "simswap_256"), H and W multiples of 8 (16 for "simswap_512").
    Returns ``output`` (N, 3, H, W), the swapped crop, RGB, 0 to 1. The original takes the crop first.
    """

    def __init__(self, size: int, widths: tuple[int, ...]) -> None:
        """Publish in the form for crops of ``size`` x ``size``; see ``SHAPES``."""
        super().__init__()
        self.form = PublishedForm({"source": (1, IDENTITY_SIZE), "target": (1, 3, size, size)}, ("output",))
        self.steps = dict(enumerate(pairwise(widths), len(WIDTHS) + 1 - len(widths)))
        self.first_layer = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, widths[0], 7), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        for step, (shallow, deep) in self.steps.items():
            self.add_module(f"down{step}", _down(shallow, deep))
        self.BottleNeck = nn.ModuleList(IdentityBlock(widths[-1]) for _ in range(BLOCKS))
        for step, (shallow, deep) in reversed(self.steps.items()):
            self.add_module(f"up{step}", _up(deep, shallow))
        self.last_layer = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(widths[0], 3, 7), nn.Tanh())

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the swapped crops for identities and aligned crops."""
        x = self.first_layer(target)
        for step in self.steps:
            x = self.get_submodule(f"down{step}")(x)
        for block in self.BottleNeck:
            x = block(x, source)
        for step in reversed(self.steps):
            x = self.get_submodule(f"up{step}")(x)
        return (self.last_layer(x) + 1) / 2


def create(name: str) -> PublishedNetwork:
    """Return "simswap_224", "simswap_256" or "simswap_512"."""
    return SimSwap(*SHAPES[name])


def _down(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def _up(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
