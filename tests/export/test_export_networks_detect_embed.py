"""Published detectors and embedders as PyTorch modules: sizes, keys and shapes (make test-export)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from warmswap_export.networks.network import PublishedNetwork

pytestmark = pytest.mark.export

PARAMETERS: Final = {
    "scrfd_10g": 4_229_905,
    "scrfd_2.5g": 819_809,
    "retinaface_mnet025": 426_608,
    "retinaface_r50": 27_293_600,
    "iresnet18": 24_025_600,
    "iresnet34": 34_139_328,
    "iresnet50": 43_590_848,
    "iresnet100": 65_156_160,
    "simswap_arcface": 52_193_215,
}

FIRST_AND_LAST: Final = {
    "scrfd_10g": ("backbone.stem.0.weight", "bbox_head.integral.project"),
    "scrfd_2.5g": ("backbone.stem.0.weight", "bbox_head.integral.project"),
    "retinaface_mnet025": ("body.stage1.0.0.weight", "LandmarkHead.2.conv1x1.bias"),
    "retinaface_r50": ("body.conv1.weight", "LandmarkHead.2.conv1x1.bias"),
    "iresnet18": ("conv1.weight", "features.num_batches_tracked"),
    "iresnet34": ("conv1.weight", "features.num_batches_tracked"),
    "iresnet50": ("conv1.weight", "features.num_batches_tracked"),
    "iresnet100": ("conv1.weight", "features.num_batches_tracked"),
    "simswap_arcface": ("conv1.weight", "bn3.num_batches_tracked"),
}

IRESNET_SHAPES: Final = {
    "conv1.weight": (64, 3, 3, 3),
    "prelu.weight": (64,),
    "layer1.0.bn1.running_var": (64,),
    "layer1.0.downsample.0.weight": (64, 64, 1, 1),
    "layer4.1.bn3.bias": (512,),
    "bn2.running_mean": (512,),
    "fc.weight": (512, 25088),
    "fc.bias": (512,),
    "features.weight": (512,),
}

SHAPES: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    "scrfd_10g": {
        "backbone.stem.0.weight": (28, 3, 3, 3),
        "backbone.stem.7.running_mean": (56,),
        "backbone.layer1.0.conv1.weight": (56, 56, 3, 3),
        "backbone.layer4.0.downsample.1.weight": (224, 88, 1, 1),
        "backbone.layer4.2.bn2.bias": (224,),
        "neck.lateral_convs.0.conv.weight": (56, 88, 1, 1),
        "neck.pafpn_convs.1.conv.bias": (56,),
        "bbox_head.cls_stride_convs.(8, 8).0.conv.weight": (80, 56, 3, 3),
        "bbox_head.cls_stride_convs.(32, 32).2.bn.weight": (80,),
        "bbox_head.stride_cls.(8, 8).bias": (2,),
        "bbox_head.stride_reg.(16, 16).weight": (8, 80, 3, 3),
        "bbox_head.stride_kps.(32, 32).bias": (20,),
        "bbox_head.scales.0.scale": (),
        "bbox_head.integral.project": (9,),
    },
    "scrfd_2.5g": {
        "backbone.stem.0.weight": (12, 3, 3, 3),
        "backbone.layer1.2.conv2.weight": (24, 24, 3, 3),
        "backbone.layer2.0.downsample.2.running_var": (48,),
        "backbone.layer4.1.bn2.bias": (80,),
        "neck.lateral_convs.2.conv.weight": (24, 80, 1, 1),
        "neck.downsample_convs.1.conv.weight": (24, 24, 3, 3),
        "bbox_head.cls_stride_convs.(16, 16).1.conv.weight": (64, 64, 3, 3),
        "bbox_head.stride_kps.(8, 8).weight": (20, 64, 3, 3),
    },
    "retinaface_mnet025": {
        "body.stage1.0.0.weight": (8, 3, 3, 3),
        "body.stage1.1.0.weight": (8, 1, 3, 3),
        "body.stage2.5.3.weight": (128, 128, 1, 1),
        "body.stage3.1.4.running_mean": (256,),
        "fpn.output1.0.weight": (64, 64, 1, 1),
        "fpn.merge2.1.weight": (64,),
        "ssh1.conv3X3.0.weight": (32, 64, 3, 3),
        "ssh3.conv7x7_3.0.weight": (16, 16, 3, 3),
        "ClassHead.0.conv1x1.weight": (4, 64, 1, 1),
        "LandmarkHead.2.conv1x1.bias": (20,),
    },
    "retinaface_r50": {
        "body.conv1.weight": (64, 3, 7, 7),
        "body.layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "body.layer2.0.conv2.weight": (128, 128, 3, 3),
        "body.layer4.2.bn3.bias": (2048,),
        "fpn.output1.0.weight": (256, 512, 1, 1),
        "ssh2.conv5X5_1.1.running_var": (64,),
        "ClassHead.0.conv1x1.weight": (4, 256, 1, 1),
        "BboxHead.1.conv1x1.weight": (8, 256, 1, 1),
        "LandmarkHead.2.conv1x1.bias": (20,),
    },
    "iresnet18": {**IRESNET_SHAPES, "layer3.1.conv2.weight": (256, 256, 3, 3)},
    "iresnet34": {**IRESNET_SHAPES, "layer3.5.conv2.weight": (256, 256, 3, 3)},
    "iresnet50": {**IRESNET_SHAPES, "layer3.13.conv2.weight": (256, 256, 3, 3)},
    "iresnet100": {**IRESNET_SHAPES, "layer3.29.conv2.weight": (256, 256, 3, 3)},
    "simswap_arcface": {
        "conv1.weight": (64, 3, 3, 3),
        "prelu.weight": (1,),
        "layer1.0.bn0.weight": (64,),
        "layer2.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.1.running_mean": (128,),
        "layer3.22.se.fc.0.weight": (16, 256),
        "layer4.2.se.fc.1.weight": (1,),
        "fc.weight": (512, 25088),
        "bn3.bias": (512,),
    },
}


@cache
def published(name: str) -> PublishedNetwork:
    """Return a network that has the shapes alone (``meta`` device): nothing is drawn, nothing is stored."""
    import torch

    from warmswap_export.networks.registry import create_network

    with torch.device("meta"):
        return create_network(name)


@pytest.fixture
def torch() -> Iterator[Any]:
    """PyTorch without gradients, on one core and from a fixed seed; what it was before comes back at the end."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        yield torch
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_the_published_number_of_parameters(name: str) -> None:
    assert sum(parameter.numel() for parameter in published(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_keys_and_shapes_are_those_of_the_checkpoint(name: str) -> None:
    state = published(name).state_dict()
    keys = list(state)

    assert (keys[0], keys[-1]) == FIRST_AND_LAST[name]
    assert {key: tuple(state[key].shape) for key in SHAPES[name]} == SHAPES[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_form_fits_what_the_network_takes_and_gives(name: str) -> None:
    import torch

    network = published(name)
    outputs = network(*(example.to("meta") for example in network.example_inputs()))
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs

    assert len(outputs) == len(network.form.outputs)
    assert set(network.form.dynamic_axes) <= {*network.form.inputs, *network.form.outputs}


def test_legacy_scrfd_has_one_row_per_anchor_and_no_batch_axis(torch: Any) -> None:
    outputs = published("scrfd_10g")(torch.zeros(1, 3, 640, 640, device="meta"))

    anchors = (12800, 3200, 800)
    assert [tuple(output.shape) for output in outputs] == [(rows, values) for values in (1, 4, 10) for rows in anchors]


def test_legacy_scrfd_interleaves_the_pictures_of_a_batch(torch: Any) -> None:
    from warmswap_export.networks.scrfd import create

    legacy, batched = create("scrfd_2.5g").eval(), create("scrfd_2.5g", batched=True).eval()
    batched.load_state_dict(legacy.state_dict())
    images = torch.randn(2, 3, 64, 96)

    for interleaved, expected in zip(legacy(images), batched(images), strict=True):
        cells, values = interleaved.shape[0] // 4, interleaved.shape[1]
        rows = interleaved.reshape(cells, 2, 2, values).transpose(0, 1).reshape(2, cells * 2, values)
        assert expected.shape == rows.shape
        assert torch.equal(rows, expected)
        assert not torch.equal(expected[0], expected[1])
        assert not torch.equal(interleaved.reshape(expected.shape), expected)


def test_scrfd_scores_are_probabilities_and_distances_are_scaled(torch: Any) -> None:
    from warmswap_export.networks.scrfd import create

    network = create("scrfd_2.5g", batched=True).eval()
    images = torch.randn(1, 3, 64, 64)
    before = network(images)
    network.bbox_head.scales[1].scale.fill_(3.0)
    after = network(images)

    assert all(score.min() > 0 and score.max() < 1 for score in before[:3])
    assert torch.allclose(after[4], 3 * before[4], rtol=1e-5)
    assert all(torch.equal(after[i], before[i]) for i in range(9) if i != 4)


def test_the_form_of_scrfd_follows_its_batch_axis() -> None:
    from warmswap_export.networks.scrfd import create

    legacy, batched = create("scrfd_2.5g").form, create("scrfd_2.5g", batched=True).form

    assert legacy.outputs == ("448", "471", "494", "451", "474", "497", "454", "477", "500")
    assert set(legacy.dynamic_axes["input.1"]) == {2, 3}
    assert batched.outputs[:4] == ("score_8", "score_16", "score_32", "bbox_8")
    assert set(batched.dynamic_axes["input.1"]) == {0, 2, 3}


def test_retinaface_takes_any_size_that_32_divides(torch: Any) -> None:
    from warmswap_export.networks.retinaface import create

    network = create("retinaface_mnet025").eval()
    images = torch.randn(2, 3, 320, 416) * 60
    bbox, scores, landmarks = network(images)

    anchors = 2 * (40 * 52 + 20 * 26 + 10 * 13)
    assert [tuple(output.shape) for output in (bbox, scores, landmarks)] == [(2, anchors, n) for n in (4, 2, 10)]
    assert torch.allclose(scores.sum(dim=2), torch.ones(2, anchors))
    alone = network(images[1:])
    for together, single in zip((bbox, scores, landmarks), alone, strict=True):
        assert torch.allclose(together[1:], single, rtol=1e-4, atol=1e-5)


def test_iresnet_embeds_each_crop_of_a_batch_by_itself(torch: Any) -> None:
    from warmswap_export.networks.iresnet import create

    network = create("iresnet50").eval()
    crops = torch.randn(2, 3, 112, 112)
    together = network(crops)

    assert together.shape == (2, 512)
    for i in range(2):
        assert torch.allclose(together[i : i + 1], network(crops[i : i + 1]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], rtol=1e-2)


def test_the_embedding_of_simswap_is_raw(torch: Any) -> None:
    from warmswap_export.networks.simswap_arcface import create

    network = create("simswap_arcface").eval()
    crops = torch.randn(1, 3, 112, 112)
    embedding = network(crops)
    network.bn3.weight.mul_(2)
    network.bn3.bias.mul_(2)

    assert embedding.shape == (1, 512)
    assert torch.allclose(network(crops), 2 * embedding, rtol=1e-4)
