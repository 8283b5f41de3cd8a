"""ArcFace and its relatives: a network over an aligned crop, brought to length one.

Source: Deng et al. 2018, arXiv:1801.07698; insightface ``model_zoo/arcface_onnx.py``. The crop's normalisation and the
division by the norm are in the graph; InsightFace leaves both to its callers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from warmswap_export import insightface_reference
from warmswap_export.architectures.layers import image_to_float
from warmswap_export.batching import open_batch
from warmswap_export.built import Arrays, BuiltStage, Reference, StageSource
from warmswap_export.errors import WeightsError
from warmswap_export.graph import chain, export_module, fold_batch_norms
from warmswap_export.precision import at_precision
from warmswap_export.published import PublishedRunner, graph_inputs, read_published, shape_of, up_to_date

HALF: Final = 127.5
INSIGHTFACE_NORMALISATION: Final = (HALF, HALF, HALF)
OPTIONS: Final = {"mean_rgb", "std_rgb"}


class CropInput(nn.Module):
    """Pixels as an embedding network takes them."""

    def __init__(self, size: int, mean_rgb: Sequence[float], std_rgb: Sequence[float]) -> None:
        """Resize to ``size``, subtract ``mean_rgb``, divide by ``std_rgb`` (all in 0 to 255)."""
        super().__init__()
        self.size = size
        self.mean_rgb = torch.tensor(mean_rgb).reshape(1, 3, 1, 1)
        self.std_rgb = torch.tensor(std_rgb).reshape(1, 3, 1, 1)

    def forward(self, crop_rgb: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 to (N, 3, size, size) float32."""
        return (image_to_float(crop_rgb, self.size) - self.mean_rgb) / self.std_rgb


class UnitLength(nn.Module):
    """Divides each row by its L2 norm."""

    def forward(self, raw: Tensor) -> Tensor:
        """Map (N, D) to (N, D)."""
        return raw / raw.norm(dim=1, keepdim=True)


def build(source: StageSource) -> BuiltStage:
    """Build the stage from ``network``, an ONNX file as published.

    Options ``mean_rgb`` and ``std_rgb`` (0 to 255) default to InsightFace's 127.5.

    Raises:
        WeightsError: the file does not map one picture to one vector of the pack's length.
    """
    path = source.files["network"]
    size, length = int(source.settings["crop_size"]), int(source.settings["embedding_length"])
    mean_rgb, std_rgb = source.colour("mean_rgb", HALF), source.colour("std_rgb", HALF)
    published = read_published(path)
    fed = graph_inputs(published)
    found = [shape_of(value) for value in (*fed, *published.graph.output)]
    fits = len(fed) == 1 and len(found) == 2 and found[0][1:] == [3, size, size] and found[1][1:] in ([0], [length])
    if not fits:
        raise WeightsError(
            f"{path} is no embedder for {size} px crops: expected input [N, 3, {size}, {size}] and output "
            f"[N, {length}], got {found}"
        )
    network = up_to_date(published, path)
    open_batch(network)
    fold_batch_norms(network)
    output = network.graph.output[0].name
    network = at_precision(network, source.precision)
    before = export_module(
        CropInput(size, mean_rgb, std_rgb),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        ["aligned_crop_rgb"],
        ["pixels"],
        {"aligned_crop_rgb": {0: "N", 1: "H", 2: "W"}, "pixels": {0: "N"}},
    )
    after = export_module(
        UnitLength(), (torch.ones(2, length),), ["raw"], ["embedding"], {"raw": {0: "N"}, "embedding": {0: "N"}}
    )
    inside = chain(before, network, "crop/", {"pixels": fed[0].name})
    graph = chain(inside, after, "network/", {output: "raw"})
    plain = {"published graph, plain NumPy": _published_reference(PublishedRunner(path), mean_rgb, std_rgb)}
    theirs = insightface_reference.embedder(path) if mean_rgb == std_rgb == INSIGHTFACE_NORMALISATION else {}
    return BuiltStage(graph, {**plain, **theirs}, {"embedding": 1e-4}, {"embedding": 0.01})


def _published_reference(runner: PublishedRunner, mean_rgb: Sequence[float], std_rgb: Sequence[float]) -> Reference:
    def run(inputs: Arrays) -> Arrays:
        rows = []
        for crop in inputs["aligned_crop_rgb"]:
            pixels = (crop.astype(np.float32) - np.array(mean_rgb, np.float32)) / np.array(std_rgb, np.float32)
            (raw,) = runner({runner.input_names[0]: pixels.transpose(2, 0, 1)[None]})
            rows.append(raw[0] / np.linalg.norm(raw[0]))
        return {"embedding": np.stack(rows)}

    return run
