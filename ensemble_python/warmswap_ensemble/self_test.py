"""The golden request: pictures whose right answer is known, checked whenever they are answered.

A pipeline's warm-up sends them, so a replica that answers wrongly never becomes ready; a probe may send them later.
The answer was recorded at export, with the stages that gave it. With other stages only what holds for any of them is
checked: the one face is found, and it becomes more like the source. Of twins, stages of random weights, not even that
holds: they must swap something, and in finite numbers.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from warmswap_ensemble.errors import SelfTestError
from warmswap_ensemble.geometry import FloatArray, ImageArray
from warmswap_ensemble.options import FaceSelector, SwapOptions
from warmswap_ensemble.selection import largest
from warmswap_ensemble.types import Face, FaceReport, Stage, SwapResult

GOLDEN_NAME: Final = "golden.json"
THUMBNAIL_SIDE: Final = 16
MAX_BBOX_PX: Final = 3.0
"""A box may move this far: another CPU rounds differently, another picture or detector does not fit at all."""
MAX_SIMILARITY: Final = 0.02
MAX_MEAN_GREY: Final = 3.0
"""Mean difference of the thumbnails, in grey values of 255."""
MIN_GAIN: Final = 0.03
"""Whatever the stages are, the face must become this much more like the source."""


@dataclass(frozen=True, slots=True)
class Golden:
    """The right answer to a golden request.

    Attributes:
        sizes: Encoded bytes of each picture, in the order of the pipeline's inputs.
        sha256: Digest over the pictures, see ``request_digest``.
        stages: Model name to sha256 of the version that gave the answer.
        bbox: xyxy of the one face; of the largest one where twins found several.
        embedding: Of that face, for ``face_analysis``; else empty.
        similarities: To the source, before and after the swap, for ``face_swap``; else empty.
        thumbnail_rgb: The swapped face's box averaged down to 16x16, row by row, for ``face_swap``; else empty.
        full_frames: The fields that have other values where the detector is sent full frames only.
    """

    sizes: list[int]
    sha256: str
    stages: dict[str, str]
    bbox: list[float]
    embedding: list[float]
    similarities: list[float]
    thumbnail_rgb: list[int]
    full_frames: dict[str, Any] = field(default_factory=dict)

    def with_full_frames(self, other: Golden) -> Golden:
        """Return this answer together with the one that was given with full frames only."""
        values, others = asdict(self), asdict(other)
        return replace(self, full_frames={name: others[name] for name in others if others[name] != values[name]})

    def for_full_frames(self) -> Golden:
        """Return the right answer where the detector is sent full frames only."""
        return replace(self, full_frames={}, **self.full_frames)

    def write(self, version_dir: Path) -> None:
        """Write ``golden.json`` into a version directory of a pipeline."""
        text = json.dumps(asdict(self), sort_keys=True)
        (version_dir / GOLDEN_NAME).write_text(text + "\n", encoding="utf-8")

    def is_asked(self, pictures: Sequence[bytes]) -> bool:
        """Return whether these pictures are the golden request; sizes are compared first, hashing takes time."""
        return [len(picture) for picture in pictures] == self.sizes and request_digest(pictures) == self.sha256

    def check_swap(self, stages: Mapping[str, Stage], result: SwapResult) -> None:
        """Compare an answer of ``face_swap`` with this one.

        Raises:
            SelfTestError: they differ by more than the tolerances; says in what.
        """
        swapped = _swapped_faces(stages, result)
        if digests(stages) != self.stages:
            return
        face = swapped[self._nearest([report.face for report in swapped])]
        self._check_bbox(face.face.bbox)
        for name, value, expected in zip(("before", "after"), _similarities(face), self.similarities, strict=True):
            if not abs(value - expected) <= MAX_SIMILARITY:
                raise SelfTestError(f"similarity {name} the swap is {value:.4f}, golden {expected} +- {MAX_SIMILARITY}")
        expected_rgb = np.array(self.thumbnail_rgb, np.float64).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3)
        grey = float(np.abs(thumbnail(result.pixels_rgb, self.bbox) - expected_rgb).mean())
        if not grey <= MAX_MEAN_GREY:
            raise SelfTestError(f"the swapped face differs by {grey:.1f} grey values, allowed {MAX_MEAN_GREY:g}")

    def check_analysis(self, stages: Mapping[str, Stage], faces: Sequence[Face], embeddings: FloatArray) -> None:
        """Compare an answer of ``face_analysis`` with this one.

        Raises:
            SelfTestError: they differ by more than the tolerances; says in what.
        """
        _check_analysed(stages, faces, embeddings)
        if digests(stages) != self.stages:
            return
        position = self._nearest(faces)
        self._check_bbox(faces[position].bbox)
        similarity = float(embeddings[position] @ np.array(self.embedding, np.float32))
        if not similarity >= 1 - MAX_SIMILARITY:
            raise SelfTestError(f"similarity to the golden embedding is {similarity:.4f}, least {1 - MAX_SIMILARITY}")

    def _nearest(self, faces: Sequence[Face]) -> int:
        """Return the position of the face that was recorded: the nearest, should there be several."""
        return min(range(len(faces)), key=lambda i: float(np.abs(faces[i].bbox - np.array(self.bbox)).max()))

    def _check_bbox(self, bbox: FloatArray) -> None:
        moved = float(np.abs(bbox - np.array(self.bbox)).max())
        if not moved <= MAX_BBOX_PX:
            raise SelfTestError(f"the face lies {moved:.1f} px from where it should, allowed {MAX_BBOX_PX:g}")


def golden_swap_options(stages: Mapping[str, Stage]) -> SwapOptions:
    """Return the options of a golden swap: the defaults.

    A twin's detector sees faces at random, three where there is one: swapping one of them costs what real models cost.
    """
    return SwapOptions(face_selector=FaceSelector("largest")) if _has_twins(stages) else SwapOptions()


def golden_swap(pictures: Sequence[bytes], stages: Mapping[str, Stage], result: SwapResult) -> Golden:
    """Record an answer of ``face_swap`` as the right one.

    Raises:
        SelfTestError: it is not one swapped face that became more like the source; with twins, no face was swapped.
    """
    swapped = _swapped_faces(stages, result)
    face = swapped[largest([report.face for report in swapped])]
    box = [round(float(value), 2) for value in face.face.bbox]
    return Golden(
        sizes=[len(picture) for picture in pictures],
        sha256=request_digest(pictures),
        stages=digests(stages),
        bbox=box,
        embedding=[],
        similarities=[round(value, 4) for value in _similarities(face)],
        thumbnail_rgb=thumbnail(result.pixels_rgb, box).reshape(-1).tolist(),
    )


def golden_analysis(
    pictures: Sequence[bytes], stages: Mapping[str, Stage], faces: Sequence[Face], embeddings: FloatArray
) -> Golden:
    """Record an answer of ``face_analysis`` as the right one.

    Raises:
        SelfTestError: it is not one face; with twins, it is none.
    """
    _check_analysed(stages, faces, embeddings)
    position = largest(faces)
    return Golden(
        sizes=[len(picture) for picture in pictures],
        sha256=request_digest(pictures),
        stages=digests(stages),
        bbox=[round(float(value), 2) for value in faces[position].bbox],
        embedding=[round(float(value), 5) for value in embeddings[position]],
        similarities=[],
        thumbnail_rgb=[],
    )


def read_golden(version_dir: Path) -> Golden | None:
    """Return the golden answer of a version directory, or None where there is none.

    Raises:
        SelfTestError: the file is there but cannot be read.
    """
    path = version_dir / GOLDEN_NAME
    try:
        return Golden(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise SelfTestError(f"{path} cannot be read: {error}") from error


def read_warmup_pictures(model_dir: Path, inputs: Sequence[str]) -> list[bytes]:
    """Return the pictures that the warm-up sends: ``warmup/<input>.raw``, a four-byte length before each.

    Raises:
        SelfTestError: a file is missing or cut short.
    """
    pictures = []
    for name in inputs:
        path = model_dir / "warmup" / f"{name}.raw"
        try:
            data = path.read_bytes()
            (size,) = struct.unpack_from("<I", data)
        except (OSError, struct.error) as error:
            raise SelfTestError(f"{path} cannot be read: {error}") from error
        if len(data) != 4 + size:
            raise SelfTestError(f"{path} must hold a picture of {size} bytes, got {len(data) - 4}")
        pictures.append(data[4:])
    return pictures


def request_digest(pictures: Sequence[bytes]) -> str:
    """Return the digest by which a golden request is recognised."""
    return hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in pictures)).hexdigest()


def digests(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Return the sha256 of each stage's version."""
    return {name: stage.sha256 for name, stage in stages.items()}


