"""Everything around a swapper's network: insightface's ``INSwapper.get`` against warmswap's crop, warp and paste.

Both run the same tiny network, which costs nothing and always gives the same crop, and both are given the landmarks.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import cv2
import numpy as np

from warmswap_ensemble.compositing import paste_crop
from warmswap_ensemble.geometry import (
    FloatArray,
    ImageArray,
    clip_bbox,
    estimate_affine_matrix,
    invert_affine_matrix,
    warp_crop,
)
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.onnx_session import open_session
from warmswap_loadtests.paste_scenes import CASES, SOURCE, TARGET, TEMPLATE, Scene, box_mask, build_scene, swapped_crop
from warmswap_loadtests.quiet_insightface import import_insightface, insightface_version, quiet
from warmswap_loadtests.stats import median_of_ratios
from warmswap_loadtests.tiny_swapper import CROP_SIZE, EMBEDDING_LENGTH, write_tiny_swapper

PANEL_PX: Final = 640
GAIN: Final = 8
"""How much larger the picture of the differences shows them."""
OURS_PER_TURN: Final = 5


@dataclass(frozen=True, slots=True)
class PasteOptions:
    """How much is measured.

    Attributes:
        examples: Folder with the demo pictures.
        rounds: Times that both take turns.
        out: Folder for the pictures; ``None`` = write none.
        opencv_threads: Threads of OpenCV, for both; 0 = a thread per core.
    """

    examples: Path
    rounds: int
    out: Path | None = None
    opencv_threads: int = 0


def measure_paste(options: PasteOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Time both on every case, and compare their pictures.

    Raises:
        BenchError: something is missing, or ours touched a pixel outside of its mask.
    """
    cv2.setNumThreads(options.opencv_threads or os.cpu_count() or 1)
    source_rgb, target_rgb = (portrait.read(options.examples) for portrait in (SOURCE, TARGET))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="warmswap_bench_") as folder:
        path = Path(folder) / "tiny_swapper.onnx"
        write_tiny_swapper(path, swapped_crop(source_rgb, target_rgb))
        session = open_session(path, 1)
        theirs, ours = InsightFacePaste(path, session), OurPaste(session)
    cases = []
    for case in CASES:
        progress(f"{case.frame}, {case.faces} faces of {case.face_px} pixels")
        scene = build_scene(case, target_rgb)
        times_ms = _run_rounds(scene, theirs, ours, options.rounds)
        their_rgb, our_rgb = theirs.swap(to_bgr(scene.frame_rgb), scene.kps)[..., ::-1], scene.frame_rgb.copy()
        ours.swap(our_rgb, scene.kps)
        differences = compare(scene, ours.mask, their_rgb, our_rgb)
        if options.out:
            _write_pictures(options.out, case.name, scene, their_rgb, our_rgb)
        if differences["outside_mask"]["ours_max"] > 0:
            raise BenchError(f"{case.name}: ours changed pixels outside of the mask: {differences['outside_mask']}")
        cases.append(
            {
                "case": case.name,
                "frame": case.frame,
                "faces": case.faces,
                "face_px": case.face_px,
                "crop_px": scene.crop_px,
                "insightface_ms": statistics.median(times_ms["insightface"]),
                "ours_ms": statistics.median(times_ms["ours"]),
                "copy_ms": statistics.median(times_ms["copy"]),
                "ratio": median_of_ratios(times_ms["insightface"], times_ms["ours"]),
                **differences,
            }
        )
    return {
        "insightface": insightface_version(),
        "rounds": options.rounds,
        "opencv_threads": cv2.getNumThreads(),
        "pictures": str(options.out) if options.out else None,
        "cases": cases,
    }


