"""inswapper: the swapper of InsightFace, and ReSwapper, which has the same layers.

Source: ``StyleTransferModel_128.py`` of somanchiu/ReSwapper (AGPL-3.0), which reads the layers out of
``inswapper_128.onnx``. InsightFace publishes no checkpoint: the keys are those of ReSwapper's. The identity is a
w600k embedding times ``emap``, the 512 x 512 matrix beside the weights, scaled to length one again. The layers know no
frame size: the 256 form is the same network, trained on larger crops.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from warmswap_export.networks.channel_norm import ChannelNorm
from warmswap_export.networks.network import PublishedForm, PublishedNetwork

IDENTITY_SIZE: Final = 512
ENCODER_WIDTHS: Final = (128, 256, 512, 1024)
BLOCKS: Final = 6
LEAK: Final = 0.2
SIZES: Final = {"inswapper_128": 128, "reswapper_256": 256}
"""Network name to height and width of its crop."""


class StyleBlock(nn.Module):
    """Two convolutions whose normalised answers are scaled and shifted by the identity, and a shortcut around them.

    The scale is used as it is: unlike in SimSwap, no one is added. The biases of the convolutions have no effect, as
    the normalisation takes them out.
    """

    def __init__(self, channels: int) -> None:
        """Keep the number of ``channels``."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.style1 = nn.Linear(IDENTITY_SIZE, 2 * channels)
        self.style2 = nn.Linear(IDENTITY_SIZE, 2 * channels)
        self.norm = ChannelNorm()
        self.channels = channels

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape, given (N, 512) identities."""
        y = functional.relu(self._styled(self.conv1, self.style1, x, identity))
        return x + self._styled(self.conv2, self.style2, y, identity)

    def _styled(self, conv: nn.Module, style: nn.Module, x: Tensor, identity: Tensor) -> Tensor:
        scale, shift = style(identity).unsqueeze(2).unsqueeze(3).split(self.channels, dim=1)
        return self.norm(conv(_pad(x, 1))) * scale + shift


class InSwapper(PublishedNetwork):
    """Encoder to a quarter of the size, six style blocks, decoder back.

    Takes ``target`` (N, 3, H, W), an aligned crop, RGB, 0 to 1, H and W multiples of 4, and ``source`` (N, 512), an
    identity. Returns ``output`` (N, 3, H, W), the swapped crop, RGB, 0 to 1.
    """

    def __init__(self, size: int) -> None:
        """Publish in the form for crops of ``size`` x ``size``."""
        super().__init__()
        self.form = PublishedForm({"target": (1, 3, size, size), "source": (1, IDENTITY_SIZE)}, ("output",))
        first, *_, deepest = ENCODER_WIDTHS
        encoder: list[nn.Module] = [nn.Conv2d(3, first, 7), nn.LeakyReLU(LEAK)]
        for stride, (inputs, outputs) in zip((1, 2, 2), pairwise(ENCODER_WIDTHS), strict=True):
            encoder += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(LEAK)]
        self.target_encoder = nn.Sequential(*encoder)
        self.style_blocks = nn.ModuleList(StyleBlock(deepest) for _ in range(BLOCKS))
        self.decoder = nn.Sequential(nn.Conv2d(1024, 512, 3, padding=1), nn.LeakyReLU(LEAK))
        self.decoderPart1 = nn.Sequential(
            nn.Conv2d(512, 256, 3, padding=1),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(256, 128, 3, padding=1),
            nn.LeakyReLU(LEAK),
        )
        self.decoderPart2 = nn.Sequential(nn.Conv2d(first, 3, 7), nn.Tanh())

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """Return the swapped crops for aligned crops and identities."""
        x = self.target_encoder(_pad(target, 3))
        for block in self.style_blocks:
            x = block(x, source)
        x = self.decoder(_double(x))
        x = self.decoderPart1(_double(x))
        return (self.decoderPart2(_pad(x, 3)) + 1) / 2


def create(name: str) -> PublishedNetwork:
    """Return "inswapper_128" or "reswapper_256"."""
    return InSwapper(SIZES[name])


def _pad(x: Tensor, width: int) -> Tensor:
    return functional.pad(x, (width,) * 4, mode="reflect")


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
