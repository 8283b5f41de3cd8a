from __future__ import annotations

import pytest

from tests.client.support import FakeTime, OpenClient, answer_all, fail_first
from warmswap_client import (
    NO_RETRIES,
    ModelLoadingError,
    ModelNotLoadedError,
    NoFaceError,
    RequestTimeoutError,
    RetryPolicy,
    ServerBusyError,
    ServerUnreachableError,
    WarmswapError,
)
from warmswap_client.fake_transport import FakeRequest, FakeTransport, Tensors

BUSY = ("UNAVAILABLE", "overloaded: the queue is full")
DRAINING = ("NOT_FOUND", "Request for unknown model: 'face_swap' has no available versions")
REFUSED = ("UNAVAILABLE", "failed to connect to all addresses; last error: Connection refused")


def longest(policy: RetryPolicy) -> RetryPolicy:
    """The same policy, always drawing the longest pause."""
    return RetryPolicy(
        policy.max_attempts, policy.initial_backoff_s, policy.max_backoff_s, policy.multiplier, random=lambda: 1.0
    )


@pytest.mark.parametrize("failure", [BUSY, DRAINING, REFUSED], ids=["busy", "draining", "refused"])
def test_third_attempt_succeeds(open_client: OpenClient, failure: tuple[str, str]) -> None:
    fake, time = FakeTransport(fail_first(2, *failure)), FakeTime()
    client = open_client(fake=fake, time=time, retry=longest(RetryPolicy()))
    assert client.swap(b"s", b"t").image == b"swapped t"
    assert len(fake.requests) == 3
    assert time.pauses == [0.1, 0.2]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(BUSY, ServerBusyError), (DRAINING, ModelNotLoadedError), (REFUSED, ServerUnreachableError)],
    ids=["busy", "draining", "refused"],
)
def test_last_error_is_raised_when_the_attempts_are_used_up(
    open_client: OpenClient, failure: tuple[str, str], expected: type[WarmswapError]
) -> None:
    fake = FakeTransport(fail_first(9, *failure))
    with pytest.raises(expected):
        open_client(fake=fake, time=FakeTime()).swap(b"s", b"t")
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    "failure",
    [
        ("INVALID_ARGUMENT", "no_face: none"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded"),
        ("INTERNAL", "internal: see the log"),
        ("CANCELLED", "cancelled: gone"),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found"),
        ("PERMISSION_DENIED", "no"),
    ],
    ids=lambda failure: failure[0],
)
def test_other_errors_are_not_retried(open_client: OpenClient, failure: tuple[str, str]) -> None:
    fake, time = FakeTransport(fail_first(1, *failure)), FakeTime()
    with pytest.raises(WarmswapError):
        open_client(fake=fake, time=time).swap(b"s", b"t")
    assert len(fake.requests) == 1
    assert time.pauses == []


def test_no_retries_means_one_attempt(open_client: OpenClient) -> None:
    fake = FakeTransport(fail_first(1, *BUSY))
    with pytest.raises(ServerBusyError):
        open_client(fake=fake, time=FakeTime(), retry=NO_RETRIES).swap(b"s", b"t")
    assert len(fake.requests) == 1


def test_attempts_share_one_deadline(open_client: OpenClient) -> None:
    time = FakeTime()
    attempts = iter(range(9))

    def slow_and_busy(request: FakeRequest) -> Tensors:
        time.now_s += 3.0
        if next(attempts) < 2:
            raise request.failure(*BUSY)
        return answer_all(request)

    fake = FakeTransport(slow_and_busy)
    open_client(fake=fake, time=time, timeout_s=10.0, retry=longest(RetryPolicy())).swap(b"s", b"t")
    assert [round(request.timeout_s, 6) for request in fake.requests] == [10.0, 6.9, 3.7]


def test_no_pause_that_would_end_after_the_deadline(open_client: OpenClient) -> None:
    fake, time = FakeTransport(fail_first(9, *BUSY)), FakeTime()
    policy = longest(RetryPolicy(max_attempts=9, initial_backoff_s=4.0, max_backoff_s=4.0))
    with pytest.raises(ServerBusyError):
        open_client(fake=fake, time=time, retry=policy).swap(b"s", b"t", timeout_s=10.0)
    assert time.pauses == [4.0, 4.0]
    assert len(fake.requests) == 3


