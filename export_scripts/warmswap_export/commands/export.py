"""``warmswap export``: write the models of a pack into a model repository."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

HELP: Final = "export a pack's models to ONNX, checked against their references"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("pack", help="name of a pack, for example open")
    parser.add_argument("--out", type=Path, default=Path("model_repository"), help="repository (default: %(default)s)")
    parser.add_argument("--stage", action="append", default=[], help="only this model; may be given several times")
    parser.add_argument("--version", type=int, default=1, help="version directory to write (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite a version that holds something else")
    parser.add_argument(
        "--golden",
        action="store_true",
        help="then record the golden answers of the pipelines in the repository, which their warm-up is held to",
    )
    parser.add_argument("--json", action="store_true", help="print the manifests as JSON")


def run(args: argparse.Namespace) -> int:
    """Export and tell what was measured.

    Raises:
        ExportError: a source cannot be had, a graph misses its reference, or the version is taken.
    """
    from warmswap_export.errors import PackError
    from warmswap_export.export import export_pack
    from warmswap_export.golden import write_golden
    from warmswap_export.packs import load_pack

    if args.version < 1:
        raise PackError(f"--version must be 1 or more, got {args.version}")

    def progress(model: str, step: str) -> None:
        print(f"{model}: {step} ...", file=sys.stderr)

    manifests = export_pack(
        load_pack(args.pack), args.out, args.version, stages=args.stage, force=args.force, progress=progress
    )
    golden = write_golden(args.out) if args.golden else []
    if args.json:
        report = {
            "models": [
                {"model": item.model, "version": item.version, "files": item.files, "parity": item.parity}
                for item in manifests
            ],
            "golden": [str(path) for path in golden],
        }
        print(json.dumps(report))
        return 0
    for item in manifests:
        print(f"{item.model} {item.version}  {item.name}, {item.licence}")
        for check, outputs in item.parity.items():
            for output, figures in outputs.items():
                largest, tolerance = figures["largest_difference"], figures["tolerance"]
                print(f"  {output}: differs from {check} by {largest:.2g}, allowed {tolerance:g}")
    for path in golden:
        print(f"golden answer written to {path}")
    return 0
