"""Holds an exported graph to its references: same outputs, finite, within the stated tolerance, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from warmswap_ensemble.contract import ModelSpec
from warmswap_export.built import Arrays, BuiltStage, Reference
from warmswap_export.errors import ParityError

TRITON_DATATYPES: Final = {"tensor(uint8)": "UINT8", "tensor(float)": "FP32", "tensor(int32)": "INT32"}
BATCH_CHECK: Final = "batch of one against batch of many"
HALF_CHECK: Final = "fp32"
SURE_SCORE: Final = 0.5
LEAST_OVERLAP: Final = 0.5


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
        """Run the graph and return its outputs by name.

        Raises:
            ParityError: ONNX Runtime cannot run it on these inputs.
        """
        names = [output.name for output in self.session.get_outputs()]
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        try:
            return dict(zip(names, self.session.run(names, dict(inputs), options), strict=True))
        except Exception as error:  # its errors have no base of their own
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise ParityError(f"the graph fails on {shapes}: {' '.join(str(error).split())}") from error


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
    """Compare a graph with every reference, and each row of a batch with the same row alone.

    A reference may leave outputs out of which it knows nothing.
    """
    outputs = runner(samples)
    differences: list[Difference] = []
    for name, reference in built.references.items():
        differences += _compare(name, outputs, reference(samples), built.tolerances)
    differences += _compare(BATCH_CHECK, outputs, _one_by_one(runner, samples), built.tolerances)
    return differences


def measure_half(runner: GraphRunner, single: Reference, built: BuiltStage, samples: Arrays) -> list[Difference]:
    """Compare a graph of half precision with its twin of single precision, which has passed the references.

    The faces of a detector are matched by overlap first: two that score alike may change places.
    """
    outputs, expected = runner(samples), single(samples)
    alone = _one_by_one(runner, samples)
    if "bbox" in built.half_tolerances:
        return [
            Difference(check, output, largest, built.half_tolerances.get(output, 0.0))
            for check, answers in ((HALF_CHECK, expected), (BATCH_CHECK, alone))
            for output, largest in match_faces(outputs, answers).items()
        ]
    return [
        *_compare(HALF_CHECK, outputs, expected, built.half_tolerances),
        *_compare(BATCH_CHECK, outputs, alone, built.half_tolerances),
    ]


def match_faces(actual: Arrays, expected: Arrays) -> dict[str, float]:
    """Return the largest differences of the faces that are sure: ``bbox`` and ``kps`` in pixels, ``score``, ``lost``.

    ``lost`` counts sure faces of ``expected`` without a counterpart that overlaps by more than half.
    """
    largest = dict.fromkeys(("bbox", "score", "kps"), 0.0)
    lost = 0
    for row in range(len(expected["score"])):
        for face in np.flatnonzero(expected["score"][row] >= SURE_SCORE):
            overlaps = _overlaps(expected["bbox"][row, face], actual["bbox"][row])
            match = int(overlaps.argmax())
            if not overlaps[match] > LEAST_OVERLAP:  # nor where it is not a number
                lost += 1
                continue
            for name in largest:
                difference = np.abs(actual[name][row, match] - expected[name][row, face]).max()
                largest[name] = float(np.maximum(largest[name], difference))  # keeps what is not a number
    return {**largest, "lost": float(lost)}


def _overlaps(bbox: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    low, high = np.maximum(bbox[:2], others[:, :2]), np.minimum(bbox[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (bbox[2:] - bbox[:2]).prod()
    return np.asarray(common / np.maximum(areas - common, 1e-9))


def measure_other_frame(runner: GraphRunner, built: BuiltStage, frames: Arrays) -> list[Difference]:
    """Run a detector on frames of another size, as the pipeline cuts them, against what can take them too.

    Raises:
        ParityError: the graph takes frames of one size only.
    """
    height, width = frames["image_rgb"].shape[1:3]
    outputs = runner(frames)
    references = {} if built.static_references else built.references
    return [
        difference
        for name, reference in references.items()
        for difference in _compare(f"{name}, {width}x{height}", outputs, reference(frames), built.tolerances)
    ]


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
        if name not in expected:
            continue
        a, b = actual[name].astype(np.float64), expected[name].astype(np.float64)
        finite = a.shape == b.shape and bool(np.isfinite(a).all() and np.isfinite(b).all())
        largest = float(np.abs(a - b).max()) if finite else float("nan")
        differences.append(Difference(check, name, largest, tolerance))
    return differences
