"""A server with small limits: they are those of its configuration, and a full queue is refused at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e import pictures
from tests.e2e.conftest import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from tests.e2e.pictures import HOPPER, contact_sheet
from tests.e2e.wire import WAIT_S, Service, picture, swap_inputs
from warmswap_client import (
    NO_RETRIES,
    FaceSwapClient,
    ImageTooLargeError,
    NoFaceError,
    RetryPolicy,
    ServerBusyError,
    SwapResult,
)

pytestmark = pytest.mark.triton

SOURCE = pictures.encode(pictures.collins(), "JPEG", quality=90)
FACES = 16
SLOW = contact_sheet(4, 4)
CLIENTS = 7


@pytest.fixture(autouse=True)
def _sizes() -> None:
    assert max(len(SOURCE), len(HOPPER), len(SLOW)) < MAX_IMAGE_BYTES


def check_works(service: Service) -> None:
    assert [face.swapped for face in service.client.swap(SOURCE, HOPPER).faces] == [True]


@pytest.mark.parametrize("role", ["source_image", "target_image"])
def test_byte_limit_is_that_of_the_configuration(tight_service: Service, role: str) -> None:
    largest = {"source_image": SOURCE, "target_image": HOPPER}
    largest[role] = largest[role].ljust(MAX_IMAGE_BYTES, b"\0")
    answer = tight_service.send("face_swap", swap_inputs(*largest.values()))
    assert answer.status == tight_service.status("OK")
    largest[role] += b"\0"
    answer = tight_service.send("face_swap", swap_inputs(*largest.values()))
    tight_service.check_answer(answer, "INVALID_ARG", f"image_too_large: {role} has {MAX_IMAGE_BYTES + 1} bytes")
    with pytest.raises(ImageTooLargeError) as caught:
        tight_service.client.swap(*largest.values())
    assert caught.value.code == "image_too_large"
    check_works(tight_service)


def test_pixel_limit_is_that_of_the_configuration(tight_service: Service) -> None:
    with pytest.raises(NoFaceError):
        tight_service.client.swap(SOURCE, pictures.encode(pictures.blank(800, MAX_IMAGE_PIXELS // 800)))
    too_large = pictures.encode(pictures.blank(801, MAX_IMAGE_PIXELS // 800))
    answer = tight_service.send("face_swap", swap_inputs(SOURCE, too_large))
    tight_service.check_answer(answer, "INVALID_ARG", "image_too_large: target_image is 801x400")
    with pytest.raises(ImageTooLargeError):
        tight_service.client.swap(SOURCE, too_large)
    check_works(tight_service)


def test_limits_hold_for_the_analysis(tight_service: Service) -> None:
    answer = tight_service.send("face_analysis", {"image": picture(HOPPER.ljust(MAX_IMAGE_BYTES + 1, b"\0"))})
    tight_service.check_answer(answer, "INVALID_ARG", "image_too_large: image has")
    assert len(tight_service.client.analyze(HOPPER).faces) == 1


def test_full_queue_is_refused_at_once_and_recovers(tight_service: Service) -> None:
    start = threading.Barrier(CLIENTS)

    def ask(_number: int) -> str:
        start.wait(WAIT_S)
        answer = tight_service.send("face_swap", swap_inputs(SOURCE, SLOW))
        assert "Traceback" not in answer.message
        return answer.status

    with ThreadPoolExecutor(CLIENTS) as pool:
        statuses = list(pool.map(ask, range(CLIENTS)))
    assert set(statuses) == {tight_service.status("OK"), tight_service.status("UNAVAILABLE")}
    check_works(tight_service)


def test_full_queue_is_a_busy_server_to_the_client(tight_service: Service) -> None:
    start = threading.Barrier(CLIENTS)

    def ask(_number: int) -> SwapResult | ServerBusyError:
        with FaceSwapClient(tight_service.url, timeout_s=WAIT_S, retry=NO_RETRIES) as client:
            start.wait(WAIT_S)
            try:
                return client.swap(SOURCE, SLOW)
            except ServerBusyError as error:
                return error

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(CLIENTS)))
    busy = [answer for answer in answers if isinstance(answer, ServerBusyError)]
    assert 0 < len(busy) < CLIENTS
    assert all(type(error) is ServerBusyError and error.retryable for error in busy)


def test_retries_get_everybody_through(tight_service: Service) -> None:
    patient = RetryPolicy(max_attempts=200, initial_backoff_s=0.1, max_backoff_s=0.5)
    start = threading.Barrier(CLIENTS)

    def ask(_number: int) -> int:
        with FaceSwapClient(tight_service.url, timeout_s=WAIT_S, retry=patient) as client:
            start.wait(WAIT_S)
            return sum(face.swapped for face in client.swap(SOURCE, SLOW).faces)

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert list(pool.map(ask, range(CLIENTS))) == [FACES] * CLIENTS
