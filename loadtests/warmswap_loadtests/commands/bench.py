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
    "measure: cold, soak, avalanche, overhead, start, load, replicas, composite, batching, detect, detector, "
    "on-demand, paste, kubelet, rollouts; each against what it is compared with"
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
    detector = benchmarks.add_parser("detector", help="small frames first against full frames, over a folder of photos")
    detector.add_argument("--photos", type=Path, default=Path("examples"), help="folder (default: %(default)s)")
    detector.add_argument("--rounds", type=_count, default=5, help="turns at each photo (default: %(default)s)")
    paste = benchmarks.add_parser("paste", help="pasting faces back against insightface, 720p to 4K")
    paste.add_argument("--rounds", type=_count, default=7, help="turns (default: %(default)s)")
    paste.add_argument("--examples", type=Path, default=Path("examples"), help="demo pictures (default: %(default)s)")
    paste.add_argument("--opencv-threads", type=_count, help="for both sides (default: one per core)")
    paste.add_argument("--out", type=Path, metavar="DIR", help="write the pictures of both sides here")
    cold = benchmarks.add_parser("cold", help="fresh replicas under load from exec on: naive, preloading, Triton, ours")
    _add_cold_arguments(cold)
    soak = benchmarks.add_parser("soak", help="a warm server at half load: spread of latencies, slope of memory")
    soak.add_argument("--minutes", type=_positive, default=5.0, help="of load (default: %(default)s)")
    soak.add_argument("--rate", type=_positive, help="arrivals a second (default: half of what the server can do)")
    soak.add_argument("--contender", default="warmswap", metavar="NAME", help="see bench cold (default: %(default)s)")
    avalanche = benchmarks.add_parser("avalanche", help="new replicas under load behind Envoy: naive, ours")
    _add_avalanche_arguments(avalanche)
    kubelet = benchmarks.add_parser("kubelet", help="rollouts, drains and deaths of real pods under load, no cluster")
    _add_kubelet_arguments(kubelet)
    rollouts = benchmarks.add_parser("rollouts", help="good and bad candidates rolled out under load, one by one")
    _add_rollouts_arguments(rollouts)
    on_demand = benchmarks.add_parser("on-demand", help="other requests while a model is loaded on demand")
    on_demand.add_argument("--cycles", type=_count, default=20, help="loads and unloads (default: %(default)s)")
    on_demand.add_argument("--swapper", default="512", help="variant to load (default: %(default)s)")
    on_demand.add_argument("--rate", type=float, default=0.0, help="steady requests a second (default: closed loop)")
    on_demand.add_argument("--foreground", action="store_true", help="loads take their share of the cores")
    for benchmark in (
        cold,
        avalanche,
        kubelet,
        rollouts,
        soak,
        overhead,
        start,
        load,
        replicas,
        composite,
        batching,
        detect,
        detector,
        paste,
        on_demand,
    ):
        benchmark.add_argument("--json", action="store_true", help="print the figures as JSON")
    for benchmark in (rollouts, soak, overhead, start, replicas, batching, detect, detector, on_demand):
        benchmark.add_argument(
            "--repository", type=Path, default=Path("model_repository"), help="what to serve (default: %(default)s)"
        )


def _add_cold_arguments(cold: argparse.ArgumentParser) -> None:
    cold.add_argument("--pack", choices=("open", "twin"), default="open", help="what is served (default: %(default)s)")
    cold.add_argument("--repository", type=Path, help="model repository (default: that of the pack)")
    cold.add_argument("--runs", type=_count, default=3, help="starts of each contender (default: %(default)s)")
    cold.add_argument(
        "--seconds", type=_positive, default=30.0, help="of arrivals, from exec on (default: %(default)s)"
    )
    cold.add_argument("--rate", type=_positive, help="arrivals a second (default: half of what a warm server can do)")
    cold.add_argument(
        "--probe-period", type=_positive, default=100.0, metavar="MS", help="of readiness (default: %(default)s ms)"
    )
    cold.add_argument(
        "--page-cache", choices=("warm", "dropped", "both"), default="warm", help="at each start (default: %(default)s)"
    )
    cold.add_argument("--contender", action="append", metavar="NAME", help="only this one; may be repeated")
    cold.add_argument("--out", type=Path, metavar="DIR", help="write results.json, report.html and charts here")
    cold.add_argument("--redraw", action="store_true", help="measure nothing: draw what results.json in --out holds")


