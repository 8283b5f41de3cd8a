"""One line of the log per request, or per failed one: JSON behind a mark, which ``warmswap serve`` takes apart again.

Never pixels, embeddings or anything else of a picture but its size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from warmswap_ensemble.contract import REQUEST_LOG_ENV, REQUEST_LOG_MARK, REQUEST_LOG_MODES
from warmswap_ensemble.request_scope import RequestScope

MAX_TEXT: Final = 300
"""Characters of an error's text: it may quote what the client sent."""

OK: Final = "ok"


@dataclass(frozen=True, slots=True)
class RequestLog:
    """Words the lines of one pipeline.

    Attributes:
        model: The pipeline.
        version: Its version.
        mode: Which requests get a line.
    """

    model: str
    version: str
    mode: Literal["off", "errors", "all"]

    @classmethod
    def from_environment(cls, model: str, version: str, environ: Mapping[str, str]) -> RequestLog:
        """Read the mode; ``off`` where nobody says, since then nobody takes the lines apart.

        Raises:
            ValueError: it is none of the modes.
        """
        mode = environ.get(REQUEST_LOG_ENV) or "off"
        for known in REQUEST_LOG_MODES:
            if mode == known:
                return cls(model, version, known)
        raise ValueError(f"${REQUEST_LOG_ENV} must be one of {', '.join(REQUEST_LOG_MODES)}, got {mode!r}")

    def line(self, scope: RequestScope, outcome: str, seconds: float, error: str | None = None) -> str | None:
        """Return the line of an answered request; ``None`` if it gets none.

        Args:
            scope: The request.
            outcome: ``ok``, or a code of ``contract.ERROR_CODES``.
            seconds: How long it took.
            error: What the client was told.
        """
        if self.mode == "off" or (self.mode == "errors" and outcome == OK):
            return None
        record: dict[str, Any] = {
            "request_id": scope.request_id,
            "model": self.model,
            "version": self.version,
            "outcome": outcome,
            "duration_ms": round(seconds * 1e3, 1),
            **scope.facts,
        }
        if error is not None:
            record["error"] = error if len(error) <= MAX_TEXT else f"{error[:MAX_TEXT]}..."
        return REQUEST_LOG_MARK + json.dumps(record, separators=(",", ":"))
