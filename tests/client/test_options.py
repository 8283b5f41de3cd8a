from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from warmswap_client import InvalidOptionError
from warmswap_client.options import AnalyzeOptions, SwapOptions, encode_parameters
from warmswap_ensemble.contract import ANALYZE_OPTIONS, SWAP_OPTIONS


def test_keywords_are_those_of_the_contract() -> None:
    assert SwapOptions.__annotations__.keys() == SWAP_OPTIONS.keys()
    assert AnalyzeOptions.__annotations__.keys() == ANALYZE_OPTIONS.keys()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, {}, id="empty"),
        pytest.param({"quality": None}, {}, id="none-is-not-given"),
        pytest.param({"quality": 90}, {"quality": 90}, id="int"),
        pytest.param({"quality": np.int64(90)}, {"quality": 90}, id="numpy-int"),
        pytest.param({"min_score": 0.1}, {"min_score": "0.1"}, id="float-as-text"),
        pytest.param({"min_score": np.float64(0.5)}, {"min_score": "0.5"}, id="numpy-float"),
        pytest.param({"min_score": 1}, {"min_score": 1}, id="int-for-float"),
        pytest.param({"min_score": Fraction(1, 4)}, {"min_score": "0.25"}, id="real"),
        pytest.param({"face_selector": "index:1"}, {"face_selector": "index:1"}, id="text"),
    ],
)
def test_only_given_options_become_parameters(options: dict[str, Any], expected: dict[str, Any]) -> None:
    parameters = encode_parameters(options, SWAP_OPTIONS)
    assert parameters == expected
    assert [type(value) for value in parameters.values()] == [type(value) for value in expected.values()]


def test_unknown_keyword_is_a_type_error_that_names_the_known_ones() -> None:
    with pytest.raises(TypeError, match="unknown option 'qualty', expected one of face_selector"):
        encode_parameters({"qualty": 90}, SWAP_OPTIONS)


def test_value_that_no_protocol_carries_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="quality must be text or a number, got list"):
        encode_parameters({"quality": [90]}, SWAP_OPTIONS)
