"""Neural face swappers as published: inswapper, ReSwapper, SimSwap, GHOST, HiFiFace, HyperSwap, BlendSwap, UniFace.

Each takes a target crop and something of the source, and gives a crop. What differs is data (``options`` of the pack):

    mean_rgb, std_rgb   the target crop is (x / 255 - mean) / std
    output_std_mean     true: the answer is output * std + mean; false: it is the output itself, 0 to 1
    identity            embedding: the embedding of ``face_embedder``
                        crop: the source crop itself, 0 to 1
                        embedded_crop: the source crop through an embedding network that lies in the graph
    converter           true: the embedding goes through a converter (CrossFace) into another space
    project             true: then through inswapper's ``emap``
    unit_length         true: the result is divided by its L2 norm
    embedder_mean_rgb, embedder_std_rgb, embedder_size    for ``embedded_crop``

Sources: insightface ``model_zoo/inswapper.py``, facefusion ``face_swapper/core.py``, the papers that the packs name.
Where the two differ, InsightFace is followed: inswapper's latent is normalised again after ``emap``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from warmswap_ensemble.contract import FACE_SWAPPER, NUM_LANDMARKS
from warmswap_export import insightface_reference
from warmswap_export.architectures.arcface import CropInput, UnitLength
from warmswap_export.architectures.layers import SWAPPER_INPUT_AXES, image_to_float
from warmswap_export.batching import open_batch
from warmswap_export.built import Arrays, BuiltStage, Reference, StageSource
from warmswap_export.errors import PackError, WeightsError
from warmswap_export.graph import chain, export_module, fold_batch_norms
from warmswap_export.precision import at_precision
from warmswap_export.published import PublishedRunner, graph_inputs, read_published, shape_of, up_to_date

IDENTITIES: Final = ("embedding", "crop", "embedded_crop")
LATENT: Final = 512
BORDER: Final = 0.10
"""Width of the mask's border, in units of the crop: InsightFace erodes its white square by a kernel of this size."""
BLUR: Final = 0.05
"""Radius of the blur after it, in the same units."""
TOLERANCES: Final = {"swapped_crop_rgb": 1.0, "mask": 1e-5}
HALF_TOLERANCES: Final = {"swapped_crop_rgb": 6.0, "mask": 1e-5}
OPTIONS: Final = {
    "mean_rgb", "std_rgb", "output_std_mean", "identity", "converter", "project", "unit_length",
    "embedder_mean_rgb", "embedder_std_rgb", "embedder_size", "source_size",
}  # fmt: skip

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a pack, read."""

    size: int
    mean_rgb: tuple[float, ...]
    std_rgb: tuple[float, ...]
    output_std_mean: bool
    identity: str
    converter: bool
    project: bool
    unit_length: bool
    source_size: int
    embedder_mean_rgb: tuple[float, ...]
    embedder_std_rgb: tuple[float, ...]

    @classmethod
    def read(cls, source: StageSource) -> Options:
        """Read the options of a stage.

        Raises:
            PackError: ``identity`` is none of the three, or a colour is not three numbers.
        """
        options = source.options
        identity = options.get("identity", "embedding")
        if identity not in IDENTITIES:
            raise PackError(f"option identity must be one of {', '.join(IDENTITIES)}, got {identity!r}")
        size = int(source.settings["crop_size"])
        return cls(
            size=size,
            mean_rgb=source.colour("mean_rgb", 0.0),
            std_rgb=source.colour("std_rgb", 1.0),
            output_std_mean=bool(options.get("output_std_mean", False)),
            identity=identity,
            converter=bool(options.get("converter", False)),
            project=bool(options.get("project", False)),
            unit_length=bool(options.get("unit_length", False)),
            source_size=int(options.get("embedder_size" if identity == "embedded_crop" else "source_size", size)),
            embedder_mean_rgb=source.colour("embedder_mean_rgb", 127.5),
            embedder_std_rgb=source.colour("embedder_std_rgb", 127.5),
        )


class SwapInput(nn.Module):
    """All inputs of the contract to what the network takes: target pixels, and the source in the asked form."""

    def __init__(self, options: Options) -> None:
        """Keep the options."""
        super().__init__()
        self.options = options
        self.mean = torch.tensor(options.mean_rgb).reshape(1, 3, 1, 1)
        self.std = torch.tensor(options.std_rgb).reshape(1, 3, 1, 1)
        self.source = CropInput(options.source_size, options.embedder_mean_rgb, options.embedder_std_rgb)

    def forward(
        self,
        target_crop_rgb: Tensor,
        source_crop_rgb: Tensor,
        target_landmarks: Tensor,
        source_landmarks: Tensor,
        source_embedding: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Map the contract's inputs to (N, 3, S, S) pixels and the source."""
        del target_landmarks, source_landmarks
        target = (image_to_float(target_crop_rgb, self.options.size) / 255.0 - self.mean) / self.std
        if self.options.identity == "embedding":
            # One warm-up sample serves every version, whatever the length of its embeddings: a short one is filled
            # up. A wrong embedding space is refused when a pipeline is loaded.
            return target, functional.pad(source_embedding, (0, LATENT))[:, :LATENT]
        if self.options.identity == "crop":
            return target, image_to_float(source_crop_rgb, self.options.source_size) / 255.0
        return target, self.source(source_crop_rgb)