class InsightFacePaste:
    """insightface's ``INSwapper`` over the tiny network."""

    def __init__(self, path: Path, session: Any) -> None:
        """Make one.

        Raises:
            BenchError: insightface is not installed.
        """
        inswapper, common = import_insightface("model_zoo.inswapper"), import_insightface("app.common")
        with quiet():
            self._swapper = inswapper.INSwapper(model_file=str(path), session=session)
        self._face = common.Face
        self._source = common.Face(embedding=np.ones(EMBEDDING_LENGTH, np.float32))

    def swap(self, frame_bgr: ImageArray, all_kps: Sequence[FloatArray]) -> ImageArray:
        """Return a new frame with all faces swapped, one after the other."""
        with quiet():
            for kps in all_kps:
                frame_bgr = self._swapper.get(frame_bgr, self._face(kps=kps), self._source, paste_back=True)
        return frame_bgr


class OurPaste:
    """The same with the functions of the pipeline."""

    def __init__(self, session: Any) -> None:
        """Make one."""
        self._session = session
        self.mask = box_mask()  # an output of the real network, the same for every face
        self._emap = np.eye(EMBEDDING_LENGTH, dtype=np.float32)
        self._embedding = np.full((1, EMBEDDING_LENGTH), EMBEDDING_LENGTH**-0.5, np.float32)

    def swap(self, frame_rgb: ImageArray, all_kps: Sequence[FloatArray]) -> None:
        """Swap all faces of a frame, in place: cut all of them out, swap, paste."""
        matrices = [estimate_affine_matrix(kps, TEMPLATE, CROP_SIZE) for kps in all_kps]
        swapped = [self._run(warp_crop(frame_rgb, matrix, CROP_SIZE)) for matrix in matrices]
        for crop_rgb, matrix in zip(swapped, matrices, strict=True):
            paste_crop(frame_rgb, crop_rgb, self.mask, matrix)

    def _run(self, crop_rgb: ImageArray) -> ImageArray:
        latent = self._embedding @ self._emap
        latent /= np.linalg.norm(latent)
        blob = cv2.dnn.blobFromImage(crop_rgb, 1 / 255)
        planes = self._session.run(["output"], {"target": blob, "source": latent})[0][0]
        return np.ascontiguousarray((255 * planes.transpose(1, 2, 0)).clip(0, 255).astype(np.uint8))


def to_bgr(image: ImageArray) -> ImageArray:
    """Return the picture with its colours in the opposite order."""
    return np.ascontiguousarray(image[..., ::-1])


