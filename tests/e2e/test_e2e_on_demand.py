"""The 512-px swapper of the shipped repository: loaded by the request that needs it, on the real Triton."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pictures import COLLINS, COLLINS_PATH, HOPPER, HOPPER_PATH
from tests.e2e.repositories import change_config, change_json, copy_repository
from tests.e2e.serve import warmswap
from tests.ops.serve_process import eventually
from warmswap_client import (
    NO_RETRIES,
    FaceSwapClient,
    InvalidOptionError,
    ModelLoadingError,
    ServerFailedError,
    SwapResult,
    WarmswapError,
)
from warmswap_ops.control import ControlClient
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton

MODEL = "face_swapper_512"
POLICY = """
[models.face_landmarker]
residency = "on_demand"
idle_s = 600
[models.face_swapper_512]
idle_s = 600
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A variant on demand, a broken one beside it, and a landmarker that the golden request must have loaded."""
    repository = copy_repository(tmp_path_factory.mktemp("on-demand") / "model_repository")
    broken = shutil.copytree(repository / MODEL, repository / "face_swapper_broken")
    config = broken / "config.pbtxt"
    config.write_text(config.read_text().replace(MODEL, broken.name))
    change_json(broken / "1/manifest.json", model=broken.name, settings={"crop_size": 512})
    change_config(repository, "face_swap", on_demand_wait_ms=20_000)
    policy = repository / "residency.toml"
    policy.write_text(POLICY)
    with LocalTriton(repository) as running:
        yield running


def state(server: LocalTriton, model: str = MODEL) -> dict[str, Any]:
    assert server.residency is not None
    found: dict[str, Any] = server.residency.snapshot()["models"][model]
    return found


def unload(server: LocalTriton) -> None:
    """As if it had been idle for long."""
    manager = server.residency
    assert manager is not None
    with manager._changed:
        manager._models[MODEL].last_used_s -= 10_000
        manager._changed.notify_all()
    assert eventually(lambda: state(server)["state"] == "absent")


def url_of(server: LocalTriton, protocol: str) -> str:
    return f"grpc://{server.grpc_url}" if protocol == "grpc" else f"http://{server.http_url}"


def test_the_golden_request_waits_for_a_stage_on_demand(server: LocalTriton) -> None:
    landmarker = state(server, "face_landmarker")
    assert (landmarker["residency"], landmarker["state"], landmarker["loads"]) == ("on_demand", "ready", 1)
    assert landmarker["memory_measured"]


def test_eight_requests_at_once_are_one_load_and_clients_that_try_again_all_succeed(server: LocalTriton) -> None:
    unload(server)
    before = state(server)["loads"]
    results: list[SwapResult | WarmswapError] = []

    def swap() -> None:
        with FaceSwapClient(f"grpc://{server.grpc_url}", timeout_s=60) as client:
            try:
                results.append(client.swap(COLLINS, HOPPER, swapper="512"))
            except WarmswapError as error:
                results.append(error)

    threads = [threading.Thread(target=swap) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(result, SwapResult) for result in results), results
    models = [result.models for result in results if isinstance(result, SwapResult)]
    assert len(models) == 8
    assert all(MODEL in each and "face_swapper" not in each for each in models)
    assert state(server)["loads"] == before + 1
    assert state(server)["leases"] == 0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_who_may_not_wait_is_told_when_to_try_again(server: LocalTriton, protocol: str) -> None:
    """Of two processes one may wait; the other has to answer at once, over either protocol."""
    unload(server)
    with FaceSwapClient(f"grpc://{server.grpc_url}", timeout_s=60) as first:
        waiting = threading.Thread(target=first.swap, args=(COLLINS, HOPPER), kwargs={"swapper": "512"})
        waiting.start()
        assert eventually(lambda: state(server)["state"] in ("loading", "ready"))
        with FaceSwapClient(url_of(server, protocol), retry=NO_RETRIES) as second:
            try:
                with pytest.raises(ModelLoadingError) as caught:
                    second.swap(COLLINS, HOPPER, swapper="512")
            finally:
                waiting.join()
    assert caught.value.code == "model_loading"
    assert caught.value.reason.startswith(f"{MODEL} is being loaded, ready in about ")
    assert caught.value.retry_after_s is not None
    assert 0.1 <= caught.value.retry_after_s < 60


def test_the_default_swapper_answers_as_ever(server: LocalTriton) -> None:
    with FaceSwapClient(f"grpc://{server.grpc_url}") as client:
        plain = client.swap(COLLINS, HOPPER, output_format="png")
        named = client.swap(COLLINS, HOPPER, output_format="png", swapper="default")
        large = client.swap(COLLINS, HOPPER, output_format="png", swapper="512", timeout_s=60)
    assert plain.models["face_swapper"] == "1"
    assert plain.image == named.image != large.image
    (before, after), (_, after_large) = (
        (face.similarity_before or 0, face.similarity_after or 0) for face in (*plain.faces, *large.faces)
    )
    assert after_large - before > 0.05
    assert abs(after_large - after) < 0.02


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_variant_that_is_not_there_or_broken_is_refused_with_the_reason(server: LocalTriton, protocol: str) -> None:
    with FaceSwapClient(url_of(server, protocol)) as client:
        with pytest.raises(InvalidOptionError) as unknown:
            client.swap(COLLINS, HOPPER, swapper="51")
        with pytest.raises(ServerFailedError) as broken:
            client.swap(COLLINS, HOPPER, swapper="broken")
    assert unknown.value.reason == "swapper must be one of default, 512, broken, got '51' (did you mean 512?)"
    assert broken.value.code == "stage_failed"
    assert "face_swapper_broken cannot be used: " in broken.value.reason
    assert "setting identity must list what the swapper uses" in broken.value.reason


def test_the_command_line_chooses_a_swapper(server: LocalTriton, tmp_path: Path) -> None:
    options = ("--source", COLLINS_PATH, "--target", HOPPER_PATH, "--output", tmp_path / "out.jpg", "--json")
    swapped = warmswap("swap", *options, "--swapper", "512", "--url", f"grpc://{server.grpc_url}", "--timeout", "60")
    assert swapped.returncode == 0, swapped.stderr
    assert json.loads(swapped.stdout)["models"][MODEL] == "1"


def test_analysis_answers_while_the_swapper_is_still_being_loaded(tmp_path: Path) -> None:
    """Progressive readiness: a swapper that warms up for long keeps nobody from analysing faces."""
    repository = copy_repository(tmp_path / "model_repository")
    config = repository / "face_swapper/config.pbtxt"
    config.write_text(config.read_text().replace("count: 1\n    inputs", "count: 400\n    inputs", 1))
    server = LocalTriton(repository)
    starter = threading.Thread(target=start_and_ignore_the_end, args=(server,))
    starter.start()
    try:
        assert eventually(lambda: server.phases and server.phases[-1].name == "server", 60)
        with ControlClient(server.grpc_url) as control:
            assert eventually(lambda: control.is_model_ready("face_analysis"), 60)
            assert not control.is_model_ready("face_swapper")
            with FaceSwapClient(f"grpc://{server.grpc_url}", timeout_s=60) as client:
                assert len(client.analyze(HOPPER).faces) == 1
            assert not control.is_model_ready("face_swapper"), "it should load for longer than an analysis takes"
            assert not control.is_model_ready("face_swap")
    finally:
        server.kill()
        starter.join(60)
    assert not starter.is_alive()


def start_and_ignore_the_end(server: LocalTriton) -> None:
    """It is killed in the middle of its start."""
    try:
        server.start()
    except Exception:
        return
