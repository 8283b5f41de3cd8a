"""Twins: stand-ins of models whose weights cannot be passed on. Same architecture, files and cost; random weights.

A twin's files have the published form, so they take the same way through the exporter, the server and InsightFace's own
classes as the real ones. What they answer means nothing, but it is an answer: heads of detectors are set so that a few
faces of human proportions are found in the demo pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from warmswap_ensemble.geometry import WARP_TEMPLATES, fit_into, letterbox
from warmswap_export.errors import PackError
from warmswap_export.networks.network import PublishedNetwork
from warmswap_export.networks.registry import create_network
from warmswap_export.packs import StagePack
from warmswap_export.published import publish
from warmswap_export.samples import read_pictures

BRANCH_GAIN: Final = 0.3
"""Residual branches are damped, or values would double from block to block."""
FRAME_HW: Final = (640, 640)
FACES_ABOVE_FLOOR: Final = 40
BEST_LOGIT: Final = 1.0
FLOOR_LOGIT: Final = -2.2
"""Logits of 0.73 and 0.1: few anchors pass ``min_score``, so that a swap stays affordable."""
EMAP_NAME: Final = "buff2fs"
FACE_TEMPLATE: Final = "ffhq_512"


def make_twin_files(stage: StagePack, seed: int, folder: Path) -> dict[str, Path]:
    """Write files of random weights for a stage, under the names of the published ones.

    Returns:
        Role to file.

    Raises:
        PackError: the pack names no network for a role.
    """
    files: dict[str, Path] = {}
    for role, forms in stage.weights.items():
        if role == "emap":
            continue
        if role not in stage.networks:
            raise PackError(
                f"pack {stage.pack}: no twin can be made of {stage.name}, its architecture is not published; "
                f"bring {forms[0].file} with --weights"
            )
        network = random_network(stage.networks[role], seed)
        extra = [numpy_helper.from_array(random_emap(seed), EMAP_NAME)] if stage.options.get("project") else []
        name = Path(forms[0].file).with_suffix(".onnx").name
        files[role] = publish(network, folder / name, extra)
    return files


def random_network(name: str, seed: int) -> PublishedNetwork:
    """Return a network filled with seeded random weights whose answers are finite and vary with the input."""
    network = create_network(name)
    fill(network, torch.Generator().manual_seed(seed))
    settle = _SETTLE.get(name.split("_")[0])
    if settle is not None:
        settle(network)
    return network


def random_emap(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return a random 512x512 projection."""
    return np.random.default_rng(seed).normal(0, 1 / np.sqrt(512), (512, 512)).astype(np.float32)


def fill(network: nn.Module, generator: torch.Generator) -> None:
    """Fill every weight, in place."""
    with torch.no_grad():
        for module in network.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and isinstance(weight, Tensor):
                fan_in = weight[0].numel() if not isinstance(module, nn.ConvTranspose2d) else weight[:, 0].numel()
                _normal(weight, (2.0 / fan_in) ** 0.5, generator)
                if module.bias is not None:
                    _normal(module.bias, 0.02, generator)
            elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                _uniform(module.weight, 0.8, 1.2, generator)
                _normal(module.bias, 0.05, generator)
                if module.running_mean is not None and module.running_var is not None:
                    _normal(module.running_mean, 0.05, generator)
                    _uniform(module.running_var, 0.8, 1.2, generator)
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                _uniform(module.weight, 0.8, 1.2, generator)
                _normal(module.bias, 0.05, generator)
            elif isinstance(module, nn.PReLU):
                _uniform(module.weight, 0.1, 0.4, generator)
        for name, parameter in network.named_parameters():
            # The last norm of a residual branch (ResNet, IResNet); without damping values grow from block to block.
            if name.endswith(("bn3.weight", "bn2.weight")) and "layer" in name:
                parameter.mul_(BRANCH_GAIN)


def _normal(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)


def _uniform(tensor: Tensor, low: float, high: float, generator: torch.Generator) -> None:
    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)


