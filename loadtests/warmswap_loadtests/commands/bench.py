"""``warmswap bench``: benchmarks that print what they compare, side by side."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Final

HELP: Final = "measure: overhead (server against a plain loop), start (exec to ready), composite (720p against 4K)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmarks and their options."""
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    overhead = benchmarks.add_parser("overhead", help="the server against a plain loop in one process")
    overhead.add_argument("--rounds", type=_count, default=5, help="turns (default: %(default)s)")
    overhead.add_argument("--requests", type=_count, default=24, help="requests a turn (default: %(default)s)")
    overhead.add_argument("--fresh-sources", action="store_true", help="a new source each time: no cache helps")
    overhead.add_argument("--protocol", choices=("grpc", "http"), default="grpc")
    start = benchmarks.add_parser("start", help="from exec to ready, phase by phase")
    start.add_argument("--runs", type=_count, default=5, help="starts (default: %(default)s)")
    composite = benchmarks.add_parser("composite", help="pasting one face into a small and a large frame")
    composite.add_argument("--repeats", type=_count, default=200, help="pastes per frame (default: %(default)s)")
    for benchmark in (overhead, start, composite):
        benchmark.add_argument("--json", action="store_true", help="print the figures as JSON")
    for benchmark in (overhead, start):
        benchmark.add_argument(
            "--repository", type=Path, default=Path("model_repository"), help="what to serve (default: %(default)s)"
        )


def run(args: argparse.Namespace) -> int:
    """Run one benchmark and print its figures."""

    def progress(step: str) -> None:
        print(f"{step} ...", file=sys.stderr)

    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy comes in: its threads would spin beside the loop's
    if args.benchmark == "overhead":
        from warmswap_loadtests.overhead import OverheadOptions, measure_overhead, overhead_lines

        options = OverheadOptions(args.repository, args.rounds, args.requests, args.fresh_sources, args.protocol)
        figures, lines = measure_overhead(options, progress), overhead_lines
    elif args.benchmark == "start":
        from warmswap_loadtests.start import measure_start, start_lines

        figures, lines = measure_start(args.repository, args.runs, progress), start_lines
    else:
        from warmswap_loadtests.composite import composite_lines, measure_composite

        figures, lines = measure_composite(args.repeats), composite_lines
    print(json.dumps(figures) if args.json else "\n".join(lines(figures)))
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value
