"""Rollouts in the pipelines as Triton sees them: a fake ``pb_utils``, the committed models and copies of them."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.ensemble.rollout_support import WAIT_S, make_rollout, observed, write_rollout, write_text
from tests.ensemble.support import COLLINS, HOPPER, REPOSITORY
from tests.ensemble.test_ensemble_triton_backend import (
    CALLS,
    NOBODY,
    SETTINGS,
    SOURCE,
    TARGET,
    Loaded,
    args_for,
    error_of,
    forget_backend,
    load_entry_point,
    logged,
    output,
    picture,
    set_bls,
    swap_request,
)
from tests.fakes import pb_utils as fake
from warmswap_ensemble import shadow as shadow_module
from warmswap_ensemble.canary import FAILURES_IN_A_ROW, CandidateError
from warmswap_ensemble.contract import REQUEST_LOG_MARK, STAGES
from warmswap_ensemble.request_scope import request_scope
from warmswap_ensemble.routes import ROLLOUT_FOLDER_VARIABLE
from warmswap_ensemble.stage_calls import CallModel
from warmswap_ensemble.types import Stage

BROKEN = "onnx runtime error: broken"
PERFECT_FACES = {"recall": 1.0, "precision": 1.0, "iou": 1.0, "kps_error": 0.0}


@pytest.fixture(scope="module")
def entry_points() -> Iterator[dict[str, ModuleType]]:
    forget_backend()
    fake.uninstall()
    fake.install()
    write_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    modules = {name: load_entry_point(name) for name in ("face_swap", "face_analysis")}
    fake.install_classes()
    yield modules
    sys.dont_write_bytecode = write_bytecode
    fake.uninstall()
    forget_backend()


class Stub:
    """What is behind BLS: stages by model, whatever their version, and other pipelines."""

    def __init__(self, stages: Mapping[str, Stage], call_onnx: CallModel) -> None:
        self.stages = stages
        self.call_onnx = call_onnx
        self.pipelines: dict[str, Loaded] = {}
        self.before: Callable[[fake.InferenceRequest], fake.InferenceResponse | None] = lambda _: None
        self.asked: list[tuple[str, int]] = []
        self.requests: list[fake.InferenceRequest] = []

    def __call__(self, request: fake.InferenceRequest) -> fake.InferenceResponse:
        self.asked.append((request.model_name(), request.model_version()))
        self.requests.append(request)
        if early := self.before(request):
            return early
        if request.model_name() in self.pipelines:
            asked = fake.InferenceRequest(
                request.model_name(),
                inputs=request.inputs(),
                request_id=request.request_id(),
                parameters=json.loads(request.parameters()),
            )
            (response,) = self.pipelines[request.model_name()].ask(asked)
            return response
        stage = self.stages[request.model_name()]
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        outputs = self.call_onnx(stage, inputs, request.requested_output_names())
        return fake.InferenceResponse([fake.Tensor(name, array) for name, array in outputs.items()])

    def versions_of(self, model: str) -> list[int]:
        return [version for name, version in self.asked if name == model]


@pytest.fixture(autouse=True)
def stub(call_onnx: CallModel, stages: Mapping[str, Stage], entry_points: dict[str, ModuleType]) -> Iterator[Stub]:
    assert entry_points
    stub = Stub(stages, call_onnx)
    set_bls(stub)
    fake.Logger.lines.clear()
    yield stub
    set_bls(None)


def copy_version(repository: Path, model: str, version: int) -> None:
    folder = repository / model / str(version)
    shutil.copytree(REPOSITORY / model / "1", folder)
    path = folder / "manifest.json"
    if path.is_file():
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed repository, with a second version of the detector that is a copy of the first."""
    repository = tmp_path / "models"
    repository.mkdir()
    for spec in STAGES:
        (repository / spec.name).mkdir()
        (repository / spec.name / "1").symlink_to(REPOSITORY / spec.name / "1")
    for name in ("face_swap", "face_analysis"):
        shutil.copytree(REPOSITORY / name, repository / name)
    copy_version(repository, "face_detector", 2)
    (tmp_path / "observed").mkdir()
    monkeypatch.setenv(ROLLOUT_FOLDER_VARIABLE, str(tmp_path / "observed"))
    monkeypatch.setenv("WARMSWAP_REQUEST_LOG", "all")
    monkeypatch.setattr(shadow_module, "LONGEST_WAIT_S", 10 * WAIT_S)
    return repository


