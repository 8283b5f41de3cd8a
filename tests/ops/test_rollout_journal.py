"""Who leads a rollout, and what the replicas know of it: real agents on real folders, and two tools."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.ops.rollout_replicas import LocalFleet, LocalReplica
from tests.ops.serve_process import eventually
from warmswap_ops.errors import CandidateStoppedError, ControlError, RolloutBusyError, RolloutError
from warmswap_ops.rollout import journal as journal_module
from warmswap_ops.rollout.journal import ATTEMPTS, RENEWALS, WATCH_FACTOR, Journal
from warmswap_ops.rollout.plan import Plan, Shadow, Step
from warmswap_ops.rollout.record import Phase, Record
from warmswap_ops.rollout.state_file import replace_routes

LEASE_S = 30.0
VERSIONS = {"face_detector": (1, 2)}
CANDIDATES = {"face_detector": {"origin": "here", "digest": "d1"}}
PLAN = Plan(shadow=Shadow(share=0.25), steps=(Step(5.0), Step(100.0)), patience_ms=70.0)


@dataclass
class Clock:
    """Stands where the journal's ``time`` does; goes on only when it is told to."""

    now_s: float = 1e9
    strftime = staticmethod(time.strftime)
    gmtime = staticmethod(time.gmtime)

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    with LocalFleet(tmp_path) as opened:
        yield opened


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(journal_module, "time", clock)
    return clock


def journal(fleet: LocalFleet, who: str = "alice", lease_s: float = LEASE_S) -> Journal:
    opened = Journal(fleet, who, f"owner-{who}", lambda name, facts: None, lease_s)
    opened.look()
    return opened


def begun(fleet: LocalFleet, who: str = "alice", lease_s: float = LEASE_S) -> Journal:
    opened = journal(fleet, who, lease_s)
    opened.begin(VERSIONS, CANDIDATES, PLAN)
    return opened


def phases(fleet: LocalFleet) -> list[str]:
    return [replica.routes.record["phase"] for replica in fleet.local]


def generations(fleet: LocalFleet) -> list[int]:
    return [replica.routes.generation for replica in fleet.local]


def pin(replica: LocalReplica, version: int) -> None:
    """Change the state as a tool that knows nothing of the rollout would."""
    there = replica.routes
    routes = replace(there, generation=there.generation + 1, pins={**there.pins, "face_swapper": version})
    replace_routes(replica.repository, routes, there.generation)


def put_record(replica: LocalReplica, record: Record) -> None:
    there = replica.routes
    routes = replace(there, generation=there.generation + 1, record=record.as_json())
    replace_routes(replica.repository, routes, there.generation)


# Which rollout there is


def test_the_clock_of_a_replica_is_read_when_it_answers_quickly(fleet: LocalFleet) -> None:
    """The first call may load the agent, and half of that time would count as a difference of the clocks."""
    now_s, questions = [time.time()], []

    def be_slow_once(question: Mapping[str, Any]) -> None:
        questions.append(question["do"])
        if len(questions) == 1:
            now_s[0] += 8.0

    fleet.local[0].caller.before = be_slow_once
    seen = fleet.local[0].state(lambda: now_s[0])
    assert questions == ["state", "state"]
    assert seen.clock_ahead_s == pytest.approx(time.time() - now_s[0], abs=1.0)


def test_replicas_that_never_had_a_rollout(fleet: LocalFleet) -> None:
    record, seen = journal(fleet).look()
    assert record is None
    assert [state.routes.generation for state in seen.values()] == [0, 0]


def test_replicas_in_different_rollouts_are_refused(fleet: LocalFleet) -> None:
    leading = begun(fleet)
    put_record(fleet.local[1], replace(leading.record, id="r2"))
    with pytest.raises(RolloutError, match=r"different rollouts, r2, r\S+-lice: abort one by one"):
        journal(fleet)
    put_record(fleet.local[1], replace(leading.record, id="r2", phase=Phase.ROLLED_BACK))
    assert journal(fleet).look()[0] is not None, "one that is over does not matter"


def test_a_rollout_under_way_goes_before_one_that_is_over(fleet: LocalFleet, clock: Clock) -> None:
    first = begun(fleet)
    fleet.local[1].triton.is_up = False
    first.enter(Phase.STAGED)
    fleet.local[1].triton.is_up = True
    clock.now_s += 60
    later = replace(first.record, id="r2", phase=Phase.DONE, started_s=clock.now_s)
    put_record(fleet.local[1], later)
    found, _ = journal(fleet).look()
    assert found is not None
    assert (found.id, found.phase) == (first.record.id, Phase.STAGED)


