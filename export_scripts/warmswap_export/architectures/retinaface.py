"""RetinaFace as trained by biubug6: MobileNet 0.25 or ResNet-50, three levels of two anchors.

Source: Deng et al. 2019, arXiv:1905.00641; github.com/biubug6/Pytorch_Retinaface (MIT), ``layers/functions/prior_box``
and ``utils/box_utils``. The published files are traced at one frame size and one picture; both are opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from warmswap_ensemble.contract import NUM_KPS
from warmswap_export.architectures.anchors import (
    AnchorGrid,
    Decode,
    FloatArray,
    FrameInput,
    build_graph,
    published_reference,
)
from warmswap_export.batching import open_batch, open_frame_size
from warmswap_export.built import BuiltStage, StageSource
from warmswap_export.errors import WeightsError
from warmswap_export.graph import fold_batch_norms
from warmswap_export.precision import at_precision
from warmswap_export.published import graph_inputs, read_published, shape_of, up_to_date

GRID: Final = AnchorGrid((8, 16, 32), ((16, 32), (64, 128), (256, 512)), centre=0.5)
MEAN_RGB: Final = (123.0, 117.0, 104.0)
VARIANCES: Final = (0.1, 0.2)
TOLERANCES: Final = {"bbox": 0.02, "score": 1e-4, "kps": 0.02, "num_faces": 0.0}
HALF_TOLERANCES: Final = {"bbox": 2.0, "score": 0.03, "kps": 2.0}
WIDTHS: Final = (4, 2, 10)
"""Columns of the outputs: box, background and face, landmarks."""


class PriorDecode(Decode):
    """Boxes and landmarks relative to the anchor's centre and size, as SSD has them."""

    head_names = ("loc", "conf", "landm")

    def merge(self, heads: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Take the face's column of the two classes."""
        loc, conf, landm = heads
        return conf[:, :, 1], loc, landm

    def boxes(self, raw: Tensor, anchors: Tensor) -> Tensor:
        """Move the centre, scale the size."""
        centre = anchors[:, :, :2] + raw[:, :, :2] * VARIANCES[0] * anchors[:, :, 2:]
        half = anchors[:, :, 2:] * torch.exp(raw[:, :, 2:] * VARIANCES[1]) / 2
        return torch.cat((centre - half, centre + half), dim=2)

    def points(self, raw: Tensor, anchors: Tensor) -> Tensor:
        """Go to each landmark from the centre."""
        return anchors[:, :, None, :2] + raw * VARIANCES[0] * anchors[:, :, None, 2:]


def build(source: StageSource) -> BuiltStage:
    """Build the stage from ``network``, an ONNX file as published.

    Raises:
        WeightsError: the file has other inputs or outputs than such a RetinaFace.
    """
    path = source.files["network"]
    published = read_published(path)
    found = {value.name: shape_of(value) for value in published.graph.output}
    heads = [name for width in WIDTHS for name, shape in found.items() if len(shape) == 3 and shape[-1] == width]
    pictures = [len(shape_of(value)) for value in graph_inputs(published)]
    if pictures != [4] or len(found) != 3 or len(heads) != 3:
        raise WeightsError(
            f"{path} is no RetinaFace of this kind: expected one picture in and three outputs of 4, 2 and 10 columns, "
            f"got {found}"
        )
    network = up_to_date(published, path)
    open_frame_size(network)
    open_batch(network)
    fold_batch_norms(network)
    network = at_precision(network, source.precision, ("*LandmarkHead*",))
    frame_input = FrameInput(GRID, MEAN_RGB, 1.0, bgr=True)
    order = [list(found).index(name) for name in heads]
    reference = published_reference(path, _pixels, GRID, lambda outputs, a: _decode_one([outputs[i] for i in order], a))
    graph = build_graph(network, frame_input, PriorDecode(), heads, (64, 64))
    references = {"published graph, plain NumPy decode": reference}
    return BuiltStage(graph, references, TOLERANCES, HALF_TOLERANCES, static_references=True)


def _pixels(image_rgb: npt.NDArray[np.uint8]) -> FloatArray:
    image_bgr = image_rgb[:, :, ::-1].astype(np.float32) - np.array(MEAN_RGB[::-1], np.float32)
    return np.ascontiguousarray(image_bgr.transpose(2, 0, 1)[None])


def _decode_one(heads: Sequence[FloatArray], anchors: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    loc, conf, landm = (head[0] for head in heads)
    centre, size = anchors[:, :2], anchors[:, 2:]
    middle = centre + loc[:, :2] * VARIANCES[0] * size
    extent = size * np.exp(loc[:, 2:] * VARIANCES[1])
    corner = middle - extent / 2
    points = [centre + landm[:, 2 * i : 2 * i + 2] * VARIANCES[0] * size for i in range(NUM_KPS)]
    return conf[:, 1], np.concatenate((corner, corner + extent), axis=1), np.stack(points, axis=1)
