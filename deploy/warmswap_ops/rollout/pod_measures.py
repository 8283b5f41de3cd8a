"""How far two answers to one request lie apart, by their reports: what can be told from outside, without the pictures.

recall, precision, iou    of the faces' boxes, matched one to one, best overlap first
identity_gain             how much more like the source swapped faces became, the candidate's less the stable's
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from warmswap_client.errors import NoFaceError, WarmswapError
from warmswap_client.results import Bbox, SwapResult

MATCH_IOU: Final = 0.5
"""Least overlap of two boxes of one face, as in WIDER FACE's protocol and in ``warmswap_ensemble.comparison``."""


def compare_answers(stable: SwapResult | WarmswapError, candidate: SwapResult | WarmswapError) -> dict[str, float]:
    """Return the measures of the plan's ``[quality]`` that two answers to one request have.

    A candidate that finds no face where the stable version does is measured too: its recall is 0. Other failures are
    errors, and nothing to measure.
    """
    if not isinstance(stable, SwapResult):
        return {}
    if isinstance(candidate, NoFaceError):
        return compare_boxes([face.bbox for face in stable.faces], [])
    if not isinstance(candidate, SwapResult):
        return {}
    measures = compare_boxes([face.bbox for face in stable.faces], [face.bbox for face in candidate.faces])
    before, after = mean_gain(stable), mean_gain(candidate)
    if before is not None and after is not None:
        measures["identity_gain"] = after - before
    return measures


def compare_boxes(expected: Sequence[Bbox], found: Sequence[Bbox]) -> dict[str, float]:
    """Match boxes one to one and measure; two pictures without faces agree."""
    overlaps = sorted(
        ((iou(a, b), i, j) for i, a in enumerate(expected) for j, b in enumerate(found)), key=lambda each: -each[0]
    )
    pairs: dict[int, float] = {}
    taken: set[int] = set()
    for overlap, i, j in overlaps:
        if overlap >= MATCH_IOU and i not in pairs and j not in taken:
            pairs[i] = overlap
            taken.add(j)
    measures = {
        "recall": len(pairs) / len(expected) if expected else 1.0,
        "precision": len(pairs) / len(found) if found else 1.0,
    }
    if pairs:
        measures["iou"] = math.fsum(pairs.values()) / len(pairs)
    return measures


def iou(first: Bbox, second: Bbox) -> float:
    """Return the intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    both = _area(first) + _area(second) - shared
    return shared / both if both > 0 else 0.0


def mean_gain(result: SwapResult) -> float | None:
    """Return how much more like the source the swapped faces became; ``None`` = not measured."""
    gains = [
        face.similarity_after - face.similarity_before
        for face in result.faces
        if face.swapped and face.similarity_before is not None and face.similarity_after is not None
    ]
    return math.fsum(gains) / len(gains) if gains else None


def _area(box: Bbox) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
