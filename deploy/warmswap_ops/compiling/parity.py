"""Does a compiled graph answer as the exported one does?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MAX_GREY: Final = 1.0
"""For pixels."""
MAX_RELATIVE: Final = 1e-4
"""For numbers: of the largest one of the tensor, at least of 1. Whole numbers and booleans must be equal."""

Arrays = Mapping[str, NDArray[Any]]


class ParityError(Exception):
    """The compiled graph answers otherwise."""


def compare(exported: Arrays, compiled: Arrays) -> dict[str, dict[str, float]]:
    """Compare the answers of both graphs to one input.

    Returns:
        Output name to ``largest_difference`` and ``tolerance``.

    Raises:
        ParityError: shape, type or numbers of an output differ; says by how much.
    """
    return {name: _compare(name, array, compiled[name]) for name, array in exported.items()}


def _compare(name: str, exported: NDArray[Any], compiled: NDArray[Any]) -> dict[str, float]:
    if (exported.shape, exported.dtype) != (compiled.shape, compiled.dtype):
        raise ParityError(
            f"{name} is {compiled.dtype} {list(compiled.shape)}, exported {exported.dtype} {list(exported.shape)}"
        )
    ours, theirs = exported.astype(np.float64), compiled.astype(np.float64)
    finite = np.isfinite(ours)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.isfinite(theirs[finite]).all():
        raise ParityError(f"{name} is finite where the exported graph's is not, or the other way round")
    difference = float(np.abs(ours[finite] - theirs[finite]).max(initial=0.0))
    tolerance = _tolerance(exported.dtype, float(np.abs(ours)[finite].max(initial=0.0)))
    if difference > tolerance:
        raise ParityError(f"{name} differs by {difference:.3g} from the exported graph's, allowed {tolerance:.3g}")
    return {"largest_difference": difference, "tolerance": tolerance}


def _tolerance(dtype: np.dtype[Any], largest: float) -> float:
    if dtype == np.uint8:
        return MAX_GREY
    return MAX_RELATIVE * max(1.0, largest) if dtype.kind == "f" else 0.0
