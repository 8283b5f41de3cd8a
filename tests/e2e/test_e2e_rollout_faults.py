"""What may go wrong around a rollout: the tool, its operators, replicas, disks and credentials."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.repositories import REPOSITORY
from tests.e2e.rollouts import LEASE_S, Site, Tool, assert_nothing_lost, rollout, shown, site, write_plan
from tests.ops.mounts import with_tmpfs
from tests.ops.serve_process import ServeProcess, eventually, processes_with
from warmswap_loadtests.rollouts import candidates
from warmswap_loadtests.rollouts.traffic import Traffic
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton

LONG_S = 60.0
WATCH_S = 1.5 * LEASE_S


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("faults")) as opened:
        yield opened


def abort(place: Site) -> None:
    tool = rollout("abort", *place.at)
    assert tool.end() == 0, tool.error()
    assert place.state()["rollout"] is None


def test_the_tool_may_be_killed_at_every_step_and_run_again(place: Site, tmp_path: Path) -> None:
    candidate = candidates.tuned_detector(place.repository, tmp_path / "candidate")
    run = ["run", "face_detector", "--candidate", str(candidate), "--plan", str(write_plan(tmp_path)), *place.at]
    with place.traffic() as traffic:
        for event in ("begun", "staged", "proven", "loaded", "shadow", "canary", "promoted"):
            with Tool(*run) as tool:
                tool.wait_for(event, or_phase=event)
                tool.kill()
            time.sleep(LEASE_S + 0.2)
        tool = rollout(*run)
        assert tool.end() == 0, tool.error()
        assert tool.names()[0] == "taken_over"
        again = rollout(*run)
        assert again.end() == 0, again.error()
        assert again.names() == ["already_served", "ended"]
    assert_nothing_lost(traffic)
    assert place.serving("face_detector") == place.serving("face_detector") & set(place.versions("face_detector"))
    assert len(place.serving("face_detector")) == 1
    assert place.state()["pins"] == {}


def test_a_rollback_that_was_cut_short_is_finished_by_abort(place: Site, tmp_path: Path) -> None:
    candidate = candidates.poor_detector(place.repository, tmp_path / "candidate", shift_px=14.0)
    plan = write_plan(tmp_path, shadow=1.0)
    serving = place.serving("face_detector")
    with place.traffic() as traffic:
        with Tool("run", "face_detector", "--candidate", candidate, "--plan", plan, *place.at) as tool:
            tool.wait_for("flipped_back")
            tool.kill()
        time.sleep(LEASE_S + 0.2)
        assert place.state()["record"]["phase"] == "rolling_back"
        abort(place)
    assert_nothing_lost(traffic)
    assert place.serving("face_detector") == serving
    assert set(place.versions("face_detector")) >= serving


def test_nobody_watching_means_nobody_is_sent_to_the_candidate(place: Site, tmp_path: Path) -> None:
    candidate = candidates.tuned_detector(place.repository, tmp_path / "candidate", min_score=0.41)
    plan = write_plan(tmp_path, step_s=50.0)
    serving = place.serving("face_detector")
    with place.traffic() as traffic:
        with Tool("run", "face_detector", "--candidate", candidate, "--plan", plan, *place.at) as tool:
            tool.wait_for("look", lambda event: event["step"] == "50 %" and event["requests"][1] >= 2)
            tool.kill()
        time.sleep(WATCH_S + 0.3)
        alone_s = time.time()
        time.sleep(2)
    assert_nothing_lost(traffic)
    assert {sent.models["face_detector"] for sent in traffic.between(alone_s, alone_s + 60)} == serving
    assert place.state()["rollout"]["share"] == 0.5, "the state waits for whoever goes on"
    abort(place)


def test_two_operators_do_not_meet(place: Site, tmp_path: Path) -> None:
    first = candidates.tuned_detector(place.repository, tmp_path / "first", min_score=0.44)
    second = candidates.tuned_detector(place.repository, tmp_path / "second", min_score=0.43)
    plan = write_plan(tmp_path, step_s=50.0)
    traffic = place.traffic()
    with traffic, Tool("run", "face_detector", "--candidate", first, "--plan", plan, *place.at) as alice:
        alice.wait_for("canary")
        same = rollout("run", "face_detector", "--candidate", first, "--plan", plan, *place.at)
        assert same.end() == 12
        assert re.search(r"by \S+@\S+ is canary, and is led still.* wait \d s", same.error()), same.error()
        other = rollout("run", "face_detector", "--candidate", second, "--plan", plan, *place.at)
        assert other.end() == 12
        assert "one rollout at a time" in other.error()
        status = rollout("status", *place.at)
        (told,) = status.events
        assert told["rollout"]["phase"] == "canary"
        assert told["replicas"][place.server.grpc_url]["is_led"] is True
        abort(place)
        assert alice.end() == 12
        assert "taken rollout" in alice.error()
    assert_nothing_lost(traffic)


def test_a_candidate_whose_process_dies_is_rolled_back_and_the_server_stays(place: Site, tmp_path: Path) -> None:
    candidate = candidates.tuned_detector(place.repository, tmp_path / "candidate", min_score=0.46)
    plan = write_plan(tmp_path, step_s=50.0)
    pid, serving = place.server.pid, place.serving("face_detector")
    with place.traffic() as traffic:
        with Tool("run", "face_detector", "--candidate", candidate, "--plan", plan, *place.at) as tool:
            tool.wait_for("look", lambda event: event["step"] == "50 %" and event["requests"][1] >= 2)
            version = place.state()["record"]["versions"]["face_detector"][1]
            (stub,) = processes_with(f"{place.repository}/face_detector/{version}/")
            os.kill(stub, signal.SIGKILL)
            assert tool.end() == 11
        time.sleep(1)
    assert re.search("gave the candidate up|process of face_detector", tool.error()), tool.error()
    assert_nothing_lost(traffic)
    assert place.server.pid == pid
    assert place.serving("face_detector") == serving
    following = candidates.tuned_detector(place.repository, tmp_path / "following", min_score=0.47)
    with place.traffic():
        tool = rollout("run", "face_detector", "--candidate", following, "--plan", write_plan(tmp_path), *place.at)
    assert tool.end() == 0, tool.error()
    assert tool.events[-1]["versions"]["face_detector"] > version


def test_a_rollout_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    """The process of a version that serves dies: the launcher starts the server again, with both versions."""
    with site(tmp_path) as place:
        candidate = candidates.tuned_detector(place.repository, tmp_path / "candidate")
        plan = write_plan(tmp_path, step_s=8.0)
        traffic = place.traffic()
        with traffic, Tool("run", "face_detector", "--candidate", candidate, "--plan", plan, *place.at) as tool:
            tool.wait_for("look", lambda event: event["step"] == "50 %" and event["requests"][1] >= 2)
            pid = place.server.pid
            (stub,) = processes_with(f"{place.repository}/face_landmarker/1/")
            os.kill(stub, signal.SIGKILL)
            assert eventually(lambda: place.server.pid != pid, 20)
            assert eventually(lambda: "ready" in [phase.name for phase in place.server.phases[-1:]], 30)
            assert place.serving("face_detector") == {"1", "2"}
            assert tool.end() == 0, tool.error()
        after = [sent for sent in traffic.sent[-20:] if not sent.error]
        assert {sent.models["face_detector"] for sent in after} == {"2"}
        assert place.serving("face_detector") == {"2"}


def test_a_rollout_survives_a_new_start_of_the_replica(tmp_path: Path) -> None:
    """The launcher goes, too, and with it what its pipelines have seen last: that is told, and nothing counts twice."""
    with site(tmp_path) as place:
        candidate = candidates.tuned_detector(place.repository, tmp_path / "candidate")
        plan = write_plan(tmp_path, step_s=8.0)
        plan.write_text(plan.read_text().replace("unreachable_s = 3", "unreachable_s = 60"))
        with (
            place.traffic() as traffic,
            Tool("run", "face_detector", "--candidate", candidate, "--plan", plan, *place.at) as tool,
        ):
            tool.wait_for("look", lambda event: event["step"] == "50 %" and event["requests"][1] >= 2)
            place.server.kill()
            tool.wait_for("unreachable")
            before = shown(tool.events, "look")[-1]
            assert before["step"] == "50 %"
            ports = replace(place.server.ports, metrics=0)
            with LocalTriton(place.repository, ports=ports) as back:
                assert back.grpc_url == place.server.grpc_url
                tool.wait_for("look", lambda event: event["dropped"] > before["dropped"])
                assert tool.end() == 0, tool.error()
    looks = [look for look in shown(tool.events, "look") if look["step"] == "50 %"]
    after = looks[looks.index(before) + 1 :]
    assert after[-1]["dropped"] > before["dropped"]
    assert all(
        a <= b for first, second in pairwise(looks) for a, b in zip(first["requests"], second["requests"], strict=True)
    )
    assert sum(after[-1]["requests"]) <= len(traffic.sent)


def test_without_the_token_nothing_is_done(tmp_path: Path) -> None:
    token, wrong = tmp_path / "token", tmp_path / "wrong"
    token.write_text("s3cret-of-this-replica-0123456789")
    wrong.write_text("another-secret-0123456789abcdef")
    with site(tmp_path, control_token_file=token) as place:
        candidate = candidates.tuned_detector(place.repository, tmp_path / "candidate")
        run = ["stage", "face_detector", "--candidate", str(candidate), *place.at]
        with place.traffic() as traffic:
            without = rollout(*run)
            assert without.end() == 7
            assert re.search("wants a token|wants the control token", without.error()), without.error()
            right = rollout(*run, "--control-token-file", token)
            assert right.end() == 0, right.error()
            other = rollout("abort", *place.at, "--control-token-file", wrong)
            assert other.end() == 7
            assert re.search("control token", other.error()), other.error()
            assert place.state()["record"]["phase"] == "proven"
            ended = rollout("abort", *place.at, "--control-token-file", token)
            assert ended.end() == 0, ended.error()
        assert_nothing_lost(traffic)
        assert "s3cret" not in json.dumps(place.state())


def test_a_replica_that_is_lost_on_the_way(tmp_path: Path) -> None:
    """The others go back to what they know; when it is back, it gives the candidate nothing, and abort cleans up."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with site(tmp_path / "a") as left, site(tmp_path / "b") as right:
        candidate = candidates.tuned_detector(left.repository, tmp_path / "candidate")
        plan = write_plan(tmp_path, step_s=50.0)
        both = [*left.at, "--replica", right.server.grpc_url]
        with left.traffic(per_s=3.0) as traffic, right.traffic(per_s=2.0):
            with Tool("run", "face_detector", "--candidate", candidate, "--plan", plan, *both) as tool:
                tool.wait_for("look", lambda event: event["step"] == "50 %" and event["requests"][1] >= 2)
                assert right.state()["rollout"]["share"] == left.state()["rollout"]["share"] == 0.5
                right.server.kill()
                assert tool.end() == 11
            assert re.search(r"could not be reached for 3 s.*abort when it is back", tool.error()), tool.error()
            assert left.serving("face_detector") == {"1"}
            with LocalTriton(right.repository) as back:
                assert right.state()["rollout"]["share"] == 0.5
                urls = ([f"grpc://{back.grpc_url}"], [f"http://{back.http_url}"])
                with Traffic(*urls, [traffic.pairs[0]], 4.0) as returned:
                    time.sleep(2)
                assert {sent.models["face_detector"] for sent in returned.sent} == {"1"}
                ended = rollout("abort", *left.at, "--replica", back.grpc_url)
                assert ended.end() == 0, ended.error()
                with back.control() as control:
                    ready = [
                        entry.version
                        for entry in control.index()
                        if entry.name == "face_detector" and entry.state == "READY"
                    ]
                assert ready == ["1"]
        assert_nothing_lost(traffic)
        assert [site.versions("face_detector") for site in (left, right)] == [["1"], ["1"]]


def test_a_full_disk_while_staging(tmp_path: Path) -> None:
    candidate = candidates.tuned_detector(REPOSITORY, tmp_path / "candidate")
    size = sum(path.stat().st_size for path in REPOSITORY.rglob("*") if path.is_file())
    disk = tmp_path / "disk"
    disk.mkdir()
    repository = disk / "model_repository"
    copy = ("sh", "-c", 'cp -r "$0" "$1" && shift && exec "$@"', str(REPOSITORY), str(repository))
    wrapper = (*with_tmpfs(disk, str(size + (3 << 20))), *copy)
    with ServeProcess(repository, wrapper=wrapper) as serving:
        urls = serving.phase("ready")["urls"]
        at = ["--replica", urls["grpc"], "--lease", str(LEASE_S)]
        tool = rollout("run", "face_detector", "--candidate", candidate, *at)
        assert tool.end() == 11
        assert re.search("cannot be staged.*No space left on device", tool.error()), tool.error()
        status = rollout("status", *at)
        assert status.events[0]["rollout"]["phase"] == "rolled_back"
        history = rollout("history", *at)
        assert [entry["event"] for entry in history.events][-1] == "rolled_back"
