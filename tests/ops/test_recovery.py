"""What a replica does when the process of a model dies, and when its start fails: toy models on the real Triton."""

from __future__ import annotations

import os
import queue
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from tests.ops.metrics import scrape, value
from tests.ops.serve_process import ServeProcess, eventually, processes_with, shared_memory, stub_of
from tests.ops.toys import write_hanging_graph, write_manifest, write_repository
from warmswap_ops.control import ControlClient
from warmswap_ops.errors import LoadTimeoutError, MachineError, ModelLoadError, ServerError
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.triton_command import has_gpu

pytestmark = pytest.mark.triton

WAIT_S = 20.0


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repository")


def row(*values: float) -> list[Any]:
    given = InferInput("x", [len(values)], "FP32")
    given.set_data_from_numpy(np.array(values, np.float32))
    return [given]


def test_dead_model_process_is_replaced_and_the_replica_answers_again(repository: Path) -> None:
    with ServeProcess(repository) as serve:
        urls = serve.phase("ready")["urls"]
        before = scrape(urls["metrics"])
        assert value(before, "warmswap_ready") == 1
        assert value(before, "warmswap_stage_restarts_total") is None
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with InferenceServerClient(urls["grpc"]) as client:
            dead_pid = stub_of(repository, "face_embedder")
            os.kill(dead_pid, signal.SIGKILL)
            for _ in range(2):  # at once: they meet the dead process
                client.async_infer("face_swap", row(1, 3), lambda result, error: answers.put(error or result))
            failures = [answers.get(timeout=WAIT_S) for _ in range(2)]
            assert all(isinstance(failure, InferenceServerException) for failure in failures), failures
            recovering = serve.phase("recovering")
            expected = f"model face_embedder: its process {dead_pid} was killed by SIGKILL"
            assert recovering["reason"] == expected
            during = scrape(urls["metrics"])
            assert value(during, "warmswap_ready") == 0
            assert value(during, "warmswap_not_ready_reason", model="face_embedder", reason="process_died") == 1
            ready = serve.phase("ready")
            assert ready["urls"] == urls
        with InferenceServerClient(urls["grpc"]) as client:
            answer = client.infer("face_swap", row(1, 3), client_timeout=WAIT_S)
            assert answer.as_numpy("y").tolist() == [16, 48]
        after = scrape(urls["metrics"])
        assert value(after, "warmswap_ready") == 1
        assert value(after, "warmswap_not_ready_reason") is None
        assert value(after, "warmswap_stage_restarts_total", model="face_embedder", reason="killed") == 1
        time_to_ready = "warmswap_time_to_ready_seconds"
        assert value(after, time_to_ready) == value(before, time_to_ready)
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0
        assert processes_with(str(repository)) == []
        assert shared_memory(serve.pid) == []


def test_models_that_keep_dying_end_the_replica(repository: Path) -> None:
    with ServeProcess(repository, "--max-restarts=1") as serve:
        serve.phase("ready")
        os.kill(stub_of(repository, "face_swap"), signal.SIGKILL)
        serve.phase("ready")
        os.kill(stub_of(repository, "face_swap"), signal.SIGKILL)
        failed = serve.phase("failed")
        assert "model face_swap: its process" in failed["error"]
        assert "1 restarts in 600 s were enough" in failed["error"]
        assert serve.wait() == ServerError.exit_code
        assert processes_with(str(repository)) == []


def test_a_failure_while_draining_ends_even_a_replica_that_would_stay(repository: Path) -> None:
    with ServeProcess(repository, "--on-failure=stay", "--drain-delay=60") as serve:
        server_pid = serve.phase("server")["pid"]
        serve.phase("ready")
        time.sleep(0.3)  # the phase is told before the start is over
        serve.send(signal.SIGTERM)
        serve.phase("draining")
        os.kill(server_pid, signal.SIGKILL)
        assert serve.phase("failed")["stays"] is False
        assert serve.wait() == ServerError.exit_code
        assert processes_with(str(repository)) == []


