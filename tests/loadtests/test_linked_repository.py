"""Repositories of links: only the version policy differs, and the original is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.linked_repository import (
    ALL_VERSIONS,
    GraphTensor,
    link_model,
    only_version,
    plain_config,
    with_version_policy,
)
from warmswap_ops.config_text import parse_parameters, parse_version_policy

REST = 'name: "x"\nmax_batch_size: 4\n'


@pytest.mark.parametrize(
    "before",
    [
        REST,
        REST + "version_policy { latest { num_versions: 2 } }\n",
        REST + "version_policy: {\n  specific: {\n    versions: [ 1, 3 ]\n  }\n}\n",
        "version_policy: { all { } }  # a } in a comment\n" + REST,
    ],
)
def test_policy_is_set_or_replaced(before: str) -> None:
    config = with_version_policy(before, ALL_VERSIONS)
    assert config.count("version_policy") == 1
    assert parse_version_policy(config).choose([1, 2, 3]) == [1, 2, 3]
    assert parse_version_policy(with_version_policy(config, only_version(2))).choose([1, 2, 3]) == [2]
    for line in REST.splitlines():
        assert line in config


def test_policy_in_a_comment_or_a_string_stays() -> None:
    before = '# version_policy { all { } }\nparameters { key: "a" value: { string_value: "version_policy {" } }\n'
    config = with_version_policy(before, only_version(7))
    assert config.startswith(before.rstrip())
    assert parse_version_policy(config).specific == (7,)
    assert parse_parameters(config) == {"a": "version_policy {"}


def test_linked_model_shares_its_files(tmp_path: Path) -> None:
    model = tmp_path / "original" / "face_swapper"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.onnx").write_bytes(b"weights")
    (model / "configs").mkdir()
    (model / "config.pbtxt").write_text(REST)
    link_model(model, tmp_path / "copy", ALL_VERSIONS)
    copy = tmp_path / "copy" / "face_swapper"
    assert (copy / "1").is_symlink()
    assert (copy / "1" / "model.onnx").read_bytes() == b"weights"
    assert not (copy / "configs").exists()
    assert "version_policy" in (copy / "config.pbtxt").read_text()
    assert (model / "config.pbtxt").read_text() == REST


def test_no_model_to_link(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no model"):
        link_model(tmp_path / "face_swapper", tmp_path / "copy", ALL_VERSIONS)


def test_plain_config_takes_the_ports_of_the_graph() -> None:
    inputs = [GraphTensor("input.1", "tensor(float)", [1, 3, "?", "?"])]
    outputs = [GraphTensor("448", "tensor(float)", ["n", 1]), GraphTensor("451", "tensor(float)", [None, 4])]
    config = plain_config("published", inputs, outputs, {"intra_op_thread_count": "2"})
    assert "max_batch_size: 0" in config
    assert 'input [ { name: "input.1" data_type: TYPE_FP32 dims: [ 1, 3, -1, -1 ] } ]' in config
    assert 'output [ { name: "451" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]' in config
    assert parse_parameters(config) == {"intra_op_thread_count": "2"}


def test_plain_config_refuses_other_types() -> None:
    with pytest.raises(BenchError, match="input text"):
        plain_config("published", [GraphTensor("text", "tensor(string)", [1])], [], {})
