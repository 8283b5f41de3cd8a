"""Lines of Triton and its stubs, taken apart: nothing is lost, whatever they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmswap_ensemble.contract import REQUEST_LOG_MARK
from warmswap_ops.log_entry import MAX_GROUP, MAX_MESSAGE, LineGrouper, LogEntry, is_request_line, parse

HEAD = "I1126 23:34:25.000000 123"
TRACEBACK = """\
Traceback (most recent call last):
  File "model.py", line 3, in execute
    1 / 0
ZeroDivisionError: division by zero"""
TABLE = """\
I1126 23:52:21.405785 7536 server.cc:604]\x20
+------------------+------+
| Repository Agent | Path |
+------------------+------+"""
CRASH = """\
Signal (11) received.
 0# 0x0000 in tritonserver
 1# 0x0001 in libc.so.6"""
RECORD = {
    "request_id": "order-42",
    "model": "face_swap",
    "version": "1",
    "outcome": "ok",
    "duration_ms": 118.2,
    "faces": 2,
    "swapped": 1,
    "timings_ms": {"decode": 12.4, "swap": 30.0},
}


def request_line(**changes: Any) -> str:
    text = REQUEST_LOG_MARK + json.dumps({**RECORD, **changes})
    return f"{HEAD} triton_backend.py:170] {json.dumps(text)}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("", LogEntry("info", "triton", ""), id="empty"),
        pytest.param(
            f'{HEAD} metrics.cc:770] "Collecting CPU metrics"',
            LogEntry("info", "triton", "Collecting CPU metrics", {"caller": "metrics.cc:770"}),
            id="info",
        ),
        pytest.param(
            'W1126 23:34:25.1 1 a.cc:1] "odd"', LogEntry("warning", "triton", "odd", {"caller": "a.cc:1"}), id="warning"
        ),
        pytest.param(
            'F1126 23:34:25.1 1 a.cc:1] "end"', LogEntry("fatal", "triton", "end", {"caller": "a.cc:1"}), id="fatal"
        ),
        pytest.param(
            "E1126 23:34:25.1 1 a.cc:1] no quotes",
            LogEntry("error", "triton", "no quotes", {"caller": "a.cc:1"}),
            id="not quoted",
        ),
        pytest.param(
            r'E1126 23:34:25.1 1 a.cc:1] "two\nlines, \"quoted\" \u00e9"',
            LogEntry("error", "triton", 'two\nlines, "quoted" é', {"caller": "a.cc:1"}),
            id="escapes",
        ),
        pytest.param(
            r'E1126 23:34:25.1 1 a.cc:1] "no JSON \x"',
            LogEntry("error", "triton", r"no JSON \x", {"caller": "a.cc:1"}),
            id="quoted, but no JSON",
        ),
        pytest.param(
            'E1126 23:34:25.1 1 a.cc:1] "cut of', LogEntry("error", "triton", '"cut of', {"caller": "a.cc:1"}), id="cut"
        ),
        pytest.param(
            f"{HEAD} model_lifecycle.cc:839] \"successfully loaded 'face_swap'\"",
            LogEntry(
                "info",
                "triton",
                "successfully loaded 'face_swap'",
                {"caller": "model_lifecycle.cc:839", "model": "face_swap"},
            ),
            id="loaded",
        ),
        pytest.param(
            f'{HEAD} model_lifecycle.cc:472] "loading: face_swap:3"',
            LogEntry(
                "info",
                "triton",
                "loading: face_swap:3",
                {"caller": "model_lifecycle.cc:472", "model": "face_swap", "version": "3"},
            ),
            id="loading",
        ),
        pytest.param(
            'E1126 23:34:25.1 1 triton_backend.py:170] "face_swap 2: [request id: a-1] stage_failed: x"',
            LogEntry(
                "error",
                "model",
                "face_swap 2: [request id: a-1] stage_failed: x",
                {"caller": "triton_backend.py:170", "request_id": "a-1", "model": "face_swap", "version": "2"},
            ),
            id="of a request",
        ),
        pytest.param(
            'E1126 23:34:25.1 1 a.cc:1] "[request id: <id_unknown>] x"',
            LogEntry("error", "triton", "[request id: <id_unknown>] x", {"caller": "a.cc:1"}),
            id="of no request",
        ),
        pytest.param(
            "[Error] File: /tmp/build/otlp_http_client.cc:200 [OTLP HTTP Client] connection failed",
            LogEntry("error", "triton", "[OTLP HTTP Client] connection failed", {"caller": "otlp_http_client.cc:200"}),
            id="exporter",
        ),
        pytest.param(TRACEBACK, LogEntry("error", "model", TRACEBACK), id="traceback"),
        pytest.param(CRASH, LogEntry("error", "triton", CRASH), id="crash"),
        pytest.param("Signal (15) received.", LogEntry("info", "triton", "Signal (15) received."), id="asked to stop"),
        pytest.param("\x1b[31mred\x1b[0m \x1b]x", LogEntry("info", "triton", "red x"), id="ANSI"),
        pytest.param("broken \ufffd UTF-8", LogEntry("info", "triton", "broken \ufffd UTF-8"), id="UTF-8"),
        pytest.param(
            "/lib/x: error while loading shared libraries: cannot open",
            LogEntry("error", "triton", "/lib/x: error while loading shared libraries: cannot open"),
            id="loader",
        ),
        pytest.param("I am no glog line", LogEntry("info", "triton", "I am no glog line"), id="looks like glog"),
    ],
)
def test_lines(line: str, expected: LogEntry) -> None:
    assert parse(line) == expected


