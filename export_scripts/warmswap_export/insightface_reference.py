"""InsightFace's own Python classes over the same published file, as references; nothing where it is not installed.

It is an extra of its own (``warmswap[insightface]``), since it brings ``onnxruntime`` with it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from warmswap_ensemble.contract import MAX_FACES
from warmswap_export.built import Arrays, Reference

PROVIDERS: Final = ["CPUExecutionProvider"]


def is_installed() -> bool:
    """Whether the checks against InsightFace can be made."""
    return importlib.util.find_spec("insightface") is not None


def can_run(path: Path) -> bool:
    """Whether InsightFace is there and takes the file: it feeds single precision only."""
    return is_installed() and all(value.type == "tensor(float)" for value in _session(path).get_inputs())


def detectors(path: Path) -> dict[str, Reference]:
    """Return ``SCRFD.detect`` and ``RetinaFace.detect``, which both read these files, as references."""
    if not can_run(path):
        return {}
    from insightface.model_zoo.retinaface import RetinaFace
    from insightface.model_zoo.scrfd import SCRFD

    return {f"insightface {kind.__name__}.detect": _detector(kind, path) for kind in (SCRFD, RetinaFace)}


def embedder(path: Path) -> dict[str, Reference]:
    """Return ``ArcFaceONNX.get_feat``, normalised, as a reference."""
    if not can_run(path):
        return {}
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    model = ArcFaceONNX(str(path), session=_session(path))

    def run(inputs: Arrays) -> Arrays:
        crops_bgr = [np.ascontiguousarray(crop[:, :, ::-1]) for crop in inputs["aligned_crop_rgb"]]
        raw = np.concatenate([model.get_feat(crop) for crop in crops_bgr])
        return {"embedding": raw / np.linalg.norm(raw, axis=1, keepdims=True)}

    return {"insightface ArcFaceONNX.get_feat": run}


def swapper(path: Path) -> dict[str, Reference]:
    """Return ``INSwapper.get`` without pasting as a reference; it says nothing about the mask."""
    if not can_run(path):
        return {}
    from insightface.model_zoo.inswapper import INSwapper
    from insightface.utils.face_align import estimate_norm

    with _quiet():
        model = INSwapper(str(path), session=_session(path))
    side = int(model.input_size[0])
    # Landmarks that lie where the template has them: the crop that get() cuts is the picture it is given.
    with _quiet():
        kps = _template_points(estimate_norm, side)

    def run(inputs: Arrays) -> Arrays:
        swapped = []
        for crop, embedding in zip(inputs["target_crop_rgb"], inputs["source_embedding"], strict=True):
            target, source = _Face(kps=kps), _Face(normed_embedding=embedding)
            with _quiet():
                fake_bgr, _ = model.get(np.ascontiguousarray(crop[:, :, ::-1]), target, source, paste_back=False)
            swapped.append(fake_bgr[:, :, ::-1])
        return {"swapped_crop_rgb": np.stack(swapped)}

    return {"insightface INSwapper.get": run}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep its prints and its warnings about its own libraries to itself."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Face:
    """The two attributes that ``INSwapper.get`` looks at."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def _template_points(estimate_norm: Any, side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    from insightface.utils.face_align import arcface_dst

    ratio, shift = (side / 112.0, 0.0) if side % 112 == 0 else (side / 128.0, 8.0 * side / 128.0)
    points = np.asarray(arcface_dst * ratio, np.float32)
    points[:, 0] += shift
    moved = np.abs(estimate_norm(points, side) - np.array([[1, 0, 0], [0, 1, 0]])).max()
    if moved > 1e-3:
        raise AssertionError(f"insightface's template for {side} px is another than expected (moved by {moved:g})")
    return points


def _detector(kind: Any, path: Path) -> Reference:
    from warmswap_export.architectures.anchors import IOU_THRESHOLD, SCORE_FLOOR, pad_faces

    model = kind(str(path), session=_session(path))
    model.prepare(ctx_id=-1, nms_thresh=IOU_THRESHOLD, det_thresh=SCORE_FLOOR)

    def run(inputs: Arrays) -> Mapping[str, Any]:
        faces = []
        for image in inputs["image_rgb"]:
            height, width = image.shape[:2]
            found, kps = model.detect(np.ascontiguousarray(image[:, :, ::-1]), input_size=(width, height))
            found, kps = found[:MAX_FACES], kps[:MAX_FACES]
            faces.append((found[:, :4], found[:, 4], kps))
        return pad_faces(faces)

    return run


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
