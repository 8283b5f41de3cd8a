"""Puts swapped crops back into the picture; the work grows with the face, not with the frame."""

from __future__ import annotations

import cv2
import numpy as np

from warmswap_ensemble.geometry import (
    FloatArray,
    ImageArray,
    MatrixArray,
    bounding_box,
    clip_bbox,
    compose,
    invert_affine_matrix,
    scale_of,
    transform_points,
)


def paste_crop(
    image_rgb: ImageArray, swapped_crop_rgb: ImageArray, mask: FloatArray, affine_matrix: MatrixArray
) -> None:
    """Blend one swapped crop into an image, in place.

    Only the box that the mask covers is touched; a face that lies outside of the image changes nothing.

    Args:
        image_rgb: (H, W, 3) uint8, changed.
        swapped_crop_rgb: (S, S, 3) uint8.
        mask: (S, S) float32, 1 = take the swapped pixel; 0 along the border of the crop.
        affine_matrix: (2, 3), image to crop, as the crop was cut with.
    """
    x, y, width, height = cv2.boundingRect((mask > 0).astype(np.uint8))
    if width == 0:
        return
    corners = np.array([[x - 1, y - 1], [x + width, y - 1], [x - 1, y + height], [x + width, y + height]], np.float64)
    to_image = invert_affine_matrix(affine_matrix)
    swapped_crop_rgb, mask, to_image, corners = _shrink(swapped_crop_rgb, mask, to_image, corners)
    x1, y1, x2, y2 = clip_bbox(bounding_box(transform_points(corners, to_image)), image_rgb)
    if x1 >= x2 or y1 >= y2:
        return
    to_region = to_image.copy()
    to_region[:, 2] -= (x1, y1)
    size_wh = (x2 - x1, y2 - y1)
    # Enlarging with bicubic keeps the face as sharp as the frame around it.
    enlarging = cv2.INTER_CUBIC if scale_of(to_region) > 1 else cv2.INTER_LINEAR
    pixels = cv2.warpAffine(swapped_crop_rgb, to_region, size_wh, flags=enlarging, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(mask, to_region, size_wh, flags=cv2.INTER_LINEAR)
    region = image_rgb[y1:y2, x1:x2]
    image_rgb[y1:y2, x1:x2] = cv2.blendLinear(pixels, np.ascontiguousarray(region), weight, 1 - weight)


def _shrink(
    crop_rgb: ImageArray, mask: FloatArray, to_image: MatrixArray, corners: MatrixArray
) -> tuple[ImageArray, FloatArray, MatrixArray, MatrixArray]:
    """Average a crop down where the face in the picture is much smaller, since a warp only looks at four pixels."""
    scale, side = scale_of(to_image), crop_rgb.shape[0]
    if scale >= 0.6:
        return crop_rgb, mask, to_image, corners
    small = max(1, round(side * scale))
    ratio = side / small
    to_crop = np.array([[ratio, 0, ratio * 0.5 - 0.5], [0, ratio, ratio * 0.5 - 0.5]])
    return (
        np.asarray(cv2.resize(crop_rgb, (small, small), interpolation=cv2.INTER_AREA), np.uint8),
        np.asarray(cv2.resize(mask, (small, small), interpolation=cv2.INTER_AREA), np.float32),
        compose(to_image, to_crop),
        (corners + 0.5) / ratio - 0.5,
    )