def test_line_of_a_request_has_its_fields_and_a_sentence() -> None:
    entry = parse(request_line())
    sentence = "request order-42: face_swap 1: ok, 1 of 2 faces swapped, 118.2 ms (decode 12, swap 30)"
    assert entry == LogEntry("info", "model", sentence, RECORD)


@pytest.mark.parametrize(
    ("outcome", "level"),
    [("no_face", "info"), ("overloaded", "warning"), ("model_loading", "warning"), ("internal", "error")],
)
def test_level_of_a_failed_request_says_whose_fault_it_is(outcome: str, level: str) -> None:
    entry = parse(request_line(outcome=outcome, error=f"{outcome}: why"))
    assert entry.level == level
    assert f"face_swap 1: {outcome}: why, " in entry.message


@pytest.mark.parametrize(
    "rest",
    ["", "not JSON", "[1]", "7", '{"request_id": "a"', '{"outcome": null}', '{"timings_ms": [1], "faces": "x"}'],
)
def test_line_of_a_request_that_is_broken_is_not_lost(rest: str) -> None:
    entry = parse(f"{HEAD} triton_backend.py:170] {json.dumps(REQUEST_LOG_MARK + rest)}")
    assert entry.message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(request_line(), True, id="as Triton quotes it"),
        pytest.param(f"{HEAD} triton_backend.py:170] {REQUEST_LOG_MARK}{{}}", True, id="not quoted"),
        pytest.param(f'E1126 23:34:25.1 1 a.py:1] "x {REQUEST_LOG_MARK}{{}}"', False, id="text of a client"),
        pytest.param(f"{REQUEST_LOG_MARK}{{}}", False, id="no head"),
        pytest.param("", False, id="empty"),
    ],
)
def test_client_cannot_make_a_line_of_a_request(line: str, expected: bool) -> None:
    assert is_request_line(line) == expected


def test_huge_line_is_cut_and_says_so() -> None:
    message = parse("x" * 10_000_000).message
    assert len(message) < MAX_MESSAGE + 100
    assert message.endswith(f"... ({10_000_000 - MAX_MESSAGE} more characters)")


def grouped(text: str) -> list[str]:
    grouper = LineGrouper()
    return [entry for line in text.split("\n") for entry in grouper.add(line)] + grouper.flush()


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("one\ntwo", ["one", "two"], id="lines"),
        pytest.param(f"{TRACEBACK}\nnext", [TRACEBACK, "next"], id="traceback"),
        pytest.param(f"{TRACEBACK}\n{TRACEBACK}", [TRACEBACK, TRACEBACK], id="two tracebacks"),
        pytest.param(
            f"{TRACEBACK}\n\nDuring handling of the above exception\n\n{TRACEBACK}",
            [TRACEBACK, "During handling of the above exception", TRACEBACK],
            id="chain",
        ),
        pytest.param(
            f"Traceback (most recent call last):\n  File\n{HEAD} a.cc:1] x",
            ["Traceback (most recent call last):\n  File", f"{HEAD} a.cc:1] x"],
            id="traceback that another line interrupts",
        ),
        pytest.param(
            "Traceback (most recent call last):\n  File", ["Traceback (most recent call last):\n  File"], id="killed"
        ),
        pytest.param(f"{TABLE}\n\nnext", [TABLE, "next"], id="table"),
        pytest.param(f"{TABLE}\n{TABLE}", [TABLE, TABLE], id="two tables"),
        pytest.param(f"{CRASH}\nnext", [CRASH, "next"], id="crash"),
        pytest.param("Signal (15) received.\nnext", ["Signal (15) received.", "next"], id="signal"),
    ],
)
def test_lines_that_belong_together(text: str, entries: list[str]) -> None:
    assert grouped(text) == entries


def test_group_without_an_end_does_not_grow_for_ever_and_loses_nothing() -> None:
    lines = ["Traceback (most recent call last):", *(f"  {number}" for number in range(3 * MAX_GROUP))]
    entries = grouped("\n".join(lines))
    assert len(entries[0].split("\n")) == MAX_GROUP
    assert "\n".join(entries).split("\n") == lines
