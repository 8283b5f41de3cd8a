from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.support import FakeTime, OpenClient, answer_all
from warmswap_client import (
    FaceSwapClient,
    InputFileError,
    NotReadyError,
    OutputFileError,
    ServerFailedError,
    ServerUnreachableError,
    SourceFace,
    SwappedFace,
)
from warmswap_client.fake_transport import FakeRequest, FakeTransport, Tensors, analysis_answer, swap_answer
from warmswap_ensemble.contract import FACE_ANALYSIS, FACE_SWAP, MODELS


def test_swap_sends_pictures_and_only_the_given_options(open_client: OpenClient, tmp_path: Path) -> None:
    (tmp_path / "source.jpg").write_bytes(b"from disk")
    fake = FakeTransport(answer_all)
    client = open_client(fake=fake)
    client.swap(tmp_path / "source.jpg", b"target", quality=90, min_score=0.5)
    client.swap(str(tmp_path / "source.jpg"), b"target", reference=b"reference")
    first, second = fake.requests
    assert first.model == "face_swap"
    assert first.inputs == {"source_image": b"from disk", "target_image": b"target"}
    assert first.parameters == {"quality": 90, "min_score": "0.5"}
    assert second.inputs["source_image"] == b"from disk"
    assert second.inputs["reference_image"] == b"reference"
    assert second.parameters == {}
    assert set(second.inputs) == {tensor.name for tensor in FACE_SWAP.inputs}


def test_swap_result_is_typed(open_client: OpenClient) -> None:
    result = open_client(fake=FakeTransport(answer_all)).swap(b"s", b"t")
    assert result.image == b"swapped t"
    assert result.faces == (SwappedFace((10.0, 20.0, 110.0, 140.0), 0.9, True, 0.05, 0.75),)
    assert result.source == SourceFace((1.0, 2.0, 101.0, 122.0), 0.8, False)
    assert (result.image_format, result.size_wh) == ("jpeg", (640, 480))
    assert result.timings_ms == {"detect": 5.0, "swap": 12.5}
    assert result.models == {"face_detector": "1", "face_swapper": "1"}
    assert result.report["image"]["width"] == 640


def test_face_that_was_not_swapped_has_no_similarity(open_client: OpenClient) -> None:
    def handler(request: FakeRequest) -> Tensors:
        answer = swap_answer(b"x")
        report = json.loads(answer["report"][0])
        report["faces"][0] |= {"swapped": False, "similarity_before": None, "similarity_after": None}
        return {**answer, "report": np.array([json.dumps(report).encode()], dtype=np.object_)}

    (face,) = open_client(fake=FakeTransport(handler)).swap(b"s", b"t").faces
    assert (face.swapped, face.similarity_before, face.similarity_after) == (False, None, None)


@pytest.mark.parametrize("num_faces", [0, 1, 3])
def test_analysis_result_has_one_row_per_face(open_client: OpenClient, num_faces: int) -> None:
    fake = FakeTransport(lambda request: analysis_answer(num_faces, embedding_dim=7))
    result = open_client(fake=fake).analyze(b"picture", max_faces=5)
    assert fake.requests[0].inputs == {"image": b"picture"}
    assert fake.requests[0].model == FACE_ANALYSIS.name
    assert fake.requests[0].parameters == {"max_faces": 5}
    assert len(result.faces) == num_faces
    for face in result.faces:
        assert face.bbox == (10.0, 20.0, 110.0, 140.0)
        assert face.score == 0.5
        assert face.kps.shape == (5, 2)
        assert face.embedding.shape == (7,)


def _without(name: str) -> Callable[[FakeRequest], Tensors]:
    return lambda request: {key: value for key, value in swap_answer(b"x").items() if key != name}


