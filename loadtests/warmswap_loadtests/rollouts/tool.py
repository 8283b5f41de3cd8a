"""``warmswap rollout`` as a process of its own, as an operator runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

TIMEOUT_S: Final = 300.0
_LOWEST: Final = ("nice", "-n", "19")
"""An operator's program runs elsewhere; here it should take as little as can be from those it is measured with."""
_PROGRAM: Final = "import sys; from warmswap_client.cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What one run said.

    Attributes:
        code: Exit code.
        started_s: Seconds since 1970.
        ended_s: The same.
        events: Its JSON lines, each with ``at_s``, when it came.
        error: Its message.
    """

    code: int
    started_s: float
    ended_s: float
    events: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    def at_s(self, event: str) -> float | None:
        """Return when the first event of a name came."""
        return next((found["at_s"] for found in self.events if found.get("event") == event), None)

    def last(self, event: str) -> dict[str, Any]:
        """Return the last event of a name; empty = there is none."""
        return next((found for found in reversed(self.events) if found.get("event") == event), {})


def run_tool(*arguments: str | Path, timeout_s: float = TIMEOUT_S) -> ToolRun:
    """Run ``warmswap rollout`` to its end; killed after ``timeout_s``."""
    command: Sequence[str] = [*_LOWEST, sys.executable, "-c", _PROGRAM, "rollout", *map(str, arguments), "--json"]
    started_s, events = time.time(), []
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            events.append({**json.loads(line), "at_s": time.time()})
            if time.time() - started_s > timeout_s:
                process.kill()
        error = process.stderr.read().strip()
    lines = [line for line in error.splitlines() if line.startswith("{")]
    message = json.loads(lines[-1])["error"]["message"] if lines else error
    return ToolRun(process.returncode, started_s, time.time(), events, str(message))
