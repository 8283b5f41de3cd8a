from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.toys import STAGE_NAMES, write_repository
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.graph_load import MEASURES, graph_load_lines, measure_graph_load
from warmswap_loadtests.replicas import measure_replicas, replicas_lines


def test_every_stage_is_loaded_and_run(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    said: list[str] = []
    figures = measure_graph_load([repository], rounds=1, runs=1, progress=said.append)
    assert said == ["round 1 of 1"]
    assert set(figures["stages"]) == set(STAGE_NAMES)
    measured = figures["stages"]["face_embedder"][str(repository)]
    assert all(len(measured[name]) == 1 and measured[name][0] > 0 for name in MEASURES)
    assert measured["load_ms"][0] < measured["load_and_first_run_ms"][0]
    assert len(graph_load_lines(figures)) == 2 + len(STAGE_NAMES)


def test_graph_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    (repository / "face_detector/1/model.onnx").write_bytes(b"no graph")
    with pytest.raises(BenchError, match=r"face_detector of .*repository: .*cannot load model\.onnx"):
        measure_graph_load([repository], 1, 1, lambda line: None)


@pytest.mark.triton
def test_two_replicas_are_measured(tmp_path: Path) -> None:
    figures = measure_replicas(write_repository(tmp_path / "repository"), lambda line: None)
    assert 0 < figures["added_pss_mb"] < 2 * figures["first_pss_mb"]
    assert figures["exec_to_ready_cpu_s"]["first"] > 0
    assert "the second adds" in replicas_lines(figures)[1]
