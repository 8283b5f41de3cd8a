"""What rollouts keep on a replica's disk, and the agent that does it: state, history, candidates."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ops.metrics import parse
from warmswap_ensemble.routes import (
    CONTROL_DIGEST_VARIABLE,
    PYTHON_VARIABLE,
    ROLLOUT_FOLDER_VARIABLE,
    SERVED_REPOSITORY_VARIABLE,
    Rollout,
    Routes,
)
from warmswap_loadtests.rollouts import candidates
from warmswap_ops.errors import (
    CandidateStoppedError,
    LicenceError,
    MachineError,
    OpsError,
    RepositoryError,
    RolloutError,
    UsageError,
)
from warmswap_ops.metrics_text import render
from warmswap_ops.provisioning.content import tree_digest
from warmswap_ops.repository import read_repository
from warmswap_ops.rollout import staging
from warmswap_ops.rollout.agent import CHANGED, DENIED, FAILED, Agent
from warmswap_ops.rollout.checks import check_candidate
from warmswap_ops.rollout.observed import Observed
from warmswap_ops.rollout.record import Phase, Record, parse_record, routes_for, without_needless_pins
from warmswap_ops.rollout.rollout_metrics import rollout_families
from warmswap_ops.rollout.scratch_memory import available_mb
from warmswap_ops.rollout.served import needs
from warmswap_ops.rollout.state_file import (
    HISTORY_NAME,
    StateChangedError,
    append_history,
    read_history,
    replace_routes,
    routes_of,
)
from warmswap_ops.stub_watch import DeadStub

REPOSITORY = Path(__file__).parents[2] / "model_repository"
ROLLOUT = Rollout("r1", {"face_detector": (1, 2)}, share=0.5)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for model in ("face_detector", "face_swap"):
        shutil.copytree(REPOSITORY / model, tmp_path / model, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture
def agent(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    return Agent(environment(repository, tmp_path_factory.mktemp("observed")), 1)


def environment(repository: Path, folder: Path, token: str = "") -> dict[str, str]:
    return {
        SERVED_REPOSITORY_VARIABLE: str(repository),
        ROLLOUT_FOLDER_VARIABLE: str(folder),
        CONTROL_DIGEST_VARIABLE: hashlib.sha256(token.encode()).hexdigest() if token else "",
        PYTHON_VARIABLE: "python3",
    }


# What a scrape tells


def scraped(repository: Path) -> dict[tuple[str, str], float]:
    """Return the value of each series by its family and its model, or its rollout where it has no model."""
    found = {}
    for (name, pairs), sample in parse(render(rollout_families(repository))).items():
        labels = dict(pairs)
        found[name, labels.get("model") or labels["rollout"]] = sample
    return found


def test_a_scrape_tells_which_version_answers_pinned_or_not(repository: Path) -> None:
    served = "warmswap_served_version"
    assert scraped(repository) == {(served, "face_detector"): 1.0, (served, "face_swap"): 1.0}
    shutil.copytree(repository / "face_detector/1", repository / "face_detector/3")
    (repository / "face_detector/.staged-r1").mkdir()
    shutil.copytree(repository / "face_swap", repository / "face_swap_candidate")
    assert scraped(repository) == {(served, "face_detector"): 3.0, (served, "face_swap"): 1.0}
    replace_routes(repository, Routes(1, {"face_detector": 1}), 0)
    assert scraped(repository)[served, "face_detector"] == 1.0
    assert scraped(repository)["warmswap_pinned_version", "face_detector"] == 1.0
    (repository / "face_swap/config.pbtxt").write_bytes(b"\xff")
    assert (served, "face_swap") not in scraped(repository)
    assert scraped(repository / "gone") == {}


def test_a_scrape_tells_of_a_rollout_whether_it_is_watched(repository: Path) -> None:
    share, watched = ("warmswap_rollout_share", "face_detector"), ("warmswap_rollout_watched", "r1")
    replace_routes(repository, Routes(1, {}, replace(ROLLOUT, expires_s=time.time() + 60)), 0)
    assert (scraped(repository)[share], scraped(repository)[watched]) == (0.5, 1.0)
    assert scraped(repository)["warmswap_served_version", "face_detector"] == 1.0
    replace_routes(repository, Routes(2, {}, replace(ROLLOUT, expires_s=time.time() - 1)), 1)
    assert (scraped(repository)[share], scraped(repository)[watched]) == (0.0, 0.0)


# The state


def test_only_who_knew_the_last_state_may_change_it(tmp_path: Path) -> None:
    replace_routes(tmp_path, Routes(1, {"face_detector": 1}), 0)
    with pytest.raises(StateChangedError, match="generation 1 is there, 0 was expected"):
        replace_routes(tmp_path, Routes(1, {"face_detector": 2}), 0)
    replace_routes(tmp_path, Routes(1, {"face_detector": 1}), 0)  # what is there already: replicas share a disk
    replace_routes(tmp_path, Routes(2, {"face_detector": 2}), 1)
    assert routes_of(tmp_path).pins == {"face_detector": 2}


def test_of_two_at_once_one_wins(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def change(number: int) -> None:
        try:
            replace_routes(tmp_path, Routes(1, {"face_detector": number}), 0)
        except StateChangedError:
            outcomes.append("refused")
        else:
            outcomes.append("won")

    threads = [threading.Thread(target=change, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["won"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".rollout.json")] == []


def test_a_state_that_cannot_be_understood_is_named(tmp_path: Path) -> None:
    (tmp_path / "rollout.json").write_text("[")
    with pytest.raises(RepositoryError, match=r"rollout\.json is not JSON.*restore the file"):
        routes_of(tmp_path)


def test_the_history_has_each_entry_once_and_survives_a_cut_line(tmp_path: Path) -> None:
    for entry in (
        {"id": "r1/1", "event": "begun"},
        {"id": "r1/1", "event": "begun"},
        {"id": "r1/2", "event": "staged"},
    ):
        append_history(tmp_path, entry)
    with (tmp_path / HISTORY_NAME).open("a") as file:
        file.write('{"id": "r1/3", "ev')
    assert [entry["id"] for entry in read_history(tmp_path)] == ["r1/1", "r1/2"]
    assert read_history(tmp_path / "elsewhere") == []


# What is served


def test_the_state_says_which_versions_are_served(repository: Path) -> None:
    shutil.copytree(repository / "face_detector/1", repository / "face_detector/2")
    path = repository / "face_detector/2/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))

    def served() -> list[int]:
        return [version.version for version in read_repository(repository, ["face_detector"], [])]

    assert served() == [2], "as Triton's default policy"
    replace_routes(repository, Routes(1, {"face_detector": 1}), 0)
    assert served() == [1]
    replace_routes(repository, Routes(2, {}, ROLLOUT), 1)
    assert served() == [1, 2]
    replace_routes(repository, Routes(3, {"face_detector": 7}), 2)
    with pytest.raises(RepositoryError, match=r"lacks version 7, which rollout\.json names"):
        served()


@pytest.mark.parametrize(
    ("model", "version", "expected"),
    [("face_detector", 1, True), ("face_detector", 2, False), ("face_swap", 1, True), ("warmswap_rollout", 1, False)],
)
def test_whose_death_matters(repository: Path, model: str, version: int, expected: bool) -> None:
    replace_routes(repository, Routes(1, {}, ROLLOUT, {"face_detector": 2}), 0)
    assert needs(repository, DeadStub(1, model, "killed", "was killed", version)) is expected


# Candidates on disk


def put(repository: Path, candidate: Path, part: int = 1 << 20) -> dict[str, str]:
    for path in sorted(candidate.rglob("*")):
        data, name = path.read_bytes(), path.relative_to(candidate).as_posix()
        for offset in range(0, len(data), part):
            staging.write_part(repository, "r1", "face_detector", name, offset, data[offset : offset + part])
    return staging.file_table(candidate)


def test_a_candidate_gets_its_number_when_all_of_it_is_there(repository: Path, tmp_path_factory: Any) -> None:
    candidate = candidates.tuned_detector(repository, tmp_path_factory.mktemp("c") / "candidate")
    files = put(repository, candidate)
    assert staging.highest_version(repository, "face_detector") == 1, "not before"
    for _ in range(2):  # the tool may have been killed before it knew
        staging.settle(repository, "r1", "face_detector", 2, files)
    assert staging.highest_version(repository, "face_detector") == 2
    manifest = json.loads((repository / "face_detector/2/manifest.json").read_text())
    assert (manifest["version"], manifest["name"]) == (2, "centerface-tuned")
    staging.discard(repository, "r1", "face_detector", 2)
    assert sorted(path.name for path in (repository / "face_detector").iterdir()) == [
        "1",
        "config.pbtxt",
        "configs",
        "warmup",
    ]


def put_another(repository: Path, folder: Path, name: str) -> dict[str, str]:
    candidate = candidates.copy_version(REPOSITORY, "face_detector", folder / "another", name=name)
    return put(repository, candidate)


def test_another_candidate_cannot_be_settled_in_place_of_one(repository: Path, tmp_path_factory: Any) -> None:
    """The manifest of a version is not as it was sent: it has the number now."""
    first = put(repository, candidates.copy_version(REPOSITORY, "face_detector", tmp_path_factory.mktemp("c") / "one"))
    staging.settle(repository, "r1", "face_detector", 2, first)
    other = put_another(repository, tmp_path_factory.mktemp("c"), "another")
    assert {name for name in first if first[name] != other[name]} == {"manifest.json"}
    both = rf"face_detector 2 .*{staging.table_digest(first)}.*{staging.table_digest(other)}.*another candidate"
    with pytest.raises(RolloutError, match=both):
        staging.settle(repository, "r1", "face_detector", 2, other)
    manifest = json.loads((repository / "face_detector/2/manifest.json").read_text())
    assert manifest["name"] != "another"
    staging.settle(repository, "r1", "face_detector", 2, first)  # without its files, which are there
    staging.discard(repository, "r1", "face_detector", 2)
    staging.settle(repository, "r1", "face_detector", 2, put_another(repository, tmp_path_factory.mktemp("c"), "third"))


def test_the_agent_says_that_another_candidate_is_settled(agent: Agent, tmp_path_factory: Any) -> None:
    repository = agent._repository
    first = put(repository, candidates.copy_version(REPOSITORY, "face_detector", tmp_path_factory.mktemp("c") / "one"))
    settle = {"do": "settle", "rollout": "r1", "model": "face_detector", "version": 2}
    replace_routes(repository, Routes(1, record=record(Phase.BEGUN).as_json()), 0)
    assert agent.call({**settle, "files": first}, b"") == {}
    other = put_another(repository, tmp_path_factory.mktemp("c"), "another")
    answer = agent.call({**settle, "files": other}, b"")
    assert answer["error"] == FAILED
    assert "another candidate" in answer["message"]


@pytest.mark.parametrize("phase", [None, *(phase for phase in Phase if phase is not Phase.BEGUN)])
def test_the_agent_takes_files_of_a_rollout_that_is_being_staged_alone(agent: Agent, phase: Phase | None) -> None:
    """A tool that was slow to learn of an abort would leave a version behind, which the next start would serve."""
    repository = agent._repository
    if phase is not None:
        replace_routes(repository, Routes(1, record=record(phase).as_json()), 0)
    there = "there is none" if phase is None else f"rollout r1 of me is {phase}"
    upload = {"do": "upload", "rollout": "r1", "model": "face_detector", "name": "model.onnx", "offset": 0}
    settle = {"do": "settle", "rollout": "r1", "model": "face_detector", "version": 2, "files": {}}
    for question in (upload, settle):
        answer = agent.call(question, b"x")
        assert (answer["error"], answer["message"]) == (FAILED, f"rollout r1 is not being staged: {there}")
    assert sorted(path.name for path in (repository / "face_detector").iterdir() if path.name[0] == ".") == []


def test_a_version_that_no_rollout_has_brought_is_no_candidate(repository: Path, tmp_path_factory: Any) -> None:
    candidate = candidates.copy_version(REPOSITORY, "face_detector", tmp_path_factory.mktemp("c") / "one")
    shutil.copytree(candidate, repository / "face_detector/2")
    with pytest.raises(RolloutError, match=r"face_detector 2 came without a rollout"):
        staging.settle(repository, "r1", "face_detector", 2, put(repository, candidate))


def test_the_digest_of_a_table_is_that_of_the_folder(repository: Path) -> None:
    folder = repository / "face_swap"
    (folder / "1.txt").write_text("sorted by the parts of a path: 1/golden.json is before 1.txt")
    assert staging.table_digest(staging.file_table(folder)) == tree_digest(folder)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        pytest.param(lambda folder: (folder / "model.onnx").write_bytes(b"x"), "corrupt on its way", id="differs"),
        pytest.param(lambda folder: (folder / "model.onnx").unlink(), r"model\.onnx is missing", id="missing"),
        pytest.param(lambda folder: (folder / "more").write_text("x"), "more is not part of the candidate", id="extra"),
    ],
)
def test_what_did_not_arrive_as_it_was_sent(repository: Path, tmp_path_factory: Any, harm: Any, says: str) -> None:
    candidate = candidates.tuned_detector(repository, tmp_path_factory.mktemp("c") / "candidate")
    files = put(repository, candidate)
    harm(repository / "face_detector/.staged-r1")
    with pytest.raises(RepositoryError, match=says):
        staging.settle(repository, "r1", "face_detector", 2, files)
    assert staging.highest_version(repository, "face_detector") == 1


def test_a_number_that_is_taken_is_not_overwritten(repository: Path, tmp_path_factory: Any) -> None:
    candidate = candidates.tuned_detector(repository, tmp_path_factory.mktemp("c") / "candidate")
    shutil.copytree(repository / "face_detector/1", repository / "face_detector/2")
    (repository / "face_detector/2/model.onnx").write_bytes(b"another")
    with pytest.raises(RolloutError):
        staging.settle(repository, "r1", "face_detector", 2, put(repository, candidate))
    assert (repository / "face_detector/2/model.onnx").read_bytes() == b"another"


@pytest.mark.parametrize("name", ["../1/model.onnx", "/etc/passwd", "a/../../b", ""])
def test_names_do_not_lead_out(repository: Path, name: str) -> None:
    with pytest.raises(UsageError, match="leads out of the candidate"):
        staging.write_part(repository, "r1", "face_detector", name, 0, b"x")


@pytest.mark.parametrize(
    ("rollout", "model"), [("../r", "face_detector"), ("r1", "../face_detector"), ("r1", "nobody")]
)
def test_neither_do_rollouts_and_models(repository: Path, rollout: str, model: str) -> None:
    with pytest.raises(UsageError):
        staging.write_part(repository, rollout, model, "model.onnx", 0, b"x")


def test_a_candidate_of_a_pipeline_is_a_model_of_its_own(repository: Path) -> None:
    shutil.copytree(repository / "face_swap/1", repository / "face_swap/2")
    for _ in range(2):
        staging.make_candidate_model(repository, "face_swap", 2)
    made = repository / "face_swap_candidate"
    assert 'name: "face_swap_candidate"' in (made / "config.pbtxt").read_text()
    assert sorted(path.name for path in made.iterdir()) == ["2", "config.pbtxt", "configs", "warmup"]
    assert 'name: "face_swap"' in (repository / "face_swap/config.pbtxt").read_text()
    staging.remove_candidate_model(repository, "face_swap")
    assert not made.exists()


# The agent


def test_an_agent_wants_the_token(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    agent = Agent(environment(repository, tmp_path_factory.mktemp("o"), "the-right-token-0123"), 1)
    for token in ({}, {"token": "another"}, {"token": None}, {"token": 7}):
        assert agent.call({"do": "state", **token}, b"")["error"] == DENIED
    assert "routes" in agent.call({"do": "state", "token": "the-right-token-0123"}, b"")


def test_an_agent_needs_a_server_of_ours() -> None:
    with pytest.raises(MachineError, match="warmswap serve"):
        Agent({}, 1)


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"do": "nothing"},
        {"do": "__init__"},
        {"do": "upload"},
        {"do": "upload", "rollout": "r1", "model": "face_detector", "name": "../x", "offset": 0},
        {"do": "change", "routes": {}, "expected": 0, "lease_s": 1, "watch_s": 1},
        {"do": "proved", "rollout": "r1"},
        {"do": "observe", "rollout": "r1", "cursors": None, "more": 1},
        {"do": "observe", "rollout": "../r1", "cursors": {}},
        {"do": "forget", "rollout": "../x"},
        {"do": "forget", "rollout": "*"},
        {"do": "discard", "rollout": "r1", "model": "face_detector", "version": 1},
        {"do": "discard", "rollout": "r1", "model": "face_detector", "version": "../face_swap"},
        {"do": "settle", "rollout": "r1", "model": "face_detector", "version": 2, "files": []},
        {"do": "settle", "rollout": "r1", "model": "face_detector", "version": "../face_swap/2", "files": {}},
    ],
)
def test_calls_that_make_no_sense_are_answered(agent: Agent, question: dict[str, Any]) -> None:
    answer = agent.call(question, b"")
    assert answer["error"] == FAILED
    assert answer["message"]
    assert staging.highest_version(agent._repository, "face_detector") == 1
    assert staging.highest_version(agent._repository, "face_swap") == 1


def test_an_agent_changes_the_state_by_its_own_clock(agent: Agent, repository: Path) -> None:
    routes = Routes(1, {}, replace(ROLLOUT, expires_s=0.0), {}, {"id": "r1"})
    change = {"do": "change", "routes": routes.as_json(), "expected": 0, "lease_s": 30.0, "watch_s": 50.0}
    assert "now_s" in agent.call(change, b"")
    state = agent.call({"do": "state"}, b"")
    assert state["is_watched"] is True
    assert 0 < state["lease_left_s"] <= 30
    refused = agent.call({**change, "routes": replace(routes, generation=1, pins={"a": 1}).as_json()}, b"")
    assert refused["error"] == CHANGED
    assert routes_of(repository).rollout is not None
    in_use = agent.call({"do": "discard", "rollout": "r1", "model": "face_detector", "version": 1}, b"")
    assert "face_detector 1 is in use" in in_use["message"]


def test_an_agent_gives_observations_once(agent: Agent) -> None:
    path = agent._folder / "r1.face_swap.7.observed"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"cut')
    first = agent.call({"do": "observe", "rollout": "r1", "cursors": {}}, b"")
    assert first["lines"] == ['{"a": 1}', '{"a": 2}']
    with path.open("ab") as file:
        file.write(b'": 3}\n')
    second = agent.call({"do": "observe", "rollout": "r1", "cursors": first["cursors"]}, b"")
    assert second["lines"] == ['{"cut": 3}']
    agent.call({"do": "forget", "rollout": "r1"}, b"")
    assert not path.exists()


def test_an_agent_says_what_speaks_against_a_rollout(agent: Agent, repository: Path) -> None:
    hello = agent.call({"do": "hello", "models": ["face_detector", "face_swapper"]}, b"")
    assert (hello["versions"], hello["compiled"]) == ({"face_detector": [1], "face_swapper": []}, [])
    config = repository / "face_detector/config.pbtxt"
    config.write_text(config.read_text() + '\ndefault_model_filename: "model.abc.compiled.onnx"\n')
    assert agent.call({"do": "hello", "models": ["face_detector"]}, b"")["compiled"] == ["face_detector"]


# Before anything is sent


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        pytest.param(candidates.corrupt, CandidateStoppedError, "sha256", id="corrupt"),
        pytest.param(
            lambda r, o: candidates.copy_version(r, "face_detector", o, parity={}),
            CandidateStoppedError,
            "no parity figures",
            id="no-parity",
        ),
        pytest.param(
            lambda r, o: candidates.copy_version(
                r, "face_detector", o, parity={"pytorch": {"kps": {"largest_difference": 3.0, "tolerance": 0.1}}}
            ),
            CandidateStoppedError,
            "kps differs by 3, allowed is 0.1",
            id="parity",
        ),
        pytest.param(
            lambda r, o: candidates.copy_version(REPOSITORY, "face_embedder", o),
            CandidateStoppedError,
            "is of face_embedder, not of face_detector",
            id="model",
        ),
        pytest.param(
            lambda r, o: candidates.copy_version(r, "face_detector", o, commercial_use=False),
            LicenceError,
            "commercial",
            id="licence",
        ),
    ],
)
def test_files_that_speak_against_a_candidate(
    repository: Path, tmp_path_factory: Any, make: Any, error: type[OpsError], says: str
) -> None:
    folder = make(repository, tmp_path_factory.mktemp("c") / "candidate")
    with pytest.raises(error, match=says):
        check_candidate("face_detector", folder, "here", "0" * 64, "commercial")


def test_pipelines_need_code_and_models_a_name(tmp_path: Path) -> None:
    with pytest.raises(CandidateStoppedError, match=r"needs model\.py"):
        check_candidate("face_swap", tmp_path, "here", "0" * 64, "any")
    with pytest.raises(UsageError, match="no model 'face_detectr'"):
        check_candidate("face_detectr", tmp_path, "here", "0" * 64, "any")


# The record


def record(phase: Phase, **values: Any) -> Record:
    return Record("r1", phase, {"face_detector": (1, 2)}, {}, {}, "me", "abc", **values)


@pytest.mark.parametrize(
    ("phase", "pin", "versions", "share", "shadow"),
    [
        (Phase.BEGUN, 1, None, 0, 0),
        (Phase.PROVEN, 1, None, 0, 0),
        (Phase.LOADED, 1, (1, 2), 0, 0),
        (Phase.SHADOW, 1, (1, 2), 0, 0.1),
        (Phase.CANARY, 1, (1, 2), 0.25, 0.1),
        (Phase.PROMOTED, 2, (2, 1), 0, 0),
        (Phase.DONE, 2, None, 0, 0),
        (Phase.ROLLING_BACK, 1, None, 0, 0),
        (Phase.ROLLED_BACK, 1, None, 0, 0),
    ],
)
def test_each_phase_is_a_state(phase: Phase, pin: int, versions: Any, share: float, shadow: float) -> None:
    before = Routes(4, {"face_swapper": 7, "face_detector": 9}, None, {"face_detector": 1})
    routes = routes_for(record(phase), before, 0.25, 0.1, 3000.0)
    assert routes.pins == {"face_swapper": 7, "face_detector": pin}
    assert (routes.generation, routes.used) == (5, {"face_detector": 2})
    if versions is None:
        assert routes.rollout is None
    else:
        assert routes.rollout is not None
        assert routes.rollout.versions == {"face_detector": versions}
        assert (routes.rollout.share, routes.rollout.shadow) == (share, shadow)
    assert parse_record(routes.record) == record(phase)
    assert without_needless_pins(routes, {"face_detector": pin}).pins == {"face_swapper": 7}


def test_a_record_that_cannot_be_understood_is_refused() -> None:
    assert parse_record({}) is None
    for values in ({"id": "r"}, {**record(Phase.DONE).as_json(), "phase": "elsewhere"}):
        with pytest.raises(RepositoryError, match="cannot be understood"):
            parse_record(values)


# What was observed


def test_observations_are_put_together_by_time() -> None:
    seen = Observed()

    def line(**facts: Any) -> str:
        return json.dumps(facts)

    lines = [
        line(kind="request", arm=arm, t=t, ms=ms, failed=failed, outcome="ok" if not failed else "stage_failed")
        for arm, t, ms, failed in (
            ("stable", 99.0, 1.0, False),
            ("stable", 101.0, 10.0, False),
            ("candidate", 102.0, 20.0, False),
            ("candidate", 103.0, 30.0, True),
        )
    ]
    lines += [
        line(kind="shadow", t=101.0, live_ms=1, ms=2, measures={"recall": 0.5}, error=None),
        line(kind="shadow", t=104.0, live_ms=1, ms=2, measures={}, error="no"),
        line(kind="breaker", t=104.0, reason="enough"),
        line(kind="dropped", t=104.0),
        '{"kind": "requ',
        "[]",
    ]
    seen.add(lines, clock_ahead_s=0.5)
    window = seen.window(100.0)
    assert (window.stable.requests, window.stable.errors, window.stable.latencies_ms) == (1, 0, [10.0])
    assert (window.candidate.requests, window.candidate.errors, window.candidate.latencies_ms) == (2, 1, [20.0])
    assert window.measures == {"recall": [0.5]}
    assert seen.window(100.0, 102.0).candidate.requests == 1, "its clock is half a second ahead"
    assert (seen.breaker_since(100.0), seen.breaker_since(104.0), seen.dropped) == ("enough", None, 1)
    assert (seen.looks_since(0), seen.look_errors(0)) == (2, {"no": 1})


class FakeReplica:
    """A replica whose launcher can be started anew: another folder, and perhaps the process numbers of before."""

    address = "a:8001"

    def __init__(self, repository: Path, folders: Path) -> None:
        self.repository, self.folders = repository, folders
        self.start_anew("first")

    def start_anew(self, name: str) -> None:
        self.folder = self.folders / name
        self.folder.mkdir()
        self.agent = Agent(environment(self.repository, self.folder), 1)

    def answer_requests(self, count: int, pid: int, first: int = 0) -> None:
        usual = {"kind": "request", "arm": "candidate", "failed": False, "outcome": "ok"}
        with (self.folder / f"r1.face_swap.{pid}.observed").open("a") as file:
            for number in range(first, first + count):
                file.write(json.dumps({**usual, "t": 100.0 + number, "ms": number}) + "\n")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        answer = json.loads(json.dumps(self.agent.call({"do": do, **arguments}, b"")))
        assert "error" not in answer, answer
        return answer  # type: ignore[no-any-return]


@pytest.mark.parametrize("pid", [7, 8], ids=["same number", "another number"])
@pytest.mark.parametrize("count", [2, 5], ids=["less", "more"])
def test_a_launcher_that_starts_anew_in_the_middle_of_a_step(
    pid: int, count: int, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What was fetched counts once, all of what the new processes see counts, and that something is gone is told."""
    replica, seen = FakeReplica(repository, tmp_path_factory.mktemp("runs")), Observed()

    def fetch() -> list[float]:
        seen.add(seen.fetch(replica, "r1"))  # type: ignore[arg-type]  # all that it uses of one
        return list(seen.window(100.0).candidate.latencies_ms)

    replica.answer_requests(3, pid=7)
    assert fetch() == [0, 1, 2]
    replica.answer_requests(1, pid=7, first=3)
    replica.start_anew("second")  # before the last line was fetched
    assert fetch() == [0, 1, 2]
    assert (seen.dropped, [where for _, where in seen.restarts]) == (1, ["a:8001"])
    replica.answer_requests(count, pid, first=4)
    for _ in range(2):
        assert fetch() == [0, 1, 2, *range(4, 4 + count)]
    assert (seen.dropped, len(seen.restarts)) == (1, 1)


