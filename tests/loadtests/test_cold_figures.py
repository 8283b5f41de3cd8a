"""From recorded runs to figures, table, charts and page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warmswap_loadtests.cold.bench import read_results, write_results
from warmswap_loadtests.cold.figures import run_figures, summarise, typical_run
from warmswap_loadtests.cold.table import cold_lines
from warmswap_loadtests.errors import BenchError

RECORDED = Path(__file__).parent / "cold_results"
SECONDS = 10.0


def request(due_s: float, latency_ms: float | None, outcome: str = "answered") -> dict[str, Any]:
    facts: dict[str, Any] = {"due_s": due_s, "outcome": outcome}
    return facts if latency_ms is None else {**facts, "sent_s": due_s, "done_s": due_s + latency_ms / 1e3}


def run(*requests: dict[str, Any], contender: str = "naive", steady_ms: float = 100, **facts: Any) -> dict[str, Any]:
    return {
        "contender": contender,
        "page_cache": "warm",
        "live_s": 0.5,
        "ready_s": 1.0,
        "requests": list(requests),
        "steady": [request(20, 9e3, "wrong"), *(request(30, steady_ms + more) for more in (0, 0, 1))],
        "peak_rss_mb": 10.0,
        "pss_mb": 5.0,
        **facts,
    }


def test_figures_of_a_run() -> None:
    figures = run_figures(
        run(
            request(0, None, "not_routed"),
            request(1, 2000, "timed_out"),
            request(2, 3, "failed"),
            request(3, 250),
            request(4, 50, "wrong"),
            *(request(5 + step, 120) for step in range(5)),
        ),
        SECONDS,
    )
    assert figures["first_correct_s"] == pytest.approx(3.25)
    assert figures["steady_ms"] == pytest.approx(100)
    assert figures["first_ratio"] == pytest.approx(20)  # of the first that was routed, and it took its time-out
    assert figures["max_ms"] == pytest.approx(2000)
    assert figures["steady_after_s"] == 5
    counts = {key: figures[key] for key in ("failed", "timed_out", "wrong", "not_routed")}
    assert counts == dict.fromkeys(counts, 1)


def test_failures_take_no_part_in_latencies() -> None:
    figures = run_figures(run(request(0, 1, "failed"), request(1, 300)), SECONDS)
    assert figures["max_ms"] == figures["p99_ms"] == pytest.approx(300)
    assert figures["first_ratio"] is figures["ready_answer_s"] is None


def test_steady_state_needs_a_whole_stretch() -> None:
    calm = [request(at, 140) for at in range(10)]
    assert run_figures(run(*calm), SECONDS)["steady_after_s"] == 0
    slow = [request(at, 160 if at == 2 else 140) for at in range(10)]
    assert run_figures(run(*slow), SECONDS)["steady_after_s"] == 3
    assert run_figures(run(*[request(at, 160 if at in (2, 5, 8) else 140) for at in range(10)]), SECONDS)[
        "steady_after_s"
    ] == pytest.approx(None)


def test_ready_after_the_window() -> None:
    late: dict[str, Any] = {"ready_s": 18.0, "steady": [request(20, 400), request(21, 100), request(22, 100)]}
    figures = run_figures(run(request(0, None, "not_routed"), **late), SECONDS)
    assert figures["first_correct_s"] == pytest.approx(20.4)
    assert figures["first_ratio"] == pytest.approx(4)
    assert figures["ready_answer_s"] == pytest.approx(18.4)
    assert figures["max_ms"] is None


def test_nothing_ever_correct() -> None:
    figures = run_figures(run(request(0, None, "not_routed"), ready_s=None, steady=[]), SECONDS)
    assert figures["ready_s"] is figures["first_correct_s"] is figures["first_ratio"] is figures["p99_ms"] is None


def test_medians_and_ratios_to_naive() -> None:
    runs = [run(request(0, ms), steady_ms=100) for ms in (900, 1000, 1100)]
    runs += [run(request(0, ms), contender="warmswap", steady_ms=50) for ms in (200, 100)]
    runs += [run(request(0, None, "not_routed"), contender="warmswap", ready_s=None)]
    naive, ours = summarise(runs, SECONDS)
    assert naive["metrics"]["max_ms"] == pytest.approx({"median": 1000, "min": 900, "max": 1100, "ratio": 1})
    assert ours["metrics"]["steady_ms"]["ratio"] == pytest.approx(0.5)
    assert ours["metrics"]["ready_s"] == {"median": 1.0, "min": 1.0, "max": None, "ratio": 1.0}  # one run never was
    assert ours["metrics"]["failed"]["ratio"] is None  # naive has none
    assert typical_run(runs[:3], SECONDS) is runs[1]


def test_report_from_recorded_results(tmp_path: Path) -> None:
    results = read_results(RECORDED)
    paths = write_results(results, tmp_path / "out")
    assert [path.name for path in paths] == ["results.json", "latency.png", "phases.png", "report.html"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[1:3])
    assert json.loads(paths[0].read_text()) == results
    page = paths[-1].read_text()
    assert page.count("<img ") == page.count('prefers-color-scheme: dark)">') == 2
    assert "http://" not in page.replace("http://127.0.0.1", "")  # needs nothing else
    assert "https://" not in page
    for name in ("naive", "preloading", "triton-documented", "warmswap"):
        assert f"<th>{name}</th>" in page
    lines = cold_lines(results)
    (ready,) = [line for line in lines if line.startswith("exec to ready")]
    assert ready.count(" s") >= 4


@pytest.mark.parametrize("content", [None, "{", '{"runs": []}'])
def test_no_results_to_draw(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(BenchError, match=r"results\.json"):
        read_results(tmp_path)
