"""Where the detector looks: at a small frame first, then only as closely as what it found there asks for.

A detector costs by the pixel, and most pictures show plain faces that a small frame shows as well. What a small frame
leaves open, a low score or a small box, is looked at again at full size: in windows around those places, or in the full
frame where they are too many or too large. A picture's frames never depend on its companions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from warmswap_ensemble.geometry import FloatArray, ImageArray, fit_into, letterbox

Rows = tuple[FloatArray, FloatArray, FloatArray]
"""bbox (K, 4), score (K,) and kps (K, 5, 2) of one frame, in its pixels; score 0 = padding."""
DetectFrames = Callable[[Sequence[ImageArray]], list[Rows]]

WORTHWHILE_SHARE: Final = 0.6
"""A small frame with more than this share of the full frame's pixels is not worth a call of its own."""
SAME_WINDOW: Final = 0.2
"""Places this near to the middle of a window, as a share of its side, need none of their own."""
MARGIN: Final = 0.15
"""A face whose middle lies this near to where a window cuts the picture, as a share of its side, may be cut."""
LARGEST_IN_WINDOW: Final = 0.5
"""Larger places, as a share of the window's side, need more surroundings than a window has."""
SAME_FACE_IOU: Final = 0.3
CLEARLY_LARGEST: Final = 0.9
"""A face is clearly the largest if no other box, sure or not, has more than this share of its area."""


@dataclass(frozen=True, slots=True)
class FirstLook:
    """How a detector looks at a small frame first: ``first_look`` of its manifest.

    Attributes:
        frame_hw: Largest height and width of the small frame.
        least_face_px: A face with a smaller box (longer side, in pixels of the small frame) is looked at again.
        window_px: Side of the square windows, in pixels of the full frame.
        most_windows: Where more would be needed, the full frame is taken.
    """

    frame_hw: tuple[int, int]
    least_face_px: float
    window_px: int
    most_windows: int


@dataclass(frozen=True, slots=True)
class FrameSettings:
    """The frames that a detector is sent.

    Attributes:
        full_hw: Largest height and width.
        multiple: Frames are cut to the picture, to multiples of this; 0 = never cut.
        first_look: None = every picture in its full frame at once.
    """

    full_hw: tuple[int, int]
    multiple: int
    first_look: FirstLook | None

    @classmethod
    def from_manifest(cls, settings: Mapping[str, Any], *, fixed_frames: bool, first_look: bool) -> FrameSettings:
        """Read the settings of a detector.

        Args:
            settings: ``settings`` of its manifest.
            fixed_frames: One size of frame for everything: nothing is cut, and there is no first look.
            first_look: Whether to look at a small frame first, where the manifest says how.
        """
        height, width = settings["input_size_hw"]
        found = settings.get("first_look") if first_look and not fixed_frames else None
        look = None
        if found is not None:
            small_height, small_width = found["frame_hw"]
            look = FirstLook(
                (int(small_height), int(small_width)),
                float(found["least_face_px"]),
                int(found["window_px"]),
                int(found["most_windows"]),
            )
        multiple = 0 if fixed_frames else int(settings.get("frame_multiple", 0))
        return cls((int(height), int(width)), multiple, look)

    def full_frame(self, image_rgb: ImageArray) -> tuple[ImageArray, float]:
        """Return the full frame of an image, and its pixels per pixel of the image."""
        fitted, scale = fit_into(image_rgb, self.full_hw)
        return letterbox(fitted, self.full_hw, self.multiple), scale

    def small_frame(self, image_rgb: ImageArray) -> tuple[ImageArray, float] | None:
        """Return the same for the small frame; None where there is none or it would not save enough."""
        if self.first_look is None:
            return None
        fitted, scale = fit_into(image_rgb, self.first_look.frame_hw)
        frame = letterbox(fitted, self.first_look.frame_hw, self.multiple)
        height, width = image_rgb.shape[:2]
        full_scale = min(self.full_hw[0] / height, self.full_hw[1] / width, 1.0)
        if frame.shape[0] * frame.shape[1] > WORTHWHILE_SHARE * height * width * full_scale**2:
            return None
        return frame, scale


@dataclass(frozen=True, slots=True)
class _SecondLook:
    """What is looked at again.

    Attributes:
        frames: Windows cut out of the full frame, or the full frame alone.
        corners: Left and top of each window; empty = the full frame.
        size_wh: Width and height of the picture in the full frame.
        scale: Pixels of the full frame per pixel of the image.
    """

    frames: list[ImageArray]
    corners: list[tuple[int, int]]
    size_wh: tuple[int, int]
    scale: float


def find_rows(
    images_rgb: Sequence[ImageArray],
    detect_frames: DetectFrames,
    settings: FrameSettings,
    min_score: float,
    largest_only: Sequence[bool] = (),
) -> list[tuple[Rows, float]]:
    """Detect the faces of each image.

    Args:
        images_rgb: (H, W, 3) uint8 each, of any size.
        detect_frames: Runs the detector on frames of any sizes.
        settings: Which frames.
        min_score: Least score of a face.
        largest_only: Per image, whether nothing but its largest face is wanted; empty = no.

    Returns:
        Per image the detector's rows, and their pixels per pixel of the image.
    """
    small = [settings.small_frame(image) for image in images_rgb]
    frames = [frame or settings.full_frame(image) for frame, image in zip(small, images_rgb, strict=True)]
    found = list(zip(detect_frames([frame for frame, _ in frames]), (scale for _, scale in frames), strict=True))
    look = settings.first_look
    if look is None:
        return found
    again: dict[int, _SecondLook] = {}
    for i, image in enumerate(images_rgb):
        if small[i] is None:
            continue
        rows, scale = found[i]
        places = _open_places(rows, look, min_score, bool(largest_only) and largest_only[i])
        if places is None or len(places):
            again[i] = _second_look(image, None if places is None else places / scale, settings, look)
    if again:
        seen = iter(detect_frames([frame for second in again.values() for frame in second.frames]))
        for i, second in again.items():
            shown = [next(seen) for _ in second.frames]
            if second.corners:
                found[i] = _merge(found[i], shown, second, look, min_score), 1.0
            else:
                found[i] = shown[0], second.scale
    return found


