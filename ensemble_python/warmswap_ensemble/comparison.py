"""How far the answers of two versions to one request lie apart: one measure for each kind of stage.

detector     recall, precision, iou, kps_error      of boxes matched one to one, best overlap first
landmarker   landmark_error                         mean distance, relative to the face's size
embedder     cosine                                 only within one embedding space
swapper      psnr_db, ssim, identity_gain           of the swapped crops; gain in similarity to the source
pipeline     psnr_db, ssim                          of the whole picture

All but the last are of faces that both have found, paired as the boxes are: in a set with another detector the faces
may be others, or come in another order, and what only one side has found is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from warmswap_ensemble.contract import FACE_DETECTOR, FACE_EMBEDDER, FACE_LANDMARKER, FACE_SWAPPER, swapper_variant
from warmswap_ensemble.geometry import FloatArray, ImageArray
from warmswap_ensemble.types import Face

MATCH_IOU = 0.5
"""Least overlap of two boxes of one face, as in WIDER FACE's protocol."""
MAX_PSNR_DB = 100.0
"""Of two equal pictures, instead of infinity."""


Placed = tuple[int, Face]
"""A face, and the number of its picture among those that a step looked at; 0 = the one that is answered for."""


@dataclass(slots=True)
class Seen:
    """What a pipeline has seen of one request.

    Attributes:
        faces: Of the first picture, in its pixels; ``None`` = it did not come to that.
        landmarks: (68, 2) of each face, in pixels.
        landmark_faces: Which face each of them is of.
        embeddings: (F, D) of the first call.
        embedded_faces: Which face each of their rows is of.
        swapped_rgb: (F, S, S, 3) uint8.
        swapped_faces: Which face each of them is of.
        gains: How much more like the source each swapped face became.
        image_rgb: (H, W, 3) uint8, the whole answer; only kept for a new pipeline.
    """

    faces: list[Face] | None = None
    landmarks: list[FloatArray] | None = None
    landmark_faces: Sequence[Placed] = ()
    embeddings: FloatArray | None = None
    embedded_faces: Sequence[Placed] = ()
    swapped_rgb: ImageArray | None = None
    swapped_faces: Sequence[Placed] = ()
    gains: list[float] | None = None
    image_rgb: ImageArray | None = None
    spaces: tuple[str, ...] = field(default=())


def compare(models: Sequence[str], live: Seen, other: Seen) -> dict[str, float]:
    """Return the measures for a set of models that differ.

    Args:
        models: Which of them are other versions.
        live: What the stable versions saw.
        other: What the candidates saw of the same request.

    Returns:
        Only what both sides came to see.
    """
    measures: dict[str, float] = {}
    if FACE_DETECTOR.name in models and live.faces is not None and other.faces is not None:
        measures |= compare_faces(live.faces, other.faces)
    if FACE_LANDMARKER.name in models and live.landmarks and other.landmarks:
        measures |= _compare_landmarks(live, other)
    if FACE_EMBEDDER.name in models and live.embeddings is not None and other.embeddings is not None:
        measures |= _compare_embeddings(live, other)
    if any(model == FACE_SWAPPER.name or swapper_variant(model) for model in models):
        measures |= _compare_swaps(live, other)
    if live.image_rgb is not None and other.image_rgb is not None and live.image_rgb.shape == other.image_rgb.shape:
        measures |= {"psnr_db": psnr_db(live.image_rgb, other.image_rgb), "ssim": ssim(live.image_rgb, other.image_rgb)}
    return {name: round(value, 5) for name, value in measures.items()}


def compare_faces(expected: Sequence[Face], found: Sequence[Face]) -> dict[str, float]:
    """Match faces one to one and measure; two pictures without faces agree."""
    if not expected and not found:
        return {"recall": 1.0, "precision": 1.0}
    pairs = match_faces(expected, found)
    measures = {
        "recall": len(pairs) / len(expected) if expected else 1.0,
        "precision": len(pairs) / len(found) if found else 1.0,
    }
    if pairs:
        measures["iou"] = float(np.mean([iou(expected[i].bbox, found[j].bbox) for i, j in pairs]))
        errors = [_kps_error(expected[i].kps, found[j].kps) for i, j in pairs]
        measures["kps_error"] = float(np.mean(errors))
    return measures


def match_faces(expected: Sequence[Face], found: Sequence[Face]) -> list[tuple[int, int]]:
    """Return the positions of faces that are the same, one to one, best overlap first."""
    overlaps = sorted(
        ((iou(a.bbox, b.bbox), i, j) for i, a in enumerate(expected) for j, b in enumerate(found)), reverse=True
    )
    pairs: dict[int, int] = {}
    for overlap, i, j in overlaps:
        if overlap >= MATCH_IOU and i not in pairs and j not in pairs.values():
            pairs[i] = j
    return list(pairs.items())


