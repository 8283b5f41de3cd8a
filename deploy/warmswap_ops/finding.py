"""What ``warmswap lint`` has to say: findings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        file: Where.
        what: What is wrong, with which value.
        fix: What to do.
        rule: Name of the rule that found it; filled in by ``lint``.
        line: Where in the file, from 1; ``None`` where no line can be named.
        why: What Triton does of it, and how that is known; filled in by ``lint`` from the rule's docstring.
        severity: An ``error`` costs a start, an answer or much time; a ``warning`` may be what its author wants.
    """

    file: Path
    what: str
    fix: str
    rule: str = ""
    line: int | None = None
    why: str = ""
    severity: Severity = "error"

    @property
    def place(self) -> str:
        """File and line, as compilers write them."""
        return str(self.file) if self.line is None else f"{self.file}:{self.line}"

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "file": str(self.file),
            "line": self.line,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
        }