def test_call_brings_its_own_deadline(open_client: OpenClient) -> None:
    fake = FakeTransport(answer_all, answer_after_s=2.0)
    client = open_client(fake=fake, time=FakeTime(), timeout_s=5.0)
    client.swap(b"s", b"t")
    with pytest.raises(RequestTimeoutError, match="no answer within 1 s"):
        client.swap(b"s", b"t", timeout_s=1.0)
    assert len(fake.requests) == 2


def test_error_after_a_retry_is_the_new_one(open_client: OpenClient) -> None:
    failures = iter([BUSY, ("INVALID_ARGUMENT", "no_face: none")])

    def handler(request: FakeRequest) -> Tensors:
        raise request.failure(*next(failures))

    with pytest.raises(NoFaceError):
        open_client(fake=FakeTransport(handler), time=FakeTime()).swap(b"s", b"t")


def test_backoff_grows_to_its_limit_and_jitter_is_full() -> None:
    draws = iter([1.0, 1.0, 1.0, 1.0, 0.0, 0.5])
    policy = RetryPolicy(initial_backoff_s=0.5, max_backoff_s=3.0, multiplier=2.0, random=lambda: next(draws))
    assert [policy.backoff_s(attempt) for attempt in (1, 2, 3, 4, 4, 4)] == [0.5, 1.0, 2.0, 3.0, 0.0, 1.5]


@pytest.mark.parametrize(
    "values",
    [{"max_attempts": 0}, {"initial_backoff_s": -1}, {"initial_backoff_s": 3.0}, {"multiplier": 0.5}],
    ids=lambda values: next(iter(values)),
)
def test_policy_refuses_nonsense(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        RetryPolicy(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_deadline_must_be_above_zero(open_client: OpenClient, timeout_s: float) -> None:
    fake = FakeTransport(answer_all)
    with pytest.raises(ValueError, match="timeout_s must be above 0"):
        open_client(fake=fake, time=FakeTime()).swap(b"s", b"t", timeout_s=timeout_s)
    assert fake.requests == []


LOADING = ("UNAVAILABLE", "model_loading: face_swapper_512 is being loaded, ready in about 0.8 s; try again")


def test_a_model_that_is_being_loaded_is_waited_for_as_long_as_the_server_says(open_client: OpenClient) -> None:
    fake, time = FakeTransport(fail_first(5, *LOADING)), FakeTime()
    client = open_client(fake=fake, time=time, retry=longest(RetryPolicy()))
    assert client.swap(b"s", b"t").image == b"swapped t"
    assert len(fake.requests) == 6, "more than max_attempts: each of them was told when to come again"
    assert time.pauses == pytest.approx([0.9] * 5)


def test_a_load_that_outlasts_the_deadline_is_told_before_the_deadline(open_client: OpenClient) -> None:
    fake, time = FakeTransport(fail_first(99, *LOADING)), FakeTime()
    client = open_client(fake=fake, time=time, retry=longest(RetryPolicy()), timeout_s=2.0)
    with pytest.raises(ModelLoadingError, match="is being loaded") as caught:
        client.swap(b"s", b"t")
    assert caught.value.retry_after_s == 0.8
    assert time.pauses == pytest.approx([0.9, 0.9])


def test_without_retries_a_load_is_an_error_at_once(open_client: OpenClient) -> None:
    fake = FakeTransport(fail_first(1, *LOADING))
    with pytest.raises(ModelLoadingError):
        open_client(fake=fake, time=FakeTime(), retry=NO_RETRIES).swap(b"s", b"t")
    assert len(fake.requests) == 1


def test_a_load_of_unknown_length_is_not_asked_for_without_a_pause(open_client: OpenClient) -> None:
    fake, time = FakeTransport(fail_first(2, "UNAVAILABLE", "model_loading: soon")), FakeTime()
    open_client(fake=fake, time=time, retry=RetryPolicy(random=lambda: 0.0)).swap(b"s", b"t")
    assert time.pauses == [0.1, 0.1]