class Served:
    """A loaded pipeline that has answered its warm-up."""

    def __init__(self, module: ModuleType, name: str, repository: Path, served_as: str = "", version: int = 1) -> None:
        settings = SETTINGS if name == "face_swap" else {}
        args = args_for(name, repository, settings) | {
            "model_repository": str(repository / (served_as or name)),
            "model_version": str(version),
        }
        self.name = name
        self.observed_folder = repository.parent / "observed"
        self.loaded = Loaded(module, args)
        self.answer()
        fake.Logger.lines.clear()

    def request(self, **parameters: str | int | bool) -> fake.InferenceRequest:
        if self.name == "face_swap":
            return swap_request(SOURCE, TARGET, **parameters)  # type: ignore[arg-type]  # nobody asks for cancelled
        return fake.InferenceRequest(self.name, inputs=[picture("image", TARGET)], parameters=parameters)

    def ask(self, request: fake.InferenceRequest) -> fake.InferenceResponse:
        (response,) = self.loaded.ask(request)
        return response

    def answer(self, **parameters: str | int | bool) -> fake.InferenceResponse:
        response = self.ask(self.request(**parameters))
        assert not response.has_error(), error_of(response)
        return response

    def models(self, **parameters: str | int | bool) -> dict[str, str]:
        found: dict[str, str] = json.loads(output(self.answer(**parameters), "report")[0])["models"]
        return found

    def observed(self, kind: str | None = None) -> list[dict[str, Any]]:
        return observed(self.observed_folder, kind)

    def requests(self) -> list[tuple[str, str, bool]]:
        return [(line["arm"], line["outcome"], line["failed"]) for line in self.observed("request")]

    def wait_for(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        pause = threading.Event()
        for _ in range(int(WAIT_S / 0.01)):
            found = self.observed(kind)
            if len(found) >= count:
                return found
            pause.wait(0.01)
        raise AssertionError(f"no {kind} was observed: {self.observed()}")

    def close(self) -> None:
        self.loaded.model.finalize()
        thread = self.loaded.model.canary.shadow._thread
        if thread is not None:
            thread.join(WAIT_S)
            assert not thread.is_alive()


@pytest.fixture
def swap(entry_points: dict[str, ModuleType], repository: Path) -> Iterator[Served]:
    served = Served(entry_points["face_swap"], "face_swap", repository)
    yield served
    served.close()


@pytest.fixture
def analysis(entry_points: dict[str, ModuleType], repository: Path) -> Iterator[Served]:
    served = Served(entry_points["face_analysis"], "face_analysis", repository)
    yield served
    served.close()


def request_lines() -> list[dict[str, Any]]:
    lines = (line.removeprefix(REQUEST_LOG_MARK) for _, line in fake.Logger.lines if line.startswith(REQUEST_LOG_MARK))
    return [json.loads(line) for line in lines]


def errors_logged() -> list[str]:
    return [line for level, line in logged() if level == "error"]


def failing(model: str, version: int, text: str = BROKEN) -> Callable[[Any], fake.InferenceResponse | None]:
    def answer(request: fake.InferenceRequest) -> fake.InferenceResponse | None:
        if (request.model_name(), request.model_version()) == (model, version):
            return fake.InferenceResponse(error=fake.TritonError(text, fake.TritonError.INTERNAL))
        return None

    return answer


def test_without_a_rollout_the_highest_version_answers(swap: Served) -> None:
    assert swap.models()["face_detector"] == "2"
    assert swap.observed() == []
    assert "rollout" not in request_lines()[0]


def test_the_state_knows_better_than_the_highest_number(swap: Served, repository: Path, stub: Stub) -> None:
    write_rollout(repository, None, face_detector=1)
    stub.asked.clear()
    assert swap.models()["face_detector"] == "1"
    assert set(stub.versions_of("face_detector")) == {1}


def test_the_state_knows_better_than_the_configuration(entry_points: dict[str, ModuleType], repository: Path) -> None:
    settings = SETTINGS | {"stage_version.face_detector": "1"}
    loaded = Loaded(entry_points["face_swap"], args_for("face_swap", repository, settings))
    for pin in (1, 2):
        write_rollout(repository, None, face_detector=pin)
        (response,) = loaded.ask(swap_request(SOURCE, TARGET))
        (response,) = loaded.ask(swap_request(SOURCE, TARGET))
        assert json.loads(output(response, "report")[0])["models"]["face_detector"] == str(pin)
    loaded.model.finalize()


def test_promotion_and_rollback_need_no_new_process(swap: Served, repository: Path) -> None:
    seen = []
    for rollout, pins in (
        (make_rollout(share=0.0), {}),
        (make_rollout(share=1.0), {}),
        (make_rollout({"face_detector": (2, 1)}, share=0.0), {"face_detector": 2}),
        (None, {"face_detector": 2}),
        (make_rollout(name="r2", share=1.0), {}),
        (None, {"face_detector": 1}),
    ):
        write_rollout(repository, rollout, **pins)
        seen.append(swap.models()["face_detector"])
    assert seen == ["1", "2", "2", "2", "2", "1"]
    assert errors_logged() == []


def test_the_candidate_gives_the_same_bytes_and_says_who_it_is(swap: Served, repository: Path) -> None:
    write_rollout(repository, make_rollout(share=0.0))
    stable = swap.answer()
    write_rollout(repository, make_rollout(share=1.0))
    candidate = swap.answer()
    assert output(stable, "image")[0] == output(candidate, "image")[0]
    assert swap.requests() == [("stable", "ok", False), ("candidate", "ok", False)]
    before, after = request_lines()
    assert "arm" not in before
    assert (after["rollout"], after["arm"], after["faces"], after["swapped"]) == ("r1", "candidate", 1, 1)
    assert set(after["timings_ms"]) >= {"decode", "detect", "swap", "total"}


def test_a_key_stays_with_its_version(swap: Served, repository: Path) -> None:
    rollout = make_rollout(share=0.5)
    write_rollout(repository, rollout)
    keys = [f"video-{number}" for number in range(6)]
    assert len({rollout.is_candidates(key) for key in keys}) == 2
    for _ in range(2):
        for key in keys:
            expected = "2" if rollout.is_candidates(key) else "1"
            assert swap.models(rollout_key=key)["face_detector"] == expected


def test_the_id_is_the_key_of_a_request_that_names_none(analysis: Served, repository: Path, stub: Stub) -> None:
    rollout = make_rollout(share=0.5)
    write_rollout(repository, rollout)
    for number in range(6):
        request = analysis.request()
        request._request_id = f"id-{number}"
        stub.asked.clear()
        analysis.ask(request)
        expected = 2 if rollout.is_candidates(f"id-{number}") else 1
        assert set(stub.versions_of("face_detector")) == {expected}


def test_both_pipelines_meet_a_candidate_of_a_stage(analysis: Served, repository: Path, stub: Stub) -> None:
    write_rollout(repository, make_rollout(share=1.0))
    stub.asked.clear()
    assert output(analysis.answer(), "embedding").shape == (1, 128)
    assert set(stub.versions_of("face_detector")) == {2}
    assert set(stub.versions_of("face_embedder")) == {1}
    assert [line["pipeline"] for line in analysis.observed("request")] == ["face_analysis"]


@pytest.mark.parametrize("model", ["face_detector", "face_landmarker", "face_embedder", "face_swapper"])
def test_a_stage_that_fails_costs_nobody_an_answer(
    model: str, entry_points: dict[str, ModuleType], repository: Path, stub: Stub
) -> None:
    if model != "face_detector":
        copy_version(repository, model, 2)
    write_rollout(repository, make_rollout({model: (1, 2)}))
    swap = Served(entry_points["face_swap"], "face_swap", repository)
    stub.before = failing(model, 2)
    for _ in range(FAILURES_IN_A_ROW + 1):
        assert swap.models()[model] == "1"
    error = f"{model} 2 failed: {BROKEN}"
    assert swap.requests() == [("candidate", "stage_failed", True)] * FAILURES_IN_A_ROW + [("stable", "ok", False)]
    assert [line["reason"] for line in swap.observed("breaker")] == [f"3 failures in a row, the last: {error}"]
    lines = request_lines()
    assert [line["outcome"] for line in lines] == ["ok"] * 4
    assert [line.get("candidate_error") for line in lines] == [error] * 3 + [None]
    assert [line.get("arm") for line in lines] == ["stable"] * 3 + [None]
    assert not any(counter.value() for counter in swap.loaded.model.errors.values())
    assert len(errors_logged()) == 1
    swap.close()


def test_a_candidate_that_hangs_costs_nobody_an_answer(swap: Served, repository: Path, stub: Stub) -> None:
    release = threading.Event()
    hanging = threading.Event()

    def hang(request: fake.InferenceRequest) -> None:
        if request.model_version() == 2:
            hanging.set()
            assert release.wait(WAIT_S)

    stub.before = hang
    write_rollout(repository, make_rollout(patience_ms=50.0))
    request = swap.request()
    request._trace = fake.InferenceTrace()
    assert not swap.ask(request).has_error()
    assert swap.requests() == [("candidate", "CandidateTooSlowError", True)]
    request._trace.freed = True  # as Triton does: what is left alone must not touch it
    stub.asked.clear()
    assert hanging.wait(WAIT_S)
    candidates = [thread for thread in threading.enumerate() if thread.name == "candidate"]
    assert len(candidates) == 1
    release.set()
    candidates[0].join(WAIT_S)
    assert not candidates[0].is_alive()
    assert swap.models()["face_detector"] == "1", "this process gives the candidate nothing more"
    assert len(swap.observed("breaker")) == 1


def test_the_candidate_never_touches_the_request_or_its_trace(
    entry_points: dict[str, ModuleType], repository: Path, stub: Stub
) -> None:
    """Triton frees both with the reply, and whoever was too slow may still be at work."""
    thread = threading.current_thread()
    foreign: list[str] = []

    class Watched(fake.InferenceRequest):
        def __getattribute__(self, name: str) -> Any:
            if threading.current_thread() is not thread:
                foreign.append(name)
            return super().__getattribute__(name)

    make_candidate(repository, "face_swap")
    swap = Served(entry_points["face_swap"], "face_swap", repository)
    stub.pipelines["face_swap_candidate"] = serve_candidate(entry_points, repository).loaded
    for versions in ({"face_detector": (1, 2)}, {"face_swap": (1, 2)}):
        write_rollout(repository, make_rollout(versions, name=f"of-{next(iter(versions))}"))
        trace = fake.InferenceTrace()
        inputs = [picture("source_image", SOURCE), picture("target_image", TARGET)]
        watched = Watched("face_swap", inputs=inputs, request_id="mine", trace=trace)
        stub.requests.clear()
        assert not swap.ask(watched).has_error()
        assert swap.requests()[-1] == ("candidate", "ok", False)
        assert not any(request._trace is trace for request in stub.requests)
        assert {request.request_id() for request in stub.requests} == {"mine"}
    assert foreign == []
    write_rollout(repository, None, face_detector=1)
    stub.requests.clear()
    watched = Watched("face_swap", inputs=inputs, request_id="mine", trace=trace)
    assert not swap.ask(watched).has_error()
    assert all(request._trace is trace for request in stub.requests)
    swap.close()


def test_what_both_say_of_a_picture_is_the_clients_fault(swap: Served, repository: Path) -> None:
    write_rollout(repository, make_rollout(shadow=1.0))
    for _ in range(FAILURES_IN_A_ROW + 1):
        response = swap.ask(swap_request(NOBODY, NOBODY))
        assert error_of(response)[1].startswith("no_face: no face was found in")
    assert swap.requests() == [("candidate", "no_face", False)] * (FAILURES_IN_A_ROW + 1)
    assert swap.observed("breaker") == []
    assert swap.models()["face_detector"] == "2"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"quality": 0}, "invalid_option"), ({"swapper": "none"}, "invalid_option"), ({"rollout_key": ""}, "invalid")],
)
def test_a_request_that_any_version_refuses_is_not_observed(
    change: dict[str, Any], code: str, swap: Served, repository: Path
) -> None:
    write_rollout(repository, make_rollout())
    assert error_of(swap.ask(swap.request(**change)))[1].startswith(code)
    assert error_of(swap.ask(swap_request(SOURCE, b"GIF89a")))[1].startswith("invalid_image")
    assert swap.requests() == []


