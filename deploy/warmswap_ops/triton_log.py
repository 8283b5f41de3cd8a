"""What tritonserver writes: keep the end of it, pass on what matters, and find the decisive line."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from warmswap_ops.log_entry import is_request_line

KEPT_LINES: Final = 500

_GLOG: Final = re.compile(r'^([IWEF])\d{4} [\d:.]+ \d+ \S+\] "?(.*?)"?$')
_LOAD_PREFIX: Final = re.compile(r"^load failed for model '[^']*': (?=version |\S)")
_VERSION_STATE: Final = re.compile(r"version (\d+) is at UNAVAILABLE state: (?:[A-Z][A-Za-z ]{2,20}: )?")
_TRACEBACK: Final = re.compile(r"\n\s*\n?At:\n.*", re.DOTALL)
_SELF_TEST: Final = re.compile(r"^(\w+) (\d+): (?:\[request id: [^\]]*\] )?((?:self_test|stage)_failed: .*)$")
_INITIALIZED: Final = re.compile(r"\bwarmswap: initialized (\w+) (\d+)")
_HARMLESS: Final = ("CudaDriverHelper has not been initialized",)  # an error line of every start without a GPU
_DECISIVE: Final = (
    "error while loading shared libraries",
    "already in use",
    "failed to",
    "error:",
    "cannot ",
    "Signal (",
)


class TritonLog:
    """The last lines of the server and its stubs."""

    def __init__(self, pass_on: Callable[[str], None] | None = None, *, verbose: bool = False) -> None:
        """Keep lines.

        Args:
            pass_on: Gets the lines that an operator should see.
            verbose: Pass on everything, from the start; otherwise only what is not merely informative and the lines
                of requests, and only while ``passing_on`` is set.
        """
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._lock = threading.Lock()
        self._pass_on = pass_on
        self._verbose = verbose
        self._initialized_s: dict[str, float] = {}
        self.passing_on = False

    def add(self, line: str) -> None:
        """Keep a line, and pass it on if it matters; those of requests would push out what says why a server died."""
        if is_request_line(line):
            if self._pass_on and (self._verbose or self.passing_on):
                self._pass_on(line)
            return
        initialized = _INITIALIZED.search(line)
        with self._lock:
            self._lines.append(line)
            if initialized:
                self._initialized_s[initialized[1]] = time.monotonic()
        if self._pass_on and (self._verbose or (self.passing_on and not line.startswith("I"))):
            self._pass_on(line)

    def clear(self) -> None:
        """Forget everything: another server writes from now on."""
        with self._lock:
            self._lines.clear()
            self._initialized_s.clear()

    def lines(self) -> list[str]:
        """Return the lines that are kept."""
        with self._lock:
            return list(self._lines)

    def initialized_s(self, model: str) -> float | None:
        """Return when the last instance of a model said that it was initialized, in ``time.monotonic()`` seconds."""
        with self._lock:
            return self._initialized_s.get(model)

    def decisive_line(self) -> str:
        """Return the line that says why the server died, as well as one can tell."""
        return decisive_line(self.lines())

    def self_test_failure(self) -> tuple[str, str] | None:
        """Return the pipeline that refused itself and why, where one has logged it."""
        return self_test_failure(self.lines())


def decisive_line(lines: Iterable[str]) -> str:
    """Return the first line of an error, without Triton's time stamp; else the last line; else a dash."""
    parsed = [(match[1], match[2]) if (match := _GLOG.match(line)) else ("", line.strip()) for line in lines]
    parsed = [(level, text) for level, text in parsed if not any(mark in text for mark in _HARMLESS)]
    candidates = [text for level, text in parsed if level in ("E", "F") or (not level and _is_decisive(text))]
    if candidates:
        return candidates[0]
    return next((text for _, text in reversed(parsed) if text), "it wrote nothing")


def self_test_failure(lines: Iterable[str]) -> tuple[str, str] | None:
    """Return model and reason of the first warm-up that failed, worded as ``load_failure`` does."""
    for line in lines:
        glog = _GLOG.match(line)
        if glog and (found := _SELF_TEST.match(glog[2])):
            return found[1], f"version {found[2]}: {found[3]}"
    return None


def load_failure(message: str) -> str:
    """Return the decisive part of what Triton says of a failed load: one line, no prefixes, no Python traceback."""
    text = _LOAD_PREFIX.sub("", message.strip())
    versions = list(_VERSION_STATE.finditer(text))
    if not versions:
        return _tidy(text)
    parts: list[str] = []
    for match, following in zip(versions, [*versions[1:], None], strict=True):
        reason = _tidy(text[match.end() : following.start() if following else None])
        parts.append(f"version {match[1]}: {reason}")
    return "; ".join(parts)


def _tidy(text: str) -> str:
    text = _TRACEBACK.sub("", text)
    text = text.removeprefix("TritonModelException: ").strip().rstrip("; \n")
    return " ".join(text.split())


def _is_decisive(text: str) -> bool:
    return any(mark in text for mark in _DECISIVE)