def thumbnail(image_rgb: ImageArray, bbox: Sequence[float]) -> ImageArray:
    """Return a box of an image averaged down to 16x16."""
    x1, y1, x2, y2 = (max(0, round(value)) for value in bbox)
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(cv2.resize(image_rgb[y1:y2, x1:x2], side, interpolation=cv2.INTER_AREA), np.uint8)


def _has_twins(stages: Mapping[str, Stage]) -> bool:
    return any(stage.twin for stage in stages.values())


def _one_face(count: int) -> None:
    if count != 1:
        raise SelfTestError(f"the golden picture shows one face, {count} were found")


def _finite_faces(*values: npt.ArrayLike) -> None:
    """Refuse what twins must not do either: find nobody, or give numbers that are none."""
    arrays = [np.asarray(value, np.float64) for value in values]
    if not len(arrays[0]):
        raise SelfTestError("the twins found no face in the golden picture")
    if not all(np.isfinite(array).all() for array in arrays):
        raise SelfTestError("the twins gave numbers that are not finite")


def _check_analysed(stages: Mapping[str, Stage], faces: Sequence[Face], embeddings: FloatArray) -> None:
    if _has_twins(stages):
        _finite_faces([face.bbox for face in faces], embeddings)
    else:
        _one_face(len(faces))


def _swapped_faces(stages: Mapping[str, Stage], result: SwapResult) -> list[FaceReport]:
    """Return the faces that were swapped, once they have passed what holds for any stages."""
    swapped = [face for face in result.faces if face.swapped]
    if _has_twins(stages):
        similarities = [(face.similarity_before, face.similarity_after) for face in swapped]
        _finite_faces([face.face.bbox for face in swapped], np.array(similarities, np.float64))
        return swapped
    _one_face(len(swapped))
    before, after = _similarities(swapped[0])
    if not after - before >= MIN_GAIN:
        raise SelfTestError(
            f"similarity to the source went from {before:.4f} to {after:.4f}, must rise by at least {MIN_GAIN}"
        )
    return swapped


def _similarities(face: FaceReport) -> tuple[float, float]:
    return face.similarity_before or 0.0, face.similarity_after or 0.0
