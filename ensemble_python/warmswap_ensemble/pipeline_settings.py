"""The parameters of a pipeline's ``config.pbtxt``: which there are, what they must be, and what holds without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from warmswap_ensemble.contract import (
    FACE_SWAPPER,
    PIPELINE_SETTINGS,
    PIPELINE_STAGES,
    TRITON_SETTINGS,
    swapper_variant,
)
from warmswap_ensemble.image import ImageLimits

DEFAULT_SOURCE_CACHE_ENTRIES: Final = 64
DEFAULT_ON_DEMAND_WAIT_MS: Final = 0
STAGE_VERSION_PREFIX: Final = "stage_version."
REFUSED: Final = "refused"
"""A key that only the launcher sets: the pipeline must not load, and this is why."""


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """What the configuration says of a pipeline.

    Attributes:
        pins: Stage, or variant of the swapper, to the version that answers.
        limits: Largest pictures accepted.
        on_demand_wait_ms: How long a request waits for a stage that is loaded on demand.
        source_cache_entries: Sources that are remembered.
        fixed_frames: See ``stage_calls``.
        first_look: See ``stage_calls``.
    """

    pins: Mapping[str, str]
    limits: ImageLimits
    on_demand_wait_ms: int = DEFAULT_ON_DEMAND_WAIT_MS
    source_cache_entries: int = DEFAULT_SOURCE_CACHE_ENTRIES
    fixed_frames: bool = False
    first_look: bool = True


def config_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of a model's configuration, as Triton gives it."""
    return {key: value["string_value"] for key, value in config["parameters"].items()}


def parse_settings(pipeline: str, parameters: Mapping[str, str]) -> PipelineSettings:
    """Return the settings that parameters stand for.

    Raises:
        ValueError: one is unknown, or has a value that it cannot have.
    """
    return PipelineSettings(
        pins=_stage_pins(pipeline, parameters),
        on_demand_wait_ms=_whole_number(parameters, "on_demand_wait_ms", DEFAULT_ON_DEMAND_WAIT_MS),
        limits=ImageLimits(
            max_bytes=_whole_number(parameters, "max_image_bytes", ImageLimits().max_bytes),
            max_pixels=_whole_number(parameters, "max_image_pixels", ImageLimits().max_pixels),
        ),
        source_cache_entries=_whole_number(parameters, "source_cache_entries", DEFAULT_SOURCE_CACHE_ENTRIES),
        fixed_frames=bool(_whole_number(parameters, "fixed_frames", 0)),
        first_look=bool(_whole_number(parameters, "first_look", 1)),
    )


def _stage_pins(pipeline: str, parameters: Mapping[str, str]) -> dict[str, str]:
    known = {
        *PIPELINE_SETTINGS,
        *TRITON_SETTINGS,
        *(f"{STAGE_VERSION_PREFIX}{name}" for name in PIPELINE_STAGES[pipeline]),
    }
    unknown = sorted(key for key in parameters if key not in known and not _pins_variant(pipeline, key))
    if unknown:
        raise ValueError(f"unknown parameters {unknown} in config.pbtxt; known are {sorted(known)}")
    return {
        key.removeprefix(STAGE_VERSION_PREFIX): value
        for key, value in parameters.items()
        if key.startswith(STAGE_VERSION_PREFIX)
    }


def _pins_variant(pipeline: str, key: str) -> bool:
    prefix, _, model = key.partition(".")
    is_pin = f"{prefix}." == STAGE_VERSION_PREFIX and FACE_SWAPPER.name in PIPELINE_STAGES[pipeline]
    return is_pin and swapper_variant(model) is not None


def _whole_number(parameters: Mapping[str, str], key: str, default: int) -> int:
    value = parameters.get(key)
    if value is None:
        return default
    if not value.isdecimal():
        raise ValueError(f"parameter {key} of config.pbtxt must be a whole number, got {value!r}")
    return int(value)
