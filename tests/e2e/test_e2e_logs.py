"""``warmswap serve --log-format json``: every line is one JSON object, from exec to exit, whatever happens between."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pictures import COLLINS, HOPPER
from tests.e2e.repositories import copy_repository
from tests.e2e.serve import WARMSWAP, Serve
from tests.ops.serve_process import eventually, stub_of
from tests.ops.toys import write_repository
from warmswap_client import FaceSwapClient, InvalidImageError, RetryPolicy
from warmswap_client.errors import WarmswapError

pytestmark = pytest.mark.triton

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LEVELS = {"info", "warning", "error", "fatal"}
WAIT_S = 120.0


def entries(text: str) -> list[dict[str, Any]]:
    """Parse a stream that has ended: each line must be an entry."""
    assert not text or text.endswith("\n")
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        entry = json.loads(line)
        assert isinstance(entry, dict)
        assert RFC3339.fullmatch(entry["time"]), line
        assert entry["level"] in LEVELS, line
        assert entry["source"] in {"launcher", "triton", "model"}, line
        assert entry["message"], line
        found.append(entry)
    return found


def of_requests(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "stderr").read_text().split("\n")[:-1]  # the last may be in the making
    found = [entry for entry in map(json.loads, lines) if "outcome" in entry]
    by_id = {entry["request_id"]: entry for entry in found}
    assert len(by_id) == len(found), "one line for each request"
    return by_id


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return copy_repository(tmp_path / "repository")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "output").mkdir()
    yield tmp_path / "output"
    entries((tmp_path / "output/stdout").read_text())
    entries((tmp_path / "output/stderr").read_text())


def test_each_request_is_found_by_its_id_while_others_run(repository: Path, folder: Path) -> None:
    with Serve(repository, folder, "--log-format=json", "--request-log=all") as serve:
        url = serve.phase("ready")["urls"]["grpc"]
        good = [f"good:{number}" for number in range(8)]
        with FaceSwapClient(f"grpc://{url}", timeout_s=WAIT_S) as client, ThreadPoolExecutor(4) as pool:
            swaps = [pool.submit(client.swap, COLLINS, HOPPER, request_id=name) for name in good]
            analysis = pool.submit(client.analyze, HOPPER, request_id="analysis")
            with pytest.raises(InvalidImageError):
                client.swap(COLLINS, b"no picture", request_id="refused")
            reports = {swap.result(WAIT_S).request_id: swap.result().report for swap in swaps}
            analysis.result(WAIT_S)
        ids = {*good, "analysis", "refused"}
        assert eventually(lambda: of_requests(folder).keys() >= ids)
        logged = of_requests(folder)
        assert logged.keys() == ids, "the warm-up is nobody's request"
        for name in good:
            entry = logged[name]
            assert reports[name]["request_id"] == name
            assert (entry["model"], entry["version"], entry["outcome"], entry["level"]) == (
                "face_swap",
                "1",
                "ok",
                "info",
            )
            assert (entry["faces"], entry["swapped"]) == (1, 1)
            assert entry["timings_ms"] == reports[name]["timings_ms"]
            assert entry["duration_ms"] >= entry["timings_ms"]["total"] - 0.1
            assert (entry["source_image_bytes"], entry["target_image_bytes"]) == (len(COLLINS), len(HOPPER))
        assert (logged["analysis"]["model"], logged["analysis"]["faces"]) == ("face_analysis", 1)
        assert logged["refused"]["outcome"] == "invalid_image"
        assert logged["refused"]["error"].startswith("invalid_image: target_image")
        assert max(len(json.dumps(entry)) for entry in logged.values()) < 1500, "no pixels, no embeddings"
        serve.terminate()
        assert serve.wait() == 0
    phases = [entry["phase"] for entry in entries((folder / "stdout").read_text())]
    assert phases == ["preflight", "server", "stages", "pipelines", "ready", "draining", "stopped"]


def test_errors_alone_are_logged_unless_more_is_asked_for(repository: Path, folder: Path) -> None:
    with Serve(repository, folder, "--log-format=json") as serve:
        url = serve.phase("ready")["urls"]["http"]
        with FaceSwapClient(url, timeout_s=WAIT_S) as client:
            client.swap(COLLINS, HOPPER, request_id="good")
            with pytest.raises(InvalidImageError):
                client.swap(COLLINS, b"no picture", request_id="refused")
        assert eventually(lambda: "refused" in of_requests(folder))
        assert of_requests(folder).keys() == {"refused"}
        serve.terminate()
        assert serve.wait() == 0


def test_everything_that_triton_writes_is_an_entry_also_when_a_model_process_dies(
    repository: Path, folder: Path
) -> None:
    with Serve(repository, folder, "--log-format=json", "--request-log=all", "--verbose") as serve:
        url = serve.phase("ready")["urls"]["grpc"]
        os.kill(stub_of(repository, "face_embedder"), signal.SIGKILL)
        patient = RetryPolicy(max_attempts=200, max_backoff_s=0.5)
        with FaceSwapClient(f"grpc://{url}", timeout_s=WAIT_S, retry=patient) as client:
            assert eventually(lambda: _swaps(client, "after:death"), WAIT_S)
        assert eventually(lambda: len([p for p in serve.phases() if p["phase"] == "ready"]) == 2, WAIT_S)
        serve.terminate()
        assert serve.wait() == 0
    said = entries((folder / "stderr").read_text())
    phases = {entry["phase"]: entry for entry in entries((folder / "stdout").read_text())}
    assert phases["recovering"]["level"] == "warning"
    assert any("| Backend" in entry["message"] and entry["message"].count("\n") > 2 for entry in said), "a table"
    loaded = [entry for entry in said if entry["message"] == "successfully loaded 'face_swap'"]
    assert all((entry["source"], entry["model"]) == ("triton", "face_swap") for entry in loaded)
    assert len(loaded) == 2
    ready = [entry for entry in said if entry["message"].startswith("warmswap: initialized face_swap ")]
    assert ready
    assert all((entry["source"], entry["model"], entry["version"]) == ("model", "face_swap", "1") for entry in ready)


def _swaps(client: FaceSwapClient, request_id: str) -> bool:
    try:
        return bool(client.swap(COLLINS, HOPPER, request_id=request_id).faces)
    except WarmswapError:
        return False


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        pytest.param((), 7, "golden is [3.0, 6.0]", id="model refused"),
        pytest.param(("--policy=nobody",), 2, "nobody", id="policy"),
        pytest.param(("--trace-url=ftp://x",), 2, "--trace-url", id="trace URL"),
        pytest.param(("--residency=/nowhere.toml",), 2, "/nowhere.toml", id="residency"),
    ],
)
def test_start_that_fails_writes_entries_only(
    options: tuple[str, ...], exit_code: int, words: str, tmp_path: Path
) -> None:
    repository = write_repository(tmp_path / "repository", golden_factor=3.0)
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
    arguments = [f"--repository={repository}", "--log-format=json", "--verbose", *ports, *options]
    for command in ([sys.executable, "-m", "warmswap_ops"], [str(WARMSWAP), "serve"]):
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert ended.returncode == exit_code
        entries(ended.stdout)
        *_, last = entries(ended.stderr)
        assert (last["level"], last["source"]) == ("error", "launcher")
        assert words in last["message"]


def test_request_in_the_text_format_is_a_line_to_read(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    with Serve(repository, tmp_path / "text") as serve:
        url = serve.phase("ready")["urls"]["grpc"]
        with FaceSwapClient(f"grpc://{url}", timeout_s=WAIT_S) as client, pytest.raises(InvalidImageError):
            client.swap(COLLINS, b"no picture", request_id="refused")
        assert eventually(lambda: "request refused: face_swap 1: invalid_image: target_image" in serve.errors())
        assert "warmswap: request" not in serve.errors()
        serve.terminate()
        assert serve.wait() == 0
