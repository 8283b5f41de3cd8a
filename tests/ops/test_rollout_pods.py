"""Old and new replicas that are functions: what is sent to whom, what is measured, and what is decided."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from warmswap_client.errors import NoFaceError, ServerFailedError
from warmswap_client.results import SwappedFace, SwapResult
from warmswap_ops.commands import _judge, rollout
from warmswap_ops.errors import CandidateStoppedError, RepositoryError, ServerUnreachableError, UsageError
from warmswap_ops.rollout.gates import Outcome
from warmswap_ops.rollout.golden_pictures import golden_pictures
from warmswap_ops.rollout.plan import Gates, Plan, Shadow, Step
from warmswap_ops.rollout.pod_load import PairLoad, Pictures, Swap
from warmswap_ops.rollout.pod_measures import compare_answers, compare_boxes
from warmswap_ops.rollout.pods import Limits, judge_pods, warm_up

LEFT, RIGHT = (0.0, 0.0, 100.0, 100.0), (200.0, 0.0, 300.0, 100.0)
NEAR_LEFT, BESIDE_LEFT = (10.0, 0.0, 110.0, 100.0), (60.0, 0.0, 160.0, 100.0)
PICTURES = [Pictures("a", b"source", b"target"), Pictures("b", b"source 2", b"target 2")]
QUICK = Plan(
    gates=Gates(max_error_increase=0.3, max_p50_ratio=2.0, max_p99_ratio=10.0, min_slowdown_ms=8.0),
    shadow=Shadow(min_samples=20),
    steps=(Step(100.0, soak_s=0.3, min_samples=20, max_soak_s=3.0),),
    interval_s=0.3,
)


def answer(*boxes: tuple[float, float, float, float], gain: float | None = 0.1) -> SwapResult:
    after = None if gain is None else 0.5 + gain
    faces = tuple(SwappedFace(box, 0.9, True, 0.5, after) for box in boxes)
    return SwapResult(b"", "jpeg", (300, 100), faces, None, {}, {}, {})


def replica(
    result: SwapResult | Exception, after_s: float = 0.001, every: int = 1, seen: list[bytes] | None = None
) -> Swap:
    """Return a replica that raises, where it is to, at each ``every``-th request only."""
    count = 0

    async def swap(source: bytes, target: bytes) -> SwapResult:
        nonlocal count
        count += 1
        if seen is not None:
            seen.append(target)
        await asyncio.sleep(after_s)
        if isinstance(result, Exception):
            if count % every == 0:
                raise result
            return answer(LEFT, RIGHT)
        return result

    return swap


def judged(
    stable: list[Swap], candidate: list[Swap], plan: Plan = QUICK, rate: float = 100.0
) -> tuple[dict[str, Outcome], list[tuple[str, Mapping[str, Any]]]]:
    events: list[tuple[str, Mapping[str, Any]]] = []
    load = PairLoad(stable, candidate, PICTURES, rate, random.Random(1))
    verdicts = asyncio.run(judge_pods(load, plan, Limits.of(plan), lambda name, facts: events.append((name, facts))))
    return {verdict.gate: verdict.outcome for verdict in verdicts}, events


def test_boxes_are_matched_one_to_one() -> None:
    assert compare_boxes([LEFT, RIGHT], [LEFT, RIGHT]) == {"recall": 1.0, "precision": 1.0, "iou": 1.0}
    assert compare_boxes([LEFT], [LEFT, NEAR_LEFT]) == {"recall": 1.0, "precision": 0.5, "iou": 1.0}
    near = compare_boxes([LEFT, RIGHT], [NEAR_LEFT])
    assert near == {"recall": 0.5, "precision": 1.0, "iou": pytest.approx(9000 / 11000)}
    assert compare_boxes([LEFT], [BESIDE_LEFT]) == {"recall": 0.0, "precision": 0.0}
    assert compare_boxes([], []) == {"recall": 1.0, "precision": 1.0}
    assert compare_boxes([], [LEFT])["precision"] == 0.0


def test_answers_are_compared_by_what_their_reports_say() -> None:
    assert compare_answers(answer(LEFT, gain=0.3), answer(LEFT, gain=0.1))["identity_gain"] == pytest.approx(-0.2)
    assert "identity_gain" not in compare_answers(answer(LEFT), answer(LEFT, gain=None))
    assert compare_answers(answer(LEFT), NoFaceError("none"))["recall"] == 0.0
    assert compare_answers(answer(LEFT), ServerFailedError("broken")) == {}
    assert compare_answers(NoFaceError("none"), answer(LEFT)) == {}


def test_pairs_go_to_one_replica_of_each_group_in_random_order() -> None:
    async def send() -> list[tuple[float, str, bytes]]:
        sent: list[tuple[float, str, bytes]] = []

        def named(name: str) -> Swap:
            async def swap(source: bytes, target: bytes) -> SwapResult:
                sent.append((time.monotonic(), name, target))
                return answer(LEFT)

            return swap

        load = PairLoad([named("s1"), named("s2")], [named("c1")], PICTURES, 50.0, random.Random(2))
        running = asyncio.create_task(load.run())
        await asyncio.sleep(0.6)
        load.stop()
        await running
        assert len(sent) == 2 * len(load.pairs)
        return sent

    sent = asyncio.run(send())
    pairs = [sent[i : i + 2] for i in range(0, len(sent), 2)]
    assert len(pairs) >= 20
    assert {name for pair in pairs for _, name, _ in pair} == {"s1", "s2", "c1"}
    assert all({name[0] for _, name, _ in pair} == {"s", "c"} for pair in pairs)
    assert all(first[2] == second[2] for first, second in pairs)
    assert {target for _, _, target in sent} == {b"target", b"target 2"}
    firsts = [pair[0][1][0] for pair in pairs]
    assert 3 <= firsts.count("s") <= len(firsts) - 3  # either order, and not by turns
    assert firsts != ["s", "c"] * (len(firsts) // 2)


def test_requests_do_not_wait_for_slow_answers_and_are_timed_from_when_they_were_due() -> None:
    async def send() -> PairLoad:
        load = PairLoad([replica(answer(LEFT), 0.3)], [replica(answer(LEFT))], PICTURES, 50.0, random.Random(3))
        running = asyncio.create_task(load.run())
        await asyncio.sleep(0.25)
        load.stop()
        assert not load.pairs  # nothing of the slow one was answered, and yet a dozen were sent
        await running
        return load

    pairs = asyncio.run(send()).pairs
    assert len(pairs) >= 10
    assert all(pair.stable.ms >= 290 > pair.candidate.ms for pair in pairs)


def test_equal_replicas_pass() -> None:
    outcomes, events = judged([replica(answer(LEFT, RIGHT))] * 2, [replica(answer(LEFT, RIGHT))])
    assert outcomes["errors"] is outcomes["p50"] is outcomes["recall"] is Outcome.PASS
    assert outcomes["identity_gain"] is Outcome.PASS
    assert events[-1][0] == "judged"
    assert events[-1][1]["decision"] == "pass"
    assert events[-1][1]["pairs"] >= 20


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        pytest.param(replica(answer(LEFT, RIGHT), 0.05), "p50 .* limit 2", id="slow"),
        pytest.param(replica(ServerFailedError("stage broken"), every=2), r"errors .*stage broken", id="errors"),
        pytest.param(replica(answer(LEFT)), r"recall 0\.5", id="misses a face"),
        pytest.param(replica(answer(LEFT, RIGHT, BESIDE_LEFT)), r"precision 0\.6667", id="makes one up"),
        pytest.param(replica(answer(LEFT, RIGHT, gain=-0.1)), r"identity_gain -0\.2", id="another person"),
        pytest.param(replica(NoFaceError("none")), r"recall 0 ", id="finds nobody"),
    ],
)
def test_a_bad_candidate_is_stopped_by_its_gate(bad: Swap, words: str) -> None:
    with pytest.raises(CandidateStoppedError, match=words) as caught:
        judged([replica(answer(LEFT, RIGHT))], [bad])
    assert caught.value.exit_code == 11
    assert "\n" not in str(caught.value)


def test_too_little_evidence_is_no_pass() -> None:
    short = Plan(shadow=QUICK.shadow, steps=(Step(100.0, soak_s=0.3, max_soak_s=0.6),), interval_s=0.3)
    with pytest.raises(CandidateStoppedError, match="not enough to judge by in the time that the plan gives"):
        judged([replica(answer(LEFT))], [replica(answer(LEFT))], short, rate=20.0)


def test_few_answers_are_no_pass_where_no_evidence_is_wanted_either() -> None:
    lenient = Plan(gates=Gates(strict=False), shadow=QUICK.shadow, steps=(Step(100.0, soak_s=0.2, max_soak_s=0.5),))
    with pytest.raises(CandidateStoppedError, match="too few requests reached the candidate"):
        judged([replica(answer(LEFT))], [replica(answer(LEFT))], lenient, rate=20.0)


def test_a_request_that_hangs_is_not_forgotten() -> None:
    """All answers that came are as they should be, but for those that come last."""
    good = replica(answer(LEFT, RIGHT))
    count = 0

    async def hangs_later(source: bytes, target: bytes) -> SwapResult:
        nonlocal count
        count += 1
        if count > 20:
            await asyncio.sleep(1.0)
            raise ServerFailedError("too late")
        return await good(source, target)

    plan = Plan(gates=Gates(max_error_increase=0.02, strict=False), shadow=Shadow(min_samples=10), steps=QUICK.steps)
    plan = Plan(gates=plan.gates, shadow=plan.shadow, steps=plan.steps, interval_s=0.5)
    with pytest.raises(CandidateStoppedError, match="too late"):
        judged([good], [hangs_later], plan)


def test_the_first_request_to_each_replica_is_not_measured() -> None:
    seen: list[bytes] = []
    old, new = replica(answer(LEFT), seen=seen), replica(ServerFailedError("cold"), seen=seen)
    asyncio.run(warm_up([old], [new], PICTURES))
    assert seen == [b"target", b"target 2", b"target"]  # what fails, perhaps after a time-out, is not asked again


def test_an_old_replica_that_fails_is_no_reason_not_to_judge() -> None:
    asyncio.run(warm_up([replica(ServerFailedError("broken"))], [replica(answer(LEFT))], PICTURES))


def test_a_picture_that_the_stable_replicas_refuse_is_no_use() -> None:
    with pytest.raises(UsageError, match=r"a is no use here: .*no face found"):
        asyncio.run(warm_up([replica(NoFaceError("no face found"))], [replica(answer(LEFT))], PICTURES))


def test_times_are_those_of_the_last_step_unless_given() -> None:
    assert Limits.of(Plan()) == Limits(60.0, 900.0, 30)
    assert Limits.of(Plan(), 5.0, 20.0) == Limits(5.0, 20.0, 30)
    assert Limits.of(Plan(), 2000.0).max_duration_s == 2000.0
    with pytest.raises(UsageError, match="--max-duration must not be below --duration"):
        Limits.of(Plan(), 30.0, 20.0)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    rollout.add_arguments(parser)
    return parser.parse_args(["judge", "--stable=127.0.0.1:1", "--candidate=127.0.0.1:1", *words])


def test_pictures_are_yours_and_those_of_the_repository(tmp_path: Path) -> None:
    repository = Path(__file__).parents[2] / "model_repository"
    (golden,) = golden_pictures(repository)
    assert golden.source.startswith(b"\xff\xd8")
    assert golden.target.startswith(b"\xff\xd8")
    (tmp_path / "me.jpg").write_bytes(b"me")
    (tmp_path / "you.jpg").write_bytes(b"you")
    yours = (f"--source={tmp_path / 'me.jpg'}", f"--target={tmp_path / 'you.jpg'}")
    found = _judge.find_pictures(parsed(*yours, f"--repository={repository}"))
    assert found == [Pictures("me.jpg in you.jpg", b"me", b"you"), golden]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to send: give --source and --target, or --repository"),
        (("--source=a.jpg",), "--source and --target go together, got 1 and 0 of them"),
        (("--source=/none/a.jpg", "--target=/none/b.jpg"), r"/none/a\.jpg cannot be read: No such file"),
    ],
)
def test_wrong_pictures_are_usage_errors(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rollout.run(parsed(*words))


def test_a_folder_without_models_has_no_golden_pictures(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="face_swap"):
        rollout.run(parsed(f"--repository={tmp_path}"))


def test_where_nothing_answers_the_exit_code_is_7(tmp_path: Path) -> None:
    (tmp_path / "me.jpg").write_bytes(b"me")
    picture = tmp_path / "me.jpg"
    with pytest.raises(ServerUnreachableError, match=r"127\.0\.0\.1:1 is not ready") as caught:
        rollout.run(parsed(f"--source={picture}", f"--target={picture}", "--wait=0.5"))
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("option", ["--rate=0", "--rate=nan", "--duration=-1", "--timeout=inf"])
def test_numbers_must_be_above_zero(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(option)
    assert "must be above 0" in capsys.readouterr().err