def _add_avalanche_arguments(avalanche: argparse.ArgumentParser) -> None:
    avalanche.add_argument(
        "--pack", choices=("open", "twin"), default="open", help="what is served (default: %(default)s)"
    )
    avalanche.add_argument("--repository", type=Path, help="model repository (default: that of the pack)")
    avalanche.add_argument(
        "--seconds", type=_positive, default=60.0, help="of arrivals, for each set-up (default: %(default)s)"
    )
    avalanche.add_argument(
        "--rate", type=_positive, help="arrivals a second in the spike (default: half of what one replica can do)"
    )
    avalanche.add_argument("--out", type=Path, metavar="DIR", help="write avalanche.json, .png and .html here")
    avalanche.add_argument("--redraw", action="store_true", help="measure nothing: draw what avalanche.json holds")


def _add_kubelet_arguments(kubelet: argparse.ArgumentParser) -> None:
    kubelet.add_argument("--scenario", action="append", metavar="NAME", help="only this one; may be repeated")
    kubelet.add_argument(
        "--protocol", choices=("http", "grpc", "both"), default="both", help="of the requests (default: %(default)s)"
    )
    kubelet.add_argument(
        "--manifest",
        type=Path,
        default=Path("deploy/kubernetes/rendered/cpu/manifests.yaml"),
        help="rendered manifest with the Deployment (default: %(default)s)",
    )
    kubelet.add_argument("--repository", type=Path, help="model repository (default: that of the open pack)")
    kubelet.add_argument(
        "--rate", type=_positive, help="requests a second (default: a quarter of what two pods can do)"
    )
    kubelet.add_argument(
        "--endpoint-lag",
        type=_positive,
        default=1.5,
        metavar="S",
        help="until the load balancer knows of a change (default: %(default)s)",
    )
    kubelet.add_argument("--out", type=Path, metavar="DIR", help="write kubelet.json, .html and charts here")
    kubelet.add_argument("--redraw", action="store_true", help="measure nothing: draw what kubelet.json in --out holds")


def _add_rollouts_arguments(rollouts: argparse.ArgumentParser) -> None:
    rollouts.add_argument("--count", type=_count, default=50, help="rollouts of the series (default: %(default)s)")
    rollouts.add_argument("--rate", type=_positive, help="requests a second (default: half of what the server can do)")
    rollouts.add_argument(
        "--baseline", type=_positive, default=30.0, metavar="S", help="each stretch without one (default: %(default)s)"
    )
    rollouts.add_argument(
        "--shadow-turns", type=_count, default=6, help="stretches with and without second looks (default: %(default)s)"
    )
    rollouts.add_argument("--ways-back", type=_count, default=5, help="timed rollbacks (default: %(default)s)")
    rollouts.add_argument("--out", type=Path, metavar="DIR", help="write rollouts.json, .md and charts here")
    rollouts.add_argument("--redraw", action="store_true", help="measure nothing: draw what --out holds")