def _with_report(report: bytes) -> Callable[[FakeRequest], Tensors]:
    return lambda request: {**swap_answer(b"x"), "report": np.array([report], dtype=np.object_)}


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(lambda request: {}, id="empty"),
        pytest.param(_without("image"), id="no-image"),
        pytest.param(_without("report"), id="no-report"),
        pytest.param(_with_report(b"not JSON"), id="no-json"),
        pytest.param(_with_report(b"[]"), id="list"),
        pytest.param(_with_report(b"{}"), id="no-keys"),
    ],
)
def test_answer_against_the_contract_is_the_servers_fault(
    open_client: OpenClient, handler: Callable[[FakeRequest], Tensors]
) -> None:
    with pytest.raises(ServerFailedError, match="the answer of face_swap cannot be read") as caught:
        open_client(fake=FakeTransport(handler)).swap(b"s", b"t")
    assert caught.value.model == "face_swap"


def test_analysis_with_columns_of_different_length_is_the_servers_fault(open_client: OpenClient) -> None:
    fake = FakeTransport(lambda request: {**analysis_answer(2), "score": np.zeros(1, np.float32)})
    with pytest.raises(ServerFailedError, match="the answer of face_analysis cannot be read"):
        open_client(fake=fake).analyze(b"x")


def test_missing_file_is_reported_before_anything_is_sent(open_client: OpenClient, tmp_path: Path) -> None:
    fake = FakeTransport(answer_all)
    client = open_client(fake=fake)
    with pytest.raises(InputFileError, match=r"cannot read .*nothing\.jpg: No such file"):
        client.swap(tmp_path / "nothing.jpg", b"t")
    with pytest.raises(InputFileError, match="Is a directory"):
        client.analyze(tmp_path)
    assert fake.calls == []


def test_unknown_option_is_a_type_error(open_client: OpenClient) -> None:
    with pytest.raises(TypeError, match="unknown option 'qualty'"):
        open_client(fake=FakeTransport(answer_all)).swap(b"s", b"t", qualty=1)  # type: ignore[call-arg]


def test_save_writes_all_or_nothing(tmp_path: Path) -> None:
    result = FaceSwapClient(transport=FakeTransport(answer_all)).swap(b"s", b"t")
    (tmp_path / "out.jpg").write_bytes(b"old")
    assert result.save(tmp_path / "out.jpg") == tmp_path / "out.jpg"
    assert (tmp_path / "out.jpg").read_bytes() == b"swapped t"
    with pytest.raises(OutputFileError, match="cannot write"):
        result.save(tmp_path / "no-folder" / "out.jpg")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputFileError, match="cannot write"):
        result.save(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "out.jpg"]


def test_questions_are_answered_with_no_when_nobody_answers(open_client: OpenClient) -> None:
    fake = FakeTransport(answer_all, ready={"face_analysis"})
    client = open_client(fake=fake, timeout_s=1.0)
    assert (client.is_live(), client.is_ready(), client.is_ready("face_analysis")) == (True, False, True)
    fake.answer_after_s = 2.0
    assert (client.is_live(), client.is_ready("face_analysis")) == (False, False)
    fake.answer_after_s, fake.reachable = 0.0, False
    assert (client.is_live(), client.is_ready("face_analysis")) == (False, False)


def test_status_collects_versions_and_models(open_client: OpenClient) -> None:
    status = open_client(fake=FakeTransport(answer_all)).status()
    assert status.url == "grpc://fake:8001"
    assert (status.live, status.ready, status.server_ready) == (True, True, True)
    assert status.runtime == {"triton": "2.51.0", "warmswap": "0.1.0", "onnxruntime": "1.32.0"}
    assert {(model.name, model.version, model.state) for model in status.models} == {
        (name, "1", "READY") for name in MODELS
    }


def test_status_of_a_foreign_server_has_unknown_versions(open_client: OpenClient) -> None:
    status = open_client(fake=FakeTransport(answer_all, name="triton", version="2.60.0", ready=set())).status()
    assert status.runtime == {"triton": "2.60.0", "warmswap": None, "onnxruntime": None}
    assert (status.live, status.ready) == (True, False)


