"""``warmswap wait``, ``status``, ``swap`` and ``analyze`` against a real server: output and exit codes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.e2e import pictures
from tests.e2e.pictures import COLLINS_PATH, HOPPER, HOPPER_PATH
from tests.e2e.serve import warmswap
from tests.e2e.wire import Service
from warmswap_client.commands._report import swap_to_text
from warmswap_ensemble.contract import MODELS

pytestmark = pytest.mark.triton


@pytest.fixture
def closed_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"grpc://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    path = tmp_path / "blank.png"
    path.write_bytes(pictures.encode(pictures.blank()))
    return path


def test_wait_and_status_of_a_ready_server(service: Service) -> None:
    waited = warmswap("wait", "--json", "--url", service.url, "--timeout", "60")
    assert waited.returncode == 0, waited.stderr
    assert json.loads(waited.stdout)["ready"] is True
    status = warmswap("status", "--json", "--url", service.url)
    assert status.returncode == 0, status.stderr
    told = json.loads(status.stdout)
    assert told["live"] is told["ready"] is told["server_ready"] is True
    states = {model["name"]: model["state"] for model in told["models"]}
    assert states.pop("face_swapper_512") != "READY", "it is loaded on demand"
    assert states == dict.fromkeys(MODELS, "READY")
    assert all(told["runtime"].values())


def test_wait_and_status_without_a_server(closed_url: str) -> None:
    waited = warmswap("wait", "--json", "--url", closed_url, "--timeout", "0.5")
    assert waited.returncode == 3
    assert json.loads(waited.stderr)["error"]["type"] == "NotReadyError"
    status = warmswap("status", "--json", "--url", closed_url)
    assert status.returncode == 3
    assert json.loads(status.stdout)["live"] is False


def test_swap_and_analyze(service: Service, tmp_path: Path) -> None:
    output = tmp_path / "result.png"  # the name asks for another format than the target's
    files = ("--source", COLLINS_PATH, "--target", HOPPER_PATH, "--output", output)
    swapped = warmswap("swap", "--json", "--url", service.url, *files)
    assert swapped.returncode == 0, swapped.stderr
    told = json.loads(swapped.stdout)
    (face,) = told["faces"]
    assert face["similarity_after"] - face["similarity_before"] >= 0.03
    assert told["output"] == str(output)
    assert pictures.decode(output.read_bytes()).format == "PNG"
    analyzed = warmswap("analyze", "--json", "--embedding", "--url", service.url, output)
    assert analyzed.returncode == 0, analyzed.stderr
    (found,) = json.loads(analyzed.stdout)["faces"]
    assert len(found["embedding"]) == 128
    assert found["bbox"] == pytest.approx(face["bbox"], abs=30)  # the detector sees a new forehead


def test_time_in_the_text_is_the_total_of_the_report(service: Service) -> None:
    result = service.client.swap(COLLINS_PATH, HOPPER_PATH)
    text = swap_to_text(result, Path("result.jpg"))
    assert f"1 of 1 faces swapped, {result.timings_ms['total']:.0f} ms on the server" in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(("--quality", "0"), "invalid_option", id="option"),
        pytest.param(("--face-selector", "index:7"), "face_index_out_of_range", id="index"),
        pytest.param(("--min-score", "1"), "no_face", id="no face"),
    ],
)
def test_refused_swap_exits_5_and_writes_nothing(
    service: Service, tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    output = tmp_path / "result.jpg"
    files = ("--source", COLLINS_PATH, "--target", HOPPER_PATH, "--output", output)
    refused = warmswap("swap", "--json", "--url", service.url, *files, *arguments)
    assert refused.returncode == 5
    (line,) = refused.stderr.splitlines()
    assert json.loads(line)["error"]["code"] == code
    assert not output.exists()


def test_passthrough_writes_the_target(service: Service, tmp_path: Path, blank: Path) -> None:
    output = tmp_path / "result.png"
    files = ("--source", COLLINS_PATH, "--target", blank, "--output", output)
    for arguments in (("--json",), ()):
        passed = warmswap("swap", *arguments, "--url", service.url, *files, "--on-no-face", "passthrough", "--force")
        assert passed.returncode == 0, passed.stderr
        assert output.read_bytes() == blank.read_bytes()


def test_folder_with_one_bad_file_swaps_the_others(service: Service, tmp_path: Path) -> None:
    album, output = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    for name in ("a.jpg", "c.jpg"):
        (album / name).write_bytes(HOPPER)
    (album / "b.jpg").write_bytes(HOPPER[:5000])
    files = ("--source", COLLINS_PATH, "--target", album, "--output", output, "--concurrency", "2")
    swapped = warmswap("swap", "--json", "--url", service.url, *files)
    assert swapped.returncode == 5, swapped.stderr
    told = {Path(line["target"]).name: line for line in map(json.loads, swapped.stdout.splitlines())}
    assert told.keys() == {"a.jpg", "b.jpg", "c.jpg"}
    assert told["b.jpg"]["error"]["code"] == "invalid_image"
    assert "1 of 3 targets failed" in swapped.stderr
    assert sorted(path.name for path in output.iterdir()) == ["a.jpg", "c.jpg"]
    for path in output.iterdir():
        assert pictures.decode(path.read_bytes()).size == pictures.hopper().size


def test_faults_before_the_first_request(closed_url: str, tmp_path: Path) -> None:
    output = tmp_path / "result.jpg"
    files = ("--target", HOPPER_PATH, "--output", output)
    missing = warmswap("swap", "--json", "--url", closed_url, "--source", tmp_path / "nobody.jpg", *files)
    assert missing.returncode == 2
    assert json.loads(missing.stderr)["error"]["type"] == "InputFileError"
    unreachable = warmswap("analyze", "--json", "--url", closed_url, HOPPER_PATH)
    assert unreachable.returncode == 3
    assert json.loads(unreachable.stderr)["error"]["type"] == "ServerUnreachableError"
    assert warmswap("status", "--url", "ftp://127.0.0.1").returncode == 2
