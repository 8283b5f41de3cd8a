"""Errors of the benchmarks."""

from __future__ import annotations


class BenchError(Exception):
    """A benchmark could not be run; the message says why."""

    exit_code = 1
