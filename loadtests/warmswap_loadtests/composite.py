"""Does pasting a face cost by the face or by the frame? The same 256-pixel face into 720p and into 4K."""

from __future__ import annotations

import statistics
import time
from typing import Any

import cv2
import numpy as np

from warmswap_ensemble.compositing import paste_crop

FRAMES_WH = {"720p": (1280, 720), "4K": (3840, 2160)}
FACE_PX = 256


def measure_composite(repeats: int) -> dict[str, Any]:
    """Paste in turns into both frames and return the median times."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (FACE_PX, FACE_PX, 3), dtype=np.uint8)
    axis = np.linspace(-1, 1, FACE_PX, dtype=np.float32)
    mask = (4 - 6 * np.hypot(axis[None], axis[:, None])).clip(0, 1).astype(np.float32)
    affine_matrix = np.array([[1.0, 0.02, -400.0], [-0.02, 1.0, -200.0]])
    frames = {name: rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for name, (w, h) in FRAMES_WH.items()}
    times: dict[str, list[float]] = {name: [] for name in frames}
    for _ in range(repeats + 3):
        for name, frame in frames.items():
            start = time.perf_counter()
            paste_crop(frame, crop, mask, affine_matrix)
            times[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(values[3:]) for name, values in times.items()}
    return {"face_px": FACE_PX, "median_ms": medians, "ratio": medians["4K"] / medians["720p"]}


def composite_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    medians = ", ".join(f"{name} {ms:.3f} ms" for name, ms in figures["median_ms"].items())
    return [f"pasting a {figures['face_px']}-pixel face: {medians}; ratio {figures['ratio']:.2f}"]
