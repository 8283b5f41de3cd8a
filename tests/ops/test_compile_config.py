"""The text of a configuration that serves a compiled graph: what protobuf reads, and what stays as it was."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.e2e.repositories import REPOSITORY
from warmswap_ops.compiling.config_edit import with_compiled_graph
from warmswap_ops.config_text import parse_default_filename

FILE = "model.compiled.onnx"


def parse(config: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(config, model_config_pb2.ModelConfig())


@pytest.mark.parametrize(
    "config",
    [
        pytest.param("", id="empty"),
        pytest.param('name: "x" # the end', id="comment at the end"),
        pytest.param('default_model_filename: "model_int8.onnx"\nname: "x"', id="another file"),
        pytest.param("optimization { }", id="empty block"),
        pytest.param("optimization: { cuda { graphs: true } # why\n}", id="comment in the block"),
        pytest.param("optimization { graph { level: 1 } input_pinned_memory { enable: true } }", id="another level"),
        pytest.param("optimization < graph < > >", id="angle brackets"),
        pytest.param("optimization { cuda { graphs: true } graph { } }", id="graph is the second block"),
        pytest.param(
            'parameters { key: "optimization" value { string_value: "graph { level: 7 }" } } # optimization {',
            id="words in strings and comments",
        ),
        pytest.param('model_warmup { name: "optimization" batch_size: 1 }', id="as a value"),
    ],
)
def test_file_and_level_are_set_and_the_rest_stays(config: str) -> None:
    expected = parse(config)
    expected.default_model_filename = FILE
    expected.optimization.graph.level = 2
    changed = with_compiled_graph(config, FILE)
    assert parse(changed) == expected
    assert with_compiled_graph(changed, FILE).count("level") == changed.count("level")


@pytest.mark.parametrize("model", sorted(path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")))
def test_shipped_configurations_keep_their_comments(model: str) -> None:
    config = (REPOSITORY / model / "config.pbtxt").read_text()
    changed = with_compiled_graph(config, FILE)
    assert parse(changed).default_model_filename == parse_default_filename(changed) == FILE
    comments = [line for line in config.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in changed.splitlines() if line.lstrip().startswith("#")][1:] == comments


@pytest.mark.parametrize(
    ("config", "name"),
    [('default_model_filename: "a.onnx"', "a.onnx"), ('# default_model_filename: "a.onnx"', ""), ("", "")],
)
def test_default_filename(config: str, name: str) -> None:
    assert parse_default_filename(config) == name