def test_of_one_rollout_the_higher_sequence_knows_better(fleet: LocalFleet) -> None:
    leading = begun(fleet)
    fleet.local[0].triton.is_up = False
    leading.enter(Phase.STAGED)
    fleet.local[0].triton.is_up = True
    assert phases(fleet) == ["begun", "staged"]
    found, _ = journal(fleet).look()
    assert found is not None
    assert found.phase is Phase.STAGED


def test_looking_needs_every_replica(fleet: LocalFleet) -> None:
    fleet.local[1].triton.is_up = False
    with pytest.raises(ControlError, match="nobody there"):
        journal(fleet)


# Whose it is


@pytest.mark.parametrize(
    ("who", "lease_s", "digests", "says"),
    [
        pytest.param("alice", LEASE_S, {"face_detector": "d1"}, None, id="ours"),
        pytest.param("bob", LEASE_S, {"face_detector": "d1"}, r"is led still.*wait \d+ s", id="somebody's"),
        pytest.param("bob", 0.0, {"face_detector": "d1"}, None, id="nobody's any more"),
        pytest.param("bob", 0.0, {"face_detector": "d2"}, "by alice is begun: one rollout at a time", id="other"),
        pytest.param("alice", LEASE_S, {"face_detector": "d1", "face_swap": "d"}, "one rollout at a time", id="more"),
    ],
)
def test_whose_rollout_may_be_taken_up(
    fleet: LocalFleet, who: str, lease_s: float, digests: Mapping[str, str], says: str | None
) -> None:
    begun(fleet, lease_s=lease_s)
    following = journal(fleet, who)
    last, _ = following.look()
    assert last is not None
    if says is not None:
        with pytest.raises(RolloutBusyError, match=says):
            following.refuse_others(last, digests)
        return
    following.refuse_others(last, digests)
    following.take_over(last)
    assert {replica.routes.record["owner"] for replica in fleet.local} == {f"owner-{who}"}
    assert following.plan == PLAN, "whatever the plan is that the second one came with"


def test_a_lease_on_one_replica_counts_for_all(fleet: LocalFleet) -> None:
    leading = begun(fleet, lease_s=0.0)
    fleet.local[0].triton.is_up = False
    leading._lease_s = LEASE_S
    leading.enter(Phase.STAGED)
    fleet.local[0].triton.is_up = True
    following = journal(fleet, "bob")
    last, _ = following.look()
    assert last is not None
    with pytest.raises(RolloutBusyError, match="is led still"):
        following.refuse_others(last, {"face_detector": "d1"})


def test_a_lease_that_is_given_back_need_not_be_waited_for(fleet: LocalFleet) -> None:
    begun(fleet).give_back()
    following = journal(fleet, "bob")
    last, _ = following.look()
    assert last is not None
    following.refuse_others(last, {"face_detector": "d1"})


# What is written


def test_a_state_comes_with_a_lease_and_a_watch(fleet: LocalFleet) -> None:
    leading = begun(fleet)
    leading.enter(Phase.CANARY)
    for replica in fleet.local:
        rollout, now_s = replica.routes.rollout, time.time()
        assert rollout is not None
        assert (rollout.share, rollout.shadow, rollout.patience_ms) == (0.05, 0.25, 70.0)
        assert replica.routes.record["lease_until_s"] == pytest.approx(now_s + LEASE_S, abs=5)
        assert rollout.expires_s == pytest.approx(now_s + WATCH_FACTOR * LEASE_S, abs=5)


def test_a_lease_is_renewed_when_it_is_time_to(fleet: LocalFleet, clock: Clock) -> None:
    leading = begun(fleet)
    assert generations(fleet) == [1, 1]
    clock.now_s += LEASE_S / RENEWALS - 0.1
    leading.renew()
    assert generations(fleet) == [1, 1], "not yet"
    clock.now_s += 0.2
    leading.renew()
    assert generations(fleet) == [2, 2]
    leading.renew()
    assert generations(fleet) == [2, 2], "that was just now"
    clock.now_s += LEASE_S / RENEWALS - 0.1
    leading.enter(Phase.STAGED)
    clock.now_s += 0.2
    leading.renew()
    assert generations(fleet) == [3, 3], "a new phase renews it too"


