"""Lets a request be seen a second time, by other versions, without work that would only repeat itself.

``Recorder`` keeps what the stages were asked and answered while a request is served, as references. ``Replay`` answers
from it what would be asked of the same version again, so that only the candidate works; where its different answer
leads away from what was recorded, the second look ends there, unless the rest is needed for a measure.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from warmswap_ensemble.comparison import Placed, Seen
from warmswap_ensemble.contract import FACE_EMBEDDER
from warmswap_ensemble.geometry import FloatArray, ImageArray, MatrixArray
from warmswap_ensemble.identity import IdentityError, space_of
from warmswap_ensemble.stage_calls import Arrays, CallModel, FaceInImage, StageCalls
from warmswap_ensemble.types import Face, Stage, SwapResult


class SeenEnoughError(Exception):
    """The second look ends: what follows would ask a stable version something new."""


@dataclass(slots=True)
class Recorder:
    """What one request has asked of the stages, and what the pipeline saw of it."""

    seen: Seen = field(default_factory=Seen)
    asked: list[tuple[Stage, Arrays, Arrays]] = field(default_factory=list)
    image: bytes = b""
    source_cached: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, result: SwapResult) -> None:
        """Keep what came of a swap."""
        self.seen.gains = swap_gains(result)
        self.image, self.source_cached = result.image, result.source_cached

    def recording(self, call_model: CallModel) -> CallModel:
        """Return a ``call_model`` that is remembered."""

        def call(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
            outputs = call_model(stage, inputs, output_names)
            with self.lock:
                self.asked.append((stage, inputs, outputs))
            return outputs

        return call

    def answer_to(self, stage: Stage, inputs: Arrays, output_names: Sequence[str]) -> Arrays | None:
        """Return what a version has answered to the very same question."""
        for known, asked, outputs in self.asked:
            is_of_it = known == stage and asked.keys() == inputs.keys() and outputs.keys() >= set(output_names)
            if is_of_it and all(np.array_equal(asked[name], inputs[name]) for name in inputs):
                return outputs
        return None


@dataclass(slots=True)
class Replay:
    """A ``call_model`` for the second look.

    Attributes:
        recorder: Of the first.
        call_model: Runs a stage.
        candidates: Models that are other versions.
        may_follow: Models that may be asked something new although their version is the stable one.
    """

    recorder: Recorder
    call_model: CallModel
    candidates: Collection[str]
    may_follow: Collection[str] = ()

    def __call__(self, stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        """Answer from the record, or ask.

        Raises:
            SeenEnoughError: it is neither known nor worth asking.
        """
        if stage.model not in self.candidates:
            known = self.recorder.answer_to(stage, inputs, output_names)
            if known is not None:
                return known
            if stage.model not in self.may_follow:
                raise SeenEnoughError
        return self.call_model(stage, inputs, output_names)


@dataclass(frozen=True, slots=True)
class RecordedCalls(StageCalls):
    """Stage calls whose results are kept for a comparison."""

    seen: Seen = field(default_factory=Seen)

    @classmethod
    def of(cls, calls: StageCalls, call_model: CallModel, seen: Seen) -> RecordedCalls:
        """Return the same stages with another ``call_model``."""
        return cls(calls.stages, call_model, calls.fixed_frames, calls.first_look, seen)

    def detect(
        self, images_rgb: Sequence[ImageArray], min_score: float | None, largest_only: Sequence[bool] = ()
    ) -> list[list[Face]]:
        """As in ``StageCalls``; the first picture's faces are kept."""
        found = StageCalls.detect(self, images_rgb, min_score, largest_only)
        if self.seen.faces is None:
            self.seen.faces = found[0]
        return found

    def embed(self, faces: Sequence[FaceInImage]) -> FloatArray:
        """As in ``StageCalls``; the first rows are kept."""
        rows = StageCalls.embed(self, faces)
        if self.seen.embeddings is None:
            self.seen.embeddings, self.seen.embedded_faces = rows, _placed(faces)
            self.seen.spaces = _space_names(self.stages[FACE_EMBEDDER.name])
        return rows

    def find_landmarks(self, faces: Sequence[FaceInImage]) -> list[MatrixArray]:
        """As in ``StageCalls``; the first ones are kept."""
        found = StageCalls.find_landmarks(self, faces)
        if self.seen.landmarks is None:
            self.seen.landmarks = [np.asarray(points, np.float32) for points in found]
            self.seen.landmark_faces = _placed(faces)
        return found

    def crops_for_swap(
        self, faces: Sequence[FaceInImage], landmarks: Sequence[MatrixArray], *, as_source: bool = False
    ) -> tuple[ImageArray, list[MatrixArray], FloatArray]:
        """As in ``StageCalls``; whose crops will be swapped is kept."""
        if not as_source:
            self.seen.swapped_faces = _placed(faces)
        return StageCalls.crops_for_swap(self, faces, landmarks, as_source=as_source)

    def swap_crops(self, inputs: Arrays) -> tuple[ImageArray, FloatArray]:
        """As in ``StageCalls``; the crops are kept."""
        swapped, masks = StageCalls.swap_crops(self, inputs)
        self.seen.swapped_rgb = swapped
        return swapped, masks


def _placed(faces: Sequence[FaceInImage]) -> list[Placed]:
    """Return the faces with the numbers of their pictures, in the order in which these come."""
    numbers: dict[int, int] = {}
    return [(numbers.setdefault(id(image), len(numbers)), face) for image, face in faces]


def swap_gains(result: SwapResult) -> list[float]:
    """Return how much more like the source each swapped face became."""
    return [
        face.similarity_after - face.similarity_before
        for face in result.faces
        if face.similarity_after is not None and face.similarity_before is not None
    ]


def _space_names(embedder: Stage) -> tuple[str, ...]:
    """Return what two embedders must have in common for their embeddings to be compared."""
    try:
        return (str(space_of(embedder)),)
    except IdentityError:
        return ()
