"""Starts a server, swaps two faces over gRPC and over HTTP, stops the server, and shows what came out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from warmswap_client import FaceSwapClient, SwapResult
from warmswap_ops.launcher import Launcher, LaunchOptions
from warmswap_ops.ports import Ports

HERE = Path(__file__).resolve().parent
COLLINS, HOPPER = HERE / "eileen_collins.png", HERE / "grace_hopper.jpg"
PANEL_HEIGHT = 600


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
    cv2.imwrite(str(side_by_side), np.vstack([panel(*row) for row in rows]))
    print(f"\nsource | target | result: {side_by_side}")
    swapped = [face for _, _, result in rows for face in result.faces if face.swapped]
    better = all((face.similarity_after or 0) > (face.similarity_before or 0) for face in swapped)
    return 0 if len(swapped) == len(rows) and better else 1


def panel(source: Path, target: Path, result: SwapResult) -> np.ndarray:
    """Return source, target and result next to each other, as BGR."""
    encoded = (source.read_bytes(), target.read_bytes(), result.image)
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in encoded]
    width = PANEL_HEIGHT
    return np.hstack([cv2.resize(fit(picture), (width, PANEL_HEIGHT), interpolation=cv2.INTER_AREA) for picture in pictures])


def fit(picture: np.ndarray) -> np.ndarray:
    """Pad a picture to a square."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(
        picture, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )


if __name__ == "__main__":
    sys.exit(main())