def test_a_lease_is_kept_while_something_takes_long(fleet: LocalFleet) -> None:
    leading = begun(fleet, lease_s=0.2)
    with leading.kept():
        assert eventually(lambda: min(generations(fleet)) > 3)
        last, seen = journal(fleet, "bob").look()
        assert last is not None
        assert min(state.lease_left_s for state in seen.values()) > 0
    there = generations(fleet)
    time.sleep(0.1)
    assert generations(fleet) == there, "not kept any more"


def test_a_lease_is_kept_beside_an_action_on_all_replicas(fleet: LocalFleet) -> None:
    leading = begun(fleet, lease_s=0.2)
    with leading.kept():
        reached = fleet.all(lambda replica: eventually(lambda: min(generations(fleet)) > 3))
    assert list(reached.values()) == [True, True]


def test_who_was_taken_over_finds_out_after_what_took_long(fleet: LocalFleet) -> None:
    first, second = begun(fleet, lease_s=0.2), journal(fleet, "bob")
    last, _ = second.look()
    assert last is not None

    def take_over() -> None:
        second.take_over(last)
        time.sleep(0.3)

    with pytest.raises(RolloutBusyError, match="bob has taken rollout"), first.kept():
        take_over()


def test_an_error_of_what_took_long_goes_before_that_of_the_lease(fleet: LocalFleet) -> None:
    leading = begun(fleet)
    with pytest.raises(ControlError, match="no load"), leading.kept():
        raise ControlError("no load")


def test_a_lease_is_given_back_though_the_last_answer_was_lost(fleet: LocalFleet) -> None:
    leading = begun(fleet)

    def lose(question: Mapping[str, Any]) -> None:
        if question["do"] == "change":
            raise ControlError("no answer in time")

    fleet.local[0].caller.after = lose
    leading.enter(Phase.STAGED)
    fleet.local[0].caller.after = lambda question: None
    leading.give_back()
    _, seen = journal(fleet, "bob").look()
    assert max(state.lease_left_s for state in seen.values()) <= 0


def test_a_renewal_may_reach_nobody_but_a_phase_must_not(fleet: LocalFleet, clock: Clock) -> None:
    leading = begun(fleet)
    for replica in fleet.local:
        replica.triton.is_up = False
    clock.now_s += LEASE_S
    leading.renew()
    with pytest.raises(ControlError, match="nobody there"):
        leading.enter(Phase.STAGED)


def test_a_replica_that_was_away_gets_the_next_state(fleet: LocalFleet, clock: Clock) -> None:
    leading = begun(fleet)
    fleet.local[1].triton.is_up = False
    leading.enter(Phase.STAGED)
    assert phases(fleet) == ["staged", "begun"]
    fleet.local[1].triton.is_up = True
    clock.now_s += LEASE_S
    leading.renew()
    assert phases(fleet) == ["staged", "staged"]


def test_a_state_that_somebody_else_changed_meanwhile_is_taken_into_account(fleet: LocalFleet) -> None:
    leading = begun(fleet)
    pin(fleet.local[0], 7)
    leading.enter(Phase.STAGED)
    assert phases(fleet) == ["staged", "staged"]
    assert fleet.local[0].routes.pins == {"face_swapper": 7, "face_detector": 1}


def test_a_change_whose_answer_was_lost_is_not_somebody_elses(fleet: LocalFleet, clock: Clock) -> None:
    leading = begun(fleet)
    replica = fleet.local[0]

    def lose(question: Mapping[str, Any]) -> None:
        if question["do"] == "change":
            raise ControlError("no answer in time")

    replica.caller.after = lose
    leading.enter(Phase.STAGED)
    assert replica.routes.record["phase"] == "staged", "and yet the tool cannot know"
    replica.caller.after = lambda question: None
    clock.now_s += LEASE_S
    leading.renew()
    assert [replica.routes.record["sequence"] for replica in fleet.local] == [leading.record.sequence] * 2


def test_who_was_taken_over_finds_out_and_stops(fleet: LocalFleet) -> None:
    first, second = begun(fleet), journal(fleet, "bob")
    last, _ = second.look()
    assert last is not None
    second.take_over(last)
    second.enter(Phase.STAGED)
    with pytest.raises(RolloutBusyError, match=r"bob has taken rollout r\S+ over on [ab]; it is staged there"):
        first.enter(Phase.ROLLING_BACK)
    assert phases(fleet) == ["staged", "staged"]