def test_a_state_that_names_a_missing_version_changes_nothing(swap: Served, repository: Path) -> None:
    write_rollout(repository, make_rollout())
    assert swap.models()["face_detector"] == "2"
    write_rollout(repository, make_rollout({"face_detector": (1, 9)}, name="r2", shadow=1.0))
    assert swap.models()["face_detector"] == "1"
    sentence = f"{repository / 'face_detector'}: has no version 9; it has 1, 2"
    assert errors_logged() == [f"face_swap 1: cannot follow the rollout's state: {sentence}"]
    assert [line["reason"] for line in swap.observed("breaker")] == [f"cannot use the versions: {sentence}"]
    write_rollout(repository, make_rollout({"face_detector": (9, 1)}, name="r3"), face_detector=9)
    assert swap.models()["face_detector"] == "1"
    write_rollout(repository, make_rollout(name="r4"))
    assert swap.models()["face_detector"] == "2"


def test_a_broken_state_is_logged_once_and_changes_nothing(swap: Served, repository: Path) -> None:
    write_rollout(repository, make_rollout())
    assert swap.models()["face_detector"] == "2"
    write_text(repository, '{"schema_version": 1, "generation": Infinity, "rollout": null}')
    assert [swap.models()["face_detector"] for _ in range(2)] == ["2", "2"]
    (line,) = errors_logged()
    assert line.startswith(f"face_swap 1: {repository / 'rollout.json'} is no rollout state: ")
    assert line.endswith("; the last state stays in force")


