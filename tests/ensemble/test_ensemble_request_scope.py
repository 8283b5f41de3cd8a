"""What belongs to a request stays with it, in whatever thread its work runs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from warmswap_ensemble.request_scope import RequestExecutor, current_scope, note, request_scope, trace_id_of

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
WAIT_S = 20.0


class Trace:
    def __init__(self, context: Any) -> None:
        self.context = context

    def get_context(self) -> Any:
        return self.context


def where() -> tuple[str, Any]:
    scope = current_scope()
    assert scope is not None
    return scope.request_id, scope.trace


def test_outside_of_a_request_there_is_no_scope() -> None:
    note(faces=1)  # forgotten
    assert current_scope() is None
    with RequestExecutor(1) as executor:
        assert executor.submit(current_scope).result(WAIT_S) is None


def test_request_without_an_id_gets_one_and_a_long_one_is_cut() -> None:
    with request_scope("") as one, request_scope("") as other:
        assert len(one.request_id) == 32
        assert one.request_id != other.request_id
    with request_scope("x" * 5000) as scope:
        assert scope.request_id == "x" * 128


def test_helpers_work_for_the_request_of_whoever_gave_them_the_work() -> None:
    """One helper thread for two requests that are under way at once: it must not remember the first."""
    both = threading.Barrier(2)
    with RequestExecutor(1) as executor:

        def answer(name: str) -> list[tuple[str, Any]]:
            seen: list[tuple[str, Any]] = []
            with request_scope(name, f"trace of {name}") as scope:
                for step in range(50):
                    both.wait(WAIT_S)
                    helper = executor.submit(where)
                    seen += [where(), helper.result(WAIT_S)]
                    executor.submit(note, **{f"{name}_{step}": step}).result(WAIT_S)
                assert scope.facts == {f"{name}_{step}": step for step in range(50)}
            return seen

        with ThreadPoolExecutor(2) as clients:
            answers = list(clients.map(answer, ["one", "two"]))
    assert answers == [[(name, f"trace of {name}")] * 100 for name in ("one", "two")]


def test_no_helper_outlives_its_request() -> None:
    begun, finish, ended = threading.Event(), threading.Event(), threading.Event()

    def straggle() -> None:
        begun.set()
        finish.wait(WAIT_S)
        ended.set()

    def fail(executor: RequestExecutor) -> None:
        with request_scope("failing"):
            executor.submit(straggle)
            executor.submit(never.append, "had not begun")
            assert begun.wait(WAIT_S)
            threading.Timer(0.1, finish.set).start()
            raise ZeroDivisionError

    never: list[str] = []
    with RequestExecutor(1) as executor:
        with pytest.raises(ZeroDivisionError):
            fail(executor)
        assert ended.is_set()
    assert never == []
    assert current_scope() is None


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        pytest.param(None, None, id="no traces"),
        pytest.param(object(), None, id="older than 24.09"),
        pytest.param(Trace(None), None, id="not traced"),
        pytest.param(Trace(""), None, id="empty"),
        pytest.param(Trace(f'{{"traceparent":"00-{TRACE_ID}-b302ab9a1c0aa108-01"}}'), TRACE_ID, id="traced"),
        pytest.param(Trace("{}"), None, id="no header"),
        pytest.param(Trace('{"traceparent":7}'), None, id="a number"),
        pytest.param(Trace('["traceparent"]'), None, id="a list"),
        pytest.param(Trace('{"traceparent":"00-too-short"}'), None, id="too few parts"),
        pytest.param(Trace("not JSON"), None, id="not JSON"),
    ],
)
def test_id_of_a_trace(trace: Any, expected: str | None) -> None:
    assert trace_id_of(trace) == expected
