"""What SCRFD and RetinaFace share: pixels in, anchors, the best candidates, suppression, and the plain reference.

An anchor is (centre x, centre y, width, height) in pixels of the frame. Heads come in the order level by level, row by
row, column by column, anchor by anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from warmswap_ensemble.contract import MAX_FACES, NUM_KPS
from warmswap_export.built import Arrays, Reference
from warmswap_export.graph import append_nms, chain, export_module
from warmswap_export.published import PublishedRunner

CANDIDATES: Final = 1024
"""Anchors that go into the suppression, best first."""
IOU_THRESHOLD: Final = 0.4
"""As in both publications' inference code."""
SCORE_FLOOR: Final = 0.1
"""Anchors at or below it are no candidates; what counts as a face is decided by the pipeline (``min_score``)."""

FloatArray = npt.NDArray[np.float32]
DecodeOne = Callable[[Sequence[FloatArray], FloatArray], tuple[FloatArray, FloatArray, FloatArray]]


@dataclass(frozen=True, slots=True)
class AnchorGrid:
    """Where the anchors of a detector lie.

    Attributes:
        strides: Pixels per cell of each level.
        sizes: Sides of the anchors of a cell, per level.
        centre: Where a cell's centre is, in cells from its top left corner.
    """

    strides: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    centre: float

    def anchors(self, height: int, width: int) -> FloatArray:
        """Return (A, 4) anchors for a frame, computed cell by cell."""
        rows = [
            [(column + self.centre) * stride, (row + self.centre) * stride, size, size]
            for stride, sizes in zip(self.strides, self.sizes, strict=True)
            for row in range(-(-height // stride))
            for column in range(-(-width // stride))
            for size in sizes
        ]
        return np.array(rows, np.float32)


class FrameInput(nn.Module):
    """Pixels as the published network takes them, and the anchors of the frame."""

    def __init__(self, grid: AnchorGrid, mean_rgb: Sequence[float], std: float, *, bgr: bool) -> None:
        """Subtract ``mean_rgb``, divide by ``std``, and turn the colours round for a network that takes BGR."""
        super().__init__()
        self.grid = grid
        self.mean_rgb = torch.tensor(mean_rgb).reshape(1, 3, 1, 1)
        self.std = std
        self.bgr = bgr

    def forward(self, image_rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, H, W, 3) uint8 to (N, 3, H, W) float32 and (A, 4) anchors."""
        pixels = (image_rgb.permute(0, 3, 1, 2).float() - self.mean_rgb) / self.std
        levels = []
        for stride, sizes in zip(self.grid.strides, self.grid.sizes, strict=True):
            rows = torch.arange((image_rgb.shape[1] + stride - 1) // stride)
            columns = torch.arange((image_rgb.shape[2] + stride - 1) // stride)
            y, x = torch.meshgrid(
                (rows.float() + self.grid.centre) * stride, (columns.float() + self.grid.centre) * stride, indexing="ij"
            )
            centres = torch.stack((x, y), dim=2).reshape(-1, 1, 2).repeat(1, len(sizes), 1)
            sides = torch.tensor(sizes).float().reshape(1, -1, 1) + torch.zeros_like(centres)
            levels.append(torch.cat((centres, sides), dim=2).reshape(-1, 4))
        return pixels.flip(1) if self.bgr else pixels, torch.cat(levels)


class Decode(nn.Module):
    """Heads to candidates: the best anchors as boxes with landmarks. A family says how one anchor is decoded."""

    head_names: tuple[str, ...]

    def merge(self, heads: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return (N, A) scores, (N, A, 4) raw boxes and (N, A, 10) raw landmarks."""
        raise NotImplementedError

    def boxes(self, raw: Tensor, anchors: Tensor) -> Tensor:
        """Return xyxy (N, K, 4) for raw boxes and anchors of that shape."""
        raise NotImplementedError

    def points(self, raw: Tensor, anchors: Tensor) -> Tensor:
        """Return landmarks (N, K, 5, 2) for raw ones of that shape and anchors (N, K, 4)."""
        raise NotImplementedError

    def forward(self, anchors: Tensor, *heads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (A, 4) anchors and the heads to bbox (N, K, 4), score (N, K) and kps (N, K, 5, 2)."""
        scores, raw_boxes, raw_points = self.merge(heads)
        count = scores.shape[1]
        score, index = torch.topk(functional.pad(scores, (0, CANDIDATES)), CANDIDATES, dim=1)
        index = torch.minimum(index, torch.as_tensor(count - 1)).unsqueeze(2)
        anchor = anchors[index.squeeze(2)]
        bbox = self.boxes(raw_boxes.gather(1, index.expand(-1, -1, 4)), anchor)
        kps = raw_points.gather(1, index.expand(-1, -1, 2 * NUM_KPS))
        return bbox, score, self.points(kps.reshape(kps.shape[0], CANDIDATES, NUM_KPS, 2), anchor)


def build_graph(
    network: onnx.ModelProto, frame_input: FrameInput, decode: Decode, heads: Sequence[str], example_hw: tuple[int, int]
) -> onnx.ModelProto:
    """Put preprocessing, decode and suppression around a network with a free batch axis.

    Args:
        network: Published network; its first input takes the pixels.
        frame_input: What comes before it.
        decode: What comes after it.
        heads: Outputs of the network, in the order that ``decode`` takes them.
        example_hw: Frame to trace with.
    """
    frame = torch.zeros(1, *example_hw, 3, dtype=torch.uint8)
    before = export_module(
        frame_input,
        (frame,),
        ["image_rgb"],
        ["pixels", "anchors"],
        {
            "image_rgb": {0: "N", 1: "H", 2: "W"},
            "pixels": {0: "N", 2: "H", 3: "W"},
            "anchors": {0: "A"},
        },
    )
    anchors = torch.from_numpy(frame_input.grid.anchors(*example_hw))
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in network.graph.output
    }
    examples = _example_heads(decode, frame_input.grid, example_hw, [shapes[name][-1] for name in heads])
    after = export_module(
        decode,
        (anchors, *examples),
        ["anchors", *decode.head_names],
        ["candidate_bbox", "candidate_score", "candidate_kps"],
        {
            "anchors": {0: "A"},
            **{name: {0: "N", 1: f"{name}_anchors"} for name in decode.head_names},
            **{name: {0: "N"} for name in ("candidate_bbox", "candidate_score", "candidate_kps")},
        },
    )
    pixels = network.graph.input[0].name
    whole = chain(before, network, "frame/", {"pixels": pixels})
    links = {**dict(zip(heads, decode.head_names, strict=True)), "frame/anchors": "anchors"}
    candidates = chain(whole, after, "network/", links)
    return append_nms(
        candidates,
        max_faces=MAX_FACES,
        iou_threshold=IOU_THRESHOLD,
        score_floor=SCORE_FLOOR,
        num_kps=NUM_KPS,
        whole_pixels=True,
    )


def _example_heads(
    decode: Decode, grid: AnchorGrid, size_hw: tuple[int, int], columns: Sequence[int]
) -> tuple[Tensor, ...]:
    per_level = [
        -(-size_hw[0] // stride) * -(-size_hw[1] // stride) * len(sizes)
        for stride, sizes in zip(grid.strides, grid.sizes, strict=True)
    ]
    per_head = per_level * (len(columns) // len(per_level)) if len(columns) > len(per_level) else None
    counts = per_head or [sum(per_level)] * len(columns)
    return tuple(torch.rand(1, count, width) for count, width in zip(counts, columns, strict=True))


def published_reference(
    path: Path, pixels_of: Callable[[npt.NDArray[np.uint8]], FloatArray], grid: AnchorGrid, decode_one: DecodeOne
) -> Reference:
    """Return the published file as it is, followed by a plain decode and suppression in NumPy, as one reference.

    Args:
        path: Published ONNX file.
        pixels_of: Maps (H, W, 3) uint8 RGB to the (1, 3, H, W) that the file takes.
        grid: Anchors.
        decode_one: Maps the file's outputs for one picture, and (A, 4) anchors, to score (A,), xyxy (A, 4) and
            landmarks (A, 5, 2).
    """
    runner = PublishedRunner(path)

    def run(inputs: Arrays) -> Arrays:
        faces = []
        for image in inputs["image_rgb"]:
            heads = runner({runner.input_names[0]: pixels_of(image)})
            score, bbox, kps = decode_one(heads, grid.anchors(*image.shape[:2]))
            kept = suppress(bbox, score)
            faces.append((bbox[kept], score[kept], kps[kept]))
        return pad_faces(faces)

    return run


def suppress(bbox: FloatArray, score: FloatArray) -> list[int]:
    """Return which boxes stay, best first: greedy, with the +1 of boxes that include their last pixel."""
    order = [int(i) for i in np.argsort(-score, kind="stable") if score[i] > np.float32(SCORE_FLOOR)]
    kept: list[int] = []
    areas = (bbox[:, 2] - bbox[:, 0] + 1) * (bbox[:, 3] - bbox[:, 1] + 1)
    for i in order:
        if len(kept) == MAX_FACES:
            break
        others = bbox[kept]
        width = np.minimum(bbox[i, 2], others[:, 2]) - np.maximum(bbox[i, 0], others[:, 0]) + 1
        height = np.minimum(bbox[i, 3], others[:, 3]) - np.maximum(bbox[i, 1], others[:, 1]) + 1
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        if not kept or (overlap / (areas[i] + areas[kept] - overlap)).max() <= IOU_THRESHOLD:
            kept.append(i)
    return kept


def pad_faces(faces: Sequence[tuple[FloatArray, FloatArray, FloatArray]]) -> Mapping[str, npt.NDArray[np.generic]]:
    """Return the outputs of the contract for the bbox, score and kps of each picture."""
    count = len(faces)
    bbox = np.zeros((count, MAX_FACES, 4), np.float32)
    score = np.zeros((count, MAX_FACES), np.float32)
    kps = np.zeros((count, MAX_FACES, NUM_KPS, 2), np.float32)
    num_faces = np.zeros((count, 1), np.int32)
    for row, (its_bbox, its_score, its_kps) in enumerate(faces):
        found = len(its_score)
        bbox[row, :found], score[row, :found], kps[row, :found] = its_bbox, its_score, its_kps
        num_faces[row] = found
    return {"bbox": bbox, "score": score, "kps": kps, "num_faces": num_faces}
