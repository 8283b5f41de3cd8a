"""The ArcFace network that SimSwap takes identities from: ResNet-101 with squeeze and excitation.

Source: ``models/arcface_models.py`` of neuralchen/SimSwap, which comes from foamliu/InsightFace-v2. SimSwap publishes
``arcface_checkpoint.tar``, a whole pickled module of class ``ResNet``; the keys here are those of its ``state_dict``.
The depth is not in SimSwap's code. It is (3, 4, 23, 3) with squeeze and excitation because shivangi-aneja/TAFIM loads
the same weights, strictly, into ``ResNet(IRBlock, [3, 4, 23, 3])``. The pickle itself was not opened to confirm this.
The published file is no ONNX, so input and output have the plain names that a converter gives them.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from warmswap_export.networks.network import PublishedForm, PublishedNetwork

BLOCKS: Final = {"simswap_arcface": (3, 4, 23, 3)}
"""Residual blocks in each of the four stages."""

EMBEDDING_SIZE: Final = 512
STEM_WIDTH: Final = 64
LAST_SIDE: Final = 7
"""Height and width, in cells, of what goes into the last layer."""

FORM: Final = PublishedForm(inputs={"input": (1, 3, 112, 112)}, outputs=("output",))


class SEBlock(nn.Module):
    """Squeeze and excitation: weighs channels by what their averages say.

    Source: Hu et al. 2018, arXiv:1709.01507; ``SEBlock`` in ``arcface_models.py``, with PReLU instead of ReLU.
    """

    def __init__(self, channels: int) -> None:
        """Squeeze ``channels`` to a sixteenth."""
        super().__init__()
        squeezed = channels // 16
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(channels, squeezed), nn.PReLU(), nn.Linear(squeezed, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        weights = self.fc(self.avg_pool(x).flatten(1))
        return x * weights.unsqueeze(2).unsqueeze(3)


class IRBlock(nn.Module):
    """Norm, convolution, norm, PReLU, convolution that may stride, norm, excitation, shortcut, and PReLU again.

    Source: ``IRBlock`` in ``arcface_models.py``. Both PReLU are one layer with a single slope; the width changes at
    the second convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Map ``inputs`` channels to ``outputs``, height and width divided by ``stride`` and rounded up."""
        super().__init__()
        self.bn0 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.se = SEBlock(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        y = self.se(self.bn2(self.conv2(y)))
        return self.prelu(y + self.downsample(x))


class SimSwapArcFace(PublishedNetwork):
    """ResNet-101 of ``IRBlock`` with an embedding of 512 values."""

    form = FORM

    def __init__(self, blocks: tuple[int, int, int, int]) -> None:
        """Build four stages of so many ``blocks`` on a first convolution without padding."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM_WIDTH, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = self._stage(STEM_WIDTH, 64, blocks[0], stride=1)
        self.layer2 = self._stage(64, 128, blocks[1], stride=2)
        self.layer3 = self._stage(128, 256, blocks[2], stride=2)
        self.layer4 = self._stage(256, 512, blocks[3], stride=2)
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * LAST_SIDE * LAST_SIDE, EMBEDDING_SIZE)
        self.bn3 = nn.BatchNorm1d(EMBEDDING_SIZE)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            IRBlock(inputs, outputs, stride),
            *(IRBlock(outputs, outputs) for _ in range(blocks - 1)),
        )

    def forward(self, aligned_crop_rgb: Tensor) -> Tensor:
        """Embed aligned crops.

        Args:
            aligned_crop_rgb: (N, 3, 112, 112) float32, RGB / 255 less the ImageNet mean, over the ImageNet deviation.

        Returns:
            (N, 512) embedding, not normalised.
        """
        x = self.maxpool(self.prelu(self.bn1(self.conv1(aligned_crop_rgb))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.bn3(self.fc(self.bn2(x).flatten(1)))


def create(name: str) -> SimSwapArcFace:
    """Return the network of ``BLOCKS`` with this name, untrained."""
    return SimSwapArcFace(BLOCKS[name])
