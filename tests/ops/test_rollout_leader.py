"""A rollout from its first phase to its last, and what may happen on the way, on replicas without a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.ops.rollout_replicas import REPOSITORY, LocalFleet
from warmswap_loadtests.rollouts import candidates
from warmswap_ops.errors import CandidateStoppedError, ControlError, RolloutBusyError, RolloutError
from warmswap_ops.rollout import leader as leader_module
from warmswap_ops.rollout import watch as watch_module
from warmswap_ops.rollout.checks import Candidate, check_candidate
from warmswap_ops.rollout.leader import Leader
from warmswap_ops.rollout.plan import Gates, Plan, Shadow, Step
from warmswap_ops.rollout.record import Phase

QUICK = Plan(
    shadow=Shadow(share=0.0),
    gates=Gates(strict=False),
    steps=(Step(50.0, soak_s=0.1, min_samples=0), Step(100.0, soak_s=0.1, min_samples=0)),
    soak_s=0.1,
    interval_s=0.05,
    unreachable_s=0.5,
)
STEADY = Plan(
    shadow=Shadow(share=0.0),
    gates=Gates(strict=False),
    steps=(Step(100.0, soak_s=5.0, max_soak_s=5.0),),
    interval_s=0.05,
    unreachable_s=0.5,
)
"""Its step is never left for the next phase: no request reaches the candidate."""
SHADOWED = replace(STEADY, shadow=Shadow(share=0.5, duration_s=0.1, min_samples=4, max_duration_s=5.0))


class Tool:
    """A run of the tool: a leader, and what it reports.

    Attributes:
        events: Names and facts.
        on: Event to what is done then, once.
    """

    def __init__(self, fleet: LocalFleet, who: str = "alice") -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.on: dict[str, Callable[[], None]] = {}
        self.leader = Leader(fleet, who, f"owner-{who}", self._report)

    def _report(self, event: str, facts: Mapping[str, Any]) -> None:
        self.events.append((event, dict(facts)))
        self.on.pop(event, lambda: None)()

    def names(self) -> list[str]:
        """Return the events, each once where it comes several times in a row."""
        names = [name for name, _ in self.events]
        return [name for number, name in enumerate(names) if number == 0 or names[number - 1] != name]


@pytest.fixture(autouse=True)
def _no_requests_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_module, "DRAIN_S", 0.0)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    with LocalFleet(tmp_path) as opened:
        yield opened


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    folder = candidates.tuned_detector(REPOSITORY, tmp_path / "candidate")
    return check_candidate("face_detector", folder, "here", "d" * 64, "any")


def phases(fleet: LocalFleet) -> list[str]:
    return [replica.routes.record["phase"] for replica in fleet.local]


def assert_as_before(fleet: LocalFleet) -> None:
    for replica in fleet.local:
        assert replica.triton.ready("face_detector") == {1}
        assert replica.versions("face_detector") == [1]
        assert list((replica.repository / "face_detector").glob(".staged*")) == []
        assert (replica.routes.rollout, replica.routes.pins) == (None, {})
        assert replica.routes.used == {"face_detector": 2}


def test_a_good_candidate_goes_through_all_phases(fleet: LocalFleet, candidate: Candidate) -> None:
    tool = Tool(fleet)
    record = tool.leader.run([candidate], QUICK)
    assert (record.phase, record.candidate) == (Phase.DONE, {"face_detector": 2})
    told = [
        "begun",
        "staged",
        "trial",
        "proven",
        "loaded",
        "canary",
        "look",
        "canary",
        "look",
        "promoted",
        "look",
        "done",
    ]
    assert tool.names() == told
    kept = ["begun", "staged", "proven", "loaded", "canary", "canary", "promoted", "done"]
    assert [entry["event"] for entry in sorted(tool.leader.history(99), key=sequence)] == kept
    for replica in fleet.local:
        assert replica.triton.ready("face_detector") == {2}
        assert replica.versions("face_detector") == [1, 2]
        assert (replica.routes.rollout, replica.routes.pins) == (None, {})
    assert Tool(fleet).leader.run([candidate], QUICK) == tool.leader.look()[0], "it is served already"


def sequence(entry: Mapping[str, Any]) -> int:
    return int(entry["id"].rpartition("/")[2])


def test_a_pipeline_is_a_model_of_its_own_until_it_is_promoted(tmp_path: Path) -> None:
    """Triton sends whoever names no version to the highest one, so that must not be a candidate."""
    folder = candidates.copy_version(REPOSITORY, "face_swap", tmp_path / "candidate")
    candidate = check_candidate("face_swap", folder, "here", "d" * 64, "any")
    with LocalFleet(tmp_path / "f", "a", ("face_swap",)) as fleet:
        (replica,), tool = fleet.local, Tool(fleet)
        loaded: dict[str, list[set[int]]] = {}

        def look(event: str) -> None:
            loaded[event] = [replica.triton.ready(model) for model in ("face_swap", "face_swap_candidate")]

        quietly: list[list[str]] = []

        def listen(question: Mapping[str, Any]) -> None:
            if question["do"] == "gently" and question["models"]:
                quietly.append(question["models"])

        replica.caller.before = listen
        for event in ("begun", "loaded", "promoted", "done", "flipped_back", "rolled_back"):
            tool.on[event] = partial(look, event)
        tool.leader.run([candidate], QUICK)
        assert quietly == [["face_swap_candidate"], ["face_swap"]], "each load in the background, by the name it has"
        assert sorted(path.name for path in replica.repository.glob("face_swap*")) == ["face_swap"]
        assert replica.versions("face_swap") == [1, 2]
        tool.leader.roll_back("enough")
        assert loaded == {
            "begun": [{1}, set()],
            "loaded": [{1}, {2}],
            "promoted": [{1, 2}, {2}],
            "done": [{2}, set()],
            "flipped_back": [{1}, set()],
            "rolled_back": [{1}, set()],
        }


def test_a_promotion_that_a_replica_refuses_is_rolled_back(tmp_path: Path) -> None:
    folder = candidates.copy_version(REPOSITORY, "face_swap", tmp_path / "candidate")
    candidate = check_candidate("face_swap", folder, "here", "d" * 64, "any")
    with LocalFleet(tmp_path / "f", "a", ("face_swap",)) as fleet:
        (replica,), tool = fleet.local, Tool(fleet)
        tool.leader.run([candidate], QUICK, until=Phase.CANARY)
        replica.triton.refuses = "no room"

        def make_room() -> None:
            replica.triton.refuses = ""

        tool.on["rolling_back"] = make_room
        with pytest.raises(CandidateStoppedError, match=r"was stopped: a refuses it: .*no room"):
            tool.leader.promote()
        assert replica.routes.record["phase"] == "rolled_back"
        assert (replica.triton.ready("face_swap"), replica.versions("face_swap")) == ({1}, [1])


def test_the_way_back_is_open_after_the_end_too(fleet: LocalFleet, candidate: Candidate) -> None:
    Tool(fleet).leader.run([candidate], QUICK)
    back = Tool(fleet)
    with pytest.raises(RolloutError, match="no rollout is under way"):
        back.leader.roll_back("abort", only_running=True)
    assert back.leader.roll_back("it was worse").reason == "it was worse"
    assert back.names() == ["taken_over", "rolling_back", "flipped_back", "rolled_back"]
    assert_as_before(fleet)
    with pytest.raises(RolloutError, match="no rollout is under way"):
        back.leader.roll_back("again")
    assert Tool(fleet).leader.run([candidate], QUICK).candidate == {"face_detector": 3}, "2 was used"


def test_a_stage_stops_before_anything_is_loaded_and_anybody_goes_on(fleet: LocalFleet, candidate: Candidate) -> None:
    assert Tool(fleet).leader.run([candidate], QUICK, until=Phase.PROVEN).phase is Phase.PROVEN
    assert [replica.triton.ready("face_detector") for replica in fleet.local] == [{1}, {1}]
    with pytest.raises(RolloutError, match="is proven: nothing is loaded that could be promoted"):
        Tool(fleet).leader.promote()
    bob = Tool(fleet, "bob")
    assert bob.leader.run([candidate], QUICK).phase is Phase.DONE
    assert bob.names()[:2] == ["taken_over", "loaded"]


def test_a_tool_that_dies_is_waited_for_and_then_followed(fleet: LocalFleet, candidate: Candidate) -> None:
    alice, bob = Tool(fleet), Tool(fleet, "bob")

    def die() -> None:
        raise KeyboardInterrupt

    alice.on["loaded"] = die
    with pytest.raises(KeyboardInterrupt):
        alice.leader.run([candidate], QUICK)
    with pytest.raises(RolloutBusyError, match=r"by alice is loaded, and is led still.*wait 1\d s"):
        bob.leader.run([candidate], QUICK)
    assert bob.leader.promote().phase is Phase.DONE, "whoever says so need not wait"
    assert bob.names() == ["taken_over", "promoted", "look", "done"]
    with pytest.raises(RolloutError, match="no rollout is under way that could promote"):
        bob.leader.promote()


# What stops a candidate


def stopped(fleet: LocalFleet, candidate: Candidate, plan: Plan, says: str, tool: Tool | None = None) -> Tool:
    tool = tool or Tool(fleet)
    with pytest.raises(CandidateStoppedError, match=says):
        tool.leader.run([candidate], plan)
    return tool


def test_a_file_that_changes_on_its_way(fleet: LocalFleet, candidate: Candidate) -> None:
    (candidate.folder / "model.onnx").write_bytes(b"another")
    tool = stopped(fleet, candidate, QUICK, "was stopped: it cannot be staged: a: .*corrupt on its way")
    assert tool.names() == ["begun", "rolling_back", "flipped_back", "rolled_back"]
    assert_as_before(fleet)


def test_a_trial_that_fails(tmp_path: Path, candidate: Candidate) -> None:
    with LocalFleet(tmp_path / "f", trial='{"ok": false, "reason": "it answers NaN"}') as fleet:
        tool = stopped(fleet, candidate, QUICK, "its trial on a: it answers NaN")
        assert tool.names() == ["begun", "staged", "trial", "rolling_back", "flipped_back", "rolled_back"]
        assert len([name for name, _ in tool.events if name == "trial"]) == 1, "the other replica is spared"
        assert_as_before(fleet)


def test_an_abort_while_it_is_staged_leaves_nothing(tmp_path: Path, candidate: Candidate) -> None:
    """The first model has its number, and the second is on its way."""
    folder = candidates.copy_version(REPOSITORY, "face_landmarker", tmp_path / "second")
    second = check_candidate("face_landmarker", folder, "here", "e" * 64, "any")
    with LocalFleet(tmp_path / "f", "a", ("face_detector", "face_landmarker")) as fleet:
        (replica,), bob = fleet.local, Tool(fleet, "bob")

        def abort(question: Mapping[str, Any]) -> None:
            if question["do"] == "upload" and question["model"] == "face_landmarker":
                replica.caller.before = lambda question: None
                bob.leader.roll_back("bob says no", only_running=True)

        replica.caller.before = abort
        with pytest.raises(RolloutBusyError, match=r"bob has taken rollout \S+ over on a; it is rolled_back there"):
            Tool(fleet).leader.run([candidate, second], QUICK)
        assert [replica.versions(model) for model in ("face_detector", "face_landmarker")] == [[1], [1]]
        assert replica.routes.record["reason"] == "bob says no"


def test_a_replica_that_refuses_to_load_it(fleet: LocalFleet, candidate: Candidate) -> None:
    tool = Tool(fleet)

    def refuse() -> None:
        fleet.local[1].triton.refuses = "out of memory"

    tool.on["proven"] = refuse
    stopped(fleet, candidate, QUICK, "b refuses it: model face_detector failed to load: out of memory", tool)
    assert_as_before(fleet)


def test_second_looks_that_fail(tmp_path: Path, candidate: Candidate) -> None:
    with LocalFleet(tmp_path / "f", "a") as fleet:
        tool = Tool(fleet)

        def look() -> None:
            t = time.time() + 0.01
            good = {"kind": "shadow", "t": t, "measures": {"recall": 1.0}, "error": None}
            fleet.local[0].observe(good, good, *[{"kind": "shadow", "t": t, "measures": {}, "error": "no kps"}] * 3)

        tool.on["shadow"] = look
        stopped(fleet, candidate, SHADOWED, "3 of 5 second looks failed, 3 with: no kps", tool)
        assert_as_before(fleet)


def test_fewer_second_looks_than_gates_can_judge_by_do_not_lead_on(tmp_path: Path, candidate: Candidate) -> None:
    """Whatever the plan says; here ``min_samples`` is 4."""
    plan = replace(SHADOWED, shadow=replace(SHADOWED.shadow, max_duration_s=0.5))
    with LocalFleet(tmp_path / "f", "a") as fleet:
        tool = Tool(fleet)

        def look() -> None:
            good = {"kind": "shadow", "t": time.time() + 0.01, "measures": {"recall": 1.0}, "error": None}
            fleet.local[0].observe(*[good] * 5)

        tool.on["shadow"] = look
        stopped(fleet, candidate, plan, "not enough to judge by in the time that the plan gives", tool)
        assert "canary" not in tool.names()


def test_second_looks_that_are_good_lead_on(tmp_path: Path, candidate: Candidate) -> None:
    """And what a pipeline says afterwards counts too."""
    with LocalFleet(tmp_path / "f", "a") as fleet:
        tool = Tool(fleet)

        def look() -> None:
            good = {"kind": "shadow", "t": time.time() + 0.01, "measures": {"recall": 1.0}, "error": None}
            fleet.local[0].observe(*[good] * 20)

        def give_up() -> None:
            fleet.local[0].observe({"kind": "breaker", "t": time.time() + 0.01, "reason": "5 in a row failed"})

        tool.on.update({"shadow": look, "canary": give_up})
        stopped(fleet, candidate, SHADOWED, "a pipeline gave the candidate up: 5 in a row failed", tool)
        names = tool.names()
        assert names[names.index("loaded") :][:3] == ["loaded", "shadow", "look"]
        assert "canary" in names


def test_a_process_that_dies(tmp_path: Path, candidate: Candidate) -> None:
    with LocalFleet(tmp_path / "f", "a") as fleet:
        tool = Tool(fleet)
        tool.on["canary"] = lambda: fleet.local[0].triton.kill("face_detector", 2)
        stopped(fleet, candidate, STEADY, "the process of face_detector 2 on a died", tool)
        assert_as_before(fleet)


# Replicas that come and go


def test_a_server_that_was_started_again_gets_its_candidate_again(tmp_path: Path, candidate: Candidate) -> None:
    """Not before it has what it must have: until then it is being started."""
    with LocalFleet(tmp_path / "f", "a") as fleet:
        (replica,), tool = fleet.local, Tool(fleet)
        asked: list[str] = []

        def restart() -> None:
            replica.triton.stop()
            replica.caller.before = come_back

        def come_back(question: Mapping[str, Any]) -> None:
            asked.append(question["do"])
            if asked.count("alive") == 3:
                replica.triton.start("face_detector", 1)

        def both() -> None:
            assert asked.count("alive") == 3
            tool.on["look"] = lambda: end()

        def end() -> None:
            assert replica.triton.ready("face_detector") == {1, 2}
            raise KeyboardInterrupt

        tool.on.update({"canary": restart, "loading_again": both})
        with pytest.raises(KeyboardInterrupt):
            tool.leader.run([candidate], STEADY)
        assert phases(fleet) == ["canary"]


@dataclass
class Clock:
    """Stands where the watch's ``time`` does: how long a replica is away, the tests say."""

    now_s: float = 1000.0
    sleep = staticmethod(time.sleep)
    time = staticmethod(time.time)

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watch_module, "time", clock)
    return clock