def _run_rounds(scene: Scene, theirs: InsightFacePaste, ours: OurPaste, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds for the whole frame, a value per round; the first, which warms up, is left out."""
    frame_bgr = to_bgr(scene.frame_rgb)
    times_ms: dict[str, list[float]] = {"insightface": [], "ours": [], "copy": []}
    for _ in range(rounds + 1):
        start = time.perf_counter()
        theirs.swap(frame_bgr, scene.kps)
        times_ms["insightface"].append((time.perf_counter() - start) * 1e3)
        turn_ms, copy_ms = [], []
        for _ in range(OURS_PER_TURN):
            start = time.perf_counter()
            frame_rgb = scene.frame_rgb.copy()
            copied = time.perf_counter()
            ours.swap(frame_rgb, scene.kps)
            turn_ms.append((time.perf_counter() - copied) * 1e3)
            copy_ms.append((copied - start) * 1e3)
        times_ms["ours"].append(statistics.median(turn_ms))
        times_ms["copy"].append(statistics.median(copy_ms))
    return {name: values[1:] for name, values in times_ms.items()}


def compare(scene: Scene, mask: FloatArray, their_rgb: ImageArray, our_rgb: ImageArray) -> dict[str, Any]:
    """Return how far both pictures differ within the face boxes, and from the original outside of the mask."""
    height, width = scene.frame_rgb.shape[:2]
    in_boxes, covered = np.zeros((height, width), bool), np.zeros((height, width), np.uint8)
    for bbox, kps in zip(scene.bboxes, scene.kps, strict=True):
        x1, y1, x2, y2 = clip_bbox(bbox, scene.frame_rgb)
        in_boxes[y1:y2, x1:x2] = True
        to_frame = invert_affine_matrix(estimate_affine_matrix(kps, TEMPLATE, CROP_SIZE))
        under = (mask > 0).astype(np.uint8) * 255
        covered |= np.asarray(cv2.warpAffine(under, to_frame, (width, height), flags=cv2.INTER_LINEAR), np.uint8)
    outside = cv2.dilate(covered, np.ones((3, 3), np.uint8)) == 0  # a pixel more: the warp rounds to 1/32
    theirs, ours, original = (pixels.astype(np.int16) for pixels in (their_rgb, our_rgb, scene.frame_rgb))
    between, their_change, our_change = np.abs(ours - theirs), np.abs(theirs - original), np.abs(ours - original)
    return {
        "in_face_boxes": {"mean": float(between[in_boxes].mean()), "max": int(between[in_boxes].max())},
        "outside_mask": {
            "ours_mean": float(our_change[outside].mean()),
            "ours_max": int(our_change[outside].max()),
            "insightface_mean": float(their_change[outside].mean()),
            "insightface_max": int(their_change[outside].max()),
        },
    }


def _write_pictures(folder: Path, name: str, scene: Scene, their_rgb: ImageArray, our_rgb: ImageArray) -> None:
    """Write both frames, and original, insightface, ours and the difference of each face next to each other."""
    difference = cv2.convertScaleAbs(cv2.absdiff(our_rgb, np.ascontiguousarray(their_rgb)), alpha=GAIN)
    rows = []
    for bbox in scene.bboxes:
        middle, half = (bbox[:2] + bbox[2:]) / 2, max(bbox[2:] - bbox[:2]) * 0.85
        x1, y1, x2, y2 = clip_bbox(np.concatenate((middle - half, middle + half)), scene.frame_rgb)
        parts = [pixels[y1:y2, x1:x2] for pixels in (scene.frame_rgb, their_rgb, our_rgb, difference)]
        rows.append(np.hstack([_panel(np.ascontiguousarray(part)) for part in parts]))
    for suffix, pixels_rgb in (("insightface", their_rgb), ("warmswap", our_rgb), ("faces", np.vstack(rows))):
        path = folder / f"{name}_{suffix}.png"
        if not cv2.imwrite(str(path), to_bgr(np.asarray(pixels_rgb, np.uint8))):
            raise BenchError(f"cannot write {path}")


def _panel(pixels_rgb: ImageArray) -> ImageArray:
    """Fit a picture into a square; enlarged pixels stay pixels, so that what is seen is what is there."""
    height, width = pixels_rgb.shape[:2]
    scale = PANEL_PX / max(height, width)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    fitted = cv2.resize(pixels_rgb, (round(width * scale), round(height * scale)), interpolation=way)
    panel = np.zeros((PANEL_PX, PANEL_PX, 3), np.uint8)
    panel[: fitted.shape[0], : fitted.shape[1]] = fitted
    return panel


def paste_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    lines = [
        f"insightface {figures['insightface']} INSwapper.get(paste_back=True) against warmswap: align, warp, tiny "
        "network, paste, all faces of a frame",
        f"median ms over {figures['rounds']} rounds, {figures['opencv_threads']} OpenCV threads; ratio: insightface / "
        "ours; ours writes into the frame, a copy of it would cost the time in its column",
        "difference: mean of 0 to 255 between both within the face boxes; outside: largest change outside of the mask",
        "",
        f"{'frame':7}{'faces':>6}{'face px':>9}{'crop px':>9}{'insightface':>13}{'ours':>9}{'ratio':>8}{'copy':>8}"
        f"{'difference':>12}{'outside: ours':>15}{'insightface':>13}",
    ]
    for case in figures["cases"]:
        outside = case["outside_mask"]
        lines.append(
            f"{case['frame']:7}{case['faces']:6}{case['face_px']:9}{case['crop_px']:9.0f}"
            f"{case['insightface_ms']:13.1f}{case['ours_ms']:9.2f}{case['ratio']:8.1f}{case['copy_ms']:8.2f}"
            f"{case['in_face_boxes']['mean']:12.2f}{outside['ours_max']:15}{outside['insightface_max']:13}"
        )
    return [*lines, *([f"pictures: {figures['pictures']}"] if figures["pictures"] else [])]
