"""Rollouts on the real server under traffic: what is good takes over, what is bad is stopped, and nothing is lost."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.rollouts import Site, assert_nothing_lost, rollout, shown, site, write_plan
from warmswap_loadtests.rollouts import candidates

pytestmark = pytest.mark.triton

Make = Callable[[Path, Path], Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("rollout")) as opened:
        yield opened


def test_a_tuned_detector_takes_over_and_goes_back(place: Site, tmp_path: Path) -> None:
    """Through all phases, then back at once; both ways no request is lost, and readiness does not flap."""
    before = max(place.versions("face_detector"), key=int)
    candidate = candidates.tuned_detector(place.repository, tmp_path / "candidate")
    plan = write_plan(tmp_path)
    with place.traffic() as traffic:
        tool = rollout("run", "face_detector", "--candidate", candidate, "--plan", plan, *place.at)
        assert tool.end() == 0, tool.error()
        after = str(tool.events[-1]["versions"]["face_detector"])
        phases = [name for name in tool.names() if name not in ("look", "trial")]
        assert phases == [
            "begun",
            "staged",
            "proven",
            "loaded",
            "shadow",
            "canary",
            "canary",
            "promoted",
            "done",
            "ended",
        ]
        time.sleep(1)
        asked_s = time.time()
        back = rollout("rollback", "--reason", "a look at the way back", *place.at)
        assert back.end() == 0, back.error()
        done_s = time.time()
        time.sleep(1)
    assert_nothing_lost(traffic, least=20)
    answered = [sent.models["face_detector"] for sent in sorted(traffic.sent, key=lambda sent: sent.due_s)]
    assert answered[0] == before
    assert set(answered) == {before, after}
    assert {sent.models["face_detector"] for sent in traffic.between(done_s, done_s + 60)} == {before}
    (flip,) = shown(back.events, "flipped_back")
    assert asked_s < done_s
    assert flip["reason"] == "a look at the way back"
    assert place.serving("face_detector") == {before}
    assert after not in place.versions("face_detector")
    assert place.state()["used"]["face_detector"] == int(after), "its number is never used again"
    history = rollout("history", *place.at)
    events = [entry["event"] for entry in history.events if "event" in entry]
    assert events[-2:] == ["rolling_back", "rolled_back"]
    begun = next(entry for entry in history.events if entry["event"] == "begun")
    assert begun["candidates"]["face_detector"]["name"] == "centerface-tuned"
    assert len(begun["candidates"]["face_detector"]["sha256"]) == 64


def unlicensed(repository: Path, out: Path) -> Path:
    return candidates.copy_version(repository, "face_detector", out, commercial_use=False)


def no_parity(repository: Path, out: Path) -> Path:
    return candidates.copy_version(repository, "face_detector", out, parity={})


def of_another_model(repository: Path, out: Path) -> Path:
    return candidates.copy_version(repository, "face_landmarker", out)


def slow(repository: Path, out: Path) -> Path:
    return candidates.slow_detector(repository, out)


def swapper_of_another_space(repository: Path, out: Path) -> Path:
    return candidates.new_space(repository, out.with_name("embedder"), out)["face_swapper"]


def crashing(repository: Path, out: Path) -> Path:
    return candidates.pipeline(repository, out, crash_after=0)


@pytest.mark.parametrize(
    ("model", "make", "code", "says"),
    [
        pytest.param("face_detector", candidates.corrupt, 4, "sha256 is .* corrupt or replaced file", id="corrupt"),
        pytest.param("face_detector", candidates.wrong_contract, 11, "the graph has inputs crop_rgb", id="contract"),
        pytest.param("face_detector", candidates.not_finite, 11, "kps with values that are not finite", id="nan"),
        pytest.param("face_detector", candidates.poor_detector, 11, "self_test_failed", id="beside-the-face"),
        pytest.param("face_detector", slow, 11, "times as long, allowed are 3 times", id="slow"),
        pytest.param("face_detector", candidates.greedy_detector, 11, "(?i)alloc", id="out-of-memory"),
        pytest.param("face_detector", unlicensed, 8, "commercial", id="licence"),
        pytest.param("face_detector", no_parity, 11, "no parity figures", id="no-parity"),
        pytest.param("face_detector", of_another_model, 11, "of face_landmarker, not of face_detector", id="model"),
        pytest.param("face_swapper", swapper_of_another_space, 11, "wants embeddings of the space", id="space"),
        pytest.param("face_swap", crashing, 11, "is not healthy", id="crashes-at-once"),
    ],
)
def test_a_bad_candidate_never_touches_the_server(
    place: Site, tmp_path: Path, model: str, make: Make, code: int, says: str
) -> None:
    candidate = make(place.repository, tmp_path / "candidate")
    versions, serving = place.versions(model), place.serving(model)
    with place.traffic() as traffic:
        policy = ["--policy", "commercial"] if make is unlicensed else []
        tool = rollout("run", model, "--candidate", candidate, *policy, *place.at)
        time.sleep(1)
    assert tool.end() == code, tool.error()
    assert re.search(says, tool.error()), tool.error()
    assert "loaded" not in tool.names()
    assert_nothing_lost(traffic)
    assert (place.versions(model), place.serving(model)) == (versions, serving)
    assert not list((place.repository / model).glob(".staged-*"))
    assert {sent.models[model] for sent in traffic.sent} == serving


def test_second_looks_stop_what_the_golden_request_does_not(place: Site, tmp_path: Path) -> None:
    """A detector that is a little off still swaps the golden face; which measure proves it first is chance."""
    candidate = candidates.poor_detector(place.repository, tmp_path / "candidate", shift_px=14.0)
    serving = place.serving("face_detector")
    with place.traffic() as traffic:
        tool = rollout(
            "run", "face_detector", "--candidate", candidate, "--plan", write_plan(tmp_path, shadow=1.0), *place.at
        )
    assert tool.end() == 11
    assert re.search(r"(recall|precision|iou|kps_error) 0\.\d+ .* at (least|most) 0\.", tool.error()), tool.error()
    assert "shadow" in tool.names()
    assert "canary" not in tool.names()
    assert_nothing_lost(traffic)
    assert {sent.models["face_detector"] for sent in traffic.sent} == serving


def test_the_median_stops_what_the_trial_lets_pass(place: Site, tmp_path: Path) -> None:
    """Twice as slow: the trial allows it, the gate of the first step does not."""
    candidate = candidates.slow_detector(place.repository, tmp_path / "candidate", products=2)
    serving = place.serving("face_detector")
    with place.traffic() as traffic:
        tool = rollout(
            "run", "face_detector", "--candidate", candidate, "--plan", write_plan(tmp_path, step_s=50.0), *place.at
        )
        time.sleep(1)
    assert tool.end() == 11
    assert re.search(r"p50 .* times \(.*\), limit 1\.25", tool.error()), tool.error()
    assert_nothing_lost(traffic)
    assert place.serving("face_detector") == serving


def test_a_pipeline_that_crashes_later_costs_nobody_an_answer(place: Site, tmp_path: Path) -> None:
    """The trial and the second looks take fewer requests than it survives."""
    candidate = candidates.pipeline(place.repository, tmp_path / "candidate", crash_after=40)
    with place.traffic(per_s=8.0) as traffic:
        tool = rollout(
            "run", "face_swap", "--candidate", candidate, "--plan", write_plan(tmp_path, step_s=50.0), *place.at
        )
        time.sleep(1)
    assert tool.end() == 11
    assert "canary" in tool.names()
    assert re.search("gave the candidate up|process of face_swap", tool.error()), tool.error()
    assert_nothing_lost(traffic)
    assert place.serving("face_swap") == {"1"}
    assert tool.names().count("canary") == 1
    assert len({sent.models["face_swap"] for sent in traffic.sent}) == 2, "it has answered some, before it crashed"


def test_a_new_version_of_the_pipeline_takes_over(place: Site, tmp_path: Path) -> None:
    candidate = candidates.pipeline(place.repository, tmp_path / "candidate")
    with place.traffic() as traffic:
        tool = rollout("run", "face_swap", "--candidate", candidate, "--plan", write_plan(tmp_path), *place.at)
        assert tool.end() == 0, tool.error()
        new = str(tool.events[-1]["versions"]["face_swap"])
        promoted_s = time.time()
        time.sleep(1)
        back = rollout("rollback", *place.at)
        assert back.end() == 0, back.error()
        done_s = time.time()
        time.sleep(1)
    assert_nothing_lost(traffic)
    versions = [sent.models["face_swap"] for sent in traffic.sent]
    assert set(versions) == {"1", new}
    assert {sent.models["face_swap"] for sent in traffic.between(promoted_s, promoted_s + 0.8)} == {new}
    assert {sent.models["face_swap"] for sent in traffic.between(done_s, done_s + 60)} == {"1"}
    assert not (place.repository / "face_swap_candidate").exists()


def test_a_set_is_never_mixed_and_a_key_stays_with_one_version(place: Site, tmp_path: Path) -> None:
    """An embedder of a new space and the swapper that wants it; and ten users who ask again and again."""
    made = candidates.new_space(place.repository, tmp_path / "embedder", tmp_path / "swapper")
    pair = ["--candidate", str(made["face_embedder"]), "--with", f"face_swapper={made['face_swapper']}"]
    with place.traffic(per_s=8.0, key_of=lambda number: f"user {number % 10}") as traffic:
        tool = rollout("run", "face_embedder", *pair, "--plan", write_plan(tmp_path, step_s=4.0), *place.at)
        assert tool.end() == 0, tool.error()
        rollout("rollback", *place.at)
    assert_nothing_lost(traffic)
    new = tool.events[-1]["versions"]
    mixed = {(sent.models["face_embedder"], sent.models["face_swapper"]) for sent in traffic.sent}
    assert mixed == {("1", "1"), (str(new["face_embedder"]), str(new["face_swapper"]))}
    rows = place.state()["record"]
    assert rows["phase"] == "rolled_back"
    half = shown(tool.events, "canary")
    assert [event["weight_percent"] for event in half] == [50, 100]


def test_candidates_come_from_mlflow_too(place: Site, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    env = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    folder = candidates.tuned_detector(place.repository, tmp_path / "candidate", min_score=0.42)
    put = rollout("register", folder, "--name", "face_detector", "--alias", "champion", env=env)
    assert put.end() == 0, put.error()
    assert put.events == [{"uri": "models:/face_detector/1"}]
    source = "models:/face_detector@champion"
    tool = rollout("stage", "face_detector", "--candidate", source, *place.at, env=env)
    assert tool.end() == 0, tool.error()
    assert tool.names()[-1] == "ended"
    record = place.state()["record"]
    assert record["phase"] == "proven"
    assert "models:/face_detector@champion" in record["candidates"]["face_detector"]["origin"]
    (told,) = rollout("status", *place.at).events
    assert told["replicas"][place.server.grpc_url]["is_led"] is False, "whoever goes on need not wait"
    aborted = rollout("abort", *place.at)
    assert aborted.end() == 0, aborted.error()
    shutil.rmtree(tmp_path / "mlruns", ignore_errors=True)
