"""``geometric``: a face swapper without weights.

The source face is bent onto the target's landmarks, takes on the target's colours and light, and is blended into the
target crop in several frequency bands. All of it is one batched graph of standard operators.

Steps: control points (``add_forehead``, ``place_source_features``) -> flow by moving least squares (``mls_flow``) ->
soft face mask (``polygon_mask``) -> colour match (``match_colors``) -> pyramid blend (``blend_bands``).

Source: Schaefer et al. 2006 (moving least squares, similarity form), Reinhard et al. 2001 (colour transfer), Burt and
Adelson 1983 (multiresolution spline).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from warmswap_export.architectures.layers import SWAPPER_INPUT_AXES, image_to_float
from warmswap_export.built import BuiltStage, StageSource, torch_reference
from warmswap_export.errors import PackError
from warmswap_export.graph import export_module

CROP_SIZES: Final = (128, 256, 512, 1024)
"""Sides of the crop that a graph may be made for; setting ``crop_size`` of the pack chooses."""
GRID_SIZE: Final = 64
"""Flow, mask and light are computed on a grid of this side and enlarged."""
COARSEST_BAND: Final = 16
"""Side of the smallest level of the blending pyramid: as wide a seam in a crop of any size."""

JAW: Final = slice(0, 17)
BROWS: Final = slice(17, 27)
FOREHEAD_HEIGHT: Final = 0.08
"""How far the face goes on above the brows, in units of the distance from the brows to the chin."""
SHAPE_OF_SOURCE: Final = 0.6
"""How much of the source's own proportions the inner features keep; 0 bends them wholly onto the target's."""
MASK_FEATHER: Final = 0.09
"""Width of the soft edge of the mask, in units of the crop."""
LIGHT_STRENGTH: Final = 0.75
"""How much of the target's low-frequency light is taken over."""
STD_RATIO_RANGE: Final = (0.7, 1.3)
"""Contrast is changed no more than this."""


def add_forehead(landmarks: Tensor) -> Tensor:
    """Append ten points above the brows: (N, 68, 2) to (N, 78, 2)."""
    brows = landmarks[:, BROWS]
    up = brows.mean(dim=1, keepdim=True) - landmarks[:, 8:9]
    arch = torch.tensor([0.45, 0.75, 0.9, 1.0, 1.0, 1.0, 1.0, 0.9, 0.75, 0.45]).reshape(1, 10, 1)
    return torch.cat((landmarks, brows + up * FOREHEAD_HEIGHT * arch), dim=1)


def place_source_features(target: Tensor, source: Tensor) -> Tensor:
    """Return where the source's points shall come to lie in the target: (N, K, 2).

    The outline follows the target; brows, eyes, nose and mouth keep part of the source's own proportions, since these
    carry the identity.
    """
    inner = slice(17, 68)
    moved = align_similarity(source, target, inner)
    weight = torch.zeros(1, target.shape[1], 1)
    weight[:, inner] = SHAPE_OF_SOURCE
    return target + (moved - target) * weight


def align_similarity(points: Tensor, onto: Tensor, which: slice) -> Tensor:
    """Move all ``points`` by the similarity that best moves the chosen ones onto their partners; (N, K, 2)."""
    p_mean, q_mean = points[:, which].mean(dim=1, keepdim=True), onto[:, which].mean(dim=1, keepdim=True)
    p, q = points[:, which] - p_mean, onto[:, which] - q_mean
    spread = (p * p).sum(dim=(1, 2)).reshape(-1, 1)
    a = (p * q).sum(dim=(1, 2)).reshape(-1, 1) / spread
    b = (p[:, :, 0] * q[:, :, 1] - p[:, :, 1] * q[:, :, 0]).sum(dim=1, keepdim=True) / spread
    x, y = (points - p_mean).unbind(dim=2)
    return torch.stack((a * x - b * y, b * x + a * y), dim=2) + q_mean


def cell_centres(size: int) -> Tensor:
    """Return the centres of a size x size grid over the unit square, row by row: (size * size, 2) as x, y."""
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x.reshape(-1), y.reshape(-1)), dim=1)


def squared_distances(grid: Tensor, points: Tensor) -> Tensor:
    """Return (N, G, K) squared distances between (G, 2) cells and (N, K, 2) points."""
    dx = grid[:, 0].reshape(1, -1, 1) - points[:, :, 0].unsqueeze(1)
    dy = grid[:, 1].reshape(1, -1, 1) - points[:, :, 1].unsqueeze(1)
    return dx * dx + dy * dy


