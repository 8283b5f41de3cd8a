"""Second looks are for what time is left over: after the reply, at a quiet moment, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.ensemble.rollout_support import WAIT_S
from warmswap_ensemble import shadow as shadow_module
from warmswap_ensemble.shadow import MAX_WAITING, SecondLook, Shadow

A_WHILE_S = 0.1
"""For what must not happen: a slow machine lets such a test pass, never fail."""


class Look:
    """A second look that notes what became of it."""

    def __init__(self, begin: threading.Event | None = None) -> None:
        self.begin = begin
        self.began, self.ran, self.dropped = threading.Event(), threading.Event(), threading.Event()
        self.thread = ""
        self.look = SecondLook(self.run, self.dropped.set)

    def run(self) -> None:
        self.thread = threading.current_thread().name
        self.began.set()
        if self.begin is not None:
            assert self.begin.wait(WAIT_S)
        self.ran.set()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not make a look too old."""
    monkeypatch.setattr(shadow_module, "LONGEST_WAIT_S", 10 * WAIT_S)


@pytest.fixture
def shadow() -> Iterator[Shadow]:
    shadow = Shadow()
    yield shadow
    shadow.close()
    if shadow._thread is not None:
        shadow._thread.join(WAIT_S)
        assert not shadow._thread.is_alive()


def test_there_is_no_thread_before_there_is_something_to_do(shadow: Shadow) -> None:
    with shadow:
        pass
    assert shadow._thread is None
    look = Look()
    shadow.offer(look.look)
    assert look.ran.wait(WAIT_S)
    assert look.thread == "shadow"
    assert not look.dropped.is_set()


def test_nothing_is_looked_at_while_a_request_is_answered(shadow: Shadow) -> None:
    look = Look()
    with shadow:
        shadow.offer(look.look)
        assert not look.began.wait(A_WHILE_S)
    assert look.ran.wait(WAIT_S)


def test_the_last_of_several_answers_makes_it_quiet(shadow: Shadow) -> None:
    look = Look()
    with shadow:
        with shadow:
            shadow.offer(look.look)
        assert not look.began.wait(A_WHILE_S)
    assert look.ran.wait(WAIT_S)


def test_an_error_in_an_answer_makes_it_quiet_too(shadow: Shadow) -> None:
    look = Look()

    def answer() -> None:
        with shadow:
            shadow.offer(look.look)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answer()
    assert look.ran.wait(WAIT_S)


def test_triton_gets_time_to_send_the_reply(shadow: Shadow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "REPLY_S", 10 * WAIT_S)
    look = Look()
    with shadow:
        shadow.offer(look.look)
    assert not look.began.wait(A_WHILE_S)
    monkeypatch.setattr(shadow_module, "REPLY_S", 0.0)
    assert look.ran.wait(WAIT_S)


def test_a_look_that_finds_no_quiet_moment_is_dropped(shadow: Shadow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "LONGEST_WAIT_S", 0.0)
    look, later = Look(), Look()
    with shadow:
        shadow.offer(look.look)
        assert look.dropped.wait(WAIT_S)
        monkeypatch.setattr(shadow_module, "LONGEST_WAIT_S", 10 * WAIT_S)
        shadow.offer(later.look)
    assert later.ran.wait(WAIT_S)
    assert not look.began.is_set()


def test_only_so_many_wait_and_the_others_are_counted(shadow: Shadow) -> None:
    looks = [Look() for _ in range(MAX_WAITING + 3)]
    with shadow:
        for look in looks:
            shadow.offer(look.look)
        assert [look.dropped.is_set() for look in looks] == [False] * MAX_WAITING + [True] * 3
    assert all(look.ran.wait(WAIT_S) for look in looks[:MAX_WAITING])
    assert not any(look.began.is_set() for look in looks[MAX_WAITING:])


def test_looks_run_one_after_the_other_in_their_order(shadow: Shadow) -> None:
    go = threading.Event()
    first, second = Look(go), Look()
    shadow.offer(first.look)
    assert first.began.wait(WAIT_S)
    shadow.offer(second.look)
    assert not second.began.wait(A_WHILE_S)
    go.set()
    assert second.ran.wait(WAIT_S)
    assert first.ran.is_set()


def test_offering_does_not_wait_for_a_look(shadow: Shadow) -> None:
    go = threading.Event()
    running, waiting = Look(go), Look()
    shadow.offer(running.look)
    assert running.began.wait(WAIT_S)
    with shadow:  # neither does a request
        shadow.offer(waiting.look)
    assert not running.ran.is_set()
    go.set()
    assert waiting.ran.wait(WAIT_S)


def test_closing_ends_the_thread_and_drops_what_waits() -> None:
    shadow, go = Shadow(), threading.Event()
    running, waiting, late = Look(go), Look(), Look()
    shadow.offer(running.look)
    assert running.began.wait(WAIT_S)
    shadow.offer(waiting.look)
    shadow.close()
    assert not running.ran.is_set()
    shadow.offer(late.look)
    assert late.dropped.is_set()
    go.set()
    assert shadow._thread is not None
    shadow._thread.join(WAIT_S)
    assert not shadow._thread.is_alive()
    assert running.ran.is_set()
    assert waiting.dropped.is_set()
    assert not waiting.began.is_set()
    assert not late.began.is_set()


def test_closing_ends_a_thread_that_has_nothing_to_do() -> None:
    shadow, look = Shadow(), Look()
    shadow.offer(look.look)
    assert look.ran.wait(WAIT_S)
    shadow.close()
    assert shadow._thread is not None
    shadow._thread.join(WAIT_S)
    assert not shadow._thread.is_alive()
