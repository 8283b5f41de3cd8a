from __future__ import annotations

import json
from typing import Any

import pytest

from warmswap_ensemble.contract import REQUEST_LOG_ENV, REQUEST_LOG_MARK, REQUEST_LOG_MODES
from warmswap_ensemble.request_log import MAX_TEXT, RequestLog
from warmswap_ensemble.request_scope import RequestScope


def log(mode: str) -> RequestLog:
    return RequestLog.from_environment("face_swap", "1", {REQUEST_LOG_ENV: mode})


def record(line: str | None) -> dict[str, Any]:
    assert line is not None
    assert line.startswith(REQUEST_LOG_MARK)
    parsed: dict[str, Any] = json.loads(line.removeprefix(REQUEST_LOG_MARK))
    return parsed


@pytest.mark.parametrize(
    ("mode", "logged"),
    [("", []), ("off", []), ("errors", ["no_face"]), ("all", ["ok", "no_face"])],
)
def test_modes(mode: str, logged: list[str]) -> None:
    lines = {outcome: log(mode).line(RequestScope("id"), outcome, 0.1) for outcome in ("ok", "no_face")}
    assert [outcome for outcome, line in lines.items() if line is not None] == logged


def test_nobody_asked_for_a_log() -> None:
    assert RequestLog.from_environment("face_swap", "1", {}).mode == "off"


def test_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=rf"{', '.join(REQUEST_LOG_MODES)}, got 'ALL'"):
        log("ALL")


def test_line_has_what_is_known() -> None:
    scope = RequestScope("order-42", facts={"faces": 2, "swapped": 1, "timings_ms": {"swap": 2.5}})
    assert record(log("all").line(scope, "ok", 0.1234)) == {
        "request_id": "order-42",
        "model": "face_swap",
        "version": "1",
        "outcome": "ok",
        "duration_ms": 123.4,
        "faces": 2,
        "swapped": 1,
        "timings_ms": {"swap": 2.5},
    }


def test_text_of_the_client_stays_one_bounded_line_of_ascii() -> None:
    text = "invalid_option: \n\x1b[31m\u2028 \udc80" + "x" * 100_000
    line = log("errors").line(RequestScope('a"b\nc'), "invalid_option", 0.0, text)
    assert line is not None
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 2 * MAX_TEXT + 300
    assert record(line)["request_id"] == 'a"b\nc'
    assert record(line)["error"] == text[:MAX_TEXT] + "..."