def mls_flow(grid: Tensor, at: Tensor, to: Tensor) -> Tensor:
    """Bend the plane so that points ``at`` land on ``to``: moving least squares with similarities.

    Args:
        grid: (G, 2) places to map.
        at: (N, K, 2) control points.
        to: (N, K, 2) where they shall go.

    Returns:
        (N, G, 2) where each place goes.
    """
    weights = 1.0 / (squared_distances(grid, at) + 4e-4)
    weights = weights / weights.sum(dim=2, keepdim=True)
    px, py = at.unbind(dim=2)
    qx, qy = to.unbind(dim=2)
    # Complex numbers: a similarity is z -> a z + b. One matrix product gives every weighted sum that is needed.
    terms = torch.stack((px, py, qx, qy, px * px + py * py, px * qx + py * qy, px * qy - py * qx), dim=2)
    px, py, qx, qy, p_norm, dot, cross = torch.matmul(weights, terms).unbind(dim=2)
    spread = (p_norm - px * px - py * py).clamp(min=1e-6)
    a = (dot - px * qx - py * qy) / spread
    b = (cross - px * qy + py * qx) / spread
    dx, dy = grid[:, 0] - px, grid[:, 1] - py
    return torch.stack((a * dx - b * dy + qx, b * dx + a * dy + qy), dim=2)


def polygon_mask(grid: Tensor, polygon: Tensor) -> Tensor:
    """Return a soft mask of a polygon: 0 outside, rising to 1 within ``MASK_FEATHER`` of its edge.

    Args:
        grid: (G, 2) cells of the unit square.
        polygon: (N, P, 2) corners in order.

    Returns:
        (N, G) in 0 to 1.
    """
    following = torch.cat((polygon[:, 1:], polygon[:, :1]), dim=1)
    ax, ay = (value.unsqueeze(1) for value in polygon.unbind(dim=2))
    bx, by = (value.unsqueeze(1) for value in following.unbind(dim=2))
    x, y = grid[:, 0].reshape(1, -1, 1), grid[:, 1].reshape(1, -1, 1)
    ex, ey = bx - ax, by - ay
    along = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey).clamp(min=1e-8)).clamp(0.0, 1.0)
    dx, dy = x - ax - along * ex, y - ay - along * ey
    distance = (dx * dx + dy * dy).amin(dim=2).sqrt()
    # A ray to the right crosses an edge that has the cell's row between its ends and lies to the right.
    spans = ((ay > y).float() - (by > y).float()).abs()
    side = (x - ax) * ey - (y - ay) * ex
    upwards = (ey > 0).float() * 2 - 1
    crossings = (spans * ((side * upwards) < 0).float()).sum(dim=2)
    inside = crossings - 2 * torch.floor(crossings / 2)
    depth = (distance * inside / MASK_FEATHER).clamp(0.0, 1.0)
    return depth * depth * (3 - 2 * depth)