def test_status_asks_each_model_when_the_index_is_closed(open_client: OpenClient) -> None:
    class Restricted(FakeTransport):
        def repository_index(self, *, timeout_s: float) -> list[dict[str, str]]:
            raise FakeRequest("", {}, {}, timeout_s).failure("UNAVAILABLE", "This protocol is restricted, expecting x")

    status = open_client(fake=Restricted(answer_all, ready={"face_swap"})).status()
    assert {model.name: model.state for model in status.models} == {
        name: "READY" if name == "face_swap" else "UNAVAILABLE" for name in MODELS
    }


def test_status_of_nobody_is_an_error(open_client: OpenClient) -> None:
    with pytest.raises(ServerUnreachableError):
        open_client(fake=FakeTransport(answer_all, reachable=False)).status()


class StartingTransport(FakeTransport):
    """Comes up in steps, one per pause."""

    def prepare(self, time: FakeTime, port_at_s: float, ready_at_s: float) -> StartingTransport:
        self.time, self.port_at_s, self.ready_at_s = time, time.now_s + port_at_s, time.now_s + ready_at_s
        return self

    def _enter(self, call: str, timeout_s: float) -> None:
        self.reachable = self.time.now_s >= self.port_at_s
        self.ready = {"face_swap"} if self.time.now_s >= self.ready_at_s else set()
        super()._enter(call, timeout_s)


def test_wait_knocks_at_the_port_before_the_first_question(open_client: OpenClient) -> None:
    time = FakeTime()
    fake = StartingTransport(answer_all).prepare(time, 0.25, 0.45)
    open_client(fake=fake, time=time).wait_until_ready(5.0)
    assert fake.calls == ["connect"] * 4 + ["model_ready"] * 3
    assert time.now_s == pytest.approx(1000.5)


@pytest.mark.parametrize(
    ("port_at_s", "expected"),
    [
        pytest.param(99.0, "no connection: Connection refused", id="port-closed"),
        pytest.param(0.0, "not ready; version 1 is UNAVAILABLE", id="model-not-loaded"),
    ],
)
def test_wait_gives_up_with_the_last_state_seen(open_client: OpenClient, port_at_s: float, expected: str) -> None:
    time = FakeTime()
    fake = StartingTransport(answer_all).prepare(time, port_at_s, 99.0)
    with pytest.raises(NotReadyError, match=expected) as caught:
        open_client(fake=fake, time=time).wait_until_ready(2.0)
    assert "face_swap at grpc://fake:8001 is not ready" in str(caught.value)
    assert time.now_s == pytest.approx(1002.0)


def test_wait_for_a_model_that_is_not_there_says_so(open_client: OpenClient) -> None:
    with pytest.raises(NotReadyError, match="it is not in the server's repository"):
        open_client(fake=FakeTransport(answer_all), time=FakeTime()).wait_until_ready(1.0, "nope")


def test_closed_client_refuses_to_work() -> None:
    fake = FakeTransport(answer_all)
    with FaceSwapClient(transport=fake) as client:
        client.swap(b"s", b"t")
        closed_within = fake.closed
    assert (closed_within, fake.closed) == (False, True)
    with pytest.raises(RuntimeError, match="closed"):
        client.swap(b"s", b"t")


def test_error_of_the_handler_that_is_a_bug_is_not_hidden(open_client: OpenClient) -> None:
    def handler(request: FakeRequest) -> Tensors:
        raise ZeroDivisionError

    fake = FakeTransport(handler)
    with pytest.raises(ZeroDivisionError):
        open_client(fake=fake).swap(b"s", b"t")
    assert len(fake.requests) == 1


def test_both_clients_offer_the_same_methods() -> None:
    import inspect

    from warmswap_client import AsyncFaceSwapClient

    def surface(cls: type[Any]) -> dict[str, list[str]]:
        members = inspect.getmembers(cls, callable)
        return {name: list(inspect.signature(member).parameters) for name, member in members if name[0] != "_"}

    assert surface(FaceSwapClient) == surface(AsyncFaceSwapClient)
