"""IResNet, the residual network of ArcFace: aligned crop to embedding.

Source: Deng et al. 2019, arXiv:1801.07698, and Duta et al. 2020, arXiv:2004.04989;
``recognition/arcface_torch/backbones/iresnet.py`` of deepinsight/insightface, the network of ``w600k_r50.onnx``
(IResNet-50) and ``glintr100.onnx`` (IResNet-100). Keys are those of ``backbone.pth``.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from warmswap_export.networks.network import PublishedForm, PublishedNetwork

BLOCKS: Final = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
"""Residual blocks in each of the four stages."""

EMBEDDING_SIZE: Final = 512
STEM_WIDTH: Final = 64
LAST_SIDE: Final = 7
"""Height and width, in cells, of what goes into the last layer: 112 / 16."""

FORM: Final = PublishedForm(
    inputs={"input.1": (1, 3, 112, 112)},
    outputs=("683",),
    dynamic_axes={"input.1": {0: "None"}},
)
"""``w600k_r50.onnx``: the batch axis is a name that says ``None``, and takes any size.

``torch.onnx.export`` itself refuses ``output_names`` of digits alone: rename the output in the graph it returns.
"""


class IBasicBlock(nn.Module):
    """Norm, 3x3 convolution, norm, PReLU, 3x3 convolution that may stride, norm, and a shortcut.

    Source: ``IBasicBlock`` in ``iresnet.py``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Map ``inputs`` channels to ``outputs``, height and width divided by ``stride``."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + self.downsample(x)


class IResNet(PublishedNetwork):
    """IResNet with an embedding of 512 values."""

    form = FORM

    def __init__(self, blocks: tuple[int, int, int, int]) -> None:
        """Build four stages of so many ``blocks``."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM_WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.prelu = nn.PReLU(STEM_WIDTH)
        self.layer1 = self._stage(STEM_WIDTH, 64, blocks[0])
        self.layer2 = self._stage(64, 128, blocks[1])
        self.layer3 = self._stage(128, 256, blocks[2])
        self.layer4 = self._stage(256, 512, blocks[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * LAST_SIDE * LAST_SIDE, EMBEDDING_SIZE)
        self.features = nn.BatchNorm1d(EMBEDDING_SIZE)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        rest = (IBasicBlock(outputs, outputs) for _ in range(blocks - 1))
        return nn.Sequential(IBasicBlock(inputs, outputs, stride=2), *rest)

    def forward(self, aligned_crop_rgb: Tensor) -> Tensor:
        """Embed aligned crops.

        Args:
            aligned_crop_rgb: (N, 3, 112, 112) float32, RGB, (pixel - 127.5) / 127.5, aligned to the ArcFace template.

        Returns:
            (N, 512) embedding, not normalised.
        """
        x = self.prelu(self.bn1(self.conv1(aligned_crop_rgb)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1)))


def create(name: str) -> IResNet:
    """Return the network of ``BLOCKS`` with this name, untrained."""
    return IResNet(BLOCKS[name])