class Projection(nn.Module):
    """The last steps of the identity: inswapper's ``emap`` and the division by the norm, each where it is asked for."""

    def __init__(self, emap: FloatArray | None, *, unit_length: bool) -> None:
        """Keep ``emap`` (512, 512), or None."""
        super().__init__()
        self.emap = None if emap is None else nn.Parameter(torch.from_numpy(emap.copy()), requires_grad=False)
        self.unit_length = UnitLength() if unit_length else nn.Identity()

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, 512) to (N, 512)."""
        latent = embedding if self.emap is None else torch.matmul(embedding, self.emap)
        result: Tensor = self.unit_length(latent)
        return result


class SwapOutput(nn.Module):
    """The network's answer to pixels, and the mask that it is pasted with."""

    def __init__(self, options: Options) -> None:
        """Keep the options and the mask."""
        super().__init__()
        self.options = options
        self.mean = torch.tensor(options.mean_rgb).reshape(1, 3, 1, 1)
        self.std = torch.tensor(options.std_rgb).reshape(1, 3, 1, 1)
        self.mask = torch.from_numpy(box_mask(options.size))

    def forward(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 3, S, S) to uint8 (N, S, S, 3) and mask (N, S, S)."""
        image = output * self.std + self.mean if self.options.output_std_mean else output
        # Cut off, not rounded, as InsightFace does.
        crop = (image * 255.0).clamp(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1)
        return crop, self.mask + torch.zeros_like(output[:, 0])


def box_mask(size: int) -> FloatArray:
    """Return the (size, size) mask of InsightFace's pasting, in the crop: a square, eroded, its edge blurred.

    InsightFace makes it anew for every face in the pixels of the whole picture; there the widths are the same parts of
    the face.
    """
    import cv2

    inner = round(size * BORDER / 2) + 1
    radius = max(round(size * BLUR), 1)
    white = np.zeros((size, size), np.float32)
    white[inner : size - inner, inner : size - inner] = 1.0
    side = 2 * radius + 1
    blurred = cv2.GaussianBlur(white, (side, side), 0, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, np.float32)


def build(source: StageSource) -> BuiltStage:
    """Build the stage from ``network`` and, where the options ask for them, ``converter`` and ``embedder``.

    Raises:
        WeightsError: a file does not have the tensors of such a network, or ``emap`` is missing.
        PackError: an option is wrong.
    """
    options = Options.read(source)
    path = source.files["network"]
    published = read_published(path)
    target, identity, output = _ports(published, path, options)
    emap = _read_emap(published, path) if options.project else None

    before = export_module(
        SwapInput(options),
        _example_inputs(options.size),
        [tensor.name for tensor in FACE_SWAPPER.inputs],
        ["target", "identity"],
        {
            **SWAPPER_INPUT_AXES,
            "target": {0: "N"},
            "identity": {0: "N"},
        },
    )
    graph, at = before, {"target": "target", "identity": "identity"}
    for role, wanted in (("embedder", options.identity == "embedded_crop"), ("converter", options.converter)):
        if wanted:
            graph, at = _through(graph, at, _part(source, role, options.source_size), role)
    if options.project or options.unit_length:
        projection = Projection(emap, unit_length=options.unit_length)
        graph, at = _through(graph, at, _trace(projection, (torch.ones(2, LATENT),), "latent"), "latent")
    network = up_to_date(published, path)
    _only_output(network, output)
    open_batch(network)
    fold_batch_norms(network)
    network = at_precision(network, source.precision)
    inside = chain(graph, network, "inputs/", {at["target"]: target, at["identity"]: identity})
    after = export_module(
        SwapOutput(options),
        (torch.rand(2, 3, options.size, options.size),),
        ["output"],
        [tensor.name for tensor in FACE_SWAPPER.outputs],
        {name: {0: "N"} for name in ("output", *(tensor.name for tensor in FACE_SWAPPER.outputs))},
    )
    whole = chain(inside, after, "network/", {output: "output"})

    references = {
        "published graph, plain NumPy": _published_reference(source, options, emap, (target, identity, output))
    }
    if options.project and not options.converter:
        references |= insightface_reference.swapper(path)
    return BuiltStage(whole, references, TOLERANCES, HALF_TOLERANCES)


def _trace(module: nn.Module, example: tuple[Tensor, ...], output: str) -> onnx.ModelProto:
    return export_module(module, example, ["input"], [output], {"input": {0: "N"}, output: {0: "N"}})


def _through(
    graph: onnx.ModelProto, at: Mapping[str, str], part: onnx.ModelProto, role: str
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Send the identity through one more graph; ``at`` says under which names the two values are found."""
    prefix = f"{role}_in/"
    whole = chain(graph, part, prefix, {at["identity"]: graph_inputs(part)[0].name})
    return whole, {"target": prefix + at["target"], "identity": part.graph.output[0].name}


