"""``warmswap export``: write the models of a pack into a model repository."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from warmswap_ensemble.manifest import Manifest

HELP: Final = "export a pack's models to ONNX, checked against their references"
SEEDS: Final = 2**63
EPILOG: Final = """\
PACK is the name of a pack (warmswap export --list), a path of a .toml file, or several joined with +:
  warmswap export buffalo_l+inswapper_128 --weights ~/.insightface/models --out my_repository
What a new repository lacks to be served is copied from the one of the checkout."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("pack", nargs="?", metavar="PACK", help="what to export, for example open")
    parser.add_argument("--list", action="store_true", help="list the packs that ship with warmswap")
    parser.add_argument("--out", type=Path, default=Path("model_repository"), help="repository (default: %(default)s)")
    parser.add_argument("--stage", action="append", default=[], help="only this model; may be given several times")
    parser.add_argument("--version", type=int, default=1, help="version directory to write (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="(default: %(default)s)")
    add_weight_arguments(parser)
    parser.add_argument(
        "--random-weights",
        type=int,
        metavar="SEED",
        help="no weights at hand: make twins, models of the same size and cost whose pictures mean nothing",
    )
    parser.add_argument(
        "--keep-twin-files", type=Path, metavar="DIR", help="keep the published form of the twins in this folder"
    )
    parser.add_argument("--force", action="store_true", help="overwrite a version that holds something else")
    parser.add_argument(
        "--golden",
        action="store_true",
        help="then record the golden answers of the pipelines in the repository, which their warm-up is held to",
    )
    parser.add_argument("--json", action="store_true", help="print the manifests as JSON")


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where the files that users bring come from."""
    parser.add_argument(
        "--weights",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder with model files, their zip archives or FaceFusion's assets; may be given several times "
        "(default: ~/.insightface/models)",
    )
    parser.add_argument(
        "--accept-unpinned", action="store_true", help="take files whose sha256 is not the one that the pack knows"
    )


def run(args: argparse.Namespace) -> int:
    """Export and tell what was measured.

    Raises:
        ExportError: a source cannot be had, a graph misses its reference, or the version is taken.
    """
    from warmswap_export.errors import PackError
    from warmswap_export.packs import load_pack, pack_names

    if args.list:
        packs = [load_pack(name) for name in pack_names()]
        _print_packs(packs, as_json=args.json)
        return 0
    if args.pack is None:
        raise PackError("name a pack; warmswap export --list shows them")
    if args.version < 1:
        raise PackError(f"--version must be 1 or more, got {args.version}")
    pack = load_pack(args.pack)
    for stage in args.stage:
        pack.stage(stage)
    _check_twin_options(args)

    from warmswap_export.export import export_pack
    from warmswap_export.golden import write_golden
    from warmswap_export.scaffold import complete_repository
    from warmswap_export.sources import WeightOptions

    manifests = export_pack(
        pack,
        args.out,
        args.version,
        stages=args.stage,
        force=args.force,
        precision=args.precision,
        weights=WeightOptions(tuple(args.weights), args.accept_unpinned, args.random_weights, args.keep_twin_files),
        progress=show_progress,
    )
    copied = complete_repository(args.out, [item.model for item in manifests])
    golden = write_golden(args.out) if args.golden else []
    if args.json:
        print(json.dumps(_as_json(manifests, copied, golden)))
        return 0
    for item in manifests:
        _print_manifest(item)
    for sentence in copied:
        print(sentence)
    for path in golden:
        print(f"golden answer written to {path}")
    return 0


def show_progress(model: str, step: str) -> None:
    """Tell on stderr what is being done."""
    print(f"{model}: {step} ...", file=sys.stderr)


def _check_twin_options(args: argparse.Namespace) -> None:
    from warmswap_export.errors import PackError

    if args.random_weights is None:
        if args.keep_twin_files is not None:
            raise PackError("--keep-twin-files is only used with --random-weights")
        return
    if args.weights:
        raise PackError("--random-weights makes the weights; --weights names real ones: give one of them")
    if not 0 <= args.random_weights < SEEDS:
        raise PackError(f"--random-weights must be 0 to {SEEDS - 1}, got {args.random_weights}")
    folder = args.keep_twin_files
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "has files" if folder.is_dir() else "is a file"
        raise PackError(f"--keep-twin-files must name a new or empty folder, {folder} {found}")


def _as_json(manifests: Sequence[Manifest], copied: Sequence[str], golden: Sequence[Path]) -> dict[str, Any]:
    return {
        "models": [
            {
                "model": item.model,
                "version": item.version,
                "name": item.name,
                "pack": item.pack,
                "licence": item.licence,
                "precision": item.precision,
                "twin_seed": item.twin_seed,
                "files": item.files,
                "parity": item.parity,
            }
            for item in manifests
        ],
        "copied": list(copied),
        "golden": [str(path) for path in golden],
    }


def _print_manifest(item: Manifest) -> None:
    twin = (
        "" if item.twin_seed is None else f", TWIN of random weights (seed {item.twin_seed}): its answers mean nothing"
    )
    print(f"{item.model} {item.version}  {item.name}, {item.precision}, {item.licence}{twin}")
    for check, outputs in item.parity.items():
        for output, figures in outputs.items():
            largest, tolerance = figures["largest_difference"], figures["tolerance"]
            print(f"  {output}: differs from {check} by {largest:.2g}, allowed {tolerance:g}")


def _print_packs(packs: Sequence[Any], *, as_json: bool) -> None:
    rows = [
        {
            "pack": pack.name,
            "model": stage.model,
            "name": stage.name,
            "licence": stage.licence,
            "commercial_use": "unknown" if stage.commercial_use is None else stage.commercial_use,
            "files": [form.file for forms in stage.weights.values() for form in forms],
        }
        for pack in packs
        for stage in pack.stages
    ]
    if as_json:
        print(json.dumps({"packs": rows}))
        return
    for row in rows:
        use = {True: "commercial use allowed", False: "no commercial use"}.get(row["commercial_use"], "use unclear")
        needs = f"; needs {' or '.join(row['files'])}" if row["files"] else ""
        print(f"{row['pack']:<24} {row['model']:<16} {row['name']}, {row['licence']} ({use}){needs}")
