"""SCRFD with landmarks: InsightFace's detector, from ``det_10g.onnx`` and its relatives.

Source: Guo et al. 2021, arXiv:2105.04714; decode as in insightface ``model_zoo/scrfd.py``. Two forms are published:
the legacy one, whose heads have the batch inside the anchor axis (rank 2), and the new one with a batch axis (rank 3).
Suppression happens in pixels of the frame; insightface scales back to the picture first, which moves the "+1" of its
boxes by a fraction of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from warmswap_ensemble.contract import NUM_KPS
from warmswap_export import insightface_reference
from warmswap_export.architectures.anchors import (
    AnchorGrid,
    Decode,
    FloatArray,
    FrameInput,
    build_graph,
    published_reference,
)
from warmswap_export.batching import open_batch, separate_batch_from_anchors
from warmswap_export.built import BuiltStage, StageSource
from warmswap_export.errors import WeightsError
from warmswap_export.graph import fold_batch_norms
from warmswap_export.precision import at_precision
from warmswap_export.published import graph_inputs, read_published, shape_of, up_to_date

STRIDES: Final = (8, 16, 32)
GRID: Final = AnchorGrid(STRIDES, tuple((stride, stride) for stride in STRIDES), centre=0.0)
"""Two anchors per cell, both at its corner; the side is the unit in which distances are given."""
WIDTHS: Final = (1, 1, 1, 4, 4, 4, 10, 10, 10)
"""Columns of the outputs: scores, boxes and landmarks of the three levels."""
MEAN: Final = 127.5
STD: Final = 128.0
TOLERANCES: Final = {"bbox": 0.02, "score": 1e-4, "kps": 0.02, "num_faces": 0.0}
HALF_TOLERANCES: Final = {"bbox": 1.0, "score": 0.01, "kps": 1.0}


class DistanceDecode(Decode):
    """Boxes and landmarks as distances from the anchor, in strides."""

    head_names = tuple(f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in STRIDES)

    def merge(self, heads: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Join the three levels."""
        return torch.cat(heads[:3], dim=1).squeeze(2), torch.cat(heads[3:6], dim=1), torch.cat(heads[6:], dim=1)

    def boxes(self, raw: Tensor, anchors: Tensor) -> Tensor:
        """Go left, up, right and down from the anchor."""
        distances = raw * anchors[:, :, 2:3]
        return torch.cat((anchors[:, :, :2] - distances[:, :, :2], anchors[:, :, :2] + distances[:, :, 2:]), dim=2)

    def points(self, raw: Tensor, anchors: Tensor) -> Tensor:
        """Go to each landmark from the anchor."""
        return anchors[:, :, None, :2] + raw * anchors[:, :, None, 2:]


def build(source: StageSource) -> BuiltStage:
    """Build the stage from ``network``, an ONNX file as published.

    Raises:
        WeightsError: the file has other inputs or outputs than an SCRFD with landmarks.
    """
    path = source.files["network"]
    published = read_published(path)
    outputs = [value.name for value in published.graph.output]
    pictures = [len(shape_of(value)) for value in graph_inputs(published)]
    shapes = [shape_of(value) for value in published.graph.output]
    ranks = {len(shape) for shape in shapes}
    fits = (
        len(shapes) == 9
        and ranks in ({2}, {3})
        and all(shape[-1] in (0, width) for shape, width in zip(shapes, WIDTHS, strict=True))
    )
    if pictures != [4] or not fits:
        raise WeightsError(
            f"{path} is no SCRFD with landmarks: expected one picture in and 9 outputs (score, bbox and kps at strides "
            f"8, 16, 32), got {len(outputs)} outputs: {', '.join(outputs)}, of shapes {shapes}"
        )
    network = up_to_date(published, path)
    if ranks == {2} and separate_batch_from_anchors(network) != 9:
        raise WeightsError(
            f"{path} has outputs without a batch axis that do not end in Transpose {[2, 3, 0, 1]} and Reshape; "
            "this form of SCRFD is not known: export it with a batch axis (insightface tools/scrfd2onnx.py)"
        )
    for value, columns in zip(network.graph.output, WIDTHS, strict=True):
        value.type.tensor_type.shape.dim[-1].dim_value = columns
    open_batch(network)
    for axis, name in ((2, "H"), (3, "W")):
        network.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    fold_batch_norms(network)
    # The landmark heads stay in single precision: half moves landmarks by parts of a pixel, which flickers in videos.
    network = at_precision(network, source.precision, ("*stride_kps*", *outputs[6:]))
    frame_input = FrameInput(GRID, (MEAN, MEAN, MEAN), STD, bgr=False)
    references = {
        "published graph, plain NumPy decode": published_reference(path, _pixels, GRID, _decode_one),
        **insightface_reference.detectors(path),
    }
    graph = build_graph(network, frame_input, DistanceDecode(), outputs, (64, 64))
    return BuiltStage(graph, references, TOLERANCES, HALF_TOLERANCES)


def _pixels(image_rgb: npt.NDArray[np.uint8]) -> FloatArray:
    return ((image_rgb.transpose(2, 0, 1)[None].astype(np.float32) - MEAN) / STD).astype(np.float32)


def _decode_one(heads: Sequence[FloatArray], anchors: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    score, bbox, kps = (
        np.concatenate([head.reshape(-1, columns) for head in heads[first : first + 3]])
        for first, columns in ((0, 1), (3, 4), (6, 2 * NUM_KPS))
    )
    x, y, stride = anchors[:, 0], anchors[:, 1], anchors[:, 2]
    corners = [x - bbox[:, 0] * stride, y - bbox[:, 1] * stride, x + bbox[:, 2] * stride, y + bbox[:, 3] * stride]
    points = np.stack(
        [np.stack((x + kps[:, 2 * i] * stride, y + kps[:, 2 * i + 1] * stride), axis=1) for i in range(NUM_KPS)], axis=1
    )
    return score[:, 0], np.stack(corners, axis=1), points