def _part(source: StageSource, role: str, size: int) -> onnx.ModelProto:
    if role not in source.files:
        raise PackError(f"the options ask for a file that the pack lacks: [[weights.{role}]]")
    path = source.files[role]
    part = up_to_date(read_published(path), path)
    wanted = [LATENT] if role == "converter" else [3, size, size]
    found = [shape_of(value) for value in (*graph_inputs(part), *part.graph.output)]
    if len(found) != 2 or found[0][1:] != wanted or found[1][1:] not in ([0], [LATENT]):
        raise WeightsError(
            f"{path} cannot serve as {role}: expected input [N, {', '.join(map(str, wanted))}] and output "
            f"[N, {LATENT}], got {found}"
        )
    open_batch(part)
    fold_batch_norms(part)
    return part


def _only_output(model: onnx.ModelProto, name: str) -> None:
    """Drop the other outputs (HyperSwap's mask: its answer is composited already)."""
    kept = [value for value in model.graph.output if value.name == name]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def _ports(model: onnx.ModelProto, path: Path, options: Options) -> tuple[str, str, str]:
    """Return the names of target, source and output; old exports call them by numbers."""
    pixels = [3, options.size, options.size]
    inputs = {value.name: shape_of(value) for value in graph_inputs(model)}
    outputs = {value.name: shape_of(value) for value in model.graph.output}
    targets = [name for name, shape in inputs.items() if shape[1:] == pixels and name != "source"]
    target = "target" if "target" in targets else next(iter(targets), None)
    others = [name for name in inputs if name != target]
    output = next((name for name, shape in outputs.items() if shape[1:] in (pixels, [3, 0, 0], [0, 0, 0])), None)
    width = [3, options.source_size, options.source_size] if options.identity == "crop" else [LATENT]
    if target is None or len(others) != 1 or inputs[others[0]][1:] != width or output is None:
        raise WeightsError(
            f"{path} is no such swapper: expected inputs [N, {', '.join(map(str, pixels))}] and "
            f"[N, {', '.join(map(str, width))}] and a picture out, got {inputs} and {outputs}"
        )
    return target, others[0], output


