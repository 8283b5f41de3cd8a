"""A trace: how many requests arrive a second, over time.

A CSV file with the header ``time_s,requests_per_s`` or ``timestamp,requests_per_s``. Times are seconds, or ISO 8601
with the offset to UTC (``2026-11-23T08:00:00+00:00``), and go up. Between two rows the rate goes straight from one
to the other; the last row is the end. Lines that are empty or begin with ``#`` are skipped.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from warmswap_loadtests.scaling.errors import TraceError

TIME: Final = "time_s"
TIMESTAMP: Final = "timestamp"
RATE: Final = "requests_per_s"
DEFAULT_BEGIN: Final = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday, midnight: when traces in plain seconds begin."""
MOST_STEPS: Final = 5_000_000
MOST_ARRIVALS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace.

    Attributes:
        name: How it is called.
        begin: Moment of time 0, with a time zone.
        times_s: (N,) float64, ascending from 0.
        rates: (N,) float64, requests a second.
    """

    name: str
    begin: datetime
    times_s: NDArray[np.float64]
    rates: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """Length."""
        return float(self.times_s[-1])

    def scaled(self, factor: float) -> Trace:
        """Return the same trace with so many times the requests."""
        return replace(self, rates=self.rates * factor)

    def arrivals(self, step_s: float, seed: int) -> NDArray[np.int64]:
        """Return how many requests arrive in each step: Poisson, the same for the same seed.

        Raises:
            TraceError: there would be too many steps, or too many requests in one.
        """
        steps = math.ceil(self.seconds / step_s - 1e-9)
        if steps > MOST_STEPS:
            raise TraceError(f"{self.seconds:g} s in steps of {step_s:g} s are {steps} steps, more than {MOST_STEPS}")
        most = float(self.rates.max()) * step_s
        if most > MOST_ARRIVALS:
            raise TraceError(
                f"{most:g} requests in a step of {step_s:g} s are more than {MOST_ARRIVALS:g}: scale it down"
            )
        return np.random.default_rng(seed).poisson(self.mean_rates(step_s) * step_s).astype(np.int64)

    def mean_rates(self, step_s: float) -> NDArray[np.float64]:
        """Return the rate in the middle of each step, requests a second."""
        steps = math.ceil(self.seconds / step_s - 1e-9)
        return np.interp((np.arange(steps) + 0.5) * step_s, self.times_s, self.rates)


def read_trace(path: Path) -> Trace:
    """Return the trace of a file.

    Raises:
        TraceError: it cannot be read, or a line is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the trace {path}: {error}") from error
    return parse_trace(text.splitlines(), path.stem, str(path))


def parse_trace(lines: Iterable[str], name: str, where: str) -> Trace:
    """Return the trace of some lines.

    Raises:
        TraceError: a line is wrong; the message has its number.
    """
    rows = _rows(lines, where)
    number, header = next(rows, (1, []))
    columns = [field.strip() for field in header]
    if columns not in ([TIME, RATE], [TIMESTAMP, RATE]):
        found = ",".join(columns) or "nothing"
        raise TraceError(f"{where}, line {number}: the header must be {TIME},{RATE} or {TIMESTAMP},{RATE}, not {found}")
    times: list[float] = []
    rates: list[float] = []
    for number, fields in rows:
        if len(fields) != 2:
            raise TraceError(f"{where}, line {number}: two fields are needed, there are {len(fields)}")
        time_s = _time_s(fields[0], columns[0], f"{where}, line {number}")
        rate = _number(fields[1], RATE, f"{where}, line {number}")
        if rate < 0:
            raise TraceError(f"{where}, line {number}: {RATE} must be 0 or more, got {fields[1].strip()}")
        if times and time_s <= times[-1]:
            raise TraceError(f"{where}, line {number}: times must go up, {fields[0].strip()} does not")
        times.append(time_s)
        rates.append(rate)
    if len(times) < 2:
        raise TraceError(f"{where}: a trace needs at least two rows, its begin and its end; there are {len(times)}")
    begin = datetime.fromtimestamp(times[0], UTC) if columns[0] == TIMESTAMP else DEFAULT_BEGIN
    return Trace(name, begin, np.asarray(times) - times[0], np.asarray(rates))


def _rows(lines: Iterable[str], where: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                yield number, next(csv.reader([line], strict=True))
            except csv.Error as error:
                raise TraceError(f"{where}, line {number}: no CSV: {error}") from error


def _time_s(text: str, column: str, where: str) -> float:
    if column == TIME:
        return _number(text, TIME, where)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise TraceError(f"{where}: {text.strip()!r} is no ISO 8601 time, such as 2026-11-23T08:00:00+00:00") from error
    if moment.tzinfo is None:
        raise TraceError(f"{where}: {text.strip()} has no offset to UTC: write {text.strip()}+00:00 or another one")
    return moment.timestamp()


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise TraceError(f"{where}: {column} must be a number, got {text.strip()!r}") from error
    if not math.isfinite(value):
        raise TraceError(f"{where}: {column} must be finite, got {text.strip()}")
    return value