def test_unload_is_not_a_death_and_stopping_beside_a_dead_process_is_quick(repository: Path) -> None:
    with ServeProcess(repository, "--exit-timeout=60") as serve:
        urls = serve.phase("ready")["urls"]
        with ControlClient(urls["grpc"]) as control:
            pid = stub_of(repository, "face_landmarker")
            control.unload("face_landmarker")
            assert eventually(lambda: pid not in processes_with(str(repository)))
            time.sleep(1.0)  # a few looks of the watch
            control.load("face_landmarker")
        assert value(scrape(urls["metrics"]), "warmswap_ready") == 1
        os.kill(stub_of(repository, "face_embedder"), signal.SIGKILL)
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0  # Triton itself would wait for the dead one for 60 s, longer than this test
        assert "recovering" not in serve.stderr()


def test_model_that_hangs_in_its_warm_up_is_named(repository: Path) -> None:
    """It alone is loaded, so that no other takes too long on a busy machine."""
    folder = repository / "face_landmarker/1"
    write_hanging_graph(folder / "model.onnx")
    write_manifest(folder, "face_landmarker")
    server = LocalTriton(repository, stages=("face_landmarker",), pipelines=(), load_timeout_s=4.0)
    with pytest.raises(
        LoadTimeoutError, match="model face_landmarker was not ready after 4 s; a larger --load-timeout"
    ):
        server.start()
    assert processes_with(str(repository)) == []


def test_failed_start_may_stay_for_a_look(repository: Path) -> None:
    (repository / "face_swap/1/model.py").write_text("import no_such_module\n")
    with ServeProcess(repository, "--on-failure=stay") as serve:
        failed = serve.phase("failed")
        assert (failed["exit_code"], failed["stays"]) == (ModelLoadError.exit_code, True)
        port = _metrics_port(serve)
        samples = scrape(f"http://127.0.0.1:{port}/metrics")
        assert value(samples, "warmswap_ready") == 0
        assert value(samples, "warmswap_triton_metrics_up") == 1
        assert value(samples, "warmswap_not_ready_reason", model="face_swap", reason="load_failed") == 1
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0
        assert "No module named 'no_such_module'" in serve.stderr()
        assert processes_with(str(repository)) == []


def test_replica_without_a_repository_may_stay_with_its_metrics(tmp_path: Path) -> None:
    with ServeProcess(tmp_path / "nowhere", "--on-failure=stay") as serve:
        serve.phase("failed")
        samples = scrape(f"http://127.0.0.1:{_metrics_port(serve)}/metrics")
        assert value(samples, "warmswap_not_ready_reason", model="", reason="repository") == 1
        assert value(samples, "warmswap_triton_metrics_up") == 0
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_replica_that_must_have_a_gpu_says_that_there_is_none(repository: Path) -> None:
    with ServeProcess(repository, "--require-gpu") as serve:
        assert serve.wait() == MachineError.exit_code
        assert "there is no NVIDIA GPU here" in serve.stderr()
        assert "nvidia.com/gpu" in serve.stderr()


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_replica_without_its_gpu_may_stay_unready_so_that_nothing_restarts_it_at_once(repository: Path) -> None:
    with ServeProcess(repository, "--require-gpu", "--on-failure=stay") as serve:
        assert serve.phase("failed")["stays"] is True
        samples = scrape(f"http://127.0.0.1:{_metrics_port(serve)}/metrics")
        assert value(samples, "warmswap_ready") == 0
        assert value(samples, "warmswap_not_ready_reason", model="", reason="machine") == 1
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0


def test_number_of_golden_requests_is_a_setting(repository: Path) -> None:
    with LocalTriton(repository, warmup_requests=3) as server:
        samples = scrape(server.metrics_url)
    for model in ("face_swap", "face_analysis"):
        assert value(samples, "nv_inference_request_success_total", model=model) == 3  # the parser adds _total


def _metrics_port(serve: ServeProcess) -> int:
    """Return the port of the launcher's that accepts connections; no phase tells it before the server's."""
    pid = serve.launcher_pid()
    inodes = {os.readlink(path).removeprefix("socket:[").rstrip("]") for path in Path(f"/proc/{pid}/fd").iterdir()}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            return int(fields[1].rpartition(":")[2], 16)
    raise AssertionError("no listening socket")