def resize(x: Tensor, size: int) -> Tensor:
    """Resize (N, C, h, w) to a square, bilinearly."""
    return functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def weighted_stats(image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel of (N, 3, h, w) under a (N, 1, h, w) weight."""
    total = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1e-3)
    mean = (image * weight).sum(dim=(2, 3), keepdim=True) / total
    variance = ((image - mean) ** 2 * weight).sum(dim=(2, 3), keepdim=True) / total
    return mean, (variance + 1.0).sqrt()


def blur_under(image: Tensor, weight: Tensor) -> Tensor:
    """Blur widely, seeing only what the weight covers: (N, 3, h, w) and (N, 1, h, w)."""
    both = torch.cat((image * weight, weight + 1e-4), dim=1)
    for _ in range(3):
        both = functional.avg_pool2d(functional.pad(both, (4, 4, 4, 4), mode="replicate"), 9, 1)
    return both[:, :3] / both[:, 3:]


def match_colors(face: Tensor, target: Tensor, mask: Tensor, size: int) -> Tensor:
    """Give ``face`` the colour statistics and the coarse light of ``target`` under the mask; (N, 3, S, S)."""
    small_face, small_target, weight = (functional.avg_pool2d(x, size // GRID_SIZE) for x in (face, target, mask))
    face_mean, face_std = weighted_stats(small_face, weight)
    target_mean, target_std = weighted_stats(small_target, weight)
    # One contrast for all channels, or highlights would take on a tint.
    ratio = (target_std.mean(dim=1, keepdim=True) / face_std.mean(dim=1, keepdim=True)).clamp(*STD_RATIO_RANGE)
    small_face = (small_face - face_mean) * ratio + target_mean
    light = blur_under(small_target, weight) - blur_under(small_face, weight)
    matched = (face - face_mean) * ratio + target_mean
    return matched + LIGHT_STRENGTH * resize(light.reshape(-1, 3, GRID_SIZE, GRID_SIZE), size)


def blend_bands(inside: Tensor, outside: Tensor, mask: Tensor, size: int) -> Tensor:
    """Blend two (N, 3, S, S) pictures under (N, 1, S, S): each frequency band over a width that suits it."""
    stack = torch.cat((inside, outside, mask), dim=1)
    bands: list[Tensor] = []
    while size > COARSEST_BAND:
        smaller = functional.avg_pool2d(stack, 2)
        detail = stack[:, :6] - resize(smaller[:, :6], size)
        bands.append(mix(detail, stack[:, 6:]))
        stack = smaller
        size //= 2
    blended = mix(stack[:, :6], stack[:, 6:])
    for band in reversed(bands):
        size *= 2
        blended = resize(blended, size) + band
    return blended


def mix(pair: Tensor, mask: Tensor) -> Tensor:
    """Mix the two halves of (N, 6, h, w) by (N, 1, h, w)."""
    return pair[:, 3:] + (pair[:, :3] - pair[:, 3:]) * mask


def spread(mask: Tensor, size: int) -> Tensor:
    """Average (N, 1, S, S) over squares of a sixteenth of the crop."""
    reach = size // 32
    padded, side = functional.pad(mask, (reach, reach, reach, reach)), 2 * reach + 1
    if size <= 256:
        return functional.avg_pool2d(padded, side, 1)
    # A square costs by its area, rows and then columns by its side: 400 ms less of 460 at 512, on two cores.
    return functional.avg_pool2d(functional.avg_pool2d(padded, (1, side), 1), (side, 1), 1)


class GeometricSwapper(nn.Module):
    """The ``face_swapper`` contract by landmarks, colours and blending alone."""

    def __init__(self, size: int) -> None:
        """Precompute the grid and the window that keeps the mask off the crop's border.

        Args:
            size: Side of the crops.
        """
        super().__init__()
        self.size = size
        self.register_buffer("grid", cell_centres(GRID_SIZE), persistent=False)
        axis = (torch.arange(size) + 0.5) / size
        ramp = (torch.minimum(axis, 1 - axis) / 0.04).clamp(0.0, 1.0)
        self.register_buffer("window", (ramp.reshape(-1, 1) * ramp).reshape(1, 1, size, size))

    def forward(
        self,
        target_crop_rgb: Tensor,
        source_crop_rgb: Tensor,
        target_landmarks: Tensor,
        source_landmarks: Tensor,
        source_embedding: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Swap a batch.

        Args:
            target_crop_rgb: (N, H, W, 3) uint8.
            source_crop_rgb: (N, H, W, 3) uint8.
            target_landmarks: (N, 68, 2) float32, relative to the crop.
            source_landmarks: (N, 68, 2) float32, relative to the crop.
            source_embedding: (N, D) float32; not used.

        Returns:
            ``swapped_crop_rgb`` (N, S, S, 3) uint8 and ``mask`` (N, S, S) float32, 1 = take the swapped pixel.
        """
        del source_embedding
        target = image_to_float(target_crop_rgb, self.size)
        source = image_to_float(source_crop_rgb, self.size)
        target_points = add_forehead(target_landmarks)
        source_points = add_forehead(source_landmarks)
        places = place_source_features(target_points, source_points)

        flow = mls_flow(self.grid, places, source_points)
        flow = resize(flow.transpose(1, 2).reshape(-1, 2, GRID_SIZE, GRID_SIZE), self.size)
        sampling = flow.permute(0, 2, 3, 1) * 2 - 1
        face = functional.grid_sample(source, sampling, mode="bilinear", padding_mode="border", align_corners=False)

        outline = torch.cat((target_points[:, JAW], target_points[:, 68:].flip(1)), dim=1)
        mask = polygon_mask(self.grid, outline).reshape(-1, 1, GRID_SIZE, GRID_SIZE)
        mask = resize(mask, self.size) * self.window

        face = match_colors(face, target, mask, self.size)
        swapped = blend_bands(face, target, mask, self.size).clamp(0.0, 255.0)
        # The blend reaches further than the mask it is made with; take all that it changed.
        coverage = spread(mask, self.size)
        coverage = (coverage * 4).clamp(0.0, 1.0) * self.window
        return (swapped + 0.5).to(torch.uint8).permute(0, 2, 3, 1), coverage.squeeze(1)


def build(source: StageSource) -> BuiltStage:
    """Build the stage for crops of the pack's ``crop_size``; it needs no sources.

    Raises:
        PackError: it cannot be built for that size.
    """
    size = source.settings["crop_size"]
    if size not in CROP_SIZES:
        raise PackError(f"setting crop_size must be one of {', '.join(map(str, CROP_SIZES))}, got {size!r}")
    module = GeometricSwapper(size).eval()
    crop = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    landmarks = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0))
    graph = export_module(
        module,
        (crop, crop, landmarks, landmarks, torch.zeros(2, 128)),
        ["target_crop_rgb", "source_crop_rgb", "target_landmarks", "source_landmarks", "source_embedding"],
        ["swapped_crop_rgb", "mask"],
        {
            **SWAPPER_INPUT_AXES,
            "swapped_crop_rgb": {0: "N"},
            "mask": {0: "N"},
        },
    )
    # A pixel that falls between two grey values may be rounded to either of them.
    reference = torch_reference(module, ("swapped_crop_rgb", "mask"))
    return BuiltStage(graph, {"pytorch": reference}, {"swapped_crop_rgb": 1.0, "mask": 1e-4})
