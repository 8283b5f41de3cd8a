"""``warmswap analyze``: find the faces of a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from warmswap_client.client import FaceSwapClient
from warmswap_client.commands._arguments import add_option_arguments, add_server_arguments, given_options, given_tls
from warmswap_client.commands._report import table
from warmswap_client.results import DetectedFace
from warmswap_ensemble.contract import ANALYZE_OPTIONS, KPS_ORDER

HELP: Final = "find the faces of a picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("image", type=Path, help="JPEG, PNG or WebP file")
    parser.add_argument("--embedding", action="store_true", help="include the embeddings; needs --json")
    add_server_arguments(parser)
    add_option_arguments(parser, ANALYZE_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Analyse and print."""
    with FaceSwapClient(args.url, tls=given_tls(args), timeout_s=args.timeout) as client:
        result = client.analyze(args.image, **given_options(args, ANALYZE_OPTIONS))
    if args.json:
        faces = [_face_to_json(face, args.embedding) for face in result.faces]
        print(json.dumps({"request_id": result.request_id, "faces": faces}))
        return 0
    print(f"{args.image}: {len(result.faces)} faces")
    if result.faces:
        rows = [("face", "x1", "y1", "x2", "y2", "score")]
        for index, face in enumerate(result.faces):
            x1, y1, x2, y2 = (f"{value:.0f}" for value in face.bbox)
            rows.append((str(index), x1, y1, x2, y2, f"{face.score:.2f}"))
        print("\n".join(table(rows)))
    return 0


def _face_to_json(face: DetectedFace, with_embedding: bool) -> dict[str, Any]:
    kps = dict(zip(KPS_ORDER, face.kps.tolist(), strict=True))
    record: dict[str, Any] = {"bbox": list(face.bbox), "score": face.score, "kps": kps}
    if with_embedding:
        record["embedding"] = face.embedding.tolist()
    return record
