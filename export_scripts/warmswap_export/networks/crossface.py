"""CrossFace: turns a w600k embedding into one that the ArcFace of another swapper would have given.

Source: ``crossface/src/models/crossface.py`` of facefusion/facefusion-labs (OpenRAIL-MS), one set of weights for each
of GHOST, HifiFace and SimSwap. The project publishes ONNX files, exported from a Lightning module, where each key
begins with ``crossface.``; the keys here have no prefix.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from warmswap_export.networks.network import PublishedForm, PublishedNetwork

EMBEDDING_SIZE: Final = 512
HIDDEN_WIDTHS: Final = (1024, 2048, 1024)
SHORTCUT_WEIGHT: Final = 0.2
FORM: Final = PublishedForm(inputs={"input": (1, EMBEDDING_SIZE)}, outputs=("output",), opset=15)


class CrossFace(PublishedNetwork):
    """Three hidden layers beside a weak linear shortcut.

    Takes ``input`` (N, 512), an embedding of any length: the first thing done is to scale it to length one. Returns
    ``output`` (N, 512), an embedding whose length means something to GHOST; SimSwap and HifiFace want length one.
    """

    form = FORM

    def __init__(self) -> None:
        """Make the layers; dropout is there for the numbers of those after it."""
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((EMBEDDING_SIZE, *HIDDEN_WIDTHS)):
            layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU(), nn.Dropout(0.1)]
        self.sequence = nn.Sequential(*layers, nn.Linear(HIDDEN_WIDTHS[-1], EMBEDDING_SIZE))
        self.linear = nn.Linear(EMBEDDING_SIZE, EMBEDDING_SIZE)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the converted embeddings."""
        unit = functional.normalize(embedding, dim=-1)
        return self.sequence(unit) + SHORTCUT_WEIGHT * self.linear(unit)


def create(name: str) -> PublishedNetwork:
    """Return "crossface"."""
    return CrossFace()
