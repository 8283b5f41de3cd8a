from __future__ import annotations

from pathlib import Path

import pytest

from warmswap_ops.config_text import config_path, parse_parameters


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param("", {}, id="empty"),
        pytest.param('parameters { key: "a" value: { string_value: "1" } }', {"a": "1"}, id="one"),
        pytest.param('parameters: { value { string_value: "1" } key: "a" }', {"a": "1"}, id="value first"),
        pytest.param(
            'parameters { key: "a" value: { string_value: "1" } }\nname: "x"\n'
            'parameters { key: "b" value: { string_value: "2" } }',
            {"a": "1", "b": "2"},
            id="two",
        ),
        pytest.param(
            'parameters [ { key: "a", value: { string_value: "1" } }, { key: "b", value { string_value: "2" } } ]',
            {"a": "1", "b": "2"},
            id="in brackets",
        ),
        pytest.param("parameters { key: 'a' value: { string_value: '}' } }", {"a": "}"}, id="brace in a string"),
        pytest.param('parameters { key: "a" value { } }', {"a": ""}, id="no value"),
        pytest.param('# parameters { key: "a" value: { string_value: "1" } }', {}, id="comment"),
        pytest.param('model_warmup { parameters { key: "a" value: { string_value: "1" } } }', {}, id="further inside"),
        pytest.param('parameters { key: "key" value: { string_value: "string_value" } }', {"key": "string_value"}),
        pytest.param('parameters { key: "a"', {"a": ""}, id="cut short"),
    ],
)
def test_parameters(config: str, expected: dict[str, str]) -> None:
    assert parse_parameters(config) == expected


def test_named_configuration_wins_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/gpu.pbtxt").touch()
    assert config_path(tmp_path, "gpu") == tmp_path / "configs/gpu.pbtxt"
    assert config_path(tmp_path, "tpu") == config_path(tmp_path, None) == tmp_path / "config.pbtxt"
