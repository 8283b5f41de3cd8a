from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.repositories import REPOSITORY, change_config, copy_repository
from tests.e2e.wire import PROTOCOLS, Service, open_service
from warmswap_ops.launcher import LocalTriton

MAX_IMAGE_BYTES = 90_000
MAX_IMAGE_PIXELS = 320_000


@pytest.fixture(scope="session")
def server() -> Iterator[LocalTriton]:
    """The repository as it is shipped; one server for all tests that only ask."""
    with LocalTriton(REPOSITORY) as running:
        yield running


@pytest.fixture(scope="session")
def tight_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """Small limits, one instance, room for one request in the queue."""
    repository = copy_repository(tmp_path_factory.mktemp("tight") / "model_repository")
    limits = {"max_image_bytes": MAX_IMAGE_BYTES, "max_image_pixels": MAX_IMAGE_PIXELS}
    change_config(repository, "face_swap", count=1, max_queue_size=1, **limits)
    change_config(repository, "face_analysis", **limits)
    with LocalTriton(repository) as running:
        yield running


@pytest.fixture(params=PROTOCOLS)
def service(request: pytest.FixtureRequest, server: LocalTriton) -> Iterator[Service]:
    with open_service(server, request.param) as opened:
        yield opened


@pytest.fixture(params=PROTOCOLS)
def tight_service(request: pytest.FixtureRequest, tight_server: LocalTriton) -> Iterator[Service]:
    with open_service(tight_server, request.param) as opened:
        yield opened
