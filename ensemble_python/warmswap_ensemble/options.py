"""Request parameters to typed options; every refusal says what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from warmswap_ensemble.contract import (
    ANALYZE_OPTIONS,
    DEFAULT_SWAPPER,
    FACE_SELECTORS,
    MAX_FACES,
    MAX_ROLLOUT_KEY,
    ON_NO_FACE,
    OUTPUT_FORMATS,
    SOURCE_FACE_SELECTORS,
    SWAP_OPTIONS,
)
from warmswap_ensemble.errors import InvalidOptionError

Parameters = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class FaceSelector:
    """Which faces of a picture.

    Attributes:
        kind: ``all``, ``largest``, ``index`` or ``reference``.
        index: Position from the left, for ``index``.
    """

    kind: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class SwapOptions:
    """Options of one swap; see ``contract.SWAP_OPTIONS``. ``None`` means that the models' manifests decide."""

    face_selector: FaceSelector = FaceSelector("all")
    source_face_selector: FaceSelector = FaceSelector("largest")
    reference_threshold: float | None = None
    min_score: float | None = None
    max_faces: int = MAX_FACES
    output_format: str = "same"
    quality: int = 92
    swapper: str = DEFAULT_SWAPPER
    on_no_face: str = "error"
    rollout_key: str = ""


@dataclass(frozen=True, slots=True)
class AnalyzeOptions:
    """Options of one analysis; see ``contract.ANALYZE_OPTIONS``."""

    min_score: float | None = None
    max_faces: int = MAX_FACES
    rollout_key: str = ""


def parse_swap_options(parameters: Parameters) -> SwapOptions:
    """Read the request parameters of ``face_swap``.

    Raises:
        InvalidOptionError: a name is unknown or a value is out of range.
    """
    _refuse_unknown(parameters, SWAP_OPTIONS)
    values: dict[str, object] = {}
    for name, value in parameters.items():
        match name:
            case "face_selector":
                values[name] = _selector(name, value, FACE_SELECTORS)
            case "source_face_selector":
                values[name] = _selector(name, value, SOURCE_FACE_SELECTORS)
            case "reference_threshold":
                values[name] = _number(name, value, -1.0, 1.0)
            case "min_score":
                values[name] = _number(name, value, 0.0, 1.0)
            case "max_faces":
                values[name] = _whole(name, value, 1, MAX_FACES)
            case "quality":
                values[name] = _whole(name, value, 1, 100)
            case "swapper":
                values[name] = str(value)  # the pipeline knows which there are
            case "output_format":
                values[name] = _choice(name, value, OUTPUT_FORMATS)
            case "rollout_key":
                values[name] = _key(name, value)
            case _:
                values[name] = _choice(name, value, ON_NO_FACE)
    return SwapOptions(**values)  # type: ignore[arg-type]  # each case above gives its field's type


def parse_analyze_options(parameters: Parameters) -> AnalyzeOptions:
    """Read the request parameters of ``face_analysis``.

    Raises:
        InvalidOptionError: a name is unknown or a value is out of range.
    """
    _refuse_unknown(parameters, ANALYZE_OPTIONS)
    score, faces, key = (parameters.get(name) for name in ("min_score", "max_faces", "rollout_key"))
    return AnalyzeOptions(
        min_score=None if score is None else _number("min_score", score, 0.0, 1.0),
        max_faces=MAX_FACES if faces is None else _whole("max_faces", faces, 1, MAX_FACES),
        rollout_key="" if key is None else _key("rollout_key", key),
    )


def _refuse_unknown(parameters: Parameters, known: Mapping[str, str]) -> None:
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise InvalidOptionError(f"unknown option {name!r}{hint}; options are: {', '.join(sorted(known))}")


def _selector(name: str, value: object, allowed: tuple[str, ...]) -> FaceSelector:
    text = str(value)
    kind, colon, position = text.partition(":")
    if colon and kind == "index" and position.isascii() and position.isdigit() and len(position) < 10:
        return FaceSelector("index", int(position))
    if colon or text not in allowed or text == "index:K":
        raise InvalidOptionError(f"{name} must be one of {', '.join(allowed)}, got {text!r}")
    return FaceSelector(text)


def _number(name: str, value: object, least: float, most: float) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise InvalidOptionError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")
    return number


def _whole(name: str, value: object, least: int, most: int) -> int:
    text = str(value)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else least - 1
    if not least <= number <= most:
        raise InvalidOptionError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    return number


def _key(name: str, value: object) -> str:
    text = str(value)
    if not 0 < len(text) <= MAX_ROLLOUT_KEY:
        raise InvalidOptionError(f"{name} must be a text of 1 to {MAX_ROLLOUT_KEY} characters, got {text!r}")
    return text


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    text = str(value)
    if text not in allowed:
        raise InvalidOptionError(f"{name} must be one of {', '.join(allowed)}, got {text!r}")
    return text
