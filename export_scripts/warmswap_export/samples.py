"""Real inputs for every stage, cut from the two demo pictures.

Parity checks and warm-up samples use them: random bytes would take unrealistic paths through the suppression of the
detector and the landmark geometry of the swapper. Where the faces are is found by the models of the ``open`` pack, so
a stage can be checked alone, and a twin, which finds nothing, gets real crops too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from warmswap_ensemble.contract import FACE_DETECTOR, FACE_EMBEDDER, FACE_LANDMARKER
from warmswap_ensemble.detection import FrameSettings
from warmswap_ensemble.geometry import (
    FloatArray,
    ImageArray,
    MatrixArray,
    estimate_affine_matrix,
    fit_into,
    invert_affine_matrix,
    letterbox,
    transform_points,
    warp_crop,
)
from warmswap_export.built import Arrays

DEMO_PICTURES = ("eileen_collins.png", "grace_hopper.jpg")
EMBEDDING_SEED: Final = 0

RunStage = Callable[[str, Arrays], Arrays]
Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KnownFaces:
    """The faces of the demo pictures.

    Attributes:
        pictures: (H, W, 3) uint8 RGB each.
        kps: (5, 2) each, in pixels of the picture.
        landmarks: (68, 2) each, in pixels of the picture.
    """

    pictures: list[ImageArray]
    kps: list[FloatArray]
    landmarks: list[MatrixArray]

    def crops(
        self, settings: Settings, side: int | None = None, template: str | None = None
    ) -> tuple[ImageArray, list[MatrixArray]]:
        """Return the (2, S, S, 3) crops that a stage with these settings gets, and their affine matrices."""
        side, template = side or int(settings["crop_size"]), template or settings["warp_template"]
        matrices = [estimate_affine_matrix(points, template, side) for points in self.kps]
        crops = [warp_crop(picture, matrix, side) for picture, matrix in zip(self.pictures, matrices, strict=True)]
        return np.stack(crops), matrices

    def landmarks_in(self, matrices: list[MatrixArray], side: int) -> FloatArray:
        """Return the (2, 68, 2) landmarks relative to crops."""
        moved = [
            (transform_points(points, matrix) + 0.5) / side
            for points, matrix in zip(self.landmarks, matrices, strict=True)
        ]
        return np.asarray(np.stack(moved), np.float32)


def examples_dir() -> Path:
    """Return the folder of the demo pictures in the checkout."""
    return Path(__file__).resolve().parents[2] / "examples"


def read_pictures() -> list[ImageArray]:
    """Return the demo pictures as (H, W, 3) uint8 RGB."""
    pictures = []
    for name in DEMO_PICTURES:
        image_bgr = cv2.imread(str(examples_dir() / name))
        if image_bgr is None:
            raise FileNotFoundError(examples_dir() / name)
        pictures.append(np.ascontiguousarray(image_bgr[:, :, ::-1]))
    return pictures


def find_faces(run_stage: RunStage, settings: Mapping[str, Settings]) -> KnownFaces:
    """Find the faces of the demo pictures with a real detector and landmarker.

    Args:
        run_stage: Runs a stage on its inputs.
        settings: Per stage, what its manifest says.
    """
    pictures = read_pictures()
    frames, scales = _frames(pictures, settings[FACE_DETECTOR.name])
    kps_per_picture = run_stage(FACE_DETECTOR.name, {"image_rgb": frames})["kps"][:, 0]
    kps = [points / scale for points, scale in zip(kps_per_picture, scales, strict=True)]
    crops, matrices = KnownFaces(pictures, kps, []).crops(settings[FACE_LANDMARKER.name])
    relative = run_stage(FACE_LANDMARKER.name, {"crop_rgb": crops})["landmarks"]
    landmarks = [
        transform_points(points * crops.shape[1] - 0.5, invert_affine_matrix(matrix))
        for points, matrix in zip(relative, matrices, strict=True)
    ]
    return KnownFaces(pictures, kps, landmarks)


def stage_samples(model: str, settings: Settings, faces: KnownFaces) -> dict[str, Any]:
    """Return one batch of two real inputs of a stage; for a swapper without ``source_embedding``.

    Args:
        model: Stage.
        settings: What its manifest says.
        faces: The faces of the demo pictures.
    """
    if model == FACE_DETECTOR.name:
        return {"image_rgb": _frames(faces.pictures, settings)[0]}
    crops, matrices = faces.crops(settings)
    if model == FACE_LANDMARKER.name:
        return {"crop_rgb": crops}
    if model == FACE_EMBEDDER.name:
        return {"aligned_crop_rgb": crops}
    source_crops, source_matrices = faces.crops(
        settings, settings.get("source_crop_size"), settings.get("source_warp_template")
    )
    source_landmarks = faces.landmarks_in(source_matrices, source_crops.shape[1])
    return {
        "target_crop_rgb": crops,
        "source_crop_rgb": np.ascontiguousarray(source_crops[::-1]),
        "target_landmarks": faces.landmarks_in(matrices, crops.shape[1]),
        "source_landmarks": np.ascontiguousarray(source_landmarks[::-1]),
    }


def first_look_frames(settings: Settings, faces: KnownFaces) -> dict[str, Any]:
    """Return a (1, H, W, 3) small frame and a window of the first demo picture; nothing without ``first_look``."""
    if "first_look" not in settings:
        return {}
    frames = FrameSettings.from_manifest(settings, fixed_frames=False, first_look=True)
    assert frames.first_look is not None
    picture, side = faces.pictures[0], frames.first_look.window_px
    small = letterbox(fit_into(picture, frames.first_look.frame_hw)[0], frames.first_look.frame_hw, frames.multiple)
    fitted, scale = fit_into(picture, frames.full_hw)
    x, y = (faces.kps[0].mean(axis=0) * scale - side / 2).clip(0, (fitted.shape[1] - side, fitted.shape[0] - side))
    window = fitted[round(float(y)) :, round(float(x)) :][:side, :side]
    return {"small_image_rgb": small[None], "window_image_rgb": window[None]}


def any_embedding(length: int) -> FloatArray:
    """Return two seeded vectors of length one: (2, length), for a swapper whose embedder is not at hand."""
    vectors = np.random.default_rng(EMBEDDING_SEED).normal(size=(2, length))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _frames(pictures: list[ImageArray], settings: Settings) -> tuple[ImageArray, tuple[float, ...]]:
    height, width = settings["input_size_hw"]
    size_hw = (int(height), int(width))
    fitted, scales = zip(*(fit_into(picture, size_hw) for picture in pictures), strict=True)
    return np.stack([letterbox(picture, size_hw, multiple=0) for picture in fitted]), scales
