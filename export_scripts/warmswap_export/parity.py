"""Holds an exported graph to its references: same outputs, finite, within the stated tolerance, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime

from warmswap_ensemble.contract import ModelSpec
from warmswap_export.built import Arrays, BuiltStage, Reference
from warmswap_export.errors import ParityError

TRITON_DATATYPES: Final = {"tensor(uint8)": "UINT8", "tensor(float)": "FP32", "tensor(int32)": "INT32"}
BATCH_CHECK: Final = "batch of one against batch of many"


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output is from its reference.

    Attributes:
        check: What was compared.
        output: Output tensor.
        largest: Largest absolute difference.
        tolerance: What is allowed.
    """

    check: str
    output: str
    largest: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is a number within the tolerance."""
        return bool(self.largest <= self.tolerance)


class GraphRunner:
    """An ONNX Runtime session over an exported graph."""

    def __init__(self, graph: bytes) -> None:
        """Create the session on the CPU.

        Raises:
            ParityError: ONNX Runtime cannot load the graph.
        """
        try:
            self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no base of their own
            raise ParityError(f"ONNX Runtime cannot load the graph: {error}") from error

    def __call__(self, inputs: Arrays) -> Arrays:
        """Run the graph and return its outputs by name."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(inputs)), strict=True))


def check_contract(runner: GraphRunner, spec: ModelSpec) -> None:
    """Compare a graph's tensors with the stage contract: names, datatypes, ranks and fixed dimensions.

    Raises:
        ParityError: they differ; all differences are named.
    """
    problems: list[str] = []
    for kind, specs, values in (
        ("input", spec.inputs, runner.session.get_inputs()),
        ("output", spec.outputs, runner.session.get_outputs()),
    ):
        found = {value.name: (TRITON_DATATYPES.get(value.type, value.type), value.shape) for value in values}
        expected = {tensor.name: (tensor.datatype, tensor.shape) for tensor in specs}
        if found.keys() != expected.keys():
            problems.append(f"{kind}s must be {sorted(expected)}, got {sorted(found)}")
            continue
        for name, (datatype, shape) in expected.items():
            actual_datatype, actual_shape = found[name]
            fits = len(actual_shape) == len(shape) + 1 and all(
                wanted in (-1, actual) or isinstance(actual, str)
                for wanted, actual in zip(shape, actual_shape[1:], strict=True)
            )
            if datatype != actual_datatype or not fits:
                problems.append(f"{kind} {name} must be {datatype} [N, {shape}], got {actual_datatype} {actual_shape}")
    if problems:
        raise ParityError(f"{spec.name}: " + "; ".join(problems))


def measure_parity(runner: GraphRunner, built: BuiltStage, samples: Arrays) -> list[Difference]:
    """Compare a graph with every reference, and each row of a batch with the same row alone."""
    outputs = runner(samples)
    differences: list[Difference] = []
    for name, reference in built.references.items():
        differences += _compare(name, outputs, reference(samples), built.tolerances)
    differences += _compare(BATCH_CHECK, outputs, _one_by_one(runner, samples), built.tolerances)
    return differences


def refuse_misses(model: str, differences: list[Difference]) -> None:
    """Raise unless every difference passed.

    Raises:
        ParityError: names each output that missed, with the figures.
    """
    misses = [
        f"{item.output} differs from {item.check} by {item.largest:g}, allowed {item.tolerance:g}"
        for item in differences
        if not item.passed
    ]
    if misses:
        raise ParityError(f"{model}: " + "; ".join(misses))


def as_manifest(differences: list[Difference]) -> dict[str, dict[str, Any]]:
    """Return the figures in the form of ``Manifest.parity``."""
    parity: dict[str, dict[str, Any]] = {}
    for item in differences:
        figures = {"largest_difference": item.largest, "tolerance": item.tolerance}
        parity.setdefault(item.check, {})[item.output] = figures
    return parity


def _one_by_one(runner: Reference, samples: Arrays) -> Arrays:
    count = len(next(iter(samples.values())))
    rows = [runner({name: array[i : i + 1] for name, array in samples.items()}) for i in range(count)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _compare(check: str, actual: Arrays, expected: Arrays, tolerances: Mapping[str, float]) -> list[Difference]:
    differences = []
    for name, tolerance in tolerances.items():
        a, b = actual[name].astype(np.float64), expected[name].astype(np.float64)
        finite = a.shape == b.shape and bool(np.isfinite(a).all() and np.isfinite(b).all())
        largest = float(np.abs(a - b).max()) if finite else float("nan")
        differences.append(Difference(check, name, largest, tolerance))
    return differences
