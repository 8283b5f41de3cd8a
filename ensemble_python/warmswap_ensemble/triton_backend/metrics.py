"""The metrics of a pipeline as Triton's. A family must live as long as its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import triton_python_backend_utils as pb_utils

from warmswap_ensemble.contract import ERROR_CODES
from warmswap_ensemble.request_metrics import ERRORS, FAMILIES

_CACHE_KINDS: Final = {"hits": "found", "misses": "not found"}


def make_request_metrics(
    labels: Mapping[str, str], instance: str
) -> tuple[dict[str, pb_utils.Metric], list[pb_utils.MetricFamily]]:
    """Make the metrics of requests, by the name of their family."""
    metrics: dict[str, pb_utils.Metric] = {}
    families: list[pb_utils.MetricFamily] = []
    for name, spec in FAMILIES.items():
        kind = pb_utils.MetricFamily.COUNTER if spec.is_counter else pb_utils.MetricFamily.GAUGE
        families.append(pb_utils.MetricFamily(name=name, description=spec.description, kind=kind))
        metrics[name] = families[-1].Metric({**labels, **({"model_instance": instance} if spec.per_instance else {})})
    return metrics, families


def make_error_metrics(labels: Mapping[str, str]) -> tuple[dict[str, pb_utils.Metric], pb_utils.MetricFamily]:
    """Make a counter for each code, at zero: Prometheus does not see the first of a series that begins at one."""
    family = pb_utils.MetricFamily(
        name=ERRORS,
        description="Requests that the pipeline answered with an error, by its code",
        kind=pb_utils.MetricFamily.COUNTER,
    )
    return {code: family.Metric({**labels, "code": code}) for code in ERROR_CODES}, family


def make_cache_metrics(
    labels: Mapping[str, str],
) -> tuple[dict[str, pb_utils.Metric], dict[str, pb_utils.MetricFamily]]:
    """Make the counters of the source cache, ``hits`` and ``misses``."""
    families = {
        kind: pb_utils.MetricFamily(
            name=f"warmswap_source_cache_{kind}_total",
            description=f"Source pictures that were {meaning} in the cache of the pipeline",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        for kind, meaning in _CACHE_KINDS.items()
    }
    return {kind: family.Metric(labels=dict(labels)) for kind, family in families.items()}, families