def _are_sure(rows: Rows, look: FirstLook, min_score: float) -> npt.NDArray[np.bool_]:
    """Return which rows of a small frame need no second look."""
    sides = (rows[0][:, 2:] - rows[0][:, :2]).max(axis=1)
    return np.asarray((rows[1] >= min_score) & (rows[1] > 0) & (sides >= look.least_face_px))


def _open_places(rows: Rows, look: FirstLook, min_score: float, largest_only: bool) -> FloatArray | None:
    """Return the (P, 4) boxes that a small frame leaves open, best first; None = it has shown too little."""
    bbox, score, _ = rows
    sure = _are_sure(rows, look, min_score)
    if not sure.any():
        return None
    if largest_only:
        areas = np.where(score > 0, (bbox[:, 2:] - bbox[:, :2]).prod(axis=1), 0)
        if (areas > CLEARLY_LARGEST * areas[sure].max()).sum() == 1:
            return bbox[:0]
    return np.asarray(bbox[(score > 0) & ~sure])


def _second_look(
    image_rgb: ImageArray, places: FloatArray | None, settings: FrameSettings, look: FirstLook
) -> _SecondLook:
    """Cut windows around places of an image, or take all of it where it is too small or they are too much."""
    fitted, scale = fit_into(image_rgb, settings.full_hw)
    size_wh = (fitted.shape[1], fitted.shape[0])
    corners = None if places is None else _window_corners(places * scale, look, size_wh)
    if corners is None:
        return _SecondLook([letterbox(fitted, settings.full_hw, settings.multiple)], [], size_wh, scale)
    side = look.window_px
    return _SecondLook([fitted[y : y + side, x : x + side] for x, y in corners], corners, size_wh, scale)


def _window_corners(places: FloatArray, look: FirstLook, size_wh: tuple[int, int]) -> list[tuple[int, int]] | None:
    """Return left and top of the windows that cover places of a full frame; None = windows do not pay or fit."""
    side = look.window_px
    if min(size_wh) < side or (places[:, 2:] - places[:, :2]).max() > LARGEST_IN_WINDOW * side:
        return None
    corners: list[tuple[int, int]] = []
    middles = (places[:, :2] + places[:, 2:]) / 2
    while len(middles):
        if len(corners) == look.most_windows:
            return None
        x, y = (round(float(middle) - side / 2) for middle in middles[0])
        corners.append((max(0, min(x, size_wh[0] - side)), max(0, min(y, size_wh[1] - side))))
        middles = middles[np.abs(middles - middles[0]).max(axis=1) > SAME_WINDOW * side]
    return corners


def _merge(
    first: tuple[Rows, float], windows: Sequence[Rows], second: _SecondLook, look: FirstLook, min_score: float
) -> Rows:
    """Put what the windows show to what the small frame has shown for sure; rows in pixels of the image."""
    rows, scale = first
    sure = _are_sure(rows, look, min_score)
    bbox, score, kps = (list(values[sure]) for values in (rows[0] / scale, rows[1], rows[2] / scale))
    new: list[tuple[float, FloatArray, FloatArray]] = []
    for (found, scores, points), corner in zip(windows, second.corners, strict=True):
        for row in np.flatnonzero((scores >= min_score) & (scores > 0)):
            if not _may_be_cut(found[row], corner, look.window_px, second.size_wh):
                moved = found[row] + np.array((*corner, *corner), np.float32)
                new.append((float(scores[row]), moved / second.scale, (points[row] + corner) / second.scale))
    for value, box, points in sorted(new, key=lambda face: -face[0]):
        if not bbox or iou(box, np.stack(bbox)).max() <= SAME_FACE_IOU:
            bbox.append(box)
            score.append(np.float32(value))
            kps.append(points)
    return np.stack(bbox), np.array(score, np.float32), np.stack(kps).astype(np.float32)


def _may_be_cut(bbox: FloatArray, corner: tuple[int, int], side: int, size_wh: tuple[int, int]) -> bool:
    """Tell whether a face of a window lies where the window, not the picture, ends."""
    for axis in (0, 1):
        middle = float(bbox[axis] + bbox[axis + 2]) / 2
        before, after = corner[axis] > 0, corner[axis] + side < size_wh[axis]
        if (before and middle < MARGIN * side) or (after and middle > (1 - MARGIN) * side):
            return True
    return False


def iou(bbox: FloatArray, others: FloatArray) -> FloatArray:
    """Return the intersection over union of a (4,) xyxy box with each of (K, 4) boxes."""
    low, high = np.maximum(bbox[:2], others[:, :2]), np.minimum(bbox[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (bbox[2:] - bbox[:2]).prod()
    return np.asarray(common / np.maximum(areas - common, 1e-9), np.float32)
