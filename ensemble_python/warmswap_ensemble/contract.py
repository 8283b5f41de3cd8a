"""The wire contract: every model, tensor, option and error code, written once.

Tests hold ``config.pbtxt``, the ONNX files and the documents to what stands here. Standard library only, so that
clients may import it for nothing.

Conventions: images are RGB, uint8, HWC. Coordinates are float32 pixels, x right, y down. "Left" means image-left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_FACES: Final = 128
"""Rows in a detector's answer; more faces than this in one picture are cut, lowest score first."""

KPS_ORDER: Final = ("left_eye", "right_eye", "nose", "left_mouth_corner", "right_mouth_corner")
NUM_KPS: Final = len(KPS_ORDER)
NUM_LANDMARKS: Final = 68
"""iBUG 300-W order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67."""

ANY: Final = -1
"""A dimension that differs between the versions of one model (crop size, embedding length) or between requests."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model.

    Attributes:
        name: Tensor name, the same in code, ONNX graph and ``config.pbtxt``.
        datatype: KServe v2 name: ``UINT8``, ``INT32``, ``FP32`` or ``BYTES``.
        shape: Dimensions without the batch dimension; ``ANY`` where it varies.
        optional: Whether a request may leave it out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the repository.

    Attributes:
        name: Folder in the model repository.
        inputs: Input tensors.
        outputs: Output tensors.
        max_batch: The largest batch the pipeline sends, so the least that ``max_batch_size`` may be; 0 means that the
            model has no batch dimension.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int


FACE_DETECTOR: Final = ModelSpec(
    name="face_detector",
    inputs=(TensorSpec("image_rgb", "UINT8", (ANY, ANY, 3)),),
    outputs=(
        TensorSpec("bbox", "FP32", (MAX_FACES, 4)),
        TensorSpec("score", "FP32", (MAX_FACES,)),
        TensorSpec("kps", "FP32", (MAX_FACES, NUM_KPS, 2)),
        TensorSpec("num_faces", "INT32", (1,)),
    ),
    max_batch=4,
)

FACE_LANDMARKER: Final = ModelSpec(
    name="face_landmarker",
    inputs=(TensorSpec("crop_rgb", "UINT8", (ANY, ANY, 3)),),
    outputs=(TensorSpec("landmarks", "FP32", (NUM_LANDMARKS, 2)),),
    max_batch=16,
)

FACE_EMBEDDER: Final = ModelSpec(
    name="face_embedder",
    inputs=(TensorSpec("aligned_crop_rgb", "UINT8", (ANY, ANY, 3)),),
    outputs=(TensorSpec("embedding", "FP32", (ANY,)),),
    max_batch=16,
)

FACE_SWAPPER: Final = ModelSpec(
    name="face_swapper",
    inputs=(
        TensorSpec("target_crop_rgb", "UINT8", (ANY, ANY, 3)),
        TensorSpec("source_crop_rgb", "UINT8", (ANY, ANY, 3)),
        TensorSpec("target_landmarks", "FP32", (NUM_LANDMARKS, 2)),
        TensorSpec("source_landmarks", "FP32", (NUM_LANDMARKS, 2)),
        TensorSpec("source_embedding", "FP32", (ANY,)),
    ),
    outputs=(
        TensorSpec("swapped_crop_rgb", "UINT8", (ANY, ANY, 3)),
        TensorSpec("mask", "FP32", (ANY, ANY)),
    ),
    max_batch=8,
)

FACE_ANALYSIS: Final = ModelSpec(
    name="face_analysis",
    inputs=(TensorSpec("image", "BYTES", (1,)),),
    outputs=(
        TensorSpec("bbox", "FP32", (ANY, 4)),
        TensorSpec("score", "FP32", (ANY,)),
        TensorSpec("kps", "FP32", (ANY, NUM_KPS, 2)),
        TensorSpec("embedding", "FP32", (ANY, ANY)),
    ),
    max_batch=0,
)

FACE_SWAP: Final = ModelSpec(
    name="face_swap",
    inputs=(
        TensorSpec("source_image", "BYTES", (1,)),
        TensorSpec("target_image", "BYTES", (1,)),
        TensorSpec("reference_image", "BYTES", (1,), optional=True),
    ),
    outputs=(
        TensorSpec("image", "BYTES", (1,)),
        TensorSpec("report", "BYTES", (1,)),
    ),
    max_batch=0,
)

STAGES: Final = (FACE_DETECTOR, FACE_LANDMARKER, FACE_EMBEDDER, FACE_SWAPPER)
"""The ONNX models, in the order in which a request meets them."""

PIPELINES: Final = (FACE_ANALYSIS, FACE_SWAP)
"""The Python models that chain the stages."""

PIPELINE_STAGES: Final = {
    FACE_ANALYSIS.name: (FACE_DETECTOR.name, FACE_EMBEDDER.name),
    FACE_SWAP.name: (FACE_DETECTOR.name, FACE_LANDMARKER.name, FACE_EMBEDDER.name, FACE_SWAPPER.name),
}
"""Which stages a pipeline calls; they are loaded before it."""

MODELS: Final = {spec.name: spec for spec in (*STAGES, *PIPELINES)}

RESIDENCY_SOCKET_VARIABLE: Final = "WARMSWAP_RESIDENCY_SOCKET"
"""Where the launcher tells pipelines the path of the socket at which they ask for models."""
ON_DEMAND_VARIABLE: Final = "WARMSWAP_ON_DEMAND"
"""Where the launcher tells pipelines which models they must ask for: names joined by commas."""

SWAPPER_VARIANT_PREFIX: Final = f"{FACE_SWAPPER.name}_"
DEFAULT_SWAPPER: Final = "default"
"""How the option ``swapper`` calls ``face_swapper`` itself, so no variant may be called that."""

_VARIANT: Final = re.compile(rf"{SWAPPER_VARIANT_PREFIX}(?!{DEFAULT_SWAPPER}$)([a-z0-9][a-z0-9_]*)")


def swapper_variant(model: str) -> str | None:
    """Return ``512`` of ``face_swapper_512``, or None for a name that is no variant of the swapper."""
    found = _VARIANT.fullmatch(model)
    return found[1] if found else None


def model_spec(model: str) -> ModelSpec | None:
    """Return the contract of a model: a variant of the swapper has that of ``face_swapper``; None for other names."""
    return FACE_SWAPPER if swapper_variant(model) else MODELS.get(model)


IMAGE_FORMATS: Final = ("jpeg", "png", "webp")
"""Encodings that the server reads and writes."""

FACE_SELECTORS: Final = ("all", "largest", "index:K", "reference")
SOURCE_FACE_SELECTORS: Final = ("largest", "index:K")
OUTPUT_FORMATS: Final = ("same", *IMAGE_FORMATS)
ON_NO_FACE: Final = ("error", "passthrough")

MAX_ROLLOUT_KEY: Final = 256
"""Characters of a ``rollout_key``."""

SWAP_OPTIONS: Final = {
    "face_selector": "which faces of the target are swapped: all, largest, index:K (0 = leftmost) or reference",
    "source_face_selector": "which face of the source is taken: largest or index:K (0 = leftmost)",
    "reference_threshold": "least cosine similarity to the face of reference_image, -1 to 1",
    "min_score": "least detector score of a face, 0 to 1",
    "max_faces": f"most faces to swap in one target, 1 to {MAX_FACES}; the largest are kept",
    "output_format": "same (as the target), jpeg, png or webp",
    "quality": "JPEG or WebP quality, 1 to 100",
    "swapper": "which swapper: default, or the name of a variant such as 512 (model face_swapper_512)",
    "on_no_face": "when no face of the target is selected: error, or passthrough (the target comes back unchanged)",
    "rollout_key": "a user, a video: requests of one key are answered by one version while a rollout is under way",
}
"""Request parameters of ``face_swap`` and what they mean."""

ANALYZE_OPTIONS: Final = {name: SWAP_OPTIONS[name] for name in ("min_score", "max_faces", "rollout_key")}
"""Request parameters of ``face_analysis``."""

PIPELINE_SETTINGS: Final = (
    "first_look",
    "fixed_frames",
    "max_image_bytes",
    "max_image_pixels",
    "on_demand_wait_ms",
    "source_cache_entries",
)
"""Keys that ``parameters`` of a pipeline's ``config.pbtxt`` may hold, beside ``stage_version.<stage>``."""