def test_processes_that_start_anew_under_the_same_launcher_lose_nothing(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    replica, seen = FakeReplica(repository, tmp_path_factory.mktemp("runs")), Observed()
    for number, pid in enumerate((7, 8, 7)):
        replica.answer_requests(1, pid, first=number)
        seen.add(seen.fetch(replica, "r1"))  # type: ignore[arg-type]  # all that it uses of one
    assert seen.window(100.0).candidate.latencies_ms == [0, 1, 2]
    assert (seen.dropped, seen.restarts) == (0, [])


def test_an_agent_that_does_not_tell_its_run_is_no_restart() -> None:
    class OldReplica:
        address = "a:8001"

        def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
            return {"lines": [], "cursors": {"r1.face_swap.7.observed": 9}, "now_s": 1.0}

    seen = Observed()
    for _ in range(2):
        assert seen.fetch(OldReplica(), "r1") == []  # type: ignore[arg-type]  # all that it uses of one
    assert seen.restarts == []


def test_the_last_step_is_compared_with_the_one_before() -> None:
    """A request of the stable version that was under way when the last step began is no arm."""
    seen = Observed()
    times = [(t, "stable") for t in (10.0, 20.0, 30.0, 41.0)] + [(t, "candidate") for t in (25.0, 42.0, 43.0)]
    usual = {"kind": "request", "failed": False, "outcome": "ok"}
    seen.add(json.dumps({**usual, "arm": arm, "t": t, "ms": t}) for t, arm in times)
    half, baseline = seen.step_window(0.0, 15.0, 0.5, None)
    assert half.stable.latencies_ms == [20.0, 30.0, 41.0]
    assert baseline == half.stable
    last, kept = seen.step_window(0.0, 40.0, 1.0, baseline)
    assert (last.stable.requests, last.candidate.latencies_ms) == (0, [42.0, 43.0])
    assert kept == baseline
    _, found = seen.step_window(0.0, 40.0, 1.0, None)
    assert found is not None
    assert found.latencies_ms == [10.0, 20.0, 30.0], "after an interruption, all that was seen of it before"


def test_memory_that_is_left(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2097152 kB\n")
    assert available_mb(tmp_path / "meminfo", tmp_path) == 2048
    (tmp_path / "memory.max").write_text(str(500 << 20))
    (tmp_path / "memory.current").write_text(str(400 << 20))
    assert available_mb(tmp_path / "meminfo", tmp_path) == 100
    (tmp_path / "memory.max").write_text("max\n")
    assert available_mb(tmp_path / "meminfo", tmp_path) == 2048
