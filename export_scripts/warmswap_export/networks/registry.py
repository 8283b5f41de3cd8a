"""Finds a network by the name that pack files use."""

from __future__ import annotations

import importlib
from typing import Final

from warmswap_export.errors import PackError
from warmswap_export.networks.network import PublishedNetwork

NETWORK_MODULES: Final = {
    "scrfd_10g": "scrfd",
    "scrfd_2.5g": "scrfd",
    "retinaface_mnet025": "retinaface",
    "retinaface_r50": "retinaface",
    "iresnet18": "iresnet",
    "iresnet34": "iresnet",
    "iresnet50": "iresnet",
    "iresnet100": "iresnet",
    "simswap_arcface": "simswap_arcface",
    "inswapper_128": "inswapper",
    "reswapper_256": "inswapper",
    "simswap_224": "simswap",
    "simswap_256": "simswap",
    "simswap_512": "simswap",
    "ghost_1": "ghost",
    "ghost_2": "ghost",
    "ghost_3": "ghost",
    "crossface": "crossface",
    "hyperswap_256": "hyperswap",
}
"""Network name to the module of this package that has it."""


def create_network(name: str) -> PublishedNetwork:
    """Return an untrained network in evaluation mode.

    Raises:
        PackError: no network has this name.
    """
    if name not in NETWORK_MODULES:
        raise PackError(f"no network is called {name!r}; there are: {', '.join(NETWORK_MODULES)}")
    module = importlib.import_module(f"warmswap_export.networks.{NETWORK_MODULES[name]}")
    network: PublishedNetwork = module.create(name)
    return network.eval()
