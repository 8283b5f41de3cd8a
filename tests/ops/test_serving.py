"""A replica with toy models on the real Triton: readiness, batching, errors per request."""

from __future__ import annotations

import os
import queue
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.ops.serve_process import processes_with, shared_memory
from tests.ops.toys import OUT_OF_TABLE, PIPELINE_NAMES, STAGE_NAMES, write_repository
from warmswap_ops.control import ControlClient
from warmswap_ops.errors import ModelLoadError, ServerUnreachableError, UnknownModelError
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton

BATCHING_STAGE = "face_embedder"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    repository = write_repository(tmp_path_factory.mktemp("serving") / "repository", batching=BATCHING_STAGE)
    with LocalTriton(repository) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LocalTriton) -> Iterator[Any]:
    with InferenceServerClient(server.grpc_url) as connected:
        yield connected


def infer_together(client: Any, model: str, rows: list[list[float]]) -> list[Any]:
    """Send all at once; return what came back for each: an answer or an error."""
    answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    for index, row in enumerate(rows):
        client.async_infer(
            model,
            [tensor([row])],
            lambda result, error, index=index: answers.put((index, error or result)),
        )
    received = dict(answers.get(timeout=20) for _ in rows)
    return [received[index] for index in range(len(rows))]


def tensor(rows: list[list[float]]) -> Any:
    array = np.array(rows, np.float32)
    given = InferInput("x", list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    return given


def counts(client: Any, model: str) -> tuple[int, int]:
    statistics = client.get_inference_statistics(model).model_stats[0]
    return statistics.inference_count, statistics.execution_count


def test_phases_come_in_order_and_name_every_model(server: LocalTriton) -> None:
    assert [phase.name for phase in server.phases] == ["preflight", "server", "stages", "pipelines", "ready"]
    assert set(server.phases[2].details["models"]) == set(STAGE_NAMES)
    assert set(server.phases[3].details["models"]) == set(PIPELINE_NAMES)
    assert server.phases[4].details["ms_total"] > 0


def test_every_model_is_ready_and_the_server_names_itself(server: LocalTriton) -> None:
    with ControlClient(server.grpc_url) as control:
        assert all(control.is_model_ready(name) for name in (*STAGE_NAMES, *PIPELINE_NAMES))
        assert {(state.name, state.state) for state in control.index()} == {
            (name, "READY") for name in (*STAGE_NAMES, *PIPELINE_NAMES)
        }
        assert control.server_metadata().name.startswith("warmswap/")
    with urllib.request.urlopen(f"http://{server.http_url}/v2/models/face_swap/ready", timeout=5) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(server.metrics_url, timeout=5) as answer:
        assert b"nv_inference_count" in answer.read()


def test_processes_are_the_server_and_one_stub_per_model(server: LocalTriton) -> None:
    assert server.pid in server.processes
    assert len(server.processes) == 1 + len(STAGE_NAMES) + len(PIPELINE_NAMES)


def test_requests_that_wait_together_become_one_run(client: Any) -> None:
    rows_before, runs_before = counts(client, BATCHING_STAGE)
    answers = infer_together(client, BATCHING_STAGE, [[1, 2], [3, 4], [5, 6], [7, 8]])
    assert [answer.as_numpy("double").tolist() for answer in answers] == [[[2, 4]], [[6, 8]], [[10, 12]], [[14, 16]]]
    rows_after, runs_after = counts(client, BATCHING_STAGE)
    assert rows_after - rows_before == 4
    assert runs_after - runs_before == 1


def test_one_bad_request_does_not_fail_its_neighbours(client: Any) -> None:
    answers = infer_together(client, BATCHING_STAGE, [[1, 2], [OUT_OF_TABLE, 0], [5, 6], [7, 8]])
    assert isinstance(answers[1], InferenceServerException)
    assert "onnxruntime failed" in answers[1].message()
    good = [answers[index].as_numpy("looked_up").tolist() for index in (0, 2, 3)]
    assert good == [[[1, 2]], [[5, 6]], [[7, 8]]]


def test_only_requested_outputs_come_back(client: Any) -> None:
    answer = client.infer("face_detector", [tensor([[1, 2]])], outputs=[InferRequestedOutput("double")])
    assert [output.name for output in answer.get_response().outputs] == ["double"]


def test_control_errors_have_types(server: LocalTriton) -> None:
    with ControlClient(server.grpc_url) as control:
        with pytest.raises(ModelLoadError, match="face_nothing"):
            control.load("face_nothing")
        with pytest.raises(UnknownModelError):
            control.model_config("face_nothing")
    with ControlClient("127.0.0.1:9") as control, pytest.raises(ServerUnreachableError):
        control.index(timeout_s=3)


def test_version_policy_can_be_overridden(server: LocalTriton) -> None:
    with ControlClient(server.grpc_url) as control:
        config = control.model_config("face_landmarker")
        control.load("face_landmarker", config | {"version_policy": {"specific": {"versions": ["1"]}}})
        assert control.is_model_ready("face_landmarker", "1")


def test_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    before = set(shared_memory(os.getpid()))
    with LocalTriton(repository) as server:
        server_pid = server.pid
        assert set(shared_memory(os.getpid())) - before
    assert not set(shared_memory(os.getpid())) - before
    assert processes_with(str(repository)) == []
    assert not Path(f"/proc/{server_pid}").exists()


def test_in_flight_request_survives_stop(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    server = LocalTriton(repository)
    server.start()
    with InferenceServerClient(server.grpc_url) as client:
        array = np.array([1, 1002], np.float32)
        given = InferInput("x", [2], "FP32")
        given.set_data_from_numpy(array)
        client.async_infer("face_swap", [given], lambda result, error: answers.put(error or result))
        time.sleep(0.5)
        assert server.stop()
        answer = answers.get(timeout=10)
    assert answer.as_numpy("y").tolist() == [16, 16032]
