"""The swappers and the embedding converter as PyTorch modules, against the figures of the published weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from warmswap_export.networks.network import PublishedNetwork

pytestmark = pytest.mark.export

PARAMETERS = {
    "inswapper_128": 138_292_739,
    "reswapper_256": 138_292_739,
    "simswap_224": 55_051_779,
    "simswap_256": 55_051_779,
    "simswap_512": 55_079_427,
    "ghost_1": 128_469_133,
    "ghost_2": 184_343_381,
    "ghost_3": 240_217_629,
    "crossface": 5_518_336,
    "hyperswap_256": 201_241_910,
}
"""Weights and biases of the published networks; running statistics of batch norms do not count."""

Keys = dict[str, tuple[int, ...]]

INSWAPPER_KEYS: Keys = {
    "target_encoder.0.weight": (128, 3, 7, 7),
    "target_encoder.6.bias": (1024,),
    "style_blocks.0.conv1.weight": (1024, 1024, 3, 3),
    "style_blocks.5.conv2.bias": (1024,),
    "style_blocks.0.style1.weight": (2048, 512),
    "style_blocks.5.style2.bias": (2048,),
    "decoder.0.weight": (512, 1024, 3, 3),
    "decoderPart1.2.weight": (128, 256, 3, 3),
    "decoderPart2.0.bias": (3,),
}
SIMSWAP_KEYS: Keys = {
    "first_layer.1.weight": (64, 3, 7, 7),
    "first_layer.2.running_var": (64,),
    "down1.0.weight": (128, 64, 3, 3),
    "down3.1.weight": (512,),
    "BottleNeck.0.conv1.1.weight": (512, 512, 3, 3),
    "BottleNeck.8.style2.linear.weight": (1024, 512),
    "up3.1.weight": (256, 512, 3, 3),
    "up1.2.running_mean": (64,),
    "last_layer.1.bias": (3,),
}
SIMSWAP_512_KEYS: Keys = SIMSWAP_KEYS | {
    "first_layer.1.weight": (32, 3, 7, 7),
    "first_layer.2.running_var": (32,),
    "down0.0.weight": (64, 32, 3, 3),
    "up0.1.weight": (32, 64, 3, 3),
    "last_layer.1.weight": (3, 32, 7, 7),
}
GHOST_KEYS: Keys = {
    "encoder.conv1.0.weight": (32, 3, 4, 4),
    "encoder.conv7.1.running_mean": (1024,),
    "encoder.deconv2.deconv.weight": (2048, 512, 4, 4),
    "encoder.deconv6.bn.weight": (32,),
    "generator.up1.weight": (512, 1024, 2, 2),
    "generator.AADBlk2.add_blocks.0.conv1.weight": (1024, 2048, 1, 1),
    "generator.AADBlk4.last_add_block.0.fc1.weight": (1024, 512),
    "generator.AADBlk8.add_blocks.0.conv_h.bias": (1,),
    "generator.AADBlk8.last_add_block.2.weight": (3, 64, 3, 3),
}
KEYS: dict[str, Keys] = {
    "inswapper_128": INSWAPPER_KEYS,
    "reswapper_256": INSWAPPER_KEYS,
    "simswap_224": SIMSWAP_KEYS,
    "simswap_256": SIMSWAP_KEYS,
    "simswap_512": SIMSWAP_512_KEYS,
    "ghost_1": GHOST_KEYS | {"generator.AADBlk8.add_blocks.2.weight": (3, 64, 3, 3)},
    "ghost_2": GHOST_KEYS | {"generator.AADBlk8.add_blocks.5.weight": (3, 64, 3, 3)},
    "ghost_3": GHOST_KEYS | {"generator.AADBlk8.add_blocks.8.weight": (3, 64, 3, 3)},
    "crossface": {
        "sequence.0.weight": (1024, 512),
        "sequence.1.weight": (1024,),
        "sequence.4.weight": (2048, 1024),
        "sequence.5.bias": (2048,),
        "sequence.8.weight": (1024, 2048),
        "sequence.12.weight": (512, 1024),
        "linear.weight": (512, 512),
        "linear.bias": (512,),
    },
    "hyperswap_256": {
        "encoder.down_samples.0.sequences.0.weight": (32, 3, 4, 4),
        "encoder.up_samples.5.sequences.1.running_var": (32,),
        "generator.pixel_shuffle_up_sample.sequences.0.weight": (4096, 512, 3, 3),
        "generator.layers.1.primary_layers.3.conv1.weight": (1024, 2048, 1, 1),
        "generator.layers.3.shortcut_layers.0.linear2.weight": (1024, 512),
        "generator.layers.7.primary_layers.5.weight": (3, 64, 3, 3),
        "masker.down_samples.0.sequences.0.weight": (16, 67, 3, 3),
        "masker.bottleneck.sequences.4.weight": (64,),
        "masker.conv.bias": (1,),
    },
}
FIRST_AND_LAST = {
    "inswapper_128": ("target_encoder.0.weight", "decoderPart2.0.bias"),
    "reswapper_256": ("target_encoder.0.weight", "decoderPart2.0.bias"),
    "simswap_224": ("first_layer.1.weight", "last_layer.1.bias"),
    "simswap_256": ("first_layer.1.weight", "last_layer.1.bias"),
    "simswap_512": ("first_layer.1.weight", "last_layer.1.bias"),
    "ghost_1": ("encoder.conv1.0.weight", "generator.AADBlk8.last_add_block.2.weight"),
    "ghost_2": ("encoder.conv1.0.weight", "generator.AADBlk8.last_add_block.2.weight"),
    "ghost_3": ("encoder.conv1.0.weight", "generator.AADBlk8.last_add_block.2.weight"),
    "crossface": ("sequence.0.weight", "linear.bias"),
    "hyperswap_256": ("encoder.down_samples.0.sequences.0.weight", "masker.conv.bias"),
}
NUM_KEYS = {
    "inswapper_128": 64,
    "reswapper_256": 64,
    "simswap_224": 123,
    "simswap_256": 123,
    "simswap_512": 137,
    "ghost_1": 223,
    "ghost_2": 311,
    "ghost_3": 399,
    "crossface": 16,
    "hyperswap_256": 349,
}
SMALL_FORMS = {
    "inswapper_128": ((2, 3, 32, 32), (2, 512)),
    "simswap_224": ((2, 512), (2, 3, 64, 64)),
    "simswap_512": ((2, 512), (2, 3, 64, 64)),
    "ghost_1": ((2, 3, 256, 256), (2, 512)),
    "crossface": ((2, 512),),
}
"""Networks that are run, with inputs as small as they take them; ``test_hyperswap_*`` runs its own."""
RANGES = {"inswapper_128": (0, 1), "simswap_224": (0, 1), "simswap_512": (0, 1), "ghost_1": (-1, 1)}
OUTPUT_SHAPES = {
    "inswapper_128": [(1, 3, 128, 128)],
    "reswapper_256": [(1, 3, 256, 256)],
    "simswap_224": [(1, 3, 224, 224)],
    "simswap_256": [(1, 3, 256, 256)],
    "simswap_512": [(1, 3, 512, 512)],
    "ghost_1": [(1, 3, 256, 256)],
    "ghost_2": [(1, 3, 256, 256)],
    "ghost_3": [(1, 3, 256, 256)],
    "crossface": [(1, 512)],
    "hyperswap_256": [(1, 3, 256, 256), (1, 1, 256, 256)],
}


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_layers_are_those_of_the_published_weights(name: str) -> None:
    network = _without_weights(name)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}

    assert sum(value.numel() for value in network.parameters()) == PARAMETERS[name]
    assert len(shapes) == NUM_KEYS[name]
    assert {key: shapes.get(key) for key in KEYS[name]} == KEYS[name]
    assert (next(iter(shapes)), list(shapes)[-1]) == FIRST_AND_LAST[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_form_is_what_forward_takes_and_returns(name: str) -> None:
    network = _without_weights(name)
    outputs = _outputs(network, [value.to("meta") for value in network.example_inputs()])

    assert [tuple(output.shape) for output in outputs] == OUTPUT_SHAPES[name]
    assert len(network.form.outputs) == len(outputs)


@pytest.mark.parametrize("name", SMALL_FORMS)
def test_a_batch_is_its_rows_one_by_one(name: str) -> None:
    import torch

    from warmswap_export.networks.registry import create_network

    network = create_network(name)
    inputs = [torch.rand(shape) for shape in SMALL_FORMS[name]]
    (together,) = _outputs(network, inputs)
    rows = [_outputs(network, [value[row : row + 1] for value in inputs])[0] for row in range(2)]

    torch.testing.assert_close(together, torch.cat(rows), rtol=1e-4, atol=1e-5)
    assert not torch.equal(together[0], together[1])
    if name in RANGES:
        lowest, highest = RANGES[name]
        assert lowest <= together.min() < together.max() <= highest


def test_crossface_takes_embeddings_of_any_length() -> None:
    import torch

    from warmswap_export.networks.registry import create_network

    network = create_network("crossface")
    embedding = torch.randn(2, 512)

    torch.testing.assert_close(network(20 * embedding), network(embedding), rtol=1e-4, atol=1e-6)


def test_hyperswap_keeps_the_target_outside_its_mask() -> None:
    import torch

    from warmswap_export.networks.registry import create_network

    network = create_network("hyperswap_256")
    target = torch.rand(1, 3, 256, 256) * 2 - 1
    source = torch.randn(1, 512)
    free, mask = network(source, target)
    network.masker.conv.bias.fill_(-100)
    kept, closed = network(source, target)

    assert 0 <= mask.min() < mask.max() <= 1
    assert -1 <= free.min() < free.max() <= 1
    assert closed.max() == 0
    torch.testing.assert_close(kept, target)


def test_hyperswap_erodes_only_the_mask_it_returns() -> None:
    import torch

    from warmswap_export.networks.registry import create_network

    network = create_network("hyperswap_256")
    target = torch.rand(1, 3, 256, 256) * 2 - 1
    source = torch.randn(1, 512)
    attributes = network.encoder(target)
    mask = network.masker(target, attributes[-1])
    swapped = network.generator(attributes, source)
    output, eroded = network(source, target)

    torch.testing.assert_close(output, swapped * mask + target * (1 - mask))
    assert eroded[0, 0, 0, 0] == mask[0, 0, :4, :4].min()
    assert eroded[0, 0, 100, 50] == mask[0, 0, 97:104, 47:54].min()


def _without_weights(name: str) -> PublishedNetwork:
    import torch

    from warmswap_export.networks.registry import create_network

    with torch.device("meta"):
        return create_network(name)


def _outputs(network: PublishedNetwork, inputs: list[Tensor]) -> list[Tensor]:
    output = network(*inputs)
    return list(output) if isinstance(output, tuple) else [output]
