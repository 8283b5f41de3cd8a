"""Values that travel between the steps of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from warmswap_ensemble.geometry import FloatArray, ImageArray


@dataclass(frozen=True, slots=True)
class Face:
    """One detected face, in pixels of the decoded, upright picture.

    Attributes:
        bbox: (4,) float32 xyxy, clipped to the picture.
        score: Detector score, 0 to 1.
        kps: (5, 2) float32, order as in ``contract.KPS_ORDER``.
    """

    bbox: FloatArray
    score: float
    kps: FloatArray

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return float((self.bbox[2] - self.bbox[0]) * (self.bbox[3] - self.bbox[1]))


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage model as the pipeline uses it: one version, pinned.

    Attributes:
        model: Name in the repository.
        version: Version that every call names.
        sha256: Digest over the version's files.
        settings: ``settings`` of its manifest.
        twin: Whether its weights are random numbers, so that its answers mean nothing.
    """

    model: str
    version: int
    sha256: str
    settings: Mapping[str, Any]
    twin: bool = False


@dataclass(frozen=True, slots=True)
class SourceFace:
    """All that the swap needs of the source, ready to be used again for the next target.

    Attributes:
        face: The face that was selected.
        embedding: (D,) float32 of L2 norm 1.
        crop_rgb: (S, S, 3) uint8, cut for the swapper's ``source_crop_rgb``.
        landmarks: (68, 2) float32, relative to ``crop_rgb``.
    """

    face: Face
    embedding: FloatArray
    crop_rgb: ImageArray
    landmarks: FloatArray


@dataclass(slots=True)
class FaceReport:
    """What became of one face of the target."""

    face: Face
    swapped: bool = False
    similarity_before: float | None = None
    similarity_after: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the face as it stands in the report."""
        return {
            "bbox": [round(float(value), 2) for value in self.face.bbox],
            "score": round(self.face.score, 4),
            "swapped": self.swapped,
            "similarity_before": _rounded(self.similarity_before),
            "similarity_after": _rounded(self.similarity_after),
        }


@dataclass(frozen=True, slots=True)
class SwapResult:
    """A swapped picture and what was done.

    Attributes:
        image: Encoded picture.
        pixels_rgb: (H, W, 3) uint8, the picture before it was encoded.
        faces: Every face found in the target, from left to right.
        source: The face that was taken, or None when nothing was swapped.
        source_cached: Whether it came from the cache.
        image_info: ``format``, ``width`` and ``height`` of ``image``.
        timings_ms: Time per step.
    """

    image: bytes
    pixels_rgb: ImageArray
    faces: list[FaceReport]
    source: Face | None
    source_cached: bool
    image_info: dict[str, Any]
    timings_ms: dict[str, float]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
