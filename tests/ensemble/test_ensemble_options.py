from __future__ import annotations

from typing import Any

import pytest

from warmswap_ensemble.contract import ANALYZE_OPTIONS, MAX_FACES, MAX_ROLLOUT_KEY, SWAP_OPTIONS
from warmswap_ensemble.errors import InvalidOptionError
from warmswap_ensemble.options import (
    AnalyzeOptions,
    FaceSelector,
    SwapOptions,
    parse_analyze_options,
    parse_swap_options,
)


def test_options_are_those_of_the_contract() -> None:
    assert list(SwapOptions.__annotations__) == list(SWAP_OPTIONS)
    assert list(AnalyzeOptions.__annotations__) == list(ANALYZE_OPTIONS)


def test_nothing_given_means_the_defaults() -> None:
    assert parse_swap_options({}) == SwapOptions()
    assert parse_analyze_options({}) == AnalyzeOptions()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("face_selector", "all", FaceSelector("all")),
        ("face_selector", "largest", FaceSelector("largest")),
        ("face_selector", "reference", FaceSelector("reference")),
        ("face_selector", "index:0", FaceSelector("index", 0)),
        ("face_selector", "index:127", FaceSelector("index", 127)),
        ("source_face_selector", "largest", FaceSelector("largest")),
        ("source_face_selector", "index:2", FaceSelector("index", 2)),
        ("reference_threshold", -1, -1.0),
        ("reference_threshold", "1", 1.0),
        ("reference_threshold", 0.25, 0.25),
        ("min_score", 0, 0.0),
        ("min_score", 1, 1.0),
        ("min_score", "0.35", 0.35),
        ("min_score", "5e-1", 0.5),
        ("min_score", 0.35, 0.35),
        ("max_faces", 1, 1),
        ("max_faces", "3", 3),
        ("max_faces", MAX_FACES, MAX_FACES),
        ("quality", 1, 1),
        ("quality", "100", 100),
        ("output_format", "same", "same"),
        ("output_format", "jpeg", "jpeg"),
        ("output_format", "png", "png"),
        ("output_format", "webp", "webp"),
        ("on_no_face", "error", "error"),
        ("on_no_face", "passthrough", "passthrough"),
        ("rollout_key", "user-7", "user-7"),
        ("rollout_key", 7, "7"),
        ("rollout_key", "k" * MAX_ROLLOUT_KEY, "k" * MAX_ROLLOUT_KEY),
    ],
)
def test_good_values(name: str, value: str | int | float, expected: object) -> None:
    options = parse_swap_options({name: value})
    assert getattr(options, name) == expected
    assert type(getattr(options, name)) is type(expected)
    others = set(SWAP_OPTIONS) - {name}
    assert all(getattr(options, other) == getattr(SwapOptions(), other) for other in others)


BAD: dict[str, list[str | int | float | bool]] = {
    "face_selector": ["", "All", "index", "index:", "index:K", "index:-1", "index:1.5", "index:٣", "index:9999999999"],
    "source_face_selector": ["", "all", "reference", "index:", 0, True],
    "reference_threshold": ["", "high", -1.01, 1.01, "nan", "inf", float("nan"), True],
    "min_score": ["", "0,5", -0.01, 1.01, 50, "nan", "-inf", False, True],
    "max_faces": ["", 0, -1, MAX_FACES + 1, "1.0", 1.5, " 3", "٣", "1e1", True, "9" * 5000],
    "quality": ["", 0, 101, "ninety", 92.0, True],
    "output_format": ["", "jpg", "JPEG", "gif", 1],
    "on_no_face": ["", "ignore", "Error", False],
    "rollout_key": ["", "k" * (MAX_ROLLOUT_KEY + 1)],
}
EXPECTATION = {
    "face_selector": "one of all, largest, index:K, reference",
    "source_face_selector": "one of largest, index:K",
    "reference_threshold": "a number from -1 to 1",
    "min_score": "a number from 0 to 1",
    "max_faces": "a whole number from 1 to 128",
    "quality": "a whole number from 1 to 100",
    "output_format": "one of same, jpeg, png, webp",
    "on_no_face": "one of error, passthrough",
    "rollout_key": "a text of 1 to 256 characters",
}


def test_every_option_has_bad_values() -> None:
    assert set(BAD) == set(EXPECTATION) == set(SWAP_OPTIONS) - {"swapper"}, "the pipeline knows its swappers"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values_are_refused_with_what_is_allowed(name: str, value: str | int | float | bool) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        parse_swap_options({name: value})
    expectation, _, fact = str(caught.value).partition(", got ")
    assert expectation == f"{name} must be {EXPECTATION[name]}"
    assert fact.strip("'") == str(value)
    assert caught.value.code == "invalid_option"


@pytest.mark.parametrize("name", ANALYZE_OPTIONS)
def test_analysis_reads_its_options_like_the_swap(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises(InvalidOptionError, match=f"^{name} must be {EXPECTATION[name]}"):
            parse_analyze_options({name: value})
    assert parse_analyze_options({"min_score": "0.9", "max_faces": "2"}) == AnalyzeOptions(0.9, 2)
    assert parse_analyze_options({"min_score": 0, "max_faces": 1}) == AnalyzeOptions(0.0, 1)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("", None, id="empty"),
        pytest.param("face_selecter", "face_selector", id="misspelt"),
        pytest.param("Quality", "quality", id="capital"),
        pytest.param("maxfaces", "max_faces", id="without underscore"),
        pytest.param("gpu", None, id="nothing like it"),
    ],
)
def test_unknown_name_is_refused_with_a_hint(name: str, hint: str | None) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        parse_swap_options({name: "1"})
    text = str(caught.value)
    assert text.startswith(f"unknown option {name!r}")
    assert (f"did you mean {hint}?" in text) if hint else ("did you mean" not in text)
    assert all(option in text for option in SWAP_OPTIONS)


def test_options_of_the_swap_are_unknown_to_the_analysis() -> None:
    given: dict[str, Any] = {"quality": 90}
    with pytest.raises(
        InvalidOptionError, match=r"unknown option 'quality'; options are: max_faces, min_score, rollout_key$"
    ):
        parse_analyze_options(given)


def test_one_bad_option_among_good_ones_is_found() -> None:
    with pytest.raises(InvalidOptionError, match=r"^quality must be"):
        parse_swap_options({"max_faces": 2, "quality": 0, "output_format": "png"})
