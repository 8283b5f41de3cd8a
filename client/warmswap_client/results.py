"""What comes back, as typed values. Coordinates are pixels, x right, y down; a bbox is (x1, y1, x2, y2)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmswap_client.errors import ServerFailedError
from warmswap_client.files import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from warmswap_client.transport import Tensors

Bbox = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class SwappedFace:
    """One face of the target.

    Attributes:
        bbox: In pixels of the target.
        score: Detector score, 0 to 1.
        swapped: Whether the selector chose it.
        similarity_before: Cosine similarity to the source face before the swap, -1 to 1; None if not measured.
        similarity_after: The same after the swap.
    """

    bbox: Bbox
    score: float
    swapped: bool
    similarity_before: float | None
    similarity_after: float | None


@dataclass(frozen=True, slots=True)
class SourceFace:
    """The face that was taken from the source.

    Attributes:
        bbox: In pixels of the source.
        score: Detector score, 0 to 1.
        cached: Whether the server remembered the source from an earlier request.
    """

    bbox: Bbox
    score: float
    cached: bool


@dataclass(frozen=True, slots=True)
class SwapResult:
    """The answer to ``swap``.

    Attributes:
        image: The new picture, encoded.
        image_format: ``jpeg``, ``png`` or ``webp``.
        size_wh: Width and height of the new picture, pixels.
        faces: Every face of the target, as the server orders them.
        source: The face that was put in; None where the target was passed through unchanged.
        timings_ms: Milliseconds that each stage took on the server.
        models: Version of each model that took part.
        report: The server's whole report; newer servers may tell more there.
        request_id: Under which the request stands in the server's log.
    """

    image: bytes = field(repr=False)
    image_format: str
    size_wh: tuple[int, int]
    faces: tuple[SwappedFace, ...]
    source: SourceFace | None
    timings_ms: Mapping[str, float]
    models: Mapping[str, str]
    report: Mapping[str, Any] = field(repr=False)
    request_id: str = ""

    @property
    def twins(self) -> tuple[str, ...]:
        """Model and version of each stage whose weights are random numbers: with any, the picture means nothing."""
        twins = self.report.get("twins")
        return tuple(map(str, twins)) if isinstance(twins, list) else ()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture, all of it or nothing; an existing file is replaced.

        Raises:
            OutputFileError: the file cannot be written.
        """
        write_atomically(Path(path), self.image)
        return Path(path)


@dataclass(frozen=True, slots=True, eq=False)
class DetectedFace:
    """One face of an analysed picture.

    Attributes:
        bbox: In pixels.
        score: Detector score, 0 to 1.
        kps: (5, 2) float32, pixels, order as in ``contract.KPS_ORDER``.
        embedding: (D,) float32; D depends on the embedder.
    """

    bbox: Bbox
    score: float
    kps: NDArray[Any]
    embedding: NDArray[Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class AnalysisResult:
    """The answer to ``analyze``.

    Attributes:
        faces: As the server orders them; empty if the picture shows none.
        request_id: Under which the request stands in the server's log.
    """

    faces: tuple[DetectedFace, ...]
    request_id: str = ""


def parse_swap(outputs: Tensors, *, url: str, model: str, request_id: str = "") -> SwapResult:
    """Read the outputs of ``face_swap``.

    Raises:
        ServerFailedError: they are not what the contract promises.
    """
    try:
        image: Any = outputs["image"].reshape(-1)[0]
        report = json.loads(outputs["report"].reshape(-1)[0])
        source, picture = report["source"], report["image"]
        return SwapResult(
            image=bytes(image),
            image_format=str(picture["format"]),
            size_wh=(int(picture["width"]), int(picture["height"])),
            faces=tuple(_swapped_face(face) for face in report["faces"]),
            source=None if source is None else _source_face(source),
            timings_ms={str(stage): float(ms) for stage, ms in report["timings_ms"].items()},
            models={str(name): str(version) for name, version in report["models"].items()},
            report=report,
            request_id=request_id,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(error, url, model) from error


def parse_analysis(outputs: Tensors, *, url: str, model: str, request_id: str = "") -> AnalysisResult:
    """Read the outputs of ``face_analysis``.

    Raises:
        ServerFailedError: they are not what the contract promises.
    """
    try:
        columns = (outputs["bbox"], outputs["score"], outputs["kps"], outputs["embedding"])
        faces = (
            DetectedFace(_bbox(bbox.tolist()), float(score), kps, embedding)
            for bbox, score, kps, embedding in zip(*columns, strict=True)
        )
        return AnalysisResult(tuple(faces), request_id)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(error, url, model) from error


def _swapped_face(face: Mapping[str, Any]) -> SwappedFace:
    return SwappedFace(
        bbox=_bbox(face["bbox"]),
        score=float(face["score"]),
        swapped=bool(face["swapped"]),
        similarity_before=_optional_float(face.get("similarity_before")),
        similarity_after=_optional_float(face.get("similarity_after")),
    )


def _source_face(source: Mapping[str, Any]) -> SourceFace:
    return SourceFace(_bbox(source["bbox"]), float(source["score"]), bool(source["cached"]))


def _bbox(values: Sequence[float]) -> Bbox:
    x1, y1, x2, y2 = (float(value) for value in values)
    return x1, y1, x2, y2


def _optional_float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _unreadable(error: Exception, url: str, model: str) -> ServerFailedError:
    reason = f"the answer of {model} cannot be read ({type(error).__name__}: {error})"
    return ServerFailedError(reason, url=url, model=model)
