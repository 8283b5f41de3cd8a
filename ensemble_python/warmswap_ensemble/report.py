"""The JSON report of a swap."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from warmswap_ensemble.types import Stage, SwapResult


def swap_report(
    result: SwapResult, versions: Mapping[str, str], twins: Sequence[str] = (), request_id: str | None = None
) -> dict[str, Any]:
    """Return what ``face_swap`` answers in ``report``.

    Args:
        result: What was done.
        versions: Model name to version, the pipeline's own included.
        twins: What ``twin_names`` gives; where there are none, the report does not speak of them.
        request_id: Under which the request stands in the log; ``None`` = it has none.
    """
    source = result.source
    report: dict[str, Any] = {
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
    if request_id is not None:
        report["request_id"] = request_id
    return {**report, "twins": list(twins)} if twins else report


def model_versions(pipeline: str, version: str, stages: Mapping[str, Stage]) -> dict[str, str]:
    """Return the versions that answer, by model."""
    return {**{stage.model: str(stage.version) for stage in stages.values()}, pipeline: version}


def twin_names(stages: Mapping[str, Stage]) -> list[str]:
    """Return model and version of each stage whose weights are random numbers."""
    return [f"{stage.model} {stage.version}" for stage in stages.values() if stage.twin]


def encode_report(report: Mapping[str, Any]) -> bytes:
    """Return the report as UTF-8 JSON."""
    return json.dumps(report, separators=(",", ":")).encode()
