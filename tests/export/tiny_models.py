"""Models of a few kilobytes with the tensors of published ones; ONNX and PyTorch are imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SEED = 11
SIDE = 128


def save(
    path: Path,
    text: str,
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 13,
    last: dict[str, Any] | None = None,
) -> Path:
    """Write a graph in ONNX's text form, with its weights and, behind them, tensors that no operator uses."""
    import onnx
    import onnx.parser
    from onnx import numpy_helper

    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    tensors = {**(constants or {}), **(last or {})}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def swapper_weights(dtype: Any = np.float32, latent: int = 512) -> dict[str, Any]:
    """Return the weights of ``swapper``: the identity shifts each colour, a convolution blurs the target."""
    rng = np.random.default_rng(SEED)
    return {
        "blur": (rng.uniform(0, 0.2, (3, 3, 3, 3))).astype(dtype),
        "style": rng.normal(0, 1, (latent, 3)).astype(dtype),
        "colours": np.array([1, 3, 1, 1], np.int64),
    }


def swapper(
    path: Path,
    *,
    opset: int = 13,
    target: str = "target",
    source: str = "source",
    output: str = "output",
    kind: str = "float",
    source_shape: str = "1, 512",
    source_first: bool = False,
    weights: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
) -> Path:
    """Write a swapper of inswapper's signature; ``kind`` is the type of its inputs and output."""
    pixels, vector = f"{kind}[1, 3, {SIDE}, {SIDE}] {target}", f"{kind}[{source_shape}] {source}"
    inputs = f"{vector}, {pixels}" if source_first else f"{pixels}, {vector}"
    text = f"""
        tiny ({inputs}) => ({kind}[1, 3, {SIDE}, {SIDE}] {output})
        {{
            shift = MatMul ({source}, style)
            colour = Reshape (shift, colours)
            blurred = Conv <pads = [1, 1, 1, 1]> ({target}, blur)
            shifted = Add (blurred, colour)
            {output} = Sigmoid (shifted)
        }}"""
    return save(path, text, weights or swapper_weights(), opset=opset, last=last)


def embedder(path: Path, *, side: int = 112, length: int = 512, weights: dict[str, Any] | None = None) -> Path:
    """Write an embedder: a convolution, the mean of each channel, and a matrix."""
    rng = np.random.default_rng(SEED)
    own = {
        "k": rng.normal(0, 1, (8, 3, 5, 5)).astype(np.float32),
        "w": rng.normal(0, 1, (8, length)).astype(np.float32),
    }
    text = f"""
        tiny (float[1, 3, {side}, {side}] data) => (float[1, {length}] embedding)
        {{
            c = Conv <strides = [5, 5]> (data, k)
            r = Relu (c)
            m = GlobalAveragePool (r)
            f = Flatten (m)
            embedding = MatMul (f, w)
        }}"""
    return save(path, text, weights or own)


def emap() -> Any:
    """Return a (512, 512) projection."""
    return np.random.default_rng(SEED + 1).normal(0, 0.05, (512, 512)).astype(np.float32)


SETTINGS = {
    "face_swapper": """
crop_size = 128
warp_template = "arcface_128"
identity = ["source_embedding"]
embedding_space = "dlib_resnet_v1"
embedding_length = 128
""",
    "face_embedder": """
crop_size = 112
warp_template = "arcface_112_v2"
embedding_length = 512
embedding_space = "tiny"
same_person_similarity = 0.4
""",
    "face_detector": """
input_size_hw = [640, 640]
frame_multiple = 32
min_score = 0.5
""",
}
STAGES = {
    "neural_swapper": "face_swapper",
    "arcface": "face_embedder",
    "scrfd": "face_detector",
    "retinaface": "face_detector",
}


def pack(
    folder: Path,
    architecture: str = "neural_swapper",
    file: str = "net.onnx",
    *,
    options: str = "",
    networks: str = "",
    pinned: str = "",
    more: str = "",
    settings: str | None = None,
    stage: str | None = None,
    name: str = "tiny",
) -> Path:
    """Write a pack file of one stage."""
    stage = stage or STAGES[architecture]
    text = f"""
name = "{name}"
[stages.{stage}]
name = "tiny {architecture}"
architecture = "{architecture}"
licence = "MIT"
commercial_use = true
[stages.{stage}.options]
{options}
[stages.{stage}.networks]
{networks}
[[stages.{stage}.weights.network]]
file = "{file}"
{f'sha256 = ["{pinned}"]' if pinned else ""}
{more}
[stages.{stage}.settings]
{SETTINGS[stage] if settings is None else settings}
"""
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path