def match_placed(expected: Sequence[Placed], found: Sequence[Placed]) -> list[tuple[int, int]]:
    """Return the positions of rows that are of the same face.

    Where one side looked at a picture more, since it did not know the source yet, the other pictures than the first
    may be any, and are left out.
    """
    pictures = {picture for picture, _ in expected}
    if pictures != {picture for picture, _ in found}:
        pictures = {0}
    pairs: list[tuple[int, int]] = []
    for picture in sorted(pictures):
        rows = [[row for row, (number, _) in enumerate(side) if number == picture] for side in (expected, found)]
        faces = [expected[row][1] for row in rows[0]], [found[row][1] for row in rows[1]]
        pairs += [(rows[0][i], rows[1][j]) for i, j in match_faces(*faces)]
    return pairs


def iou(first: FloatArray, second: FloatArray) -> float:
    """Return the intersection over union of two (4,) boxes xyxy."""
    size = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(np.prod(np.maximum(size, 0.0)))
    both = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - shared
    return shared / both if both > 0 else 0.0


def psnr_db(first: ImageArray, second: ImageArray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 pictures of one shape, at most ``MAX_PSNR_DB``."""
    error = float(np.mean((first.astype(np.float32) - second.astype(np.float32)) ** 2))
    return MAX_PSNR_DB if error == 0 else min(MAX_PSNR_DB, float(10 * np.log10(255**2 / error)))


def ssim(first: ImageArray, second: ImageArray) -> float:
    """Return the mean structural similarity of two (H, W, 3) uint8 pictures, of their grey values.

    Wang et al. 2004 with its Gaussian window of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03.
    """
    a, b = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (first, second))

    def blur(image: FloatArray) -> FloatArray:
        return np.asarray(cv2.GaussianBlur(image, (11, 11), 1.5), np.float32)

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return float(similarity.mean())


def _kps_error(expected: FloatArray, found: FloatArray) -> float:
    """Return the mean distance of two (5, 2) sets of points, relative to the distance of the eyes."""
    eyes = max(1e-6, float(np.linalg.norm(expected[0] - expected[1])))
    return float(np.linalg.norm(expected - found, axis=1).mean()) / eyes


def _compare_landmarks(live: Seen, other: Seen) -> dict[str, float]:
    assert live.landmarks is not None
    assert other.landmarks is not None
    errors = []
    for i, j in match_placed(live.landmark_faces, other.landmark_faces):
        expected, found = live.landmarks[i], other.landmarks[j]
        size = max(1e-6, float(np.sqrt(np.prod(expected.max(axis=0) - expected.min(axis=0)))))
        errors.append(float(np.linalg.norm(expected - found, axis=1).mean()) / size)
    return {"landmark_error": float(np.mean(errors))} if errors else {}


def _compare_embeddings(live: Seen, other: Seen) -> dict[str, float]:
    """Return the mean cosine; embeddings of two spaces cannot be compared."""
    assert live.embeddings is not None
    assert other.embeddings is not None
    if not live.spaces or live.spaces != other.spaces:  # unknown ones may be any
        return {}
    pairs = match_placed(live.embedded_faces, other.embedded_faces)
    if live.embeddings.shape[1] != other.embeddings.shape[1] or not pairs:
        return {}
    return {"cosine": float(np.mean([live.embeddings[i] @ other.embeddings[j] for i, j in pairs]))}


def _compare_swaps(live: Seen, other: Seen) -> dict[str, float]:
    measures: dict[str, float] = {}
    pairs = match_placed(live.swapped_faces, other.swapped_faces)
    if live.swapped_rgb is not None and other.swapped_rgb is not None and pairs:
        crops = [(live.swapped_rgb[i], _of_size(other.swapped_rgb[j], live.swapped_rgb[i])) for i, j in pairs]
        measures["psnr_db"] = float(np.mean([psnr_db(a, b) for a, b in crops]))
        measures["ssim"] = float(np.mean([ssim(a, b) for a, b in crops]))
    if live.gains and other.gains and pairs:
        measures["identity_gain"] = float(np.mean([other.gains[j] - live.gains[i] for i, j in pairs]))
    return measures


def _of_size(image_rgb: ImageArray, like: ImageArray) -> ImageArray:
    """Return a crop in the size of another: two swappers may work on crops of different sizes."""
    if image_rgb.shape == like.shape:
        return image_rgb
    return np.asarray(cv2.resize(image_rgb, (like.shape[1], like.shape[0]), interpolation=cv2.INTER_AREA), np.uint8)