def test_a_state_that_is_broken_at_the_start_refuses_the_load(
    entry_points: dict[str, ModuleType], repository: Path
) -> None:
    write_text(repository, "{")
    with pytest.raises(fake.TritonModelException, match=r"^face_swap 1: .*rollout\.json is not JSON"):
        Loaded(entry_points["face_swap"], args_for("face_swap", repository))


def test_the_warm_up_is_for_the_version_that_serves(
    entry_points: dict[str, ModuleType], repository: Path, stub: Stub
) -> None:
    write_rollout(repository, make_rollout(shadow=1.0))
    swap = Served(entry_points["face_swap"], "face_swap", repository)
    assert set(stub.versions_of("face_detector")) == {1}
    assert swap.observed() == []
    swap.answer()
    assert set(stub.versions_of("face_detector")) == {1, 2}
    swap.close()


def test_an_expired_rollout_is_none(swap: Served, repository: Path) -> None:
    write_rollout(repository, make_rollout(shadow=1.0, watched_s=-1))
    assert swap.models()["face_detector"] == "1"
    assert swap.observed() == []


def test_the_candidate_does_not_count_for_the_cache(swap: Served, repository: Path) -> None:
    counters = swap.loaded.model.counters
    write_rollout(repository, make_rollout(share=1.0))
    before = {kind: counter.value() for kind, counter in counters.items()}
    reports = [json.loads(output(swap.answer(), "report")[0]) for _ in range(2)]
    assert [report["source"]["cached"] for report in reports] == [False, True], "it has a cache of its own"
    assert {kind: counter.value() for kind, counter in counters.items()} == before


