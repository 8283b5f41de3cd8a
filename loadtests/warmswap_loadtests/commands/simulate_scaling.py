"""``warmswap simulate-scaling``: what an autoscaler's policy does to those who wait, and what it costs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

HELP: Final = "simulate autoscaling over a trace: who is served cold, who waits how long, what it costs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--trace",
        default="daily",
        metavar="CSV",
        help="time_s,requests_per_s or timestamp,requests_per_s; or daily, flash-crowd, silence-then-burst, "
        "which are shipped (default: %(default)s)",
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="policies in TOML (default: the shipped ones)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this policy; may be repeated")
    parser.add_argument("--show-policies", action="store_true", help="print the shipped policies, and do nothing else")
    parser.add_argument(
        "--scale",
        type=_positive,
        default=1.0,
        metavar="N",
        help="times the requests, cron floors and placeholders (default: %(default)s)",
    )
    parser.add_argument("--step", type=_positive, default=1.0, metavar="S", help="resolution (default: %(default)s s)")
    parser.add_argument("--seed", type=_seed, default=0, help="of the arrivals (default: %(default)s)")
    parser.add_argument(
        "--price-per-replica-hour",
        type=_positive,
        default=0.5,
        metavar="PRICE",
        help="in any currency (default: %(default)s, an example and nobody's quote)",
    )
    parser.add_argument(
        "--measured",
        type=Path,
        metavar="FILE",
        help="results.json of your own `warmswap bench cold` (default: the shipped figures)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write results.json, charts and report.html here")
    parser.add_argument("--redraw", action="store_true", help="simulate nothing: draw what results.json in --out holds")


def run(args: argparse.Namespace) -> int:
    """Simulate, print the figures, write the files."""
    from warmswap_loadtests.scaling import bench
    from warmswap_loadtests.scaling.errors import ScalingInputError
    from warmswap_loadtests.scaling.policy_file import shipped_text
    from warmswap_loadtests.scaling.table import scaling_lines

    if args.show_policies:
        print(shipped_text(), end="")
        return 0
    if args.redraw and not args.out:
        raise ScalingInputError("--redraw needs --out DIR, the folder with results.json")
    options = bench.ScalingOptions(
        trace=args.trace,
        policy=args.policy,
        only=args.only,
        scale=args.scale,
        step_s=args.step,
        seed=args.seed,
        price_per_hour=args.price_per_replica_hour,
        measured=args.measured,
    )
    if args.out and not args.redraw:
        bench.make_folder(args.out)  # now, not when all is simulated
    results = bench.read_results(args.out) if args.redraw else bench.simulate_scaling(options, _progress)
    if args.out:
        for path in bench.write_results(results, args.out):
            _progress(f"wrote {path}")
    print(json.dumps(results) if args.json else "\n".join(scaling_lines(results)))
    return 0


def _progress(step: str) -> None:
    print(f"{step} ...", file=sys.stderr)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return value
