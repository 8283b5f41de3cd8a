"""``warmswap serve`` with the real models: what may be wrong at the start, and the end at any moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tritonclient.grpc

from tests.e2e.pictures import COLLINS, HOPPER, contact_sheet
from tests.e2e.repositories import change_config, change_json, copy_repository, fix_digest
from tests.e2e.serve import WAIT_S, Serve
from warmswap_client import NO_RETRIES, FaceSwapClient, SwapResult
from warmswap_ensemble.contract import MODELS
from warmswap_ops.errors import ModelLoadError, PortInUseError, RepositoryError, ServerError

pytestmark = pytest.mark.triton


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return copy_repository(tmp_path / "model_repository")


def remove_model(repository: Path) -> None:
    shutil.rmtree(repository / "face_landmarker")


def remove_version(repository: Path) -> None:
    shutil.rmtree(repository / "face_embedder/1")


def remove_graph(repository: Path) -> None:
    (repository / "face_embedder/1/model.onnx").unlink()


def flip_a_bit(repository: Path) -> None:
    path = repository / "face_swapper/1/model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap_garbage_in(repository: Path) -> None:
    path = repository / "face_embedder/1/model.onnx"
    path.write_bytes(b"\x08\x07garbage" * 1000)
    fix_digest(path.parent)


def swap_another_model_in(repository: Path) -> None:
    shutil.copy(repository / "face_landmarker/1/model.onnx", repository / "face_embedder/1/model.onnx")
    fix_digest(repository / "face_embedder/1")


def alter_thumbnail(repository: Path) -> None:
    change_json(repository / "face_swap/1/golden.json", thumbnail_rgb=[0, 255, 0] * 256)


def alter_similarities(repository: Path) -> None:
    change_json(repository / "face_swap/1/golden.json", similarities=[0.5, 0.6])


def alter_embedding(repository: Path) -> None:
    path = repository / "face_analysis/1/golden.json"
    change_json(path, embedding=[-value for value in json.loads(path.read_text())["embedding"]])


def remove_golden(repository: Path) -> None:
    (repository / "face_swap/1/golden.json").unlink()


def change_warmup_picture(repository: Path) -> None:
    path = repository / "face_swap/warmup/target_image.raw"
    path.write_bytes(struct.pack("<I", len(COLLINS)) + COLLINS)


def misconfigure(repository: Path) -> None:
    path = repository / "face_swap/config.pbtxt"
    path.write_text(path.read_text().replace('"max_image_bytes"', '"max_image_byte"'))


FAULTS: dict[str, tuple[Callable[[Path], None], int, list[str]]] = {
    "model missing": (remove_model, RepositoryError.exit_code, ["lacks face_landmarker"]),
    "version missing": (remove_version, RepositoryError.exit_code, ["face_embedder", "no version"]),
    "graph missing": (remove_graph, RepositoryError.exit_code, ["model face_embedder", "model.onnx"]),
    "graph corrupt": (flip_a_bit, RepositoryError.exit_code, ["model face_swapper", "model.onnx", "sha256"]),
    "graph garbage": (swap_garbage_in, ModelLoadError.exit_code, ["model face_embedder", "model.onnx"]),
    "graph of another model": (swap_another_model_in, ModelLoadError.exit_code, ["model face_embedder", "crop_rgb"]),
    "thumbnail altered": (alter_thumbnail, ModelLoadError.exit_code, ["model face_swap", "grey values"]),
    "embedding altered": (alter_embedding, ModelLoadError.exit_code, ["model face_analysis", "golden embedding"]),
    "golden missing": (remove_golden, ModelLoadError.exit_code, ["model face_swap", "no golden.json"]),
    "warmup changed": (change_warmup_picture, ModelLoadError.exit_code, ["model face_swap", "warmup/"]),
    "setting misspelt": (misconfigure, ModelLoadError.exit_code, ["model face_swap", "'max_image_byte'"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_at_the_start_is_one_line_that_names_model_and_cause(repository: Path, tmp_path: Path, name: str) -> None:
    spoil, exit_code, words = FAULTS[name]
    spoil(repository)
    with Serve(repository, tmp_path) as serve:
        assert serve.wait() == exit_code, serve.errors()
        (line,) = serve.errors().splitlines()
        message = json.loads(line)["error"]["message"]
        assert all(word in message for word in words), message
        assert "Traceback" not in message
        failed = serve.phases()[-1]
        assert (failed["phase"], failed["exit_code"], failed["error"]) == ("failed", exit_code, message)
        assert "ready" not in [phase["phase"] for phase in serve.phases()]
        serve.assert_nothing_left()


def test_warm_up_off_the_golden_answer_is_named_even_if_triton_crashes_over_it(
    repository: Path, tmp_path: Path
) -> None:
    """Triton 24.10 dies of SIGSEGV in most such starts, one model at a time or not; two tries will see one."""
    alter_similarities(repository)
    for _ in range(2):
        with Serve(repository, tmp_path) as serve:
            assert serve.wait() == ModelLoadError.exit_code, serve.errors()
            assert "model face_swap failed to load: version 1: " in serve.errors()
            serve.assert_nothing_left()


@pytest.mark.parametrize("role", ["http", "grpc", "metrics"])
def test_taken_port_is_named(tmp_path: Path, role: str) -> None:
    repository = copy_repository(tmp_path / "model_repository")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Serve(repository, tmp_path, f"--{role}-port={port}") as serve:
            assert serve.wait() == PortInUseError.exit_code
            (line,) = serve.errors().splitlines()
            assert f"{role} port {port}" in json.loads(line)["error"]["message"]
            serve.assert_nothing_left()


def test_repository_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Serve(tmp_path / "nowhere", tmp_path) as serve:
        assert serve.wait() == RepositoryError.exit_code
        assert f"{tmp_path / 'nowhere'} is not a folder" in serve.errors()


@pytest.mark.parametrize("phase", ["preflight", "server", "stages"])
def test_sigterm_while_loading_stops_in_order(repository: Path, tmp_path: Path, phase: str) -> None:
    with Serve(repository, tmp_path) as serve:
        serve.phase(phase)
        serve.terminate()
        assert serve.wait() == 0, serve.errors()
        assert serve.phases()[-1]["phase"] == "stopped"
        serve.assert_nothing_left()


def test_sigterm_lets_swaps_in_flight_finish(repository: Path, tmp_path: Path) -> None:
    """Two swaps of eighty faces run when the signal comes, one over each protocol."""
    change_config(repository, "face_swap", count=2)
    sheet = contact_sheet(10, 8)
    with Serve(repository, tmp_path, "--exit-timeout=120") as serve:
        ready = serve.phase("ready")
        assert ready["versions"] == dict.fromkeys(MODELS, "1")
        assert ready["ms_total"] > 0
        urls = (f"grpc://{ready['urls']['grpc']}", ready["urls"]["http"])

        def swap(url: str) -> SwapResult:
            with FaceSwapClient(url, timeout_s=WAIT_S, retry=NO_RETRIES) as client:
                return client.swap(COLLINS, sheet)

        statistics = tritonclient.grpc.InferenceServerClient(ready["urls"]["grpc"])

        def detections() -> int:
            answer = statistics.get_inference_statistics("face_detector")
            return int(answer.model_stats[0].inference_stats.success.count)

        before = detections()
        with ThreadPoolExecutor(2) as pool:
            swaps = [pool.submit(swap, url) for url in urls]
            deadline_s = time.monotonic() + WAIT_S
            while detections() < before + 2:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
            assert not any(future.done() for future in swaps)
            statistics.close()
            serve.terminate()
            serve.phase("draining")
            results = [future.result(WAIT_S) for future in swaps]
        assert [sum(face.swapped for face in result.faces) for result in results] == [80, 80]
        assert serve.wait() == 0, serve.errors()
        stopped = serve.phases()[-1]
        assert (stopped["phase"], stopped["reason"]) == ("stopped", "all requests finished")
        serve.assert_nothing_left()


def test_crash_of_the_server_is_an_error(repository: Path, tmp_path: Path) -> None:
    with Serve(repository, tmp_path) as serve:
        ready = serve.phase("ready")
        with FaceSwapClient(ready["urls"]["http"]) as client:
            assert client.swap(COLLINS, HOPPER).faces[0].swapped
        os.kill(serve.phase("server")["pid"], signal.SIGKILL)
        assert serve.wait() == ServerError.exit_code
        assert json.loads(serve.errors().splitlines()[-1])["error"]["type"] == "ServerError"
        assert serve.phases()[-1]["phase"] == "failed"
        serve.assert_nothing_left()
