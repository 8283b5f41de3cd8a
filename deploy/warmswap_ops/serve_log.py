"""What ``warmswap serve`` writes, as text or as one JSON object a line.

Phases go to standard output, everything else to standard error. A reader that went away is no reason to die.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from warmswap_ops.errors import OpsError
from warmswap_ops.log_entry import Level, LineGrouper, LogEntry, cut, is_request_line, parse
from warmswap_ops.phases import Phase

LogFormat = Literal["text", "json"]
LOG_FORMATS: Final[tuple[LogFormat, ...]] = ("text", "json")

_PREFIXES: Final[dict[str, Level]] = {"warning: ": "warning", "error: ": "error"}
_WARNINGS: Final = ("restart", "recovering", "over_budget")


class ServeLog:
    """The log of a replica; its methods may be called from any thread."""

    def __init__(self, stdout: TextIO, stderr: TextIO, log_format: LogFormat = "text", *, json_phases: bool) -> None:
        """Write to two streams.

        Args:
            stdout: Gets the phases.
            stderr: Gets the rest.
            log_format: ``json`` = one object a line: ``time``, ``level``, ``source``, ``message``, and what is known.
            json_phases: Whether phases are JSON in the text format too, without ``time`` and the others.
        """
        self._stdout = stdout
        self._stderr = stderr
        self._as_json = log_format == "json"
        self._json_phases = json_phases
        self._grouper = LineGrouper()
        self._lock = threading.Lock()

    def phase(self, phase: Phase) -> None:
        """Write a phase."""
        if self._as_json:
            message = " ".join(phase.as_text().split())
            entry = LogEntry(_level_of(phase), "launcher", cut(message), json.loads(phase.as_json()))
            _write(self._stdout, _json_line(entry))  # without the lock: a blocked standard error must not stop a drain
        else:
            _write(self._stdout, phase.as_json() if self._json_phases else phase.as_text())

    def launcher_line(self, line: str, level: Level | None = None) -> None:
        """Write what the launcher has to say.

        Args:
            line: For a human.
            level: How bad it is; ``None`` = as ``warning: `` or ``error: `` before the line says, else ``info``.
        """
        if not self._as_json:
            _write(self._stderr, line)
            return
        prefix = next((prefix for prefix in _PREFIXES if line.startswith(prefix)), "")
        entry = LogEntry(level or _PREFIXES.get(prefix, "info"), "launcher", cut(line.removeprefix(prefix)))
        with self._lock:
            self._flush()
            _write(self._stderr, _json_line(entry))

    def triton_line(self, line: str) -> None:
        """Write a line of tritonserver or its stubs."""
        if not self._as_json:
            _write(self._stderr, _printable(parse(line).message) if is_request_line(line) else line)
            return
        with self._lock:
            for text in self._grouper.add(line):
                _write(self._stderr, _json_line(parse(text)))

    def outcome(self, serve: Callable[[], int]) -> int:
        """Serve, and return the exit code.

        In JSON nothing else may write what went wrong, neither the caller nor Python.

        Raises:
            Exception: what ``serve`` raises; not in JSON.
        """
        if not self._as_json:
            return serve()
        threading.excepthook = lambda thread: self._fault(thread.exc_value or thread.exc_type())
        try:
            return serve()
        except OpsError as error:
            self.launcher_line(str(error), "error")
            return error.exit_code
        except Exception as error:
            self._fault(error)
            return OpsError.exit_code

    def _fault(self, error: BaseException) -> None:
        self.launcher_line("".join(traceback.format_exception(error)).rstrip(), "error")

    def close(self) -> None:
        """Write what is still held back."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        for text in self._grouper.flush():
            _write(self._stderr, _json_line(parse(text)))


def stdio_log(log_format: LogFormat, *, json_phases: bool) -> ServeLog:
    """Return the log of this process."""
    return ServeLog(sys.stdout, sys.stderr, log_format, json_phases=json_phases)


def _level_of(phase: Phase) -> Level:
    if phase.name == "failed":
        return "error"
    return "warning" if phase.name in _WARNINGS or "error" in phase.details else "info"


def _json_line(entry: LogEntry) -> str:
    """Return an entry as one line of ASCII; its own fields come last and cannot replace the first four."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    envelope: dict[str, Any] = {
        "time": now,
        "level": entry.level,
        "source": entry.source,
        "message": entry.message,
    }
    return json.dumps({**envelope, **entry.fields, **envelope}, separators=(",", ":"))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _write(stream: TextIO, line: str) -> None:
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):
        return
