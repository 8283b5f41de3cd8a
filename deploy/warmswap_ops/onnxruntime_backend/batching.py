"""Several requests, as few runs as possible; one bad request fails alone. Arrays only: nothing of Triton here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
RunGraph = Callable[[list[str], Arrays], list[NDArray[Any]]]
"""Output names and inputs to outputs, in the order of the names: ``InferenceSession.run``."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request.

    Attributes:
        index: Its place among the requests.
        inputs: Name to array; when batched, the first dimension is the same in all.
        outputs: Names of the outputs that it asks for.
    """

    index: int
    inputs: Arrays
    outputs: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Length of the batch dimension."""
        return int(next(iter(self.inputs.values())).shape[0])


def run_jobs(jobs: Sequence[Job], run: RunGraph, *, batched: bool) -> dict[int, Arrays | Exception]:
    """Run all jobs, those of equal shapes in one run.

    Args:
        jobs: Requests whose tensors were checked against the graph.
        run: Runs the graph.
        batched: Whether the model has a batch dimension; without it every job is a run of its own.

    Returns:
        ``Job.index`` to the outputs, or to what ``run`` raised for that job alone.
    """
    results: dict[int, Arrays | Exception] = {}
    for group in _group(jobs, batched=batched):
        names = list(dict.fromkeys(name for job in group for name in job.outputs))
        try:
            results |= _run_group(group, names, run)
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            if len(group) == 1:
                results[group[0].index] = error
            else:  # one of them is to blame, the others must not suffer
                for job in group:
                    results |= run_jobs([job], run, batched=batched)
    return results


def _group(jobs: Sequence[Job], *, batched: bool) -> list[list[Job]]:
    if not batched:
        return [[job] for job in jobs]
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        key = tuple((name, array.shape[1:]) for name, array in sorted(job.inputs.items(), key=lambda item: item[0]))
        groups.setdefault(key, []).append(job)
    return list(groups.values())


def _run_group(group: Sequence[Job], names: list[str], run: RunGraph) -> dict[int, Arrays]:
    if len(group) == 1:  # the usual case: no copy
        job = group[0]
        return {job.index: dict(zip(names, run(names, job.inputs), strict=True))}
    inputs = {name: np.concatenate([job.inputs[name] for job in group]) for name in group[0].inputs}
    outputs = dict(zip(names, run(names, inputs), strict=True))
    total = sum(job.rows for job in group)
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            raise ValueError(f"output {name} has shape {array.shape}, its first dimension must be the batch: {total}")
    results: dict[int, Arrays] = {}
    start = 0
    for job in group:
        stop = start + job.rows
        results[job.index] = {name: outputs[name][start:stop] for name in job.outputs}
        start = stop
    return results
