"""The options of a request, as keywords and as request parameters of Triton."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypedDict

from warmswap_client.errors import InvalidOptionError

Parameters = Mapping[str, str | int]
"""What both protocols carry without loss: text and integers."""


class SwapOptions(TypedDict, total=False):
    """Keywords of ``swap``; ``contract.SWAP_OPTIONS`` says what they mean. None is the same as not given."""

    face_selector: str | None
    source_face_selector: str | None
    reference_threshold: float | None
    min_score: float | None
    max_faces: int | None
    output_format: str | None
    quality: int | None
    swapper: str | None
    on_no_face: str | None
    rollout_key: str | None


class AnalyzeOptions(TypedDict, total=False):
    """Keywords of ``analyze``; ``contract.ANALYZE_OPTIONS`` says what they mean."""

    min_score: float | None
    max_faces: int | None
    rollout_key: str | None


def encode_parameters(options: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str | int]:
    """Turn the given options into request parameters.

    Floats become text: the JSON of HTTP and the protobuf of older tritonclients do not carry them equally, and the
    server reads numbers from text. The values are the server's to judge.

    Args:
        options: Keywords of the call.
        known: The table of the contract.

    Raises:
        TypeError: an unknown keyword, as for any Python function.
        InvalidOptionError: a value that is neither text nor a number.
    """
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}, expected one of {', '.join(known)}")
    return {name: _encode(name, value) for name, value in options.items() if value is not None}


def _encode(name: str, value: object) -> str | int:
    match value:
        case str():
            return str(value)
        case Integral():
            return int(value)
        case Real():
            return repr(float(value))
        case _:
            raise InvalidOptionError(f"{name} must be text or a number, got {type(value).__name__}")
