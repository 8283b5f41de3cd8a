"""Lines of tritonserver and its stubs, taken apart: level, source, model, request.

Triton writes ``I1126 23:34:25.000000 123 file.cc:12] "text"``, the text as a JSON string. Tables, Python tracebacks and
the trace of a crash stand in the lines below the first one, without a head of their own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from warmswap_ensemble.contract import REQUEST_LOG_MARK

Level = Literal["info", "warning", "error", "fatal"]
Source = Literal["launcher", "triton", "model"]

MAX_MESSAGE: Final = 16_384
"""Characters of a message; Triton can write a line of any length."""
MAX_GROUP: Final = 200
"""Lines that may belong together."""

_LEVELS: Final[dict[str, Level]] = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}
_GLOG: Final = re.compile(r"^([IWEF])\d{4} [\d:.]+ \d+ (\S+)\] ?(.*)$", re.DOTALL)
_EXPORTER: Final = re.compile(r"^\[(Error|Warning|Info|Debug)\] File: \S*?([^/\s]+:\d+) ?(.*)$", re.DOTALL)
_EXPORTER_LEVELS: Final[dict[str, Level]] = {"Error": "error", "Warning": "warning"}
_REQUEST_LINE: Final = re.compile(r'^I\d{4} [\d:.]+ \d+ \S+\] "?' + re.escape(REQUEST_LOG_MARK))
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]")
_REQUEST_ID: Final = re.compile(r"\[request id: ([^\]<>]+)\] ?")
_MODELS: Final = (
    re.compile(r"^(?P<model>face_\w+) (?P<version>\d+): "),
    re.compile(r"^warmswap: initialized (?P<model>\w+) (?P<version>\d+)$"),
    re.compile(r"loading: (?P<model>\w+):(?P<version>\d+)$"),
    re.compile(r"successfully (?:un)?loaded '(?P<model>\w+)'(?: version (?P<version>\d+))?$"),
    re.compile(r"failed to (?:un)?load '(?P<model>\w+)' version (?P<version>\d+)"),
)
_TRACEBACK: Final = "Traceback (most recent call last):"
_CRASH: Final = "Signal ("
_ASKED_TO_STOP: Final = ("Signal (2) received", "Signal (15) received")
_CRASH_FRAME: Final = re.compile(r"^\s*\d+# ")
_ALARMING: Final = (_CRASH, "error:", "Error:", "failed to", "cannot ", "terminate called", "Segmentation fault")
_SERVERS_FAULT: Final = ("internal", "stage_failed", "self_test_failed")
_TRY_AGAIN: Final = ("overloaded", "model_loading")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One thing that was said.

    Attributes:
        level: How bad it is; of what Triton did not write itself, as well as one can tell.
        source: Who said it: ``model`` is the Python of a model.
        message: For a human; may have several lines.
        fields: What else is known, as JSON values: ``model``, ``version``, ``request_id``, ``caller``, ...
    """

    level: Level
    source: Source
    message: str
    fields: dict[str, Any] = field(default_factory=dict)


def is_request_line(line: str) -> bool:
    """Whether a line of the server is that of a request, see ``warmswap_ensemble.request_log``."""
    return REQUEST_LOG_MARK in line and _REQUEST_LINE.match(line) is not None


def parse(text: str) -> LogEntry:
    """Take a line, or several that belong together, apart; what is not understood is the message as it is."""
    text = _ANSI.sub("", text)
    glog = _GLOG.match(text)
    if glog is None:
        return _foreign_entry(text)
    letter, caller, rest = glog.groups()
    message = _unquoted(rest)
    if message.startswith(REQUEST_LOG_MARK) and (record := _json_object(message.removeprefix(REQUEST_LOG_MARK))):
        return _request_entry(record)
    fields: dict[str, Any] = {"caller": caller}
    if request_id := _REQUEST_ID.search(message):
        fields["request_id"] = request_id[1]
    if found := next((match for pattern in _MODELS if (match := pattern.search(message))), None):
        fields |= {name: value for name, value in found.groupdict().items() if value}
    return LogEntry(_LEVELS[letter], "model" if ".py:" in caller else "triton", cut(message), fields)


