"""``bench cold`` and ``bench soak`` with every contender started for real, and Locust against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from warmswap_loadtests.cold import calibration
from warmswap_loadtests.cold import run as cold_run
from warmswap_loadtests.cold.bench import ColdOptions, measure_cold
from warmswap_loadtests.contenders import registry
from warmswap_loadtests.contenders.registry import COMPILED, make_contenders
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.linked_repository import without_field
from warmswap_loadtests.page_cache import DROPPED, WARM, PageCache
from warmswap_loadtests.shapes import RAMP, SOAK, SPIKE, users_at
from warmswap_loadtests.soak import SoakOptions, measure_soak, slope_mb_per_min, soak_lines
from warmswap_ops.launcher import LocalTriton

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = ROOT / "model_repository"
SECONDS = 2.0
RATE = 2.0


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_run, "STEADY_REQUESTS", 2)
    monkeypatch.setattr(cold_run, "STEADY_S", 0.0)
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    monkeypatch.setattr(calibration, "REQUESTS", 2)
    monkeypatch.setattr(PageCache, "set", lambda *_: {"how": "as it is"})  # its own test is below


def measure(*contenders: str) -> dict[str, dict[str, Any]]:
    options = ColdOptions(
        repository=REPOSITORY, runs=1, seconds=SECONDS, rate_per_s=RATE, contenders=contenders, probe_period_s=0.02
    )
    results = measure_cold(options, lambda _: None)
    runs = {run["contender"]: run for run in results["runs"]}
    assert list(runs) == list(contenders)
    for run in runs.values():
        check_run(run)
    return runs


def check_run(run: dict[str, Any]) -> None:
    requests = run["requests"]
    assert [request["due_s"] for request in requests] == [0.0, 0.5, 1.0, 1.5]
    for request in requests:  # routed exactly while the probe said so
        assert (request["outcome"] == "not_routed") == (request["due_s"] < run["ready_s"]), request
    assert {request["outcome"] for request in requests} <= {"answered", "not_routed", "timed_out"}
    assert [request["outcome"] for request in run["steady"]] == ["answered", "answered"]  # and they are right
    assert 0 < run["live_s"] <= run["ready_s"]
    assert run["peak_rss_mb"] > 100
    assert run["pss_mb"] > 100


def test_fastapi_contenders_for_real() -> None:
    runs = measure("naive", "preloading")
    assert runs["naive"]["live_s"] == pytest.approx(runs["naive"]["ready_s"], abs=1)  # before any model is loaded
    assert runs["naive"]["processes"] == runs["preloading"]["processes"] == 1


@pytest.mark.triton
def test_triton_contenders_for_real() -> None:
    runs = measure("triton-documented", "warmswap")
    assert min(run["processes"] for run in runs.values()) > 4


@pytest.mark.triton
def test_soak_for_real() -> None:
    figures = measure_soak(SoakOptions(REPOSITORY, minutes=0.05, rate_per_s=RATE), lambda _: None)
    assert figures["requests"] == figures["answered"] == 6
    assert figures["rss_mb"][0] > 100
    assert "p99/p50" in "\n".join(soak_lines(figures))


@pytest.fixture(scope="module")
def server() -> Any:
    with LocalTriton(REPOSITORY) as running:
        yield running


@pytest.mark.triton
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_locust_swaps_and_ends(scheme: str, server: LocalTriton, tmp_path: Path) -> None:
    address = {"grpc": server.grpc_url, "http": server.http_url}[scheme]
    figures, done = run_locust(f"{scheme}://{address}", tmp_path, "--shape", "spike")
    assert done.returncode == 0, done.stderr
    assert figures["swaps"] > 1
    assert figures["failures"] == 0
    assert 0 < figures["p50_ms"] <= figures["max_ms"]


@pytest.mark.triton
def test_locust_counts_failures(server: LocalTriton, tmp_path: Path) -> None:
    figures, done = run_locust(f"grpc://{server.grpc_url}", tmp_path, "--swap-timeout", "0.001", "--pacing", "0.5")
    assert done.returncode == 1
    assert figures["failures"] > 0
    assert figures["swaps"] == 0


def run_locust(host: str, tmp_path: Path, *options: str) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    exact = tmp_path / "exact.json"
    locust: list[str | Path] = [
        Path(sys.executable).parent / "locust",
        "-f",
        ROOT / "loadtests" / "locustfile.py",
        "--host",
        host,
    ]
    load: list[str | Path] = ["--headless", "-u", "2", "-r", "2", "-t", "3s", "--only-summary", "--exact", exact]
    done = subprocess.run([*locust, *load, *options], capture_output=True, text=True, timeout=60, check=False)
    return json.loads(exact.read_text()), done


def test_shapes() -> None:
    assert [users_at(RAMP, at, 10, 100) for at in (0, 50, 99, 100)] == [1, 5, 10, None]
    assert [users_at(SPIKE, at, 10, 90) for at in (0, 29, 30, 59, 60, 90)] == [1, 1, 10, 10, 1, None]
    assert [users_at(SOAK, at, 10, 100) for at in (0, 5, 99, 100)] == [1, 10, 10, None]


def test_slope_of_memory_leaves_out_the_beginning() -> None:
    settling = [(float(at), 100.0 + 50 * at) for at in range(20)]
    flat = [(float(at), 1000.0) for at in range(20, 100)]
    assert slope_mb_per_min([*settling, *flat]) == pytest.approx(0, abs=1e-6)
    assert slope_mb_per_min([(at, 10 + at / 60) for at in range(100)]) == pytest.approx(1)
    assert slope_mb_per_min([]) == 0


@pytest.mark.parametrize("names", [["nothing"], ["naive", "nothing"]])
def test_unknown_contender(names: Sequence[str]) -> None:
    with pytest.raises(BenchError, match="unknown contender 'nothing': choose from naive, preloading"):
        make_contenders(names, lambda _: None)


def test_compiled_is_left_out_where_nothing_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "can_compile", lambda: False)
    said: list[str] = []
    assert COMPILED not in [contender.name for contender in make_contenders(None, said.append)]
    assert "no sub-command compile" in said[0]
    with pytest.raises(BenchError, match="no sub-command compile"):
        make_contenders([COMPILED], said.append)
    monkeypatch.setattr(registry, "can_compile", lambda: True)
    assert [contender.name for contender in make_contenders(None, said.append)] == list(registry.CONTENDERS)


def test_contender_that_does_not_start_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "model_repository"
    broken.mkdir()
    for folder in REPOSITORY.iterdir():
        if folder.is_dir():
            (broken / folder.name).mkdir()
            for entry in folder.iterdir():
                (broken / folder.name / entry.name).symlink_to(entry)
    (broken / "face_detector" / "1").unlink()
    with pytest.raises(BenchError, match=r"calibration: preloading ended with code 1: .*face_detector"):
        measure_cold(ColdOptions(repository=broken, runs=1, seconds=1, contenders=["naive"]), lambda _: None)


def test_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    models, packages = tmp_path / "models", tmp_path / "packages"
    for folder in (models, packages):
        folder.mkdir()
        (folder / "file").write_bytes(bytes(1 << 20))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(packages))
    monkeypatch.setattr("warmswap_loadtests.page_cache._DROP_CACHES", tmp_path / "nowhere" / "drop_caches")
    cache = PageCache()
    facts = cache.set(WARM, [models])
    assert facts["models_mb"] == facts["resident_mb"] == pytest.approx(1.048576)
    facts = cache.set(DROPPED, [models])
    assert "posix_fadvise" in facts["how"]
    assert facts["resident_mb"] < 1.048576  # 0 where the file system can drop pages
    assert cache.set(WARM, [models])["resident_mb"] == pytest.approx(1.048576)


def test_field_is_taken_out_of_a_configuration() -> None:
    config = (REPOSITORY / "face_detector" / "config.pbtxt").read_text()
    without = without_field(config, "model_warmup")
    assert "input_data_file" not in without
    assert "never random bytes" in without  # the comment stays
    assert without_field(without, "model_warmup") == without
    assert without_field('a: 1\n# model_warmup [ ]\nmodel_warmup { x: "]" }\nb: 2\n', "model_warmup") == (
        "a: 1\n# model_warmup [ ]\n\nb: 2\n"
    )
