"""``warmswap rollout judge`` and ``serve --release`` on real servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pictures import COLLINS_PATH, HOPPER_PATH, group
from tests.e2e.repositories import REPOSITORY, copy_repository
from tests.ops.metrics import scrape
from warmswap_client.cli import main
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton

PLAN = """
interval_s = 2
[gates]
max_error_increase = 0.3
max_p50_ratio = 2
max_p99_ratio = 20
min_slowdown_ms = 20
[shadow]
min_samples = 12
[[steps]]
weight_percent = 100
soak_s = 4
max_soak_s = 60
"""
SLOW = """
import time

from warmswap_ensemble.triton_backend import FaceSwapModel


class TritonPythonModel(FaceSwapModel):
    def execute(self, requests):
        time.sleep(0.3 * len(requests))
        return super().execute(requests)
"""


@pytest.fixture(scope="module")
def blue() -> Iterator[LocalTriton]:
    with LocalTriton(REPOSITORY, release="blue") as running:
        yield running


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Return options with pictures of one face, which cost about the same: medians of a mixture say little."""
    (tmp_path / "plan.toml").write_text(PLAN)
    words = [f"--plan={tmp_path / 'plan.toml'}", "--rate=4", "--json", f"--repository={REPOSITORY}"]
    return [*words, f"--source={COLLINS_PATH}", f"--target={HOPPER_PATH}"]


@contextmanager
def changed(folder: Path, model: str, file: str, old: str, new: str) -> Iterator[LocalTriton]:
    """Yield a server whose repository differs in one place."""
    repository = copy_repository(folder / "repository")
    path = repository / model / "1" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with LocalTriton(repository) as running:
        yield running


def judge(stable: LocalTriton, candidate: LocalTriton, options: list[str]) -> int:
    return main(["rollout", "judge", f"--stable={stable.grpc_url}", f"--candidate={candidate.grpc_url}", *options])


def outcomes(out: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the last event, and what each gate said then."""
    last = json.loads(out.strip().splitlines()[-1])
    return last, {verdict["gate"]: verdict["outcome"] for verdict in last["verdicts"]}


def test_two_servers_with_the_same_models_pass(
    blue: LocalTriton, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalTriton(REPOSITORY) as green:
        assert judge(blue, green, options) == 0
    last, gates = outcomes(capsys.readouterr().out)
    assert (last["event"], last["decision"]) == ("judged", "pass")
    assert last["pairs"] >= 12
    measures = ("errors", "p50", "recall", "precision", "iou", "identity_gain")
    assert {gates[name] for name in measures} == {"pass"}


def test_a_candidate_that_finds_fewer_faces_is_stopped(
    blue: LocalTriton, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It finds the golden face, and is ready; of the group it finds one of four."""
    (tmp_path / "group.png").write_bytes(group())
    plan, rate, as_json, *_ = options
    options = [plan, rate, as_json, f"--source={COLLINS_PATH}", f"--target={tmp_path / 'group.png'}"]
    strict = ('"min_score": 0.5', '"min_score": 0.83')
    with changed(tmp_path, "face_detector", "manifest.json", *strict) as green:
        assert judge(blue, green, options) == 11
    captured = capsys.readouterr()
    last, gates = outcomes(captured.out)
    assert last["decision"] == "fail"
    assert gates["recall"] == "fail"
    assert gates["errors"] != "fail"
    assert "recall" in json.loads(captured.err)["error"]["message"]


def test_a_candidate_that_is_slow_is_stopped(
    blue: LocalTriton, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = (REPOSITORY / "face_swap/1/model.py").read_text()
    with changed(tmp_path, "face_swap", "model.py", model, SLOW) as green:
        assert judge(blue, green, options) == 11
    captured = capsys.readouterr()
    _, gates = outcomes(captured.out)
    assert gates["p50"] == "fail"
    assert gates["recall"] != "fail"
    assert "p50" in json.loads(captured.err)["error"]["message"]


def test_a_release_is_a_label_on_every_metric_of_the_models(blue: LocalTriton) -> None:
    samples = scrape(blue.metrics_url)
    of_models = [dict(labels) for (name, labels) in samples if name.startswith("nv_inference_") and dict(labels)]
    assert {labels["model"] for labels in of_models} >= {"face_swap", "face_analysis", "face_detector"}
    assert {labels.get("_release") for labels in of_models} == {"blue"}


def test_without_a_release_there_is_no_label() -> None:
    with LocalTriton(REPOSITORY) as running:
        assert not [labels for _, labels in scrape(running.metrics_url) if "_release" in dict(labels)]
