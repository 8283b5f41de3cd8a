"""What does looking at a small frame first save, and what does it cost in faces and landmarks? Over a folder of photos.

Runs the detection of the pipeline in this process, over ONNX Runtime with the server's settings: every photo in its
full frame (the reference), with a small frame first, and the same where only the largest face is wanted, as in a source
picture. The ways take turns photo by photo. CPU time is that of the whole process, so resizing counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from warmswap_ensemble.contract import FACE_DETECTOR
from warmswap_ensemble.detection import iou
from warmswap_ensemble.errors import PipelineError
from warmswap_ensemble.image import ImageLimits, decode_image
from warmswap_ensemble.manifest import Manifest, ManifestError, read_manifest, version_dirs
from warmswap_ensemble.stage_calls import Arrays, StageCalls
from warmswap_ensemble.types import Face, Stage
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.onnx_session import configured_threads, open_session

FULL: Final = "full frame"
SMALL_FIRST: Final = "small frame first"
LARGEST_ONLY: Final = "small frame first, largest face only"
WAYS: Final = (FULL, SMALL_FIRST, LARGEST_ONLY)
PICTURES: Final = {".jpg", ".jpeg", ".png", ".webp"}
GROUPS: Final = (("up to 2 faces", 0, 2), ("3 to 10 faces", 3, 10), ("more than 10", 11, 10**6))
LEAST_OVERLAP: Final = 0.5
NEARLY: Final = 0.95
"""The full frame at this share of its size shows how far landmarks move when nothing but the size changes."""


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """How much is measured.

    Attributes:
        repository: The highest version of its ``face_detector`` is measured.
        photos: Folder of pictures.
        rounds: Times that the ways take turns at each photo.
    """

    repository: Path
    photos: Path
    rounds: int


@dataclass(slots=True)
class Photo:
    """What was measured at one photo.

    Attributes:
        name: File name.
        faces: Faces in the full frame.
        cpu_ms: Per way, a value per round.
        wall_ms: The same in wall time.
        calls: Frames sent with a small frame first: ``small``, ``windows`` or ``full``.
        matched: Faces of the full frame that a small frame first finds too.
        extra: Faces that it finds beyond them.
        largest_share: Area of the face that is taken for the largest where only that is wanted, as a share of the
            largest: 1 = the same face, 0 = no face of the full frame.
        errors: Landmark error of matched faces, in eye distances; none where the full frame was taken.
        nearly_errors: The same for the full frame at ``NEARLY`` of its size.
    """

    name: str
    faces: int
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    wall_ms: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    calls: str = ""
    matched: int = 0
    extra: int = 0
    largest_share: float = 1.0
    errors: list[float] = field(default_factory=list)
    nearly_errors: list[float] = field(default_factory=list)


class Detector:
    """The detection of the pipeline over a session in this process."""

    def __init__(self, repository: Path) -> None:
        """Open the highest version of the detector.

        Raises:
            BenchError: there is none, or it has no first look.
        """
        model_dir = repository / FACE_DETECTOR.name
        versions = version_dirs(model_dir)
        if not versions:
            raise BenchError(f"{repository} has no {FACE_DETECTOR.name}; give a model repository with --repository")
        try:
            self.manifest: Manifest = read_manifest(versions[-1])
        except ManifestError as error:
            raise BenchError(str(error)) from error
        if "first_look" not in self.manifest.settings:
            raise BenchError(f"{versions[-1]} is sent full frames only: its manifest has no first_look to be measured")
        self.session = open_session(versions[-1] / "model.onnx", configured_threads(model_dir))
        self.sent: list[tuple[int, ...]] = []
        settings = self.manifest.settings
        nearly_hw = [round(side * NEARLY / 32) * 32 for side in settings["input_size_hw"]]
        self.ways = {
            FULL: self._calls(settings, first_look=False),
            SMALL_FIRST: self._calls(settings, first_look=True),
            LARGEST_ONLY: self._calls(settings, first_look=True),
        }
        self.nearly = self._calls({**settings, "input_size_hw": nearly_hw}, first_look=False)

    def find(self, way: str, image_rgb: NDArray[np.uint8]) -> list[Face]:
        """Return the faces of a picture, found in one of ``WAYS``."""
        return self.ways[way].detect([image_rgb], None, [way == LARGEST_ONLY])[0]

    def _calls(self, settings: Mapping[str, Any], *, first_look: bool) -> StageCalls:
        manifest = self.manifest
        stage = Stage(manifest.model, manifest.version, manifest.sha256, settings)
        return StageCalls({stage.model: stage}, self._run, first_look=first_look)

    def _run(self, _: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        self.sent.append(inputs["image_rgb"].shape)
        return dict(zip(output_names, self.session.run(list(output_names), dict(inputs)), strict=True))


def measure_detector(options: DetectorOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure all photos of a folder.

    Raises:
        BenchError: there is no detector with a first look, or no photo.
    """
    detector = Detector(options.repository)
    pictures = read_photos(options.photos)
    detector.find(FULL, pictures[0][1])  # the first run is slow
    photos = []
    for number, (name, image) in enumerate(pictures):
        if number % 10 == 0:
            progress(f"photo {number + 1} of {len(pictures)}")
        photos.append(_measure(detector, name, image, options.rounds))
    groups = [(title, [photo for photo in photos if least <= photo.faces <= most]) for title, least, most in GROUPS]
    return {
        "detector": f"{detector.manifest.name} {detector.manifest.version}",
        "first_look": detector.manifest.settings["first_look"],
        "rounds": options.rounds,
        "groups": [_figures(title, group) for title, group in (*groups, ("all", photos)) if group],
    }