def test_a_replica_that_is_away_for_too_long(fleet: LocalFleet, candidate: Candidate, clock: Clock) -> None:
    """The others go back; it is told that it must be cleaned up, and that is done when it is back."""
    tool = Tool(fleet)

    def leave() -> None:
        fleet.local[1].triton.is_up = False
        tool.on["unreachable"] = lambda: tool.on.update(unreachable=wait)

    def wait() -> None:
        clock.now_s += 0.51

    tool.on["canary"] = leave
    says = r"b could not be reached for 0\.5 s; b cannot be reached and gives the candidate nothing after 22\.5 s"
    stopped(fleet, candidate, STEADY, says, tool)
    assert phases(fleet) == ["rolling_back", "canary"]
    assert [replica.triton.ready("face_detector") for replica in fleet.local] == [{1}, {1, 2}]
    assert tool.names()[-2:] == ["unreachable", "unfinished"]
    with pytest.raises(ControlError, match="nobody there"):
        Tool(fleet).leader.roll_back("abort")
    fleet.local[1].triton.is_up = True
    assert Tool(fleet).leader.roll_back("abort").phase is Phase.ROLLED_BACK
    assert phases(fleet) == ["rolled_back", "rolled_back"]
    assert_as_before(fleet)


def test_a_replica_that_is_away_for_a_while_is_waited_for(
    fleet: LocalFleet, candidate: Candidate, clock: Clock
) -> None:
    """Twice, and each time anew; no step begins without it."""
    tool = Tool(fleet)
    left: list[int] = []

    def step() -> int:
        return int(fleet.local[0].routes.record["step"])

    def leave() -> None:
        left.append(step())
        fleet.local[1].triton.is_up = False
        tool.events.clear()
        tool.on["unreachable"] = still_away

    def still_away() -> None:
        if ("look", "advance") not in [(name, facts.get("decision")) for name, facts in tool.events]:
            tool.on["unreachable"] = still_away
            return
        assert step() == left[-1]
        clock.now_s += 0.4
        fleet.local[1].triton.is_up = True
        if len(left) == 1:
            tool.on["canary"] = leave

    tool.on["canary"] = leave
    assert tool.leader.run([candidate], QUICK).phase is Phase.DONE
    assert left == [0, 1]
    assert phases(fleet) == ["done", "done"]