TRITON_SETTINGS: Final = ("EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS")
"""Keys in ``parameters`` that Triton's Python backend itself reads."""

ERROR_CODES: Final = {
    "invalid_image": "the bytes are not a JPEG, PNG or WebP picture that can be read",
    "image_too_large": "more bytes or pixels than the server accepts",
    "invalid_option": "an unknown request parameter, or a value outside its range",
    "invalid_tensor": "a tensor of the wrong shape or datatype",
    "no_face": "no face was found, or none that the selector accepts",
    "face_index_out_of_range": "index:K names a face that is not there",
    "overloaded": "a queue is full; try again later",
    "model_loading": "a model that is loaded on demand is being loaded; the message says when to try again",
    "cancelled": "the client gave up on the request",
    "stage_failed": "a model behind the pipeline failed",
    "self_test_failed": "the answer to the golden request is not the golden answer",
    "internal": "a fault of the server; its log has the details",
}
"""Machine-readable codes. An error message of the pipelines reads ``<code>: <sentence>``."""

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What the clients send as the protocol's ``id``. The pipelines take any, and make one up where there is none."""

REQUEST_LOG_ENV: Final = "WARMSWAP_REQUEST_LOG"
REQUEST_LOG_MODES: Final = ("off", "errors", "all")
"""Which requests the pipelines log."""

REQUEST_LOG_MARK: Final = "warmswap: request "
"""Stands before the JSON object of a request in the log, for the launcher."""
