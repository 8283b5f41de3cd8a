"""A name with several addresses is several replicas: the client's channel uses all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from tests.ops.serve_process import eventually
from tests.ops.toys import write_repository
from warmswap_client.grpc_transport import CHANNEL_ARGS
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton

REQUESTS = 20
WAIT_S = 20.0


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[LocalTriton]]:
    repository = write_repository(tmp_path / "repository")
    with ExitStack() as stack:
        yield [stack.enter_context(LocalTriton(repository)) for _ in range(2)]


def served(replica: LocalTriton) -> int:
    with InferenceServerClient(replica.grpc_url) as client:
        return int(client.get_inference_statistics("face_swap").model_stats[0].inference_stats.success.count)


def send(client: Any, count: int) -> None:
    tensor = InferInput("x", [2], "FP32")
    tensor.set_data_from_numpy(np.array([3, 4], np.float32))
    for _ in range(count):
        client.infer("face_swap", [tensor], client_timeout=WAIT_S)


def test_requests_spread_and_a_replica_that_ends_is_left_out(replicas: list[LocalTriton]) -> None:
    # What the name of a headless service resolves to.
    name = "ipv4:" + ",".join(replica.grpc_url for replica in replicas)
    with InferenceServerClient(name, channel_args=list(CHANNEL_ARGS)) as client:
        before = [served(replica) for replica in replicas]
        send(client, 1)

        def both_take_part() -> bool:  # the second connection may come a little later
            send(client, REQUESTS)
            shares = [served(replica) - earlier for replica, earlier in zip(replicas, before, strict=True)]
            return min(shares) >= REQUESTS // 4

        assert eventually(both_take_part, WAIT_S)
        replicas[0].stop()
        send(client, REQUESTS)