def test_a_second_look_at_a_swap_asks_the_candidate_only(swap: Served, repository: Path, stub: Stub) -> None:
    write_rollout(repository, make_rollout(share=0.0, shadow=1.0))
    stub.asked.clear()
    with swap.loaded.model.canary.shadow:
        swap.ask(swap_request(COLLINS.read_bytes(), TARGET, max_faces=1))
        assert 2 not in stub.versions_of("face_detector")
        stub.asked.clear()
    (line,) = swap.wait_for("shadow")
    assert line["error"] is None
    assert line["measures"] == pytest.approx(PERFECT_FACES, abs=1e-4)
    assert set(stub.asked) == {("face_detector", 2)}
    assert swap.requests() == [("stable", "ok", False)]


def test_a_second_look_at_an_analysis_asks_the_candidate_only(analysis: Served, repository: Path, stub: Stub) -> None:
    write_rollout(repository, make_rollout(share=0.0, shadow=1.0))
    with analysis.loaded.model.canary.shadow:
        analysis.ask(fake.InferenceRequest("face_analysis", inputs=[picture("image", HOPPER.read_bytes())]))
        stub.asked.clear()
    (line,) = analysis.wait_for("shadow")
    assert (line["error"], line["pipeline"]) == (None, "face_analysis")
    assert line["measures"] == pytest.approx(PERFECT_FACES, abs=1e-4)
    assert set(stub.asked) == {("face_detector", 2)}


