"""``warmswap bench on-demand``: which request belongs to which window, and one whole run on the real Triton."""

from __future__ import annotations

import json

import pytest

from tests.e2e.repositories import REPOSITORY
from warmswap_client.cli import main
from warmswap_loadtests.on_demand import Window, on_demand_lines


def test_a_request_belongs_to_every_window_that_it_overlaps() -> None:
    requests = [(0.0, 0.9), (0.9, 1.1), (1.2, 1.8), (1.9, 2.5), (0.5, 3.0), (2.0, 2.1)]
    assert Window(1.0, 2.0).latencies(requests) == pytest.approx([200.0, 600.0, 600.0, 2500.0])


@pytest.mark.triton
def test_one_cycle_gives_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "on-demand", "--cycles", "1", "--repository", str(REPOSITORY), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["model"], figures["cycles"], len(figures["load_ms"])) == ("face_swapper_512", 1, 1)
    assert figures["first_answer_ms"][0] > figures["load_ms"][0] > 0
    assert figures["while_loading"]["requests"] > 0 < figures["otherwise"]["requests"]
    assert figures["p99_ratio"] == pytest.approx(figures["while_loading"]["p99_ms"] / figures["otherwise"]["p99_ms"])
    lines = "\n".join(on_demand_lines(figures))
    assert "face_swapper_512: 1 loads" in lines
    assert f"p99 {figures['p99_ratio']:5.2f}" in lines
