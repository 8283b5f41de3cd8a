"""What ``warmswap serve`` writes: every line on its own, in text and in JSON."""

from __future__ import annotations

import io
import json
import re
import threading
from typing import Any

import pytest

from tests.ops.test_log_entry import HEAD, TRACEBACK, request_line
from warmswap_ops.errors import RepositoryError
from warmswap_ops.phases import Phase
from warmswap_ops.serve_log import LogFormat, ServeLog
from warmswap_ops.triton_log import TritonLog

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Written:
    """A log and what it wrote."""

    def __init__(self, log_format: LogFormat = "json", *, json_phases: bool = False) -> None:
        self._out, self._err = io.StringIO(), io.StringIO()
        self.log = ServeLog(self._out, self._err, log_format, json_phases=json_phases)

    def out(self) -> list[str]:
        return self._out.getvalue().splitlines()

    def err(self) -> list[str]:
        return self._err.getvalue().splitlines()

    def entries(self) -> list[dict[str, Any]]:
        lines = [*self.out(), *self.err()]
        entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
        assert all(line.isascii() and line.isprintable() for line in lines)
        for entry in entries:
            assert list(entry)[:4] == ["time", "level", "source", "message"]
            assert RFC3339.fullmatch(entry["time"])
        return entries


@pytest.mark.parametrize("json_phases", [True, False])
def test_phase_in_json_is_that_of_the_json_option_with_an_envelope(json_phases: bool) -> None:
    written = Written(json_phases=json_phases)
    phase = Phase("ready", 33.04, {"urls": {"grpc": "127.0.0.1:1"}, "ms_total": 1.0})
    written.log.phase(phase)
    (entry,) = written.entries()
    assert written.err() == []
    assert json.loads(phase.as_json()).items() <= entry.items()
    assert (entry["level"], entry["source"]) == ("info", "launcher")
    assert entry["message"] == "ready 33 ms grpc 127.0.0.1:1 ms_total 1 ms"


@pytest.mark.parametrize(
    ("phase", "level"),
    [
        (Phase("failed", None, {"error": "why", "exit_code": 4}), "error"),
        (Phase("recovering", 1.0, {"reason": "its process died"}), "warning"),
        (Phase("on_demand_load", 1.0, {"model": "face_swapper_512", "error": "no memory"}), "warning"),
        (Phase("on_demand_load", 1.0, {"model": "face_swapper_512"}), "info"),
    ],
)
def test_level_of_a_phase(phase: Phase, level: str) -> None:
    written = Written()
    written.log.phase(phase)
    assert written.entries()[0]["level"] == level


def test_field_cannot_replace_the_envelope() -> None:
    written = Written()
    written.log.phase(Phase("stopped", None, {"time": "never", "level": "none", "message": "false", "reason": "true"}))
    (entry,) = written.entries()
    assert (entry["level"], entry["message"].split()[0], entry["reason"]) == ("info", "stopped", "true")


def test_text_is_as_it_was() -> None:
    written = Written("text")
    written.log.phase(phase := Phase("stages", 12.0, {"models": {"a": 1.5}}))
    written.log.launcher_line("warning: no licence")
    written.log.triton_line(f'{HEAD} a.cc:1] "x"')
    assert written.out() == [phase.as_text()]
    assert written.err() == ["warning: no licence", f'{HEAD} a.cc:1] "x"']


def test_request_in_text_is_a_readable_line_that_cannot_steer_a_terminal() -> None:
    written = Written("text")
    written.log.triton_line(request_line(outcome="invalid_option", error="invalid_option: \x1b[31m\u202e\r\nx"))
    (line,) = written.err()
    assert line.startswith("request order-42: face_swap 1: invalid_option: ")
    assert line.isprintable()


def test_levels_of_the_launchers_lines() -> None:
    written = Written()
    for line in ("warning: no licence", "error: broken", "compiling face_swapper"):
        written.log.launcher_line(line)
    written.log.launcher_line("not ready: why", "error")
    said = [(entry["level"], entry["message"]) for entry in written.entries()]
    assert said == [
        ("warning", "no licence"),
        ("error", "broken"),
        ("info", "compiling face_swapper"),
        ("error", "not ready: why"),
    ]


def test_lines_of_triton_are_grouped_and_what_is_held_back_comes_at_the_end() -> None:
    written = Written()
    lines = [request_line(), *TRACEBACK.split("\n"), "\x1b[1m\ufffd\udc80\x00\u2028", *TRACEBACK.split("\n")[:2]]
    for line in lines:
        written.log.triton_line(line)
    assert len(written.err()) == 3
    written.log.close()
    written.log.close()
    messages = [entry["message"] for entry in written.entries()]
    assert messages[1:] == [TRACEBACK, "\ufffd\udc80\x00\u2028", "\n".join(TRACEBACK.split("\n")[:2])]
    assert written.entries()[0]["request_id"] == "order-42"


def test_threads_do_not_mix_their_lines() -> None:
    written = Written()

    def write(name: str) -> None:
        for number in range(200):
            written.log.launcher_line(f"{name} {number}")
            written.log.triton_line(f'{HEAD} a.cc:1] "{name} {number}"')

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written.entries()) == 3 * 2 * 200


def fail_with(error: Exception) -> int:
    raise error


def test_failure_is_the_last_line_in_json_and_raised_in_text() -> None:
    error = RepositoryError("no repository")
    written = Written()
    assert written.log.outcome(lambda: fail_with(error)) == RepositoryError.exit_code
    assert [(entry["level"], entry["message"]) for entry in written.entries()] == [("error", "no repository")]
    with pytest.raises(RepositoryError):
        Written("text").log.outcome(lambda: fail_with(error))


@pytest.fixture
def _hook() -> Any:
    before = threading.excepthook
    yield
    threading.excepthook = before


@pytest.mark.usefixtures("_hook")
def test_fault_of_the_program_is_one_line_with_its_traceback() -> None:
    written = Written()
    assert written.log.outcome(lambda: fail_with(KeyError("a bug"))) == 1
    thread = threading.Thread(target=fail_with, args=(ValueError("in a thread"),))
    thread.start()
    thread.join()
    messages = [entry["message"] for entry in written.entries()]
    assert all(message.startswith("Traceback (most recent call last):\n") for message in messages)
    assert [message.split("\n")[-1] for message in messages] == ["KeyError: 'a bug'", "ValueError: in a thread"]


def test_lines_of_requests_are_passed_on_and_do_not_push_out_others() -> None:
    passed: list[str] = []
    log = TritonLog(passed.append)
    log.add('E1126 23:34:25.1 1 a.cc:1] "failed to start"')
    log.add(request_line())
    assert passed == []
    log.passing_on = True
    for _ in range(1000):
        log.add(request_line())
    assert len(passed) == 1000
    assert log.decisive_line() == "failed to start"


def test_self_test_of_a_request_is_still_found() -> None:
    log = TritonLog()
    log.add('E1126 23:34:25.1 1 t.py:1] "face_swap 1: [request id: 0af7] self_test_failed: golden is 1"')
    assert log.self_test_failure() == ("face_swap", "version 1: self_test_failed: golden is 1")
