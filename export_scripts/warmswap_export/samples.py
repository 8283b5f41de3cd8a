"""Real inputs for every stage, cut from the two demo pictures by the stages before it.

Parity checks and warm-up samples use them: random bytes would take unrealistic paths through the suppression of the
detector and the landmark geometry of the swapper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from warmswap_ensemble.contract import FACE_DETECTOR, FACE_EMBEDDER, FACE_LANDMARKER, FACE_SWAPPER
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

RunStage = Callable[[str, Arrays], Arrays]
Settings = Mapping[str, Mapping[str, Any]]


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


def make_samples(run_stage: RunStage, settings: Settings) -> dict[str, dict[str, Any]]:
    """Return one batch of two real inputs per stage; stages are run as soon as their samples are made.

    Args:
        run_stage: Runs a stage on its inputs.
        settings: Per stage, what its manifest says.
    """
    pictures = read_pictures()
    height, width = settings[FACE_DETECTOR.name]["input_size_hw"]
    size_hw = (int(height), int(width))
    fitted, scales = zip(*(fit_into(picture, size_hw) for picture in pictures), strict=True)
    detector = {"image_rgb": np.stack([letterbox(picture, size_hw, multiple=0) for picture in fitted])}
    kps_per_picture = run_stage(FACE_DETECTOR.name, detector)["kps"][:, 0]
    kps = [points / scale for points, scale in zip(kps_per_picture, scales, strict=True)]

    crops, matrices = _crops(pictures, kps, settings[FACE_LANDMARKER.name])
    landmarker = {"crop_rgb": crops}
    side = settings[FACE_LANDMARKER.name]["crop_size"]
    relative = run_stage(FACE_LANDMARKER.name, landmarker)["landmarks"]
    landmarks = [
        transform_points(points * side - 0.5, invert_affine_matrix(matrix))
        for points, matrix in zip(relative, matrices, strict=True)
    ]

    embedder = {"aligned_crop_rgb": _crops(pictures, kps, settings[FACE_EMBEDDER.name])[0]}
    embedding = run_stage(FACE_EMBEDDER.name, embedder)["embedding"]

    side = settings[FACE_SWAPPER.name]["crop_size"]
    crops, matrices = _crops(pictures, kps, settings[FACE_SWAPPER.name])
    in_crop = np.stack(
        [(transform_points(points, matrix) + 0.5) / side for points, matrix in zip(landmarks, matrices, strict=True)]
    ).astype(np.float32)
    swapper = {
        "target_crop_rgb": crops,
        "source_crop_rgb": np.ascontiguousarray(crops[::-1]),
        "target_landmarks": in_crop,
        "source_landmarks": np.ascontiguousarray(in_crop[::-1]),
        "source_embedding": np.ascontiguousarray(embedding[::-1]),
    }
    return {
        FACE_DETECTOR.name: detector,
        FACE_LANDMARKER.name: landmarker,
        FACE_EMBEDDER.name: embedder,
        FACE_SWAPPER.name: swapper,
    }


def _crops(
    pictures: list[ImageArray], kps: list[FloatArray], settings: Mapping[str, Any]
) -> tuple[ImageArray, list[MatrixArray]]:
    side = settings["crop_size"]
    matrices = [estimate_affine_matrix(points, settings["warp_template"], side) for points in kps]
    crops = [warp_crop(picture, matrix, side) for picture, matrix in zip(pictures, matrices, strict=True)]
    return np.stack(crops), matrices