def test_who_was_taken_over_writes_nothing_any_more_whatever_fails_next(fleet: LocalFleet) -> None:
    """A load that fails while another tool takes over would be rolled back, over what that tool has done since."""
    first, second = begun(fleet, lease_s=0.2), journal(fleet, "bob")
    last, _ = second.look()
    assert last is not None

    def fail() -> None:
        second.take_over(last)
        time.sleep(0.3)
        raise CandidateStoppedError("the load failed")

    with pytest.raises(RolloutBusyError, match="bob has taken rollout"), first.kept():
        fail()
    there = generations(fleet)
    with pytest.raises(RolloutBusyError, match="bob has taken rollout"):
        first.enter(Phase.ROLLING_BACK)
    assert generations(fleet) == there
    assert phases(fleet) == ["begun", "begun"]


def test_a_renewal_that_fails_is_tried_again(fleet: LocalFleet) -> None:
    leading, failures = begun(fleet, lease_s=0.2), [1, 1]

    def fail(question: Mapping[str, Any]) -> None:
        if question["do"] == "change" and failures:
            failures.pop()
            raise RolloutError("no space left on device")

    fleet.local[0].caller.before = fail
    with leading.kept():
        assert eventually(lambda: not failures and min(generations(fleet)) > 3)


@pytest.mark.parametrize("end", [None, Phase.DONE])
def test_of_two_that_begin_at_once_the_second_is_refused(fleet: LocalFleet, end: Phase | None) -> None:
    """It has looked already; the versions that it chose may be wrong by now."""
    bob = journal(fleet, "bob")
    alice = begun(fleet)
    if end is not None:
        alice.end(end, {replica: {} for replica in fleet.local})
    with pytest.raises(RolloutBusyError, match=r"alice has begun rollout r\S+ on [ab]; it is (begun|done) there"):
        bob.begin(VERSIONS, CANDIDATES, PLAN)
    assert {replica.routes.record["owner"] for replica in fleet.local} == {"owner-alice"}


def test_an_older_rollout_does_not_stop_a_newer_one(fleet: LocalFleet, clock: Clock) -> None:
    """A replica that was away when the last one ended still has that one's state."""
    old = begun(fleet)
    clock.now_s += 60
    new = journal(fleet, "bob")
    old.enter(Phase.ROLLED_BACK)
    new.begin(VERSIONS, CANDIDATES, PLAN)
    assert {replica.routes.record["owner"] for replica in fleet.local} == {"owner-bob"}


def test_a_state_that_changes_all_the_time_is_given_up(fleet: LocalFleet) -> None:
    leading = begun(fleet)
    attempts: list[int] = []

    def meddle(question: Mapping[str, Any]) -> None:
        if question["do"] == "change":
            attempts.append(question["expected"])
            pin(fleet.local[0], len(attempts))

    fleet.local[0].caller.before = meddle
    with pytest.raises(RolloutBusyError, match="a: somebody else changes its state all the time"):
        leading.enter(Phase.STAGED)
    assert attempts == list(range(1, 1 + ATTEMPTS))
    fleet.local[0].caller.before = lambda question: None
    leading.enter(Phase.STAGED)
    assert phases(fleet) == ["staged", "staged"]


# The end, and the history


def test_at_the_end_nothing_is_left_but_pins_that_are_needed(fleet: LocalFleet) -> None:
    leading = begun(fleet)
    leading.enter(Phase.PROMOTED)
    for replica in fleet.local:
        replica.observe({"kind": "dropped", "t": 1.0})
    leading.end(Phase.DONE, {fleet.local[0]: {"face_detector": 2}, fleet.local[1]: {"face_detector": 3}})
    assert [replica.routes.pins for replica in fleet.local] == [{}, {"face_detector": 2}]
    assert [replica.routes.rollout for replica in fleet.local] == [None, None]
    assert [list(replica.observed.iterdir()) for replica in fleet.local] == [[], []]


def test_the_history_is_that_of_all_replicas_together(fleet: LocalFleet, clock: Clock) -> None:
    leading = begun(fleet)
    for away, phase in ((0, Phase.STAGED), (1, Phase.PROVEN)):
        fleet.local[away].triton.is_up = False
        leading.enter(phase, seconds=1.5)
        fleet.local[away].triton.is_up = True
    leading.note(reason="enough", gates=[{"gate": "errors"}])
    leading.enter(Phase.CANARY, step=1)
    entries = journal(fleet).history(10)
    assert {entry["event"] for entry in entries} == {"begun", "staged", "proven", "canary"}
    assert len(entries) == 4
    (canary,) = (entry for entry in entries if entry["event"] == "canary")
    assert (canary["who"], canary["weight_percent"], canary["gates"]) == ("alice", 100.0, [])
    assert len(journal(fleet).history(2)) == 2
