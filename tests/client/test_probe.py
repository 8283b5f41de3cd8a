"""What a probe takes for an answer, and what not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.client.support import FakeTime
from warmswap_client import FaceSwapClient
from warmswap_client.errors import ProbeFailedError, ProbeTooSlowError, ServerUnreachableError
from warmswap_client.fake_transport import FakeRequest, FakeTransport, Tensors, swap_answer
from warmswap_client.probe import PICTURES, probe


def answering(*faces: dict[str, Any]) -> FaceSwapClient:
    """Open a client of a server whose faces differ in these ways from a swapped one."""

    def handler(request: FakeRequest) -> Tensors:
        answer = swap_answer(b"x", num_faces=len(faces))
        report = json.loads(answer["report"][0])
        for face, changes in zip(report["faces"], faces, strict=True):
            face |= changes
        return {**answer, "report": np.array([json.dumps(report).encode()], dtype=np.object_)}

    return FaceSwapClient("grpc://fake:8001", transport=FakeTransport(handler))


def test_the_pictures_are_shipped_and_small() -> None:
    for name in ("source.jpg", "target.jpg"):
        content = (PICTURES / name).read_bytes()
        assert content[:2] == b"\xff\xd8"
        assert len(content) < 10_000


def test_a_swapped_face_is_a_good_answer() -> None:
    result = probe(answering({"swapped": False}, {}))
    assert (result.swapped, result.similarity_before, result.similarity_after) == (1, 0.05, 0.75)
    assert result.models == {"face_detector": "1", "face_swapper": "1"}


@pytest.mark.parametrize(
    ("faces", "words"),
    [
        ([], "no face was swapped, of 0"),
        ([{"swapped": False}], "no face was swapped, of 1"),
        ([{"similarity_after": 0.05}], "did not rise"),
        ([{"similarity_after": -0.2}], "did not rise"),
        ([{"similarity_after": float("nan")}], "did not rise"),
        ([{"similarity_after": None}], "did not measure"),
    ],
)
def test_a_wrong_answer_is_a_failure(faces: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ProbeFailedError, match=words) as caught:
        probe(answering(*faces))
    assert caught.value.exit_code == 1
    assert not isinstance(caught.value, ProbeTooSlowError)


def test_a_late_answer_is_a_failure_of_its_own() -> None:
    times = iter((10.0, 12.5))
    with pytest.raises(ProbeTooSlowError, match=r"2\.500 s, more than the 2 s") as caught:
        probe(answering({}), max_latency_s=2.0, clock=lambda: next(times))
    assert caught.value.exit_code == 4


def test_a_late_and_wrong_answer_is_wrong() -> None:
    times = iter((10.0, 12.5))
    with pytest.raises(ProbeFailedError, match="no face"):
        probe(answering(), max_latency_s=2.0, clock=lambda: next(times))


def test_no_answer_is_the_error_of_the_client() -> None:
    time = FakeTime()
    fake = FakeTransport(lambda request: swap_answer(b"x"))
    fake.reachable = False
    client = FaceSwapClient("grpc://fake:8001", transport=fake, sleep=time.sleep, clock=time.clock)
    with pytest.raises(ServerUnreachableError) as caught:
        probe(client)
    assert caught.value.exit_code == 3
