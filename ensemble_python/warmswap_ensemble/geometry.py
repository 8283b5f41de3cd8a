"""Where a face lies and how its crop is cut: warp templates, affine matrices, warps. Pure functions over arrays.

An ``affine_matrix`` is (2, 3) float64 and maps source pixels to crop pixels; both are centred on whole numbers, as in
``cv2.warpAffine``.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from warmswap_ensemble.contract import NUM_KPS
from warmswap_ensemble.errors import InvalidTensorError

FloatArray = npt.NDArray[np.float32]
MatrixArray = npt.NDArray[np.float64]
ImageArray = npt.NDArray[np.uint8]

WARP_TEMPLATES: Final[dict[str, MatrixArray]] = {
    # x and y of KPS_ORDER, relative to the crop. Sources: insightface face_align.py (arcface_*), FFHQ and facefusion
    # face_helper.py (ffhq_512, mtcnn_512, dfl_whole_face).
    "arcface_112_v1": np.array([[0.35473214, 0.45658929], [0.64526786, 0.45658929], [0.5, 0.61154464],
                                [0.37913393, 0.776875], [0.62086607, 0.776875]]),
    "arcface_112_v2": np.array([[0.34191607, 0.46157411], [0.65653393, 0.45983393], [0.500225, 0.64050536],
                                [0.37097589, 0.82469196], [0.63151696, 0.82325089]]),
    "arcface_128": np.array([[0.36167656, 0.40387734], [0.63696719, 0.40235469], [0.50019687, 0.56044219],
                             [0.38710391, 0.72160547], [0.61507734, 0.72034453]]),
    "ffhq_512": np.array([[0.37691676, 0.46864664], [0.62285697, 0.46912813], [0.50123859, 0.61331904],
                          [0.39308822, 0.725411], [0.61150205, 0.72490465]]),
    "mtcnn_512": np.array([[0.36562865, 0.46733799], [0.63305391, 0.46585885], [0.50019127, 0.61942959],
                           [0.39032951, 0.77598822], [0.61178945, 0.77476328]]),
    "dfl_whole_face": np.array([[0.35342266, 0.39285716], [0.62797622, 0.39285716], [0.48660713, 0.5401786],
                                [0.38839287, 0.68750011], [0.59821427, 0.68750011]]),
    # dlib get_face_chip_details: mean face of 68 points (eyes are the mean of their six points, nose is point 30,
    # mouth corners are points 48 and 54), with the padding of 0.25 that its recognition network is trained with.
    "dlib_150": (np.array([[0.22549182, 0.21599025], [0.75475718, 0.21599025], [0.490127, 0.515625],
                           [0.254149, 0.780233], [0.726104, 0.780233]]) + 0.25) / 1.5,
}  # fmt: skip


def estimate_affine_matrix(kps: FloatArray | MatrixArray, warp_template: str, crop_size: int) -> MatrixArray:
    """Fit the similarity transform that moves five landmarks onto a crop template, in the least-squares sense.

    The closed form of Umeyama's method for two dimensions without reflection; no SVD.

    Args:
        kps: (5, 2) source pixels, order as in ``KPS_ORDER``.
        warp_template: Key of ``WARP_TEMPLATES``.
        crop_size: Side of the square crop in pixels.

    Returns:
        (2, 3) ``affine_matrix``, source to crop.

    Raises:
        InvalidTensorError: the shape is wrong, a value is not finite, all points coincide, or no rotation brings them
            nearer to the template.

    Source: Umeyama 1991, doi:10.1109/34.88573.
    """
    if kps.shape != (NUM_KPS, 2) or not np.isfinite(kps).all():
        raise InvalidTensorError(f"kps must be ({NUM_KPS}, 2) finite numbers, got shape {kps.shape}")
    source = kps.astype(np.float64)
    target = WARP_TEMPLATES[warp_template] * crop_size
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    s, d = source - source_mean, target - target_mean
    spread = float((s * s).sum())
    if spread < 1e-6:
        raise InvalidTensorError("kps must be five different points, all of them coincide")
    a = float((s * d).sum()) / spread
    b = float((s[:, 0] * d[:, 1] - s[:, 1] * d[:, 0]).sum()) / spread
    if math.hypot(a, b) < 1e-6:
        raise InvalidTensorError(f"kps do not lie like the points of a face: {kps.tolist()}")
    rotation = np.array([[a, -b], [b, a]])
    return np.column_stack((rotation, target_mean - rotation @ source_mean))


def invert_affine_matrix(affine_matrix: MatrixArray) -> MatrixArray:
    """Return the (2, 3) matrix of the opposite direction."""
    inverse = np.linalg.inv(affine_matrix[:, :2])
    return np.column_stack((inverse, -inverse @ affine_matrix[:, 2]))


def transform_points(points: FloatArray | MatrixArray, affine_matrix: MatrixArray) -> MatrixArray:
    """Map (..., 2) points through an affine matrix; an empty array stays empty."""
    return np.asarray(points @ affine_matrix[:, :2].T + affine_matrix[:, 2])


def scale_of(affine_matrix: MatrixArray) -> float:
    """Return how many target pixels one source pixel becomes."""
    return math.sqrt(abs(float(np.linalg.det(affine_matrix[:, :2]))))


def warp_crop(image_rgb: ImageArray, affine_matrix: MatrixArray, crop_size: int) -> ImageArray:
    """Cut a square crop out of an image; what lies outside of the image repeats its border.

    A face larger than the crop is averaged down first, since ``cv2.warpAffine`` only looks at four pixels. Only the
    crop's own region of the image is touched: ``cv2.warpAffine`` refuses pictures with a side beyond 32766 pixels.

    Args:
        image_rgb: (H, W, 3) uint8.
        affine_matrix: (2, 3), image to crop.
        crop_size: Side of the crop in pixels.

    Returns:
        (crop_size, crop_size, 3) uint8.
    """
    corners = np.array([[0, 0], [crop_size, 0], [0, crop_size], [crop_size, crop_size]], np.float64)
    x1, y1, x2, y2 = clip_bbox(bounding_box(transform_points(corners, invert_affine_matrix(affine_matrix))), image_rgb)
    # A crop beside the image repeats the nearest line of pixels.
    x1, y1 = min(x1, image_rgb.shape[1] - 1), min(y1, image_rgb.shape[0] - 1)
    region = image_rgb[y1 : max(y2, 1), x1 : max(x2, 1)]
    scale, (height, width) = scale_of(affine_matrix), region.shape[:2]
    if scale >= 0.6:
        return _warp(region, compose(affine_matrix, np.array([[1.0, 0, x1], [0, 1, y1]])), crop_size)
    small_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(region, small_wh, interpolation=cv2.INTER_AREA), np.uint8)
    ratio = np.array([width / small_wh[0], height / small_wh[1]])
    # A pixel (u, v) of the small region has its centre at ((u + 0.5) * ratio - 0.5) + origin of the image.
    to_image = np.column_stack((np.diag(ratio), ratio * 0.5 - 0.5 + (x1, y1)))
    return _warp(small, compose(affine_matrix, to_image), crop_size)


def _warp(image_rgb: ImageArray, affine_matrix: MatrixArray, crop_size: int) -> ImageArray:
    warped = cv2.warpAffine(
        image_rgb, affine_matrix, (crop_size, crop_size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, np.uint8)


def compose(second: MatrixArray, first: MatrixArray) -> MatrixArray:
    """Return the (2, 3) matrix that applies ``first``, then ``second``."""
    linear = second[:, :2] @ first[:, :2]
    return np.column_stack((linear, second[:, :2] @ first[:, 2] + second[:, 2]))


def bounding_box(points: MatrixArray) -> MatrixArray:
    """Return the xyxy box around (N, 2) points."""
    return np.concatenate((points.min(axis=0), points.max(axis=0)))


def clip_bbox(bbox: MatrixArray, image: ImageArray) -> tuple[int, int, int, int]:
    """Return the whole-pixel xyxy box (end exclusive) that covers ``bbox`` within an (H, W, ...) image."""
    height, width = image.shape[:2]
    x1, y1 = max(0, math.floor(bbox[0])), max(0, math.floor(bbox[1]))
    x2, y2 = min(width, math.ceil(bbox[2]) + 1), min(height, math.ceil(bbox[3]) + 1)
    return x1, y1, max(x1, x2), max(y1, y2)


def fit_into(image_rgb: ImageArray, size_hw: tuple[int, int]) -> tuple[ImageArray, float]:
    """Shrink an image so that it fits a size. A smaller image is not enlarged.

    It is halved first as often as its sides allow: OpenCV averages two by two pixels ten times as fast as others.

    Args:
        image_rgb: (H, W, 3) uint8.
        size_hw: Largest height and width.

    Returns:
        The (h, w, 3) uint8 image, and its scale: its pixels per pixel of the original.
    """
    height, width = image_rgb.shape[:2]
    scale = min(size_hw[0] / height, size_hw[1] / width, 1.0)
    if scale == 1.0:
        return image_rgb, scale
    size_wh = (max(1, min(size_hw[1], round(width * scale))), max(1, min(size_hw[0], round(height * scale))))
    while height % 2 == width % 2 == 0 and height // 2 >= size_wh[1] and width // 2 >= size_wh[0]:
        height, width = height // 2, width // 2
        image_rgb = np.asarray(cv2.resize(image_rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8), scale


def letterbox(image_rgb: ImageArray, size_hw: tuple[int, int], multiple: int) -> ImageArray:
    """Put an image into a frame: at the top left, the rest black.

    Args:
        image_rgb: (h, w, 3) uint8, not larger than ``size_hw``.
        size_hw: Largest height and width of the frame.
        multiple: The frame is cut to the smallest multiple of this that holds the image, since empty pixels cost as
            much time as others; 0 keeps ``size_hw``.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = size_hw
    if multiple:
        height = min(height, _round_up(image_rgb.shape[0], multiple))
        width = min(width, _round_up(image_rgb.shape[1], multiple))
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: image_rgb.shape[0], : image_rgb.shape[1]] = image_rgb
    return frame


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
