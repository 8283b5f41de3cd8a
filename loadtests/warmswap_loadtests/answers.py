"""Is an answer the right picture? Looked at after the measurement, since decoding takes time."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from warmswap_loadtests.errors import BenchError

CHANGED_LEVELS: Final = 16
"""A pixel counts as swapped where the reference differs from the target by more grey levels of 255."""

MAX_DIFFERENCE_LEVELS: Final = 4.0
"""A right answer differs from the reference by no more, on average over the swapped pixels: JPEG, other kernels."""

MIN_CHANGED_PIXELS: Final = 400


class AnswerCheck:
    """Holds answers against a reference answer to the same request.

    Attributes:
        unswapped_levels: What the untouched target would differ by: far more than is allowed.
    """

    def __init__(self, target: bytes, reference: bytes) -> None:
        """Decode both.

        Raises:
            BenchError: one is no picture, or no face was swapped.
        """
        target_grey, reference_grey = _decode(target), _decode(reference)
        if target_grey is None or reference_grey is None or target_grey.shape != reference_grey.shape:
            raise BenchError("the reference answer is no picture of the target's size")
        self._reference = reference_grey
        self._changed = np.abs(target_grey - reference_grey) > CHANGED_LEVELS
        if int(self._changed.sum()) < MIN_CHANGED_PIXELS:
            raise BenchError("the reference answer shows no swapped face: nothing to compare with")
        self.unswapped_levels = self._difference(target_grey)
        self._known: dict[bytes, str] = {reference: ""}

    def fault(self, answer: bytes) -> str:
        """Return what is wrong with an answer; empty = nothing."""
        if answer not in self._known:
            self._known[answer] = self._look(answer)
        return self._known[answer]

    def _look(self, answer: bytes) -> str:
        grey = _decode(answer)
        if grey is None:
            return f"{len(answer)} bytes that are no picture"
        if grey.shape != self._reference.shape:
            return f"{grey.shape[1]}x{grey.shape[0]} pixels, not {self._reference.shape[1]}x{self._reference.shape[0]}"
        levels = self._difference(grey)
        if levels > MAX_DIFFERENCE_LEVELS:
            return f"differs from the reference by {levels:.1f} grey levels (at most {MAX_DIFFERENCE_LEVELS:g})"
        return ""

    def _difference(self, grey: NDArray[Any]) -> float:
        return float(np.abs(grey - self._reference)[self._changed].mean())


def _decode(data: bytes) -> NDArray[Any] | None:
    if not data:
        return None
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if picture is None else picture.astype(np.int16)