def _read_emap(model: onnx.ModelProto, path: Path) -> FloatArray:
    """Return inswapper's 512x512 projection, the last tensor of the ONNX file."""
    if not model.graph.initializer:
        raise WeightsError(f"{path} has no tensors at all, so no emap")
    last = model.graph.initializer[-1]
    emap, where = numpy_helper.to_array(last), f"the last tensor of {path} ({last.name})"
    if emap.shape != (LATENT, LATENT):
        raise WeightsError(
            f"emap is missing: {where} must be of shape ({LATENT}, {LATENT}), got {emap.shape}; "
            "programs that rewrite ONNX files drop tensors that no operator uses: take the file as published"
        )
    return np.asarray(emap, np.float32)


def _example_inputs(size: int) -> tuple[Tensor, ...]:
    crop = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    landmarks = torch.zeros(2, NUM_LANDMARKS, 2)
    return crop, crop, landmarks, landmarks, torch.zeros(2, LATENT)


def _published_reference(
    source: StageSource, options: Options, emap: FloatArray | None, ports: Sequence[str]
) -> Reference:
    target_port, identity_port, output_port = ports
    runner = PublishedRunner(source.files["network"])
    position = runner.output_names.index(output_port)
    parts = [
        PublishedRunner(source.files[role])
        for role, wanted in (("embedder", options.identity == "embedded_crop"), ("converter", options.converter))
        if wanted
    ]
    mask = box_mask(options.size)

    def identity_of(inputs: Arrays, row: int) -> npt.NDArray[Any]:
        if options.identity == "embedding":
            value = inputs["source_embedding"][row : row + 1].astype(np.float32)
            value = np.concatenate((value, np.zeros((1, LATENT), np.float32)), axis=1)[:, :LATENT]
        else:
            value = _plain_crop(inputs["source_crop_rgb"][row], options)
        for part in parts:
            value = part({part.input_names[0]: value})[0]
        if emap is not None:
            value = value @ emap
        if options.unit_length:
            value = value / np.linalg.norm(value)
        return value

    def run(inputs: Arrays) -> Arrays:
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (options.mean_rgb, options.std_rgb))
        swapped = []
        for row, crop in enumerate(inputs["target_crop_rgb"]):
            target = (crop.transpose(2, 0, 1).astype(np.float32) / 255 - mean) / std
            output = runner({target_port: target[None], identity_port: identity_of(inputs, row)})[position][0]
            image = output * std + mean if options.output_std_mean else output
            # Cut off, not cast: as a byte, what is not a number would look like one.
            swapped.append(np.floor(np.clip(image.transpose(1, 2, 0) * 255, 0, 255)))
        return {"swapped_crop_rgb": np.stack(swapped), "mask": np.repeat(mask[None], len(swapped), axis=0)}

    return run


def _plain_crop(crop_rgb: npt.NDArray[np.uint8], options: Options) -> FloatArray:
    pixels = torch.from_numpy(np.ascontiguousarray(crop_rgb.transpose(2, 0, 1)[None])).float()
    size = (options.source_size, options.source_size)
    resized = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False).numpy()
    if options.identity == "crop":
        return np.asarray(resized / 255, np.float32)
    mean, std = (
        np.array(values, np.float32).reshape(1, 3, 1, 1)
        for values in (options.embedder_mean_rgb, options.embedder_std_rgb)
    )
    return np.asarray((resized - mean) / std, np.float32)
