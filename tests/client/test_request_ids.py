"""Ids of requests: made up or given, the same in every attempt, and there when something goes wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.client.support import FakeTime, OpenClient, answer_all, fail_first
from tests.client.toy_triton import ToyTriton
from warmswap_client import NO_RETRIES, FaceSwapClient, NoFaceError, ServerBusyError, ServerFailedError, TlsFiles
from warmswap_client.cli import main
from warmswap_client.fake_transport import FakeRequest, FakeTransport, Tensors, analysis_answer
from warmswap_client.http_errors import status_error as http_error

BUSY = ("UNAVAILABLE", "overloaded: the queue is full")
MADE_UP = re.compile(r"[0-9a-f]{32}")


def answer_with_faces(request: FakeRequest) -> Tensors:
    return analysis_answer(0)


def test_each_request_gets_an_id_of_its_own(open_client: OpenClient) -> None:
    fake = FakeTransport(answer_all)
    client = open_client(fake=fake)
    results = [client.swap(b"s", b"t") for _ in range(3)]
    sent = [request.request_id for request in fake.requests]
    assert [result.request_id for result in results] == sent
    assert len(set(sent)) == 3
    assert all(MADE_UP.fullmatch(request_id) for request_id in sent)


@pytest.mark.parametrize("given", ["1", "order:42.face-7_b", "A" * 128])
def test_given_id_is_sent_as_it_is(open_client: OpenClient, given: str) -> None:
    swapping, analyzing = FakeTransport(answer_all), FakeTransport(answer_with_faces)
    assert open_client(fake=swapping).swap(b"s", b"t", request_id=given).request_id == given
    assert open_client(fake=analyzing).analyze(b"i", request_id=given).request_id == given
    assert [request.request_id for request in (*swapping.requests, *analyzing.requests)] == [given, given]


@pytest.mark.parametrize(
    "given",
    ["", "A" * 129, "A" * 100_000, "two words", "line\nbreak", "line\n", 'quo"te', "[x]", "é", "\x1b[31m", b"bytes", 7],
)
def test_id_that_does_not_fit_into_a_log_is_refused_before_anything_is_sent(
    open_client: OpenClient, given: str
) -> None:
    fake = FakeTransport(answer_all)
    client = open_client(fake=fake)
    with pytest.raises(ValueError, match=r"request_id must be 1 to 128 of the characters .*, got ") as caught:
        client.swap(b"s", b"t", request_id=given)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="request_id"):
        client.analyze(b"i", request_id=given)
    assert fake.calls == []


def test_every_attempt_has_the_same_id_and_so_has_the_error(open_client: OpenClient) -> None:
    fake = FakeTransport(fail_first(9, *BUSY))
    with pytest.raises(ServerBusyError) as caught:
        open_client(fake=fake, time=FakeTime()).swap(b"s", b"t")
    assert [request.request_id for request in fake.requests] == [caught.value.request_id] * 3


def test_answer_that_cannot_be_read_has_its_id(open_client: OpenClient) -> None:
    with pytest.raises(ServerFailedError) as caught:
        open_client(fake=FakeTransport(lambda request: {})).swap(b"s", b"t", request_id="unreadable")
    assert caught.value.request_id == "unreadable"


def test_error_without_a_request_has_no_id(open_client: OpenClient) -> None:
    fake = FakeTransport(answer_all, reachable=False)
    with pytest.raises(Exception, match="cannot reach") as caught:
        open_client(fake=fake).status()
    assert caught.value.request_id is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("given", ["order-42", "connection-refused.unreachable", "no_face:1"])
def test_id_in_the_servers_text_changes_neither_class_nor_text(open_client: OpenClient, given: str) -> None:
    text = f"[request id: {given}] Exceeds maximum queue size"
    with pytest.raises(ServerBusyError) as caught:
        open_client(fake=FakeTransport(fail_first(9, "UNAVAILABLE", text)), retry=NO_RETRIES).swap(b"s", b"t")
    assert str(caught.value) == "the server is busy: Exceeds maximum queue size"
    refused = http_error("503", text, url="http://server", model="face_swap")
    assert (type(refused), refused.reason) == (ServerBusyError, "Exceeds maximum queue size")


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_server_sees_the_id_over_both_protocols(open_client: OpenClient, toy_triton: ToyTriton, protocol: str) -> None:
    client = open_client(getattr(toy_triton, f"{protocol}_url"), retry=NO_RETRIES)
    result = client.swap(b"s", b"t", request_id="seen:1")
    assert result.report["request_id"] == result.request_id == "seen:1"
    with pytest.raises(NoFaceError) as caught:
        client.swap(b"s", b"t", face_selector="raise:INVALID_ARG:no_face: none", request_id="seen:2")
    assert caught.value.request_id == "seen:2"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTransport:
    fake = FakeTransport(answer_all)

    class FakeClient(FaceSwapClient):
        def __init__(self, url: str, *, tls: TlsFiles | None, timeout_s: float) -> None:
            super().__init__(url, tls=tls, timeout_s=timeout_s, transport=fake, retry=NO_RETRIES)

    for command in ("swap", "analyze"):
        monkeypatch.setattr(f"warmswap_client.commands.{command}.FaceSwapClient", FakeClient)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"a picture")
    return fake


def test_command_line_tells_the_id_in_json_and_in_errors(
    fake: FakeTransport, capsys: pytest.CaptureFixture[str]
) -> None:
    swap = ["swap", "--source", "a.jpg", "--target", "a.jpg", "--output", "out.jpg"]
    assert main([*swap, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["request_id"] == fake.requests[-1].request_id
    assert main(swap) == 0
    assert fake.requests[-1].request_id not in capsys.readouterr().out

    fake.handler = fail_first(9, "INVALID_ARGUMENT", "no_face: none")
    assert main(swap) == 5
    line = capsys.readouterr().err
    assert line == f"error: the server refused the input: no_face: none (request {fake.requests[-1].request_id})\n"
    assert main([*swap, "--json"]) == 5
    assert json.loads(capsys.readouterr().err)["error"]["request_id"] == fake.requests[-1].request_id

    assert main(["swap", "--source", "no.jpg", "--target", "a.jpg", "--output", "out.jpg", "--json"]) == 2
    assert "request_id" not in json.loads(capsys.readouterr().err)["error"]

    fake.handler = answer_with_faces
    assert main(["analyze", "a.jpg", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"request_id": fake.requests[-1].request_id, "faces": []}


def test_batch_tells_the_id_of_what_failed(fake: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    fake.handler = fail_first(1, "INVALID_ARGUMENT", "no_face: none")
    assert main(["swap", "--source", "a.jpg", "--target", "*.jpg", "--output", "out"]) == 5
    assert capsys.readouterr().err.endswith(f"no_face: none (request {fake.requests[-1].request_id})\n")
