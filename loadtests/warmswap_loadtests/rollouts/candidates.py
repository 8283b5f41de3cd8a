"""Candidates made from the version that serves: good ones, and one for each way in which a candidate can be bad.

They are real: real graphs with real faults in them, under manifests that say nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GRAPH: Final = "model.onnx"
HEAVY_SIDE: Final = 1536
HUGE: Final = (1 << 20, 1 << 20)
"""Four terabytes of float32."""

_PIPELINE: Final = '''"""A version of {model} for tests."""

import os

from warmswap_ensemble.triton_backend import {base}


class TritonPythonModel({base}):
    """The name is fixed by Triton."""

    answered_requests = 0

    def execute(self, requests):
        self.answered_requests += len(requests)
        if {crash_after} is not None and self.answered_requests > {crash_after}:
            os.abort()
        return super().execute(requests)
'''
_BASES: Final = {"face_swap": "FaceSwapModel", "face_analysis": "FaceAnalysisModel"}


def copy_version(repository: Path, model: str, out: Path, **manifest: Any) -> Path:
    """Copy the highest version of a model to ``out``; keywords replace what its manifest says."""
    version = max((path for path in (repository / model).iterdir() if path.name.isdecimal()), key=lambda p: int(p.name))
    shutil.copytree(version, out, ignore=shutil.ignore_patterns("__pycache__"))
    if manifest:
        change_manifest(out, **manifest)
    return out


def change_manifest(candidate: Path, **changes: Any) -> None:
    """Replace fields of a manifest; ``settings`` are merged into those that are there."""
    path = candidate / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    settings = {**values["settings"], **changes.pop("settings", {})}
    path.write_text(json.dumps({**values, **changes, "settings": settings}, indent=2), encoding="utf-8")


def sign(candidate: Path) -> Path:
    """Let the manifest name the sha256 of the graph as it is now."""
    digest = hashlib.sha256((candidate / GRAPH).read_bytes()).hexdigest()
    change_manifest(candidate, files={GRAPH: digest})
    return candidate


def tuned_detector(repository: Path, out: Path, min_score: float = 0.45, name: str = "centerface-tuned") -> Path:
    """Make a good candidate: the detector with another threshold."""
    return copy_version(repository, "face_detector", out, name=name, settings={"min_score": min_score})


def corrupt(repository: Path, out: Path, model: str = "face_detector") -> Path:
    """Make a candidate whose graph is not the one that its manifest names."""
    graph = copy_version(repository, model, out) / GRAPH
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 0xFF
    graph.write_bytes(content)
    return out


def wrong_contract(repository: Path, out: Path) -> Path:
    """Make a detector that is a landmarker."""
    copy_version(repository, "face_detector", out)
    other = copy_version(repository, "face_landmarker", out.with_name(f"{out.name}-other"))
    shutil.copy2(other / GRAPH, out / GRAPH)
    shutil.rmtree(other)
    return sign(out)


def not_finite(repository: Path, out: Path, model: str = "face_detector", output: str = "kps") -> Path:
    """Make a candidate that answers with NaN."""
    factor = numpy_helper.from_array(np.array(np.nan, np.float32), "not_a_number")
    return _edited(copy_version(repository, model, out), output, lambda raw, name: _times(raw, name, factor))


def poor_detector(repository: Path, out: Path, shift_px: float = 40.0) -> Path:
    """Make a detector that answers quickly, in finite numbers, and beside the face."""
    shift = numpy_helper.from_array(np.array(shift_px, np.float32), "shift")
    candidate = copy_version(repository, "face_detector", out, name="poor")
    for output in ("kps", "bbox"):
        _edited(candidate, output, lambda raw, name: _plus(raw, name, shift))
    return candidate


def slow_detector(repository: Path, out: Path, products: int = 12) -> Path:
    """Make a detector that multiplies large matrices for nothing."""
    return _edited(
        copy_version(repository, "face_detector", out, name="slow"),
        "score",
        lambda raw, name: _busy(raw, name, products),
    )


def greedy_detector(repository: Path, out: Path) -> Path:
    """Make a detector that wants more memory than there is."""
    return _edited(copy_version(repository, "face_detector", out, name="greedy"), "score", _greedy)


def pipeline(repository: Path, out: Path, model: str = "face_swap", crash_after: int | None = None) -> Path:
    """Make another version of a pipeline; it ends its process at a request, if ``crash_after`` so many."""
    copy_version(repository, model, out)
    text = _PIPELINE.format(model=model, base=_BASES[model], crash_after=crash_after)
    (out / "model.py").write_text(text, encoding="utf-8")
    return out


def new_space(repository: Path, embedder: Path, swapper: Path, space: str = "dlib_resnet_v2") -> Mapping[str, Path]:
    """Make an embedder of a new embedding space, and the swapper that wants it: neither works without the other."""
    copy_version(repository, "face_embedder", embedder, settings={"embedding_space": space})
    settings = {
        "identity": ["source_crop_rgb", "source_landmarks", "source_embedding"],
        "embedding_space": space,
        "embedding_length": 128,
    }
    copy_version(repository, "face_swapper", swapper, settings=settings)
    return {"face_embedder": embedder, "face_swapper": swapper}


_Edit = Callable[[str, str], tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]
"""From the name of what was the output, and that of the output, to nodes between them and their constants."""


def _edited(candidate: Path, output: str, edit: _Edit) -> Path:
    model = onnx.load(candidate / GRAPH)
    raw = f"{output}_before_the_edit"
    for node in model.graph.node:
        for names in (node.output, node.input):
            for index, name in enumerate(names):
                if name == output:
                    names[index] = raw
    nodes, constants = edit(raw, output)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    onnx.save(model, candidate / GRAPH)
    return sign(candidate)


def _times(raw: str, name: str, factor: onnx.TensorProto) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    return [helper.make_node("Mul", [raw, factor.name], [name])], [factor]


def _plus(raw: str, name: str, term: onnx.TensorProto) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    return [helper.make_node("Add", [raw, term.name], [name])], ([] if name == "bbox" else [term])


def _nothing_of_the_image() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes that make a zero of the image, which no optimiser can know."""
    zero = numpy_helper.from_array(np.array(0.0, np.float32), "zero_factor")
    nodes = [
        helper.make_node("Cast", ["image_rgb"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["image_float"], ["image_mean"], keepdims=0),
        helper.make_node("Mul", ["image_mean", "zero_factor"], ["image_zero"]),
    ]
    return nodes, [zero]


def _busy(raw: str, name: str, products: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes, constants = _nothing_of_the_image()
    constants.append(numpy_helper.from_array(np.array([HEAVY_SIDE, HEAVY_SIDE], np.int64), "heavy_shape"))
    nodes.append(helper.make_node("Expand", ["image_zero", "heavy_shape"], ["heavy_0"]))
    for index in range(products):
        nodes.append(helper.make_node("MatMul", [f"heavy_{index}", "heavy_0"], [f"heavy_{index + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"heavy_{products}"], ["heavy_mean"], keepdims=0))
    nodes.append(helper.make_node("Add", [raw, "heavy_mean"], [name]))
    return nodes, constants


def _greedy(raw: str, name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes, constants = _nothing_of_the_image()
    constants.append(numpy_helper.from_array(np.array(HUGE, np.int64), "huge_shape"))
    nodes.append(helper.make_node("Expand", ["image_zero", "huge_shape"], ["huge"]))
    nodes.append(helper.make_node("ReduceMean", ["huge"], ["huge_mean"], keepdims=0))
    nodes.append(helper.make_node("Add", [raw, "huge_mean"], [name]))
    return nodes, constants