def test_a_second_look_uses_no_trace_and_no_error_of_it_reaches_anybody(
    swap: Served, repository: Path, stub: Stub
) -> None:
    write_rollout(repository, make_rollout(share=0.0, shadow=1.0))
    stub.before = failing("face_detector", 2)
    request = swap.request()
    trace = request._trace = fake.InferenceTrace()
    with swap.loaded.model.canary.shadow:
        assert not swap.ask(request).has_error()
        trace.freed = True
        stub.requests.clear()
    (line,) = swap.wait_for("shadow")
    assert (line["error"], line["measures"]) == (f"face_detector 2 failed: {BROKEN}", {})
    assert stub.requests
    assert not any(asked._trace is trace for asked in stub.requests)
    assert errors_logged() == []
    assert swap.observed("breaker") == []


def make_candidate(repository: Path, pipeline: str) -> None:
    """Make a second version of a pipeline, as a model of its own."""
    folder = repository / f"{pipeline}_candidate"
    shutil.copytree(REPOSITORY / pipeline, folder)
    (folder / "1").rename(folder / "2")


def serve_candidate(entry_points: dict[str, ModuleType], repository: Path, pipeline: str = "face_swap") -> Served:
    return Served(entry_points[pipeline], pipeline, repository, f"{pipeline}_candidate", 2)


@pytest.fixture
def forwarded(entry_points: dict[str, ModuleType], repository: Path, stub: Stub) -> Iterator[tuple[Served, Served]]:
    """``face_swap`` 1 with the stages 1, and its candidate with the detector 2."""
    make_candidate(repository, "face_swap")
    write_rollout(repository, make_rollout({"face_swap": (1, 2), "face_detector": (1, 2)}, share=0.0))
    stable = Served(entry_points["face_swap"], "face_swap", repository)
    candidate = serve_candidate(entry_points, repository)
    stub.pipelines["face_swap_candidate"] = candidate.loaded
    yield stable, candidate
    stable.close()
    candidate.close()


BOTH = {"face_swap": (1, 2), "face_detector": (1, 2)}


def test_a_candidate_of_the_pipeline_answers_with_its_own_stages(
    forwarded: tuple[Served, Served], repository: Path, stub: Stub
) -> None:
    stable, _ = forwarded
    models = stable.models()
    assert (models["face_swap"], models["face_detector"]) == ("1", "1")
    write_rollout(repository, make_rollout(BOTH))
    stub.asked.clear()
    reference = picture("reference_image", HOPPER.read_bytes())
    response = stable.ask(swap_request(SOURCE, TARGET, reference, face_selector="reference", quality=80))
    report = json.loads(output(response, "report")[0])
    assert (report["models"]["face_swap"], report["models"]["face_detector"]) == ("2", "2")
    assert report["faces"][0]["swapped"]
    assert {model for model, _ in stub.asked} > {"face_swap_candidate"}
    assert set(stub.versions_of("face_detector")) == {2}
    assert stub.versions_of("face_swap_candidate") == [-1]
    assert stable.requests() == [("stable", "ok", False), ("candidate", "ok", False)]
    names = {line["model"]: line for line in request_lines()}
    assert (names["face_swap"]["arm"], names["face_swap_candidate"]["version"]) == ("candidate", "2")
    assert names["face_swap"]["request_id"] == names["face_swap_candidate"]["request_id"]


def test_a_candidate_of_the_pipeline_that_fails_costs_nobody_an_answer(
    forwarded: tuple[Served, Served], repository: Path, stub: Stub
) -> None:
    stable, _ = forwarded
    write_rollout(repository, make_rollout(BOTH))
    stub.before = failing("face_detector", 2)
    assert stable.models()["face_swap"] == "1"
    assert stable.requests() == [("candidate", "stage_failed", True)]
    stub.before = lambda _: None
    response = stable.ask(swap_request(NOBODY, TARGET))
    assert error_of(response)[1].startswith("no_face: ")
    assert stable.requests()[-1] == ("candidate", "no_face", False)
    set_bls(lambda request: crash(request) if request.model_name() == "face_swap_candidate" else stub(request))
    assert stable.models()["face_swap"] == "1"
    assert stable.requests()[-1] == ("candidate", "stage_failed", True)


def crash(_: fake.InferenceRequest) -> fake.InferenceResponse:
    raise fake.TritonModelException("Stub process is not healthy.")


