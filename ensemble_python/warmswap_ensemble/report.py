"""The JSON report of a swap."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from warmswap_ensemble.types import Stage, SwapResult


def swap_report(result: SwapResult, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return what ``face_swap`` answers in ``report``.

    Args:
        result: What was done.
        versions: Model name to version, the pipeline's own included.
    """
    source = result.source
    return {
        "faces": [face.as_json() for face in result.faces],
        "source": None
        if source is None
        else {
            "bbox": [round(float(value), 2) for value in source.bbox],
            "score": round(source.score, 4),
            "cached": result.source_cached,
        },
        "image": result.image_info,
        "timings_ms": result.timings_ms,
        "models": dict(versions),
    }


def model_versions(pipeline: str, version: str, stages: Mapping[str, Stage]) -> dict[str, str]:
    """Return the versions that answer, by model."""
    return {**{name: str(stage.version) for name, stage in stages.items()}, pipeline: version}


def encode_report(report: Mapping[str, Any]) -> bytes:
    """Return the report as UTF-8 JSON."""
    return json.dumps(report, separators=(",", ":")).encode()