def read_photos(folder: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """Decode the pictures of a folder, as the server does.

    Raises:
        BenchError: there is none, or one cannot be decoded.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
    if not paths:
        raise BenchError(f"{folder} holds no picture ({', '.join(sorted(PICTURES))}); name a folder with --photos")
    try:
        return [(path.name, decode_image(path.read_bytes(), str(path), ImageLimits()).pixels_rgb) for path in paths]
    except PipelineError as error:
        raise BenchError(str(error)) from error


def _measure(detector: Detector, name: str, image: NDArray[np.uint8], rounds: int) -> Photo:
    found = {way: detector.find(way, image) for way in (FULL, LARGEST_ONLY)}
    detector.sent.clear()
    found[SMALL_FIRST] = detector.find(SMALL_FIRST, image)
    photo = Photo(name, len(found[FULL]), calls=_kind(detector))
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            detector.find(way, image)
            photo.wall_ms[way].append((time.perf_counter() - wall_s) * 1e3)
            photo.cpu_ms[way].append((time.process_time() - cpu_s) * 1e3)
    pairs = match_faces(found[FULL], found[SMALL_FIRST])
    photo.matched, photo.extra = len(pairs), len(found[SMALL_FIRST]) - len(pairs)
    photo.largest_share = largest_share(found[FULL], found[LARGEST_ONLY])
    if photo.calls != "full":
        photo.errors = [landmark_error(*pair) for pair in pairs]
        nearly = detector.nearly.detect([image], None)[0]
        photo.nearly_errors = [landmark_error(*pair) for pair in match_faces(found[FULL], nearly)]
    return photo


def _kind(detector: Detector) -> str:
    """Tell from the frames that were sent how a photo was looked at."""
    look = detector.manifest.settings["first_look"]
    if max(detector.sent[-1][1:3]) > max(look["frame_hw"]):
        return "full"
    return "small" if len(detector.sent) == 1 else "windows"


def match_faces(expected: Sequence[Face], actual: Sequence[Face]) -> list[tuple[Face, Face]]:
    """Return pairs of faces that overlap by half at least, each face once, best overlaps first."""
    overlaps = [
        (float(value), i, j)
        for i, face in enumerate(expected)
        if actual
        for j, value in enumerate(iou(face.bbox, np.stack([other.bbox for other in actual])))
    ]
    pairs: dict[int, int] = {}
    for value, i, j in sorted(overlaps, reverse=True):
        if value >= LEAST_OVERLAP and i not in pairs and j not in pairs.values():
            pairs[i] = j
    return [(expected[i], actual[j]) for i, j in pairs.items()]


def landmark_error(expected: Face, actual: Face) -> float:
    """Return the mean distance of the five landmarks, in distances of the eyes."""
    eyes = float(np.linalg.norm(expected.kps[0] - expected.kps[1]))
    return float(np.linalg.norm(expected.kps - actual.kps, axis=1).mean()) / max(eyes, 1e-6)


def largest_share(expected: Sequence[Face], actual: Sequence[Face]) -> float:
    """Return how large the largest face of ``actual`` is in ``expected``, as a share of the largest one there."""
    if not expected or not actual:
        return float(not expected and not actual)
    taken = match_faces(expected, [max(actual, key=lambda face: face.area)])
    return taken[0][0].area / max(face.area for face in expected) if taken else 0.0


def _figures(title: str, photos: Sequence[Photo]) -> dict[str, Any]:
    cpu, wall = (
        {way: [statistics.median(values[way]) for values in per_photo] for way in WAYS}
        for per_photo in ([photo.cpu_ms for photo in photos], [photo.wall_ms for photo in photos])
    )
    errors = [value for photo in photos for value in photo.errors]
    nearly = [value for photo in photos for value in photo.nearly_errors]
    return {
        "group": title,
        "photos": len(photos),
        "faces": sum(photo.faces for photo in photos),
        "cpu_ms": {way: statistics.fmean(cpu[way]) for way in WAYS},
        "wall_ms": {way: statistics.fmean(wall[way]) for way in WAYS},
        "cpu_ratio": {way: sum(cpu[FULL]) / sum(cpu[way]) for way in WAYS[1:]},
        "median_cpu_ratio": {
            way: statistics.median(a / b for a, b in zip(cpu[FULL], cpu[way], strict=True)) for way in WAYS[1:]
        },
        "found": sum(photo.matched for photo in photos),
        "extra": sum(photo.extra for photo in photos),
        "lost_in": [photo.name for photo in photos if photo.matched < photo.faces],
        "same_largest": sum(photo.largest_share == 1 for photo in photos),
        "least_largest_share": min(photo.largest_share for photo in photos),
        "looks": {kind: sum(photo.calls == kind for photo in photos) for kind in ("small", "windows", "full")},
        "landmark_error": _spread(errors),
        "landmark_error_nearly_full": _spread(nearly),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": statistics.median(values), "p95": float(np.percentile(values, 95))}


def detector_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    lines = [
        f"{figures['detector']}, first look {figures['first_look']}; median of {figures['rounds']} turns at each photo",
        "ratio: CPU time of full frames / of small frames first, over the sum; median: of the photos' own ratios",
        "",
        f"{'':16}{'photos':>7}{'faces':>6}{'-- CPU ms a photo --':>21}{'':>15}{'largest only':>15}"
        f"{'photos looked at in':>21}",
        f"{'':16}{'':>7}{'':>6}{'full':>10}{'first':>11}{'ratio':>7}{'median':>8}{'ratio':>7}{'median':>8}"
        f"{'small':>7}{'wind.':>7}{'full':>7}{'found':>10}{'extra':>6}",
    ]
    for group in figures["groups"]:
        ratio, median, looks = group["cpu_ratio"], group["median_cpu_ratio"], group["looks"]
        lines.append(
            f"{group['group']:16}{group['photos']:7}{group['faces']:6}"
            f"{group['cpu_ms'][FULL]:10.1f}{group['cpu_ms'][SMALL_FIRST]:11.1f}"
            f"{ratio[SMALL_FIRST]:7.2f}{median[SMALL_FIRST]:8.2f}{ratio[LARGEST_ONLY]:7.2f}{median[LARGEST_ONLY]:8.2f}"
            f"{looks['small']:7}{looks['windows']:7}{looks['full']:7}"
            f"{group['found']:6}/{group['faces']:<3}{group['extra']:6}"
        )
    every = figures["groups"][-1]
    lines += [
        "",
        f"largest only: the same face in {every['same_largest']} of {every['photos']} photos; "
        f"the others' is at least {every['least_largest_share']:.0%} as large",
    ]
    if every["landmark_error"] and every["landmark_error_nearly_full"]:
        ours, nearly = every["landmark_error"], every["landmark_error_nearly_full"]
        lines.append(
            f"landmarks of faces found without the full frame move by {ours['median']:.1%} of the eye distance "
            f"(median; 95th percentile {ours['p95']:.1%}); in a full frame of {NEARLY} of its size by "
            f"{nearly['median']:.1%} ({nearly['p95']:.1%})"
        )
    return [*lines, *(f"faces lost in {name}" for name in every["lost_in"])]