def run(args: argparse.Namespace) -> int:
    """Run one benchmark and print its figures; 1 = they show what must not be."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy comes in: its threads would spin beside the loop's
    figures, lines = _BENCHMARKS[args.benchmark](args, _progress)
    print(json.dumps(figures) if args.json else "\n".join(lines(figures)))
    return 1 if figures.get("wrong") else 0


def _cold(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.cold.bench import ColdOptions, measure_cold, read_results, write_results
    from warmswap_loadtests.cold.table import cold_lines
    from warmswap_loadtests.errors import BenchError

    options = ColdOptions(
        pack=args.pack,
        repository=args.repository,
        runs=args.runs,
        seconds=args.seconds,
        rate_per_s=args.rate,
        probe_period_s=args.probe_period / 1e3,
        page_cache=args.page_cache,
        contenders=args.contender,
    )
    if args.redraw and not args.out:
        raise BenchError("--redraw needs --out DIR, the folder with results.json")
    results = read_results(args.out) if args.redraw else measure_cold(options, progress)
    if args.out:
        for path in write_results(results, args.out):
            progress(f"wrote {path}")
    return results, cold_lines


def _soak(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.soak import SoakOptions, measure_soak, soak_lines

    return measure_soak(SoakOptions(args.repository, args.minutes, args.rate, args.contender), progress), soak_lines


def _avalanche(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.avalanche import bench as avalanche
    from warmswap_loadtests.avalanche.table import avalanche_lines

    options = avalanche.AvalancheOptions(args.pack, args.repository, args.seconds, args.rate)
    if args.out and not args.redraw:
        avalanche.make_folder(args.out)  # now, not when all is measured
    results = avalanche.read_results(args.out) if args.redraw else avalanche.measure_avalanche(options, progress)
    if args.out:
        for path in avalanche.write_results(results, args.out):
            progress(f"wrote {path}")
    return results, avalanche_lines


def _kubelet(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.avalanche.bench import make_folder
    from warmswap_loadtests.errors import BenchError
    from warmswap_loadtests.kubelet import bench as kubelet
    from warmswap_loadtests.kubelet.cluster import Delays
    from warmswap_loadtests.kubelet.table import kubelet_lines

    options = kubelet.KubeletOptions(
        args.manifest, args.repository, args.scenario, args.protocol, args.rate, Delays(args.endpoint_lag)
    )
    if args.redraw and not args.out:
        raise BenchError("--redraw needs --out DIR, the folder with kubelet.json")
    if args.out and not args.redraw:
        make_folder(args.out)  # now, not when all is measured
    results = kubelet.read_results(args.out) if args.redraw else kubelet.measure_kubelet(options, progress)
    if args.out:
        for path in kubelet.write_results(results, args.out):
            progress(f"wrote {path}")
    return results, kubelet_lines


def _rollouts(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.avalanche.bench import make_folder
    from warmswap_loadtests.errors import BenchError
    from warmswap_loadtests.rollouts import bench as rollouts
    from warmswap_loadtests.rollouts.report import rollout_lines, write_results

    if args.redraw and not args.out:
        raise BenchError("--redraw needs --out DIR, the folder with rollouts.json")
    if args.out and not args.redraw:
        make_folder(args.out)  # now, not when all is measured
    options = rollouts.RolloutOptions(
        args.repository, args.count, args.rate, args.baseline, args.shadow_turns, args.ways_back
    )
    results = rollouts.read_results(args.out) if args.redraw else rollouts.measure_rollouts(options, progress)
    if args.out:
        for path in write_results(results, args.out):
            progress(f"wrote {path}")
    return results, rollout_lines


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


def _detector(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.detector import DetectorOptions, detector_lines, measure_detector

    return measure_detector(DetectorOptions(args.repository, args.photos, args.rounds), progress), detector_lines


def _paste(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.paste import PasteOptions, measure_paste, paste_lines

    options = PasteOptions(args.examples, args.rounds, args.out, args.opencv_threads or 0)
    return measure_paste(options, progress), paste_lines


def _on_demand(args: argparse.Namespace, progress: Progress) -> tuple[Figures, Lines]:
    from warmswap_loadtests.on_demand import OnDemandOptions, measure_on_demand, on_demand_lines

    options = OnDemandOptions(args.repository, args.swapper, args.cycles, args.rate, args.foreground)
    return measure_on_demand(options, progress), on_demand_lines


_BENCHMARKS: Final[dict[str, Callable[[argparse.Namespace, Progress], tuple[Figures, Lines]]]] = {
    "cold": _cold,
    "soak": _soak,
    "avalanche": _avalanche,
    "kubelet": _kubelet,
    "rollouts": _rollouts,
    "overhead": _overhead,
    "start": _start,
    "load": _load,
    "replicas": _replicas,
    "composite": _composite,
    "batching": _batching,
    "detect": _detect,
    "detector": _detector,
    "paste": _paste,
    "on-demand": _on_demand,
}


def _progress(step: str) -> None:
    print(f"{step} ...", file=sys.stderr)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value
