"""Typed calls of the four stages: crops in, answers out, split into batches that the stages accept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from warmswap_ensemble.contract import FACE_DETECTOR, FACE_EMBEDDER, FACE_LANDMARKER, FACE_SWAPPER, MODELS
from warmswap_ensemble.detection import FrameSettings, Rows, find_rows
from warmswap_ensemble.errors import InvalidTensorError, StageFailedError
from warmswap_ensemble.geometry import (
    FloatArray,
    ImageArray,
    MatrixArray,
    estimate_affine_matrix,
    invert_affine_matrix,
    transform_points,
    warp_crop,
)
from warmswap_ensemble.selection import faces_from_rows
from warmswap_ensemble.types import Face, Stage

Arrays = Mapping[str, npt.NDArray[Any]]
FaceInImage = tuple[ImageArray, Face]


class CallModel(Protocol):
    """Runs one stage on a batch: Triton BLS, an ONNX Runtime session, or a function of a test."""

    def __call__(self, stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        """Return the named outputs; raises ``StageFailedError`` or ``OverloadedError``."""


@dataclass(frozen=True, slots=True)
class StageCalls:
    """The stages of one pipeline, each pinned to a version.

    Attributes:
        stages: Stages by their role, which is the model's name; under ``face_swapper`` may stand one of its variants.
        call_model: Runs one of them.
        fixed_frames: Send the detector its full size always. Frames cut to the picture save time on a CPU; on a GPU
            every new shape is a cold start of its own.
        first_look: Send the detector a small frame first, where its manifest says how; see ``detection``.
    """

    stages: Mapping[str, Stage]
    call_model: CallModel
    fixed_frames: bool = False
    first_look: bool = True

    def detect(
        self, images_rgb: Sequence[ImageArray], min_score: float | None, largest_only: Sequence[bool] = ()
    ) -> list[list[Face]]:
        """Return the faces of each image, from left to right.

        Args:
            images_rgb: (H, W, 3) uint8 each, of any size.
            min_score: Least score; None = what the detector's manifest says.
            largest_only: Per image, whether the others than its largest face may be missing; empty = no.
        """
        settings = self.stages[FACE_DETECTOR.name].settings
        usual = float(settings["min_score"])
        least = usual if min_score is None else min_score
        # A small frame cannot show which faces the full one would find below the usual score.
        first_look = self.first_look and least >= usual
        frames = FrameSettings.from_manifest(settings, fixed_frames=self.fixed_frames, first_look=first_look)
        # A higher score than usual only leaves faces out: it does not change how those that stay are found.
        found = find_rows(images_rgb, self._detect_frames, frames, usual, largest_only)
        return [
            faces_from_rows(*rows, scale=scale, size_hw=(image.shape[0], image.shape[1]), min_score=least)
            for (rows, scale), image in zip(found, images_rgb, strict=True)
        ]

    def _detect_frames(self, frames: Sequence[ImageArray]) -> list[Rows]:
        """Return bbox, score and kps of each frame; frames of one size share a call.

        A picture's frame never depends on its companions, so its faces are the same whether the source comes with it
        or is known already.
        """
        rows: dict[int, Rows] = {}
        for shape in dict.fromkeys(frame.shape for frame in frames):
            positions = [i for i, frame in enumerate(frames) if frame.shape == shape]
            batch = {"image_rgb": np.stack([frames[i] for i in positions])}
            found = self._call(FACE_DETECTOR.name, batch, ("bbox", "score", "kps"))
            rows.update(zip(positions, zip(found["bbox"], found["score"], found["kps"], strict=True), strict=True))
        return [rows[i] for i in range(len(frames))]

    def embed(self, faces: Sequence[FaceInImage]) -> FloatArray:
        """Return the (F, D) embeddings of at least one face, L2 norm 1."""
        crops, _ = self._crops(FACE_EMBEDDER.name, faces)
        return self._call(FACE_EMBEDDER.name, {"aligned_crop_rgb": crops}, ("embedding",))["embedding"]

    def find_landmarks(self, faces: Sequence[FaceInImage]) -> list[MatrixArray]:
        """Return (68, 2) landmarks of at least one face, in image pixels."""
        crops, matrices = self._crops(FACE_LANDMARKER.name, faces)
        relative = self._call(FACE_LANDMARKER.name, {"crop_rgb": crops}, ("landmarks",))["landmarks"]
        side = crops.shape[1]
        return [
            transform_points(points * side - 0.5, invert_affine_matrix(matrix))
            for points, matrix in zip(relative, matrices, strict=True)
        ]

    def crops_for_swap(
        self, faces: Sequence[FaceInImage], landmarks: Sequence[MatrixArray], *, as_source: bool = False
    ) -> tuple[ImageArray, list[MatrixArray], FloatArray]:
        """Return (F, S, S, 3) crops, their affine matrices, and the (F, 68, 2) landmarks relative to them.

        Args:
            faces: Faces to cut out.
            landmarks: (68, 2) of each, in image pixels.
            as_source: Cut them as the swapper wants the source, which may differ from how it wants the target.
        """
        crops, matrices = self._crops(FACE_SWAPPER.name, faces, "source_" if as_source else "")
        side = crops.shape[1]
        relative = [
            (transform_points(points, matrix) + 0.5) / side for points, matrix in zip(landmarks, matrices, strict=True)
        ]
        return crops, matrices, np.stack(relative).astype(np.float32)

    def swap_crops(self, inputs: Arrays) -> tuple[ImageArray, FloatArray]:
        """Return (F, S, S, 3) swapped crops and their (F, S, S) masks."""
        outputs = self._call(FACE_SWAPPER.name, inputs, ("swapped_crop_rgb", "mask"))
        return outputs["swapped_crop_rgb"], outputs["mask"]

    def _crops(
        self, model: str, faces: Sequence[FaceInImage], prefix: str = ""
    ) -> tuple[ImageArray, list[MatrixArray]]:
        """Cut faces out; a setting that is not there with the prefix is taken without it."""
        settings = self.stages[model].settings
        side = int(settings.get(f"{prefix}crop_size", settings["crop_size"]))
        template = str(settings.get(f"{prefix}warp_template", settings["warp_template"]))
        try:
            matrices = [estimate_affine_matrix(face.kps, template, side) for _, face in faces]
        except InvalidTensorError as error:
            detector = self.stages[FACE_DETECTOR.name]
            raise StageFailedError(f"{detector.model} {detector.version} gave landmarks of no face: {error}") from error
        crops = [warp_crop(image, matrix, side) for (image, _), matrix in zip(faces, matrices, strict=True)]
        return np.stack(crops), matrices

    def _call(self, model: str, inputs: Arrays, output_names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Run a stage on any number of rows, at most ``max_batch`` at a time."""
        stage, most = self.stages[model], MODELS[model].max_batch
        count = len(next(iter(inputs.values())))
        parts: list[Arrays] = []
        for start in range(0, count, most):
            part = {name: array[start : start + most] for name, array in inputs.items()}
            parts.append(self.call_model(stage, part, output_names))
        outputs = {
            name: parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts])
            for name in output_names
        }
        for name, array in outputs.items():
            if len(array) != count:
                raise StageFailedError(f"{stage.model} {stage.version} gave {len(array)} rows of {name} for {count}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise StageFailedError(f"{stage.model} {stage.version} gave {name} with values that are not finite")
        return outputs
