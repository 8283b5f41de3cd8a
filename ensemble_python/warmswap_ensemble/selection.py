"""From the detector's rows to the faces that a request means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmswap_ensemble.errors import FaceIndexError, NoFaceError
from warmswap_ensemble.geometry import FloatArray
from warmswap_ensemble.options import FaceSelector
from warmswap_ensemble.types import Face


def faces_from_rows(
    bbox: FloatArray, score: FloatArray, kps: FloatArray, *, scale: float, size_hw: tuple[int, int], min_score: float
) -> list[Face]:
    """Turn one picture's rows of the detector into faces, from left to right.

    Args:
        bbox: (K, 4) xyxy in pixels of the letterboxed frame.
        score: (K,), 0 = padding.
        kps: (K, 5, 2) in pixels of the frame.
        scale: Frame pixels per image pixel.
        size_hw: Height and width of the image; boxes are clipped to it.
        min_score: Faces below it are left out.
    """
    height, width = size_hw
    faces = []
    for row in np.flatnonzero((score >= max(min_score, 1e-6)) & np.isfinite(kps).all(axis=(1, 2))):
        box = (bbox[row] / scale).clip(0, (width, height, width, height)).astype(np.float32)
        if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
            faces.append(Face(box, float(score[row]), (kps[row] / scale).astype(np.float32)))
    return sorted(faces, key=lambda face: float(face.bbox[0] + face.bbox[2]))


def select_faces(
    faces: Sequence[Face], selector: FaceSelector, image_name: str, similarities: Sequence[float] = (), floor: float = 0
) -> list[int]:
    """Return the positions of the faces that a selector means.

    Args:
        faces: Faces from left to right.
        selector: What the request asks for.
        image_name: Picture in error messages.
        similarities: Per face, cosine to the reference face; for ``reference`` only.
        floor: Least similarity; for ``reference`` only.

    Raises:
        NoFaceError: there is no face, or none like the reference.
        FaceIndexError: ``index:K`` names a face that is not there.
    """
    if not faces:
        raise NoFaceError(f"no face was found in {image_name}; use a larger or clearer picture, or a lower min_score")
    if selector.kind == "all":
        return list(range(len(faces)))
    if selector.kind == "largest":
        return [largest(faces)]
    if selector.kind == "index":
        if selector.index >= len(faces):
            raise FaceIndexError(
                f"index:{selector.index} is out of range: {image_name} has {len(faces)} face(s), "
                "counted from 0 at the left"
            )
        return [selector.index]
    chosen = [i for i, similarity in enumerate(similarities) if similarity >= floor]
    if not chosen:
        raise NoFaceError(
            f"no face of {image_name} is like the reference face: best similarity {max(similarities):.3f}, "
            f"reference_threshold {floor:.3f}"
        )
    return chosen


def largest(faces: Sequence[Face]) -> int:
    """Return the position of the face with the largest box."""
    return max(range(len(faces)), key=lambda i: faces[i].area)


def keep_largest(faces: Sequence[Face], chosen: Sequence[int], max_faces: int) -> list[int]:
    """Return at most ``max_faces`` of the chosen positions, the largest faces, in their order."""
    best = sorted(chosen, key=lambda i: -faces[i].area)[:max_faces]
    return sorted(best)
