"""The instance normalisation of SimSwap and of the networks that took it over."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

EPSILON: Final = 1e-8
"""Far below PyTorch's 1e-5, and below what float16 can hold: half precision needs this step in float32."""


class ChannelNorm(nn.Module):
    """Bring every channel of every picture to mean zero and variance one; it has no weights.

    Source: ``InstanceNorm`` in ``models/fs_networks.py`` of neuralchen/SimSwap, from StyleGAN.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        centred = x - x.mean((2, 3), keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean((2, 3), keepdim=True) + EPSILON)