def cut(message: str) -> str:
    """Return a message of bearable length, which says so if it was longer."""
    if len(message) <= MAX_MESSAGE:
        return message
    return f"{message[:MAX_MESSAGE]}... ({len(message) - MAX_MESSAGE} more characters)"


class LineGrouper:
    """Puts lines together that are one entry: a table, a traceback, the trace of a crash."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._lines: list[str] = []

    def add(self, line: str) -> list[str]:
        """Take a line; return what is complete now, in order."""
        complete: list[str] = []
        if self._lines:
            if self._continues(line):
                self._lines.append(line)
                if self._is_end(line):
                    complete += self.flush()
                return complete
            complete += self.flush()
        if line.startswith((_TRACEBACK, _CRASH)) or _is_head_of_table(line):
            self._lines = [line]
        elif line.strip():
            complete.append(line)
        return complete

    def flush(self) -> list[str]:
        """Return what was begun, complete or not."""
        lines, self._lines = self._lines, []
        return ["\n".join(lines).rstrip()] if lines else []

    def _continues(self, line: str) -> bool:
        first = self._lines[0]
        if len(self._lines) >= MAX_GROUP or _GLOG.match(line):
            return False
        if first.startswith(_TRACEBACK):
            return bool(line.strip())
        if first.startswith(_CRASH):
            return _CRASH_FRAME.match(line) is not None
        return line.startswith(("+", "|"))

    def _is_end(self, line: str) -> bool:
        """Whether a group ends with this line: a traceback does with the exception, which is not indented."""
        return self._lines[0].startswith(_TRACEBACK) and not line.startswith((" ", "\t"))


def _is_head_of_table(line: str) -> bool:
    glog = _GLOG.match(line)
    return glog is not None and not glog[3].strip()


def _unquoted(text: str) -> str:
    """Return what Triton quoted; releases before 24.05 and lines that were cut off are taken as they are."""
    if len(text) < 2 or not text.startswith('"') or not text.endswith('"'):
        return text
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        return text[1:-1]


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _foreign_entry(text: str) -> LogEntry:
    """Read what is not in Triton's own form."""
    if exporter := _EXPORTER.match(text):  # of traces
        word, caller, message = exporter.groups()
        return LogEntry(_EXPORTER_LEVELS.get(word, "info"), "triton", cut(message), {"caller": caller})
    if text.startswith(_TRACEBACK):
        return LogEntry("error", "model", cut(text))
    alarms = any(mark in text for mark in _ALARMING) and not text.startswith(_ASKED_TO_STOP)
    return LogEntry("error" if alarms else "info", "triton", cut(text))


def _request_entry(record: dict[str, Any]) -> LogEntry:
    outcome = str(record.get("outcome"))
    level: Level = "error" if outcome in _SERVERS_FAULT else "warning" if outcome in _TRY_AGAIN else "info"
    return LogEntry(level, "model", cut(_request_sentence(record)), record)


def _request_sentence(record: dict[str, Any]) -> str:
    """Word the line of a request for a human."""
    who = f"request {record.get('request_id')}: {record.get('model')} {record.get('version')}"
    said = record.get("error") or record.get("outcome")
    faces = f", {record['swapped']} of {record['faces']} faces swapped" if {"swapped", "faces"} <= record.keys() else ""
    timings = record.get("timings_ms")
    steps = ", ".join(f"{name} {ms:.0f}" for name, ms in timings.items()) if isinstance(timings, dict) else ""
    sentence = f"{who}: {said}{faces}, {record.get('duration_ms')} ms{f' ({steps})' if steps else ''}"
    return " ".join(sentence.split())
