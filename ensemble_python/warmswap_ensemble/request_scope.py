"""What belongs to the request that is being answered, wherever its work runs: id, trace, facts for its log line.

A pipeline hands parts of its work to helper threads and does not know of Triton. The scope travels with the work as a
context variable, so a call of a stage finds the request that it is made for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar
from uuid import uuid4

P = ParamSpec("P")
T = TypeVar("T")

TRACEPARENT_PARTS: Final = 4
MAX_ID: Final = 128
"""Characters of an id: more is cut off. The protocol has no limit."""


@dataclass(slots=True)
class RequestScope:
    """One request under way.

    Attributes:
        request_id: The client's, else one that was made up for the log.
        trace: Triton's trace of it, to be handed on to the stages; ``None`` where Triton has none to give.
        facts: What its log line will tell; JSON values.
        helpers: Its work in helper threads.
    """

    request_id: str
    trace: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    helpers: list[Future[Any]] = field(default_factory=list)


_current: ContextVar[RequestScope | None] = ContextVar("warmswap_request", default=None)


def current_scope() -> RequestScope | None:
    """Return the scope of the request that this code works for; ``None`` outside of one."""
    return _current.get()


def current_request_id() -> str:
    """Return the id of the request that this code works for; empty outside of one."""
    scope = _current.get()
    return scope.request_id if scope is not None else ""


def note(**facts: Any) -> None:
    """Remember something for the log line of the request; outside of one it is forgotten."""
    scope = _current.get()
    if scope is not None:
        scope.facts.update(facts)


@contextmanager
def request_scope(client_id: str, trace: Any = None) -> Iterator[RequestScope]:
    """Work for one request; on leaving, no helper thread works for it any more.

    A step that fails may leave another one running beside it. That one must not call a stage any more once the request
    is answered: Triton frees the trace with the request, and would crash over it.

    Args:
        client_id: The id that came with the request; empty = make one up.
        trace: See ``RequestScope``.
    """
    scope = RequestScope(client_id[:MAX_ID] or uuid4().hex, trace)
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
        for helper in scope.helpers:
            helper.cancel()  # what has not begun need not
        wait(scope.helpers)


def finish_helpers() -> list[BaseException]:
    """Wait for what helper threads do for the request that this code works for; return what went wrong there."""
    scope = _current.get()
    errors = [helper.exception() for helper in scope.helpers] if scope is not None else []
    return [error for error in errors if error is not None]


class RequestExecutor(ThreadPoolExecutor):
    """Helper threads that work for the request of whoever gives them the work."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As in ``ThreadPoolExecutor``."""
        context = copy_context()
        future = super().submit(lambda: context.run(fn, *args, **kwargs))
        scope = _current.get()
        if scope is not None:
            scope.helpers.append(future)
        return future


def trace_id_of(trace: Any) -> str | None:
    """Return the 32 hexadecimal digits of an OpenTelemetry trace; ``None`` for a request that is not traced.

    Args:
        trace: Triton's; ``get_context`` is there since 24.09, and gives a JSON object of W3C headers.
    """
    get_context = getattr(trace, "get_context", None)
    context = get_context() if get_context else None
    if not context:
        return None
    try:
        parts = str(json.loads(context)["traceparent"]).split("-")
    except (KeyError, TypeError, ValueError):
        return None
    return parts[1] if len(parts) == TRACEPARENT_PARTS else None
