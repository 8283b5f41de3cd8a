"""A progress bar for terminals."""

from __future__ import annotations

import sys
from typing import Final, TextIO

WIDTH: Final = 30


class Progress:
    """Draws on stderr if that is a terminal, and is silent otherwise."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        """Start at zero."""
        self._stream = sys.stderr if stream is None else stream
        self._total = total
        self._done = 0
        self._visible = self._stream.isatty()
        self._draw()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        self._draw()

    def clear(self) -> None:
        """Make room for other lines."""
        if self._visible:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def _draw(self) -> None:
        if self._visible:
            filled = WIDTH * self._done // max(self._total, 1)
            self._stream.write(f"\r[{'#' * filled}{'.' * (WIDTH - filled)}] {self._done}/{self._total}")
            self._stream.flush()
