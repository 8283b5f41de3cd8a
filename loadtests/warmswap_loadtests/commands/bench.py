"""``warmswap bench``: benchmarks that print what they compare, side by side."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

HELP: Final = (
    "measure: overhead, start, load, replicas, composite, batching, detect, paste; against what it is compared with"
)

Figures = dict[str, Any]
Lines = Callable[[Figures], list[str]]
Progress = Callable[[str], None]


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
    load = benchmarks.add_parser("load", help="load and first run of each graph, of several repositories in turn")
    load.add_argument("repositories", nargs="+", type=Path, help="such as an exported one and its compiled one")
    load.add_argument("--rounds", type=_count, default=5, help="turns (default: %(default)s)")
    load.add_argument("--runs", type=_count, default=5, help="steady runs after the first (default: %(default)s)")
    replicas = benchmarks.add_parser("replicas", help="memory that a second replica adds, CPU time of a start")
    composite = benchmarks.add_parser("composite", help="pasting one face into a small and a large frame")
    composite.add_argument("--repeats", type=_count, default=200, help="pastes per frame (default: %(default)s)")
    batching = benchmarks.add_parser("batching", help="a batch of faces against the same faces one by one")
    batching.add_argument("--rounds", type=_count, default=5, help="turns (default: %(default)s)")
    batching.add_argument("--embedder-batch", type=_count, default=8, help="faces (default: %(default)s)")
    batching.add_argument("--swapper-batch", type=_count, default=4, help="faces (default: %(default)s)")
    detect = benchmarks.add_parser(
        "detect", help="boxes from the server against raw heads and insightface's own decode"
    )
    detect.add_argument(
        "--published", type=Path, required=True, help="the det_10g.onnx that face_detector is made from"
    )
    detect.add_argument("--rounds", type=_count, default=5, help="turns (default: %(default)s)")
    detect.add_argument("--requests", type=_count, default=20, help="requests a client and turn (default: %(default)s)")
    paste = benchmarks.add_parser("paste", help="pasting faces back against insightface, 720p to 4K")
    paste.add_argument("--rounds", type=_count, default=7, help="turns (default: %(default)s)")
    paste.add_argument("--examples", type=Path, default=Path("examples"), help="demo pictures (default: %(default)s)")
    paste.add_argument("--opencv-threads", type=_count, help="for both sides (default: one per core)")
    paste.add_argument("--out", type=Path, metavar="DIR", help="write the pictures of both sides here")
    for benchmark in (overhead, start, load, replicas, composite, batching, detect, paste):
        benchmark.add_argument("--json", action="store_true", help="print the figures as JSON")
    for benchmark in (overhead, start, replicas, batching, detect):
        benchmark.add_argument(
            "--repository", type=Path, default=Path("model_repository"), help="what to serve (default: %(default)s)"
        )


def run(args: argparse.Namespace) -> int:
    """Run one benchmark and print its figures."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy comes in: its threads would spin beside the loop's
    figures, lines = _BENCHMARKS[args.benchmark](args, _progress)
    print(json.dumps(figures) if args.json else "\n".join(lines(figures)))
    return 0


def _overhead(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.overhead import OverheadOptions, measure_overhead, overhead_lines

    options = OverheadOptions(args.repository, args.rounds, args.requests, args.fresh_sources, args.protocol)
    return measure_overhead(options, progress), overhead_lines


def _start(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.start import measure_start, start_lines

    return measure_start(args.repository, args.runs, progress), start_lines


def _load(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.graph_load import graph_load_lines, measure_graph_load

    return measure_graph_load(args.repositories, args.rounds, args.runs, progress), graph_load_lines


def _replicas(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.replicas import measure_replicas, replicas_lines

    return measure_replicas(args.repository, progress), replicas_lines


def _composite(args: argparse.Namespace, _: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.composite import composite_lines, measure_composite

    return measure_composite(args.repeats), composite_lines


def _batching(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.batching import BatchingOptions, batching_lines, measure_batching

    batches = {"face_embedder": args.embedder_batch, "face_swapper": args.swapper_batch}
    return measure_batching(BatchingOptions(args.repository, args.rounds, batches), progress), batching_lines


def _detect(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.detect import DetectOptions, detect_lines, measure_detect

    options = DetectOptions(args.repository, args.published, args.rounds, args.requests)
    return measure_detect(options, progress), detect_lines


def _paste(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.paste import PasteOptions, measure_paste, paste_lines

    options = PasteOptions(args.examples, args.rounds, args.out, args.opencv_threads or 0)
    return measure_paste(options, progress), paste_lines


_BENCHMARKS: Final[dict[str, Callable[[argparse.Namespace, Progress], tuple[Figures, Lines]]]] = {
    "overhead": _overhead,
    "start": _start,
    "load": _load,
    "replicas": _replicas,
    "composite": _composite,
    "batching": _batching,
    "detect": _detect,
    "paste": _paste,
}


def _progress(step: str) -> None:
    print(f"{step} ...", file=sys.stderr)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value
