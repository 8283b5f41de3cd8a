"""A replica that answers wrongly is never ready, and says why: in its log, in ``warmswap status`` and in a metric."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, load, numpy_helper, save

from tests.e2e.pictures import COLLINS, HOPPER
from tests.e2e.repositories import change_json, copy_repository, fix_digest
from tests.e2e.serve import Serve, warmswap
from tests.e2e.wire import open_service
from tests.ops.metrics import scrape, value
from tests.ops.serve_process import eventually
from warmswap_ensemble.contract import FACE_EMBEDDER, MODELS
from warmswap_ops.errors import ModelLoadError
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return copy_repository(tmp_path / "model_repository")


def expect_another_answer(repository: Path) -> None:
    change_json(repository / "face_swap/1/golden.json", similarities=[0.5, 0.6])


def embed_nan(repository: Path) -> None:
    """Let the embedder multiply its answer by NaN."""
    version_dir = repository / FACE_EMBEDDER.name / "1"
    model = load(version_dir / "model.onnx")
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["good" if name == "embedding" else name for name in node.output]
        node.input[:] = ["good" if name == "embedding" else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array(np.nan, np.float32), "nan"))
    graph.node.append(helper.make_node("Mul", ["good", "nan"], ["embedding"]))
    save(model, version_dir / "model.onnx")
    fix_digest(version_dir)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(expect_another_answer, ["model face_swap", "self_test_failed", "golden 0.5"], id="another answer"),
        pytest.param(embed_nan, ["failed to load", "face_embedder"], id="NaN"),
    ],
)
def test_wrong_answer_keeps_the_replica_unready_and_is_told_everywhere(
    repository: Path, tmp_path: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    spoil(repository)
    with Serve(repository, tmp_path, "--on-failure=stay") as serve:
        failed = serve.phase("failed")
        assert (failed["exit_code"], failed["stays"]) == (ModelLoadError.exit_code, True)
        assert all(word in failed["error"] for word in words), failed["error"]
        assert eventually(lambda: failed["error"] in serve.errors())
        ports = [phase for phase in serve.phases() if phase["phase"] == "server"][-1]

        status = warmswap("status", "--url", f"http://127.0.0.1:{ports['http']}", "--json")
        assert status.returncode == 1, status.stderr
        answer = json.loads(status.stdout)
        assert (answer["live"], answer["ready"]) == (True, False)
        reasons = {entry["model"]: entry["reason"] for entry in answer["not_ready"]}
        assert list(reasons) == list(MODELS)
        assert reasons["face_swap"] == failed["error"]
        text = warmswap("status", "--url", f"grpc://127.0.0.1:{ports['grpc']}")
        assert text.returncode == 1
        assert f"not ready: face_swap: {failed['error']}" in text.stdout.splitlines()

        samples = scrape(f"http://127.0.0.1:{ports['metrics']}/metrics")
        assert value(samples, "warmswap_ready") == 0
        code = "self_test_failed" if "self_test_failed" in failed["error"] else "stage_failed"
        assert value(samples, "warmswap_not_ready_reason", reason=code) == 1
        assert serve.is_running()
        serve.terminate()
        assert serve.wait() == 0, serve.errors()
        assert serve.phases()[-1]["phase"] == "stopped"
        serve.assert_nothing_left()


def test_nan_ends_the_start(repository: Path, tmp_path: Path) -> None:
    embed_nan(repository)
    with Serve(repository, tmp_path) as serve:
        assert serve.wait() == ModelLoadError.exit_code, serve.errors()
        serve.assert_nothing_left()


def test_missing_stage_is_told_by_the_metrics_alone(repository: Path, tmp_path: Path) -> None:
    (repository / "face_landmarker").rename(tmp_path / "elsewhere")
    with Serve(repository, tmp_path, "--on-failure=stay") as serve:
        assert "lacks face_landmarker" in serve.phase("failed")["error"]
        assert serve.is_running()
        serve.terminate()
        assert serve.wait() == 0


def test_metrics_of_a_running_replica(server: LocalTriton) -> None:
    with open_service(server, "grpc") as service:
        for _ in range(2):  # one for each process, most likely
            service.client.swap(COLLINS, HOPPER)
        service.client.analyze(HOPPER)
    samples = scrape(server.metrics_url)
    assert value(samples, "warmswap_ready") == 1
    assert value(samples, "warmswap_triton_metrics_up") == 1
    live_s, ready_s = (value(samples, f"warmswap_time_to_{what}_seconds") for what in ("live", "ready"))
    assert live_s is not None
    assert ready_s is not None
    assert 0 < live_s < ready_s
    assert abs((value(samples, "warmswap_clock_seconds") or 0) - time.time()) < 60
    (labels,) = (dict(key[1]) for key in samples if key[0] == "warmswap_build_info")
    assert labels["triton"] == server.phases[0].details["triton"]
    assert set(labels) == {"version", "triton", "onnxruntime"}
    for model in MODELS:
        parts = {
            phase: value(samples, "warmswap_model_load_seconds", model=model, phase=phase)
            for phase in ("session", "warmup", "total")
        }
        assert all(parts.values()), (model, parts)
        assert parts["total"] == pytest.approx((parts["session"] or 0) + (parts["warmup"] or 0))
    for model in ("face_swap", "face_analysis"):
        assert value(samples, "warmswap_cold_requests_total", model=model) is not None
        last_s = value(samples, "warmswap_last_request_timestamp_seconds", model=model)
        assert last_s is not None
        assert last_s > 1.7e9
    assert (value(samples, "warmswap_first_request_seconds", model="face_analysis") or 0) > 0
    assert (value(samples, "warmswap_request_median_seconds", model="face_analysis") or 0) > 0


def test_phases_of_a_start_carry_the_same_figures(server: LocalTriton) -> None:
    samples = scrape(server.metrics_url)
    by_name = {phase.name: phase.details for phase in server.phases}
    assert value(samples, "warmswap_time_to_live_seconds") == pytest.approx(
        by_name["server"]["ms_total"] / 1e3, abs=0.01
    )
    assert value(samples, "warmswap_time_to_ready_seconds") == pytest.approx(
        by_name["ready"]["ms_total"] / 1e3, abs=0.01
    )
    load_ms = by_name["stages"]["load_ms"]["face_swapper"]
    warmup_ms = by_name["stages"]["warmup_ms"]["face_swapper"]
    assert load_ms + warmup_ms == pytest.approx(by_name["stages"]["models"]["face_swapper"])
    session_s = value(samples, "warmswap_model_load_seconds", model="face_swapper", phase="session")
    assert session_s == pytest.approx(load_ms / 1e3)
