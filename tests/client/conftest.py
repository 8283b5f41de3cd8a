from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.client.support import OpenClient, open_any_client
from tests.client.toy_triton import ToyTriton, start_toy_triton
from warmswap_client import FaceSwapClient


@pytest.fixture(scope="session")
def toy_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyTriton]:
    """One real server for all tests that only ask."""
    server = start_toy_triton(tmp_path_factory.mktemp("toy_triton"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["sync", "async"])
def open_client(request: pytest.FixtureRequest) -> Iterator[OpenClient]:
    """Open clients of one kind and close them afterwards."""
    opened: list[FaceSwapClient] = []

    def remember(url: str = "grpc://fake:8001", **kwargs: Any) -> FaceSwapClient:
        opened.append(partial(open_any_client, request.param)(url, **kwargs))
        return opened[-1]

    try:
        yield remember
    finally:
        for client in opened:
            client.close()
