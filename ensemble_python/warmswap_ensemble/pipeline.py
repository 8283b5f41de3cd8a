"""The order of steps from two encoded pictures to a swapped one. Knows arrays and ``call_model``, not Triton.

decode -> detect (a small frame first; frames of one size share a call) -> select -> crops -> landmarks and embeddings
-> swap (all faces in one call) -> paste into each face's box -> encode -> report
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from warmswap_ensemble.compositing import paste_crop
from warmswap_ensemble.contract import FACE_EMBEDDER
from warmswap_ensemble.errors import FaceIndexError, InvalidOptionError, NoFaceError, RequestCancelledError
from warmswap_ensemble.geometry import FloatArray, MatrixArray
from warmswap_ensemble.image import DecodedImage, ImageLimits, decode_image, encode_image
from warmswap_ensemble.options import AnalyzeOptions, FaceSelector, SwapOptions
from warmswap_ensemble.selection import keep_largest, select_faces
from warmswap_ensemble.source_cache import SourceCache, source_key
from warmswap_ensemble.stage_calls import FaceInImage, StageCalls
from warmswap_ensemble.types import Face, FaceReport, SourceFace, SwapResult

LARGEST: Final = FaceSelector("largest")


@dataclass(slots=True)
class Timer:
    """Adds up the time spent per step, in milliseconds."""

    ms: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block under ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] = self.ms.get(name, 0.0) + (time.perf_counter() - start) * 1e3

    def finish(self) -> dict[str, float]:
        """Return all steps and ``total``, rounded to microseconds."""
        total = (time.perf_counter() - self.started) * 1e3
        return {name: round(value, 3) for name, value in (*self.ms.items(), ("total", total))}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Chains the stages for one request at a time.

    Attributes:
        calls: The stages.
        limits: Largest pictures accepted.
        cache: Sources seen before; only ``swap`` uses it.
        executor: Where steps that do not depend on each other run side by side.
    """

    calls: StageCalls
    limits: ImageLimits
    cache: SourceCache
    executor: Executor

    def analyze(self, image: bytes, options: AnalyzeOptions) -> tuple[list[Face], FloatArray]:
        """Find and embed the faces of a picture.

        Returns:
            Faces from left to right, and their (F, D) embeddings of L2 norm 1; F may be 0.

        Raises:
            PipelineError: see ``errors``.
        """
        decoded = decode_image(image, "image", self.limits)
        (faces,) = self.calls.detect([decoded.pixels_rgb], options.min_score)
        faces = [faces[i] for i in keep_largest(faces, range(len(faces)), options.max_faces)]
        if not faces:
            length = int(self.calls.stages[FACE_EMBEDDER.name].settings["embedding_length"])
            return [], np.zeros((0, length), np.float32)
        return faces, self.calls.embed([(decoded.pixels_rgb, face) for face in faces])

    def swap(
        self,
        source_image: bytes,
        target_image: bytes,
        reference_image: bytes | None,
        options: SwapOptions,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> SwapResult:
        """Put the face of one picture onto faces of another.

        Args:
            source_image: Encoded picture of the face to take.
            target_image: Encoded picture to change.
            reference_image: Encoded picture of the face to replace, for ``face_selector=reference``.
            options: What the request asks for.
            is_cancelled: Tells whether nobody waits any more; asked before the costly steps.

        Raises:
            PipelineError: see ``errors``.
        """
        _check_reference(reference_image, options)
        timer = Timer()
        with timer.step("decode"):
            wanted = (options.source_face_selector, options.min_score)
            key = source_key(source_image, self.calls.stages.values(), *wanted)
            source = self.cache.get(key)
            encoded = {"target_image": target_image}
            if source is None:
                encoded["source_image"] = source_image
            if reference_image is not None:
                encoded["reference_image"] = reference_image
            pictures = self._decode(encoded)
        _stop_if(is_cancelled)

        with timer.step("detect"):
            largest = {"reference_image"} | ({"source_image"} if options.source_face_selector == LARGEST else set())
            pixels = [picture.pixels_rgb for picture in pictures.values()]
            detected = self.calls.detect(pixels, options.min_score, [name in largest for name in pictures])
            found = dict(zip(pictures, detected, strict=True))
        target, faces = pictures["target_image"], found["target_image"]
        also: dict[str, FaceInImage] = {}
        for name, selector in (("source_image", options.source_face_selector), ("reference_image", LARGEST)):
            if name in found:
                (position,) = select_faces(found[name], selector, name)
                also[name] = (pictures[name].pixels_rgb, found[name][position])
        reports = [FaceReport(face) for face in faces]
        try:
            candidates = self._candidates(faces, options)
            landmarks, embeddings = self._look_at(target, [faces[i] for i in candidates], also, timer)
            if source is None:
                source = self._remember_source(key, also["source_image"], landmarks.pop(), embeddings["source_image"])
            if reference_image is not None:
                similarities = embeddings["target_image"] @ embeddings["reference_image"]
                chosen = self._like_reference(faces, similarities, options)
            else:
                chosen = list(range(len(candidates)))
        except (NoFaceError, FaceIndexError):
            if options.on_no_face != "passthrough":
                raise
            return _passthrough(target_image, target, reports, options, timer)
        _stop_if(is_cancelled)

        positions = [candidates[i] for i in chosen]
        before = embeddings["target_image"][chosen] @ source.embedding
        self._swap_into(target, [faces[i] for i in positions], [landmarks[i] for i in chosen], source, timer)
        image_format = target.format if options.output_format == "same" else options.output_format
        with timer.step("encode_and_embed"):
            encoding = self.executor.submit(encode_image, target, image_format, options.quality)
            after = self.calls.embed([(target.pixels_rgb, faces[i]) for i in positions]) @ source.embedding
            image = encoding.result()
        for position, similarity_before, similarity_after in zip(positions, before, after, strict=True):
            report = reports[position]
            report.swapped = True
            report.similarity_before, report.similarity_after = float(similarity_before), float(similarity_after)
        return SwapResult(
            image=image,
            pixels_rgb=target.pixels_rgb,
            faces=reports,
            source=source.face,
            source_cached="source_image" not in also,
            image_info=_image_info(target, image_format),
            timings_ms=timer.finish(),
        )

    def _decode(self, encoded: dict[str, bytes]) -> dict[str, DecodedImage]:
        """Decode several pictures side by side; the first error in their order is raised."""
        if len(encoded) == 1:
            return {name: decode_image(data, name, self.limits) for name, data in encoded.items()}
        futures = [self.executor.submit(decode_image, data, name, self.limits) for name, data in encoded.items()]
        return {name: future.result() for name, future in zip(encoded, futures, strict=True)}

    def _candidates(self, faces: Sequence[Face], options: SwapOptions) -> list[int]:
        """Return the faces of the target that may be swapped: all of them where a reference will decide."""
        if options.face_selector.kind == "reference":
            return select_faces(faces, FaceSelector("all"), "target_image")
        return keep_largest(faces, select_faces(faces, options.face_selector, "target_image"), options.max_faces)

    def _look_at(
        self, target: DecodedImage, faces: Sequence[Face], also: dict[str, FaceInImage], timer: Timer
    ) -> tuple[list[MatrixArray], dict[str, FloatArray]]:
        """Find landmarks and embeddings side by side.

        Returns:
            Landmarks of the target's faces, the source's last if it is among ``also``; and per picture its
            embeddings: (F, D) for ``target_image``, (D,) for the others.
        """
        in_target = [(target.pixels_rgb, face) for face in faces]
        with_source = [also["source_image"]] if "source_image" in also else []
        with timer.step("landmarks_and_embed"):
            finding = self.executor.submit(self.calls.find_landmarks, [*in_target, *with_source])
            rows = self.calls.embed([*in_target, *also.values()])
            landmarks = finding.result()
        embeddings = dict(zip(also, rows[len(faces) :], strict=True))
        return landmarks, {"target_image": rows[: len(faces)], **embeddings}

    def _remember_source(
        self, key: object, source: FaceInImage, landmarks: MatrixArray, embedding: FloatArray
    ) -> SourceFace:
        crops, _, relative = self.calls.crops_for_swap([source], [landmarks], as_source=True)
        known = SourceFace(source[1], embedding, crops[0], relative[0])
        self.cache.put(key, known)
        return known

    def _like_reference(self, faces: Sequence[Face], similarities: FloatArray, options: SwapOptions) -> list[int]:
        threshold = options.reference_threshold
        if threshold is None:
            threshold = float(self.calls.stages[FACE_EMBEDDER.name].settings["same_person_similarity"])
        chosen = select_faces(faces, options.face_selector, "target_image", similarities.tolist(), threshold)
        return keep_largest(faces, chosen, options.max_faces)

    def _swap_into(
        self,
        target: DecodedImage,
        faces: Sequence[Face],
        landmarks: Sequence[MatrixArray],
        source: SourceFace,
        timer: Timer,
    ) -> None:
        """Swap faces of the target, in place."""
        count = len(faces)
        with timer.step("swap"):
            in_target = [(target.pixels_rgb, face) for face in faces]
            crops, matrices, relative = self.calls.crops_for_swap(in_target, landmarks)
            swapped, masks = self.calls.swap_crops(
                {
                    "target_crop_rgb": crops,
                    "source_crop_rgb": np.repeat(source.crop_rgb[None], count, axis=0),
                    "target_landmarks": relative,
                    "source_landmarks": np.repeat(source.landmarks[None], count, axis=0),
                    "source_embedding": np.repeat(source.embedding[None], count, axis=0),
                }
            )
        with timer.step("composite"):
            for crop, mask, matrix in zip(swapped, masks, matrices, strict=True):
                paste_crop(target.pixels_rgb, crop, mask, matrix)


def _check_reference(reference_image: bytes | None, options: SwapOptions) -> None:
    wanted = options.face_selector.kind == "reference"
    if wanted and reference_image is None:
        raise InvalidOptionError("face_selector=reference needs the input reference_image")
    if not wanted and reference_image is not None:
        raise InvalidOptionError("reference_image is only used with face_selector=reference")
    if not wanted and options.reference_threshold is not None:
        raise InvalidOptionError("reference_threshold is only used with face_selector=reference")


def _stop_if(is_cancelled: Callable[[], bool]) -> None:
    if is_cancelled():
        raise RequestCancelledError("the client gave up on the request")


def _passthrough(
    data: bytes, target: DecodedImage, reports: list[FaceReport], options: SwapOptions, timer: Timer
) -> SwapResult:
    """Answer with the target unchanged: the very same bytes, unless another format is asked for."""
    image_format = target.format
    if options.output_format not in ("same", target.format):
        image_format = options.output_format
        with timer.step("encode"):
            data = encode_image(target, image_format, options.quality)
    return SwapResult(data, target.pixels_rgb, reports, None, False, _image_info(target, image_format), timer.finish())


def _image_info(image: DecodedImage, image_format: str) -> dict[str, object]:
    height, width = image.pixels_rgb.shape[:2]
    return {"format": image_format, "width": width, "height": height}