def test_a_candidate_of_the_pipeline_is_shown_what_was_answered(
    forwarded: tuple[Served, Served], repository: Path, stub: Stub
) -> None:
    stable, _ = forwarded
    write_rollout(repository, make_rollout(BOTH, share=0.0, shadow=1.0))
    with stable.loaded.model.canary.shadow:
        stable.answer(quality=80)
        stub.asked.clear()
    (line,) = stable.wait_for("shadow")
    assert (line["error"], line["measures"]) == (None, {"psnr_db": 100.0, "ssim": 1.0})
    assert stub.versions_of("face_swap_candidate") == [-1]
    assert set(stub.versions_of("face_detector")) == {2}


def test_a_candidate_of_the_analysis_answers_and_is_shown(
    entry_points: dict[str, ModuleType], repository: Path, stub: Stub
) -> None:
    make_candidate(repository, "face_analysis")
    versions = {"face_analysis": (1, 2), "face_detector": (1, 2)}
    write_rollout(repository, make_rollout(versions, share=0.0, shadow=1.0))
    stable = Served(entry_points["face_analysis"], "face_analysis", repository)
    candidate = serve_candidate(entry_points, repository, "face_analysis")
    stub.pipelines["face_analysis_candidate"] = candidate.loaded
    before = stable.answer()
    (line,) = stable.wait_for("shadow")
    assert line["error"] is None
    assert line["measures"] == pytest.approx(PERFECT_FACES, abs=1e-4)
    write_rollout(repository, make_rollout(versions))
    stub.asked.clear()
    after = stable.answer()
    assert stub.versions_of("face_analysis_candidate") == [-1]
    for name in ("bbox", "score", "kps", "embedding"):
        np.testing.assert_allclose(output(after, name), output(before, name), atol=1e-4)
    assert stable.requests() == [("stable", "ok", False), ("candidate", "ok", False)]
    stable.close()
    candidate.close()


def test_metrics_of_a_candidate_are_its_own(forwarded: tuple[Served, Served]) -> None:
    _, candidate = forwarded
    labels = {dict(key)["model"] for family in candidate.loaded.model.families for key in family.metrics}
    assert labels == {"face_swap_candidate"}


def test_what_is_forwarded(entry_points: dict[str, ModuleType]) -> None:
    assert entry_points
    seen: list[fake.InferenceRequest] = []

    def answer(request: fake.InferenceRequest) -> fake.InferenceResponse:
        seen.append(request)
        return fake.InferenceResponse([fake.Tensor("image", answered)])

    answered = np.array([b"jpeg"], np.object_)
    set_bls(answer)
    forward = importlib.import_module(CALLS).forward
    pictures = {"source_image": b"a", "target_image": b"b", "reference_image": None}
    with request_scope("mine", fake.InferenceTrace()):
        outputs = forward("face_swap_candidate", pictures, {"quality": 80, "min_score": 0.5}, ["image"])
    assert outputs["image"].tolist() == [b"jpeg"]
    assert outputs["image"] is not answered
    (request,) = seen
    assert (request.model_name(), request.model_version(), request.request_id()) == ("face_swap_candidate", -1, "mine")
    assert request.requested_output_names() == ["image"]
    assert {tensor.name(): tensor.as_numpy().tolist() for tensor in request.inputs()} == {
        "source_image": [b"a"],
        "target_image": [b"b"],
    }
    assert json.loads(request.parameters()) == {"quality": "80", "min_score": "0.5"}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no_face: no face was found in target_image", "no_face"),
        ("overloaded: a queue is full", "overloaded"),
        ("no_face", "stage_failed"),
        ("Request for unknown model: 'face_swap_candidate' is not found", "stage_failed"),
        ("", "stage_failed"),
    ],
)
def test_errors_of_what_is_forwarded(message: str, code: str) -> None:
    forward = importlib.import_module(CALLS).forward
    set_bls(lambda _: fake.InferenceResponse(error=fake.TritonError(message)))
    with pytest.raises(CandidateError) as caught:
        forward("face_swap_candidate", {"source_image": b"a"}, {}, ["image"])
    assert (str(caught.value), caught.value.code) == (message, code)


def test_no_second_look_begins_while_a_request_is_answered(swap: Served, stub: Stub) -> None:
    shadow, answering = swap.loaded.model.canary.shadow, set[int]()

    def note_it(_: fake.InferenceRequest) -> None:
        answering.add(shadow._answering)

    stub.before = note_it
    swap.answer()
    assert swap.ask(swap_request(NOBODY, TARGET)).has_error()
    assert (answering, shadow._answering) == ({1}, 0)
