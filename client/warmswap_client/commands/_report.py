"""Results as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from warmswap_client.errors import WarmswapError
from warmswap_client.results import SourceFace, SwapResult


def swap_to_json(result: SwapResult, output: Path) -> dict[str, Any]:
    """Build the JSON object for one written picture."""
    report = {
        "output": str(output),
        "request_id": result.request_id,
        "faces": [
            {
                "bbox": list(face.bbox),
                "score": face.score,
                "swapped": face.swapped,
                "similarity_before": face.similarity_before,
                "similarity_after": face.similarity_after,
            }
            for face in result.faces
        ],
        "timings_ms": dict(result.timings_ms),
        "models": dict(result.models),
        "source": None if result.source is None else _source_to_json(result.source),
        "image": {"format": result.image_format, "width": result.size_wh[0], "height": result.size_wh[1]},
    }
    return {**report, "twins": list(result.twins)} if result.twins else report


def _source_to_json(source: SourceFace) -> dict[str, Any]:
    return {"bbox": list(source.bbox), "score": source.score, "cached": source.cached}


def error_to_json(error: WarmswapError) -> dict[str, Any]:
    """Build the JSON object for a failure."""
    report = {"type": type(error).__name__, "code": error.code, "message": " ".join(str(error).split())}
    return report if error.request_id is None else {**report, "request_id": error.request_id}


def twin_warning(twins: Iterable[str]) -> str:
    """Say what a picture is worth that was made with random weights."""
    return f"warning: {', '.join(twins)}: twins with random weights on the server; the picture means nothing"


def swap_to_text(result: SwapResult, output: Path) -> str:
    """Describe one written picture: a line, and a table of its faces."""
    swapped = sum(face.swapped for face in result.faces)
    total_ms = result.timings_ms.get("total", sum(result.timings_ms.values()))  # older servers give the steps alone
    lines = [f"{output}: {swapped} of {len(result.faces)} faces swapped, {total_ms:.0f} ms on the server"]
    if result.faces:
        rows: list[tuple[str, ...]] = [("face", "x1", "y1", "x2", "y2", "score", "swapped", "similarity")]
        for index, face in enumerate(result.faces):
            similarity = f"{_number(face.similarity_before)} -> {_number(face.similarity_after)}"
            corners = (f"{value:.0f}" for value in face.bbox)
            rows.append((str(index), *corners, f"{face.score:.2f}", "yes" if face.swapped else "no", similarity))
        lines += table(rows)
    return "\n".join(lines)


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Align columns; the first row is the heading."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
