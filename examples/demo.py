"""Starts a server, swaps two faces over gRPC and over HTTP, stops the server, and shows what came out."""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path

from PIL import Image, ImageOps

from warmswap_client import FaceSwapClient, SwapResult
from warmswap_ops.launcher import Launcher, LaunchOptions
from warmswap_ops.ports import Ports

HERE = Path(__file__).resolve().parent
COLLINS, HOPPER = HERE / "eileen_collins.png", HERE / "grace_hopper.jpg"
PANEL_SIDE = 600


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for the pictures")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    begin = time.perf_counter()
    any_free = Ports(http=0, grpc=0, metrics=0)
    launcher = Launcher(LaunchOptions(repository=HERE.parent / "model_repository", ports=any_free))
    launcher.start()
    print(f"server ready after {time.perf_counter() - begin:.2f} s, golden swap included", flush=True)
    rows = []
    try:
        for url, source, target, name in (
            (f"grpc://{launcher.grpc_url}", COLLINS, HOPPER, "collins_onto_hopper.jpg"),
            (f"http://{launcher.http_url}", HOPPER, COLLINS, "hopper_onto_collins.png"),
        ):
            with FaceSwapClient(url) as client:
                start = time.perf_counter()
                result = client.swap(source, target)
                elapsed_ms = (time.perf_counter() - start) * 1e3
            result.save(args.output / name)
            print(f"\n{url}: {source.name} -> {target.name} in {elapsed_ms:.0f} ms, written to {args.output / name}")
            print(json.dumps(result.report, indent=2))
            rows.append((source, target, result))
    finally:
        launcher.stop()
    side_by_side = args.output / "side_by_side.png"
    sheet = Image.new("RGB", (3 * PANEL_SIDE, len(rows) * PANEL_SIDE))
    for number, row in enumerate(rows):
        sheet.paste(panel(*row), (0, number * PANEL_SIDE))
    sheet.save(side_by_side)
    print(f"\nsource | target | result: {side_by_side}")
    swapped = [face for _, _, result in rows for face in result.faces if face.swapped]
    better = all((face.similarity_after or 0) > (face.similarity_before or 0) for face in swapped)
    return 0 if len(swapped) == len(rows) and better else 1


def panel(source: Path, target: Path, result: SwapResult) -> Image.Image:
    """Return source, target and result next to each other."""
    row = Image.new("RGB", (3 * PANEL_SIDE, PANEL_SIDE), "white")
    for column, data in enumerate((source.read_bytes(), target.read_bytes(), result.image)):
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        row.paste(ImageOps.pad(picture, (PANEL_SIDE, PANEL_SIDE), color="white"), (column * PANEL_SIDE, 0))
    return row


if __name__ == "__main__":
    sys.exit(main())
