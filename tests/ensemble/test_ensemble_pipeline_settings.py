"""The parameters of a pipeline's configuration, without Triton."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from warmswap_ensemble.contract import PIPELINE_SETTINGS, TRITON_SETTINGS
from warmswap_ensemble.image import ImageLimits
from warmswap_ensemble.pipeline_settings import PipelineSettings, config_parameters, parse_settings

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def test_without_parameters_the_defaults_hold() -> None:
    expected = PipelineSettings({}, ImageLimits())
    assert parse_settings("face_swap", {}) == parse_settings("face_analysis", {}) == expected
    assert (expected.on_demand_wait_ms, expected.source_cache_entries) == (0, 64)
    assert (expected.fixed_frames, expected.first_look) == (False, True)


def test_parameters_are_used() -> None:
    parameters = {
        "first_look": "0",
        "fixed_frames": "1",
        "max_image_bytes": "1000",
        "max_image_pixels": "2000",
        "on_demand_wait_ms": "30",
        "source_cache_entries": "3",
        "stage_version.face_detector": "2",
        "stage_version.face_swapper_512": "4",
    }
    pins = {"face_detector": "2", "face_swapper_512": "4"}
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    found = parse_settings("face_swap", config_parameters(config))
    assert found == PipelineSettings(pins, ImageLimits(max_bytes=1000, max_pixels=2000), 30, 3, True, False)


@pytest.mark.parametrize("name", sorted({*PIPELINE_SETTINGS, *TRITON_SETTINGS}))
def test_what_the_contract_names_is_known(name: str) -> None:
    parse_settings("face_swap", {name: "1"})


@pytest.mark.parametrize(
    ("pipeline", "parameters", "says"),
    [
        ("face_swap", {"max_pixels": "5"}, r"unknown parameters \['max_pixels'\]"),
        ("face_swap", {"stage_version.nobody": "1"}, r"unknown parameters \['stage_version.nobody'\]"),
        ("face_analysis", {"stage_version.face_swapper": "1"}, "unknown parameters"),
        ("face_analysis", {"stage_version.face_swapper_512": "1"}, "unknown parameters"),
        ("face_swap", {"max_image_bytes": "1e6"}, "max_image_bytes of config.pbtxt must be a whole number, got '1e6'"),
        ("face_swap", {"first_look": "yes"}, "first_look of config.pbtxt must be a whole number, got 'yes'"),
    ],
)
def test_what_it_cannot_be_is_refused(pipeline: str, parameters: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_settings(pipeline, parameters)


def test_nothing_but_the_backend_needs_triton() -> None:
    """All that the pipelines consist of can be imported without Triton, also what the backend uses."""
    package = REPOSITORY.parent / "ensemble_python/warmswap_ensemble"
    names = sorted(f"warmswap_ensemble.{path.stem}" for path in package.glob("*.py"))
    assert "warmswap_ensemble.pipeline_settings" in names
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nprint(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {name for name in found if name.startswith(("triton_python", "warmswap_ensemble.triton_backend"))}