def _frames() -> list[Tensor]:
    """Return the demo pictures as the pipeline cuts them: (1, 3, H, W) float32 each, 0 to 255."""
    frames = [letterbox(fit_into(picture, FRAME_HW)[0], FRAME_HW, multiple=32) for picture in read_pictures()]
    return [torch.from_numpy(frame).permute(2, 0, 1).unsqueeze(0).float() for frame in frames]


def _stretch(pictures: Sequence[Tensor]) -> tuple[float, float]:
    """Return gain and offset that let a few of the raw scores of each picture pass."""
    best = min(float(scores.max()) for scores in pictures)
    floor = max(float(scores.topk(FACES_ABOVE_FLOOR).values[-1]) for scores in pictures)
    gain = (BEST_LOGIT - FLOOR_LOGIT) / max(best - floor, 1e-6)
    return gain, BEST_LOGIT - gain * best


def _template_offsets() -> Tensor:
    """Return the five landmarks relative to the middle of a face of side 1: (10,)."""
    return torch.from_numpy(WARP_TEMPLATES[FACE_TEMPLATE] - 0.5).float().reshape(-1)


class _Heads:
    """What the convolutions of a head give for the demo pictures; set one after the other."""

    def __init__(self, network: nn.Module, pictures: Sequence[Tensor], layers: Sequence[nn.Conv2d]) -> None:
        self.layers = layers
        self.answers: list[list[Tensor]] = [[] for _ in layers]
        hooks = [
            layer.register_forward_hook(lambda module, inputs, output, kept=kept: kept.append(output))
            for layer, kept in zip(layers, self.answers, strict=True)
        ]
        for pixels in pictures:
            network(pixels)
        for hook in hooks:
            hook.remove()

    def set_scores(self, first: int, step: int) -> None:
        """Let a few anchors of each picture pass; the scores are every ``step``-th channel from ``first``."""
        per_picture = zip(*self.answers, strict=True)
        gain, offset = _stretch(
            [torch.cat([level[:, first::step].flatten() for level in levels]) for levels in per_picture]
        )
        for layer in self.layers:
            layer.weight[first::step] *= gain
            layer.bias[first::step] = layer.bias[first::step] * gain + offset

    def set_values(self, middle: Tensor, deviation: float) -> None:
        """Let the answers lie around ``middle``, one per channel."""
        for layer, answers in zip(self.layers, self.answers, strict=True):
            layer.weight.mul_(deviation / float(torch.cat([answer.flatten() for answer in answers]).std()))
            layer.bias.copy_(middle)


def _settle_scrfd(network: nn.Module) -> None:
    """Boxes are ten strides wide around their anchor."""
    head = network.bbox_head
    pixels = [(frame - 127.5) / 128.0 for frame in _frames()]
    with torch.no_grad():
        score, bbox, kps = (
            _Heads(network, pixels, list(layers.values()))
            for layers in (head.stride_cls, head.stride_reg, head.stride_kps)
        )
        score.set_scores(0, 1)
        bbox.set_values(torch.full((8,), 5.0), 0.3)
        kps.set_values((_template_offsets() * 10).repeat(2), 0.2)


def _settle_retinaface(network: nn.Module) -> None:
    """Boxes are about their anchors."""
    mean_rgb = torch.tensor([123.0, 117.0, 104.0]).reshape(1, 3, 1, 1)
    pixels = [(frame - mean_rgb).flip(1) for frame in _frames()]
    with torch.no_grad():
        score, bbox, kps = (
            _Heads(network, pixels, [head.conv1x1 for head in heads])
            for heads in (network.ClassHead, network.BboxHead, network.LandmarkHead)
        )
        for layer in score.layers:
            layer.weight[0::2] = 0
            layer.bias[0::2] = 0
        score.set_scores(1, 2)
        bbox.set_values(torch.zeros(8), 0.5)
        kps.set_values((_template_offsets() * 10).repeat(2), 0.3)


_SETTLE: Final[dict[str, Callable[[nn.Module], None]]] = {"scrfd": _settle_scrfd, "retinaface": _settle_retinaface}
