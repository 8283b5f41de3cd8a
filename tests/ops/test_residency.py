"""Models that come and go on the real Triton: toys for variants, and this process for the pipelines that ask."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ops.metrics import scrape, value
from tests.ops.serve_process import eventually
from tests.ops.toys import (
    OUT_OF_TABLE,
    STAGE_NAMES,
    write_hanging_graph,
    write_manifest,
    write_repository,
    write_stage,
)
from warmswap_ensemble.errors import ModelLoadingError, OverloadedError, PipelineError, StageFailedError
from warmswap_ensemble.errors import StageNotReadyError as NotReadyError
from warmswap_ensemble.residency_client import ResidencyClient
from warmswap_ops.control import ControlClient
from warmswap_ops.errors import UsageError
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.phases import Phase
from warmswap_ops.residency.background import child_pids, loading_in_background, may_reschedule
from warmswap_ops.residency.memory import stub_pids
from warmswap_ops.residency.state import CRASH_BACKOFF_S, FIRST_USE_S

pytestmark = pytest.mark.triton

WAIT_MS = 20_000
POLICY = """
[models.face_swapper_idle]
idle_s = 0.2
"""


class Server:
    """A replica whose phases are kept."""

    def __init__(self, repository: Path, policy: str, **options: Any) -> None:
        self.phases: list[Phase] = []
        path = repository.parent / "policy.toml"
        path.write_text(policy)
        self.triton = LocalTriton(repository, residency=path, report=self.phases.append, **options)

    @property
    def manager(self) -> Any:
        assert self.triton.residency is not None
        return self.triton.residency

    def model(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = self.manager.snapshot()["models"][name]
        return state

    @contextmanager
    def clients(self, count: int, pipeline: str) -> Iterator[list[ResidencyClient]]:
        """Processes of one pipeline; all but one of them may wait."""
        environ = self.manager.environment()
        made = [ResidencyClient.from_environment(pipeline, environ) for _ in range(count)]
        for client in made:
            client.connect()
        try:
            yield made
        finally:
            for client in made:
                client.close()

    def use(self, *models: str) -> None:
        """Load models, one after the other, and give them back."""
        with self.clients(2, "user") as (client, _):
            for model in models:
                with client.hold(model, WAIT_MS):
                    assert self.model(model)["leases"] == 1
                    told = self.model(model)["loads"]
                    assert eventually(lambda model=model, told=told: len(self.told("on_demand_load", model)) == told)

    def told(self, phase: str, model: str) -> list[Phase]:
        return [told for told in self.phases if told.name == phase and told.details.get("model") == model]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = write_repository(tmp_path_factory.mktemp("residency") / "repository")
    for variant in ("crowd", "idle", "lost", "refused", "changed", "plain"):
        folder = write_stage(repository, f"face_swapper_{variant}")
        if variant == "refused":
            (folder / "model.onnx").write_bytes(b"not a graph")
            write_manifest(folder, "face_swapper_refused")
        if variant == "changed":
            (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\0")
    running = Server(repository, POLICY, preload=("face_analysis", "face_swap"))
    with running.triton:
        yield running


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    results: list[Any] = [None] * count

    def run(index: int) -> None:
        try:
            results[index] = work(index)
        except PipelineError as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_residents_and_strangers_are_none_of_the_managers_business(server: Server) -> None:
    with server.clients(1, "p") as (client,):
        client.on_demand = frozenset({"face_detector", "face_nobody"})
        for unmanaged in ("face_detector", "face_nobody"):
            with client.hold(unmanaged, 0):
                assert server.model("face_detector")["leases"] == 0


def test_many_requests_at_once_are_one_load_and_one_of_them_never_waits(server: Server) -> None:
    entered = threading.Barrier(7)

    def ask(client: ResidencyClient) -> float:
        with client.hold("face_swapper_crowd", WAIT_MS):
            entered.wait(30)  # all seven hold it at once
            return server.model("face_swapper_crowd")["leases"]  # type: ignore[no-any-return]

    with server.clients(8, "crowd") as clients:
        answers = together(8, lambda index: ask(clients[index]))
    refused = [answer for answer in answers if isinstance(answer, ModelLoadingError)]
    assert len(refused) == 1, answers
    assert "face_swapper_crowd is being loaded, ready in about" in str(refused[0])
    state = server.model("face_swapper_crowd")
    assert (state["loads"], state["waits"], state["leases"], state["state"]) == (1, 7, 0, "ready")
    assert max(answer for answer in answers if isinstance(answer, int)) == 7
    assert eventually(lambda: server.told("on_demand_load", "face_swapper_crowd"))
    (phase,) = server.told("on_demand_load", "face_swapper_crowd")
    state = server.model("face_swapper_crowd")
    assert phase.ms == pytest.approx(state["load_ms"], rel=0.01)
    assert state["memory_measured"]
    assert 10 < state["memory_mb"] < 200


def test_one_process_alone_may_not_wait_and_the_load_goes_on(server: Server) -> None:
    with server.clients(1, "alone") as (client,):
        with pytest.raises(ModelLoadingError), client.hold("face_swapper_plain", WAIT_MS):
            pytest.fail("nobody is left to answer the others")
        assert eventually(lambda: server.model("face_swapper_plain")["state"] == "ready")
        with client.hold("face_swapper_plain", 0):
            pass
    assert server.model("face_swapper_plain")["loads"] == 1


def test_what_is_idle_is_unloaded_but_never_under_a_lease(server: Server) -> None:
    with server.clients(2, "idle") as (client, _):
        with client.hold("face_swapper_idle", WAIT_MS):
            time.sleep(0.6)  # three times its idle_s
            assert server.model("face_swapper_idle")["state"] == "ready"
        assert eventually(lambda: server.model("face_swapper_idle")["state"] == "absent")
    assert server.model("face_swapper_idle")["unloads"] == {"idle": 1}
    with ControlClient(server.triton.grpc_url) as control:
        assert not control.is_model_ready("face_swapper_idle")
    assert "face_swapper_idle" not in stub_pids(server.triton.processes)
    assert eventually(lambda: server.told("on_demand_unload", "face_swapper_idle"))
    assert server.told("on_demand_unload", "face_swapper_idle")[0].details["reason"] == "idle"


def test_a_process_that_dies_gives_its_leases_back(server: Server) -> None:
    with server.clients(2, "dying") as (client, _):
        held = ExitStack()
        held.enter_context(client.hold("face_swapper_crowd", WAIT_MS))
        assert server.model("face_swapper_crowd")["leases"] == 1
        client.close()
        assert eventually(lambda: server.model("face_swapper_crowd")["leases"] == 0)
        held.close()  # the release, over a new connection, is of no lease there: refused, and nothing is counted
    assert server.model("face_swapper_crowd")["leases"] == 0


def test_a_model_that_somebody_else_unloaded_is_loaded_again(server: Server) -> None:
    server.use("face_swapper_lost")
    with ControlClient(server.triton.grpc_url) as control:
        control.unload("face_swapper_lost")
    with server.clients(1, "p") as (client,), suppress(NotReadyError), client.hold("face_swapper_lost", 0):
        raise NotReadyError("what Triton says of it")
    assert eventually(lambda: server.model("face_swapper_lost")["unloads"] == {"elsewhere": 1})
    server.use("face_swapper_lost")
    assert server.model("face_swapper_lost")["loads"] == 2


@pytest.mark.parametrize(
    ("variant", "reason"), [("refused", "Protobuf"), ("changed", "sha256 is")], ids=["by Triton", "changed file"]
)
def test_a_failed_load_is_told_with_its_reason_and_not_repeated_at_once(
    server: Server, variant: str, reason: str
) -> None:
    model = f"face_swapper_{variant}"
    with server.clients(2, "p") as (client, _):
        for _ in range(2):
            with pytest.raises(StageFailedError, match=reason) as caught, client.hold(model, WAIT_MS):
                pytest.fail("it cannot be loaded")
            assert f"{model} could not be loaded" in str(caught.value)
            assert "the next attempt is possible in" in str(caught.value)
    state = server.model(model)
    assert (state["failed_loads"], state["loads"], state["state"]) == (1, 0, "absent")
    assert reason in state["failure"]
    assert eventually(lambda: server.told("on_demand_load", model))
    assert reason in server.told("on_demand_load", model)[0].details["error"]
    server.triton.check_alive()
    server.use("face_swapper_plain")


def test_garbage_at_the_socket_harms_nobody(server: Server) -> None:
    import socket

    path = server.manager.environment()["WARMSWAP_RESIDENCY_SOCKET"]
    assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    for garbage in (b"", b"\n", b"{}\n", b"[]\n", b"x" * 9000, b'{"pipeline": "p"}\n{"release": 3}\n', b"\xff\n"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(10)
            with suppress(ConnectionResetError):
                while connection.recv(1000):
                    pass
    server.use("face_swapper_plain")


def test_a_load_in_the_background_goes_back_to_normal(server: Server) -> None:
    if not may_reschedule():
        pytest.skip("no right to bring a process back from SCHED_IDLE")
    pid, model = server.triton.pid, "face_swapper_lost"
    seen: set[int] = set()
    with ControlClient(server.triton.grpc_url) as control:
        control.unload(model)
        assert eventually(lambda: model not in stub_pids(child_pids(pid)))

        def is_loading(child: int) -> bool:
            return child in stub_pids([child]).get(model, ())

        with loading_in_background(pid, is_loading):
            loading = threading.Thread(target=control.load, args=(model,))
            loading.start()
            while loading.is_alive():
                for stub in stub_pids(child_pids(pid)).get(model, ()):
                    with suppress(OSError):
                        seen.add(os.sched_getscheduler(stub))
            loading.join()
        (stub,) = stub_pids(child_pids(pid))[model]
    threads = [int(path.name) for path in Path(f"/proc/{stub}/task").iterdir()]
    assert os.SCHED_IDLE in seen
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_OTHER}


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Room for two variants and a bit, by what they were measured to take here and now."""
    repository = write_repository(tmp_path_factory.mktemp("tight") / "repository")
    for name in ("first", "second", "third", "dear", "huge"):
        write_stage(repository, f"face_swapper_{name}")
    policy = (
        "memory_budget_mb = 100000\n"
        "[models.face_swapper_huge]\nmemory_mb = 1000000\n"
        "[models.face_swapper_dear]\npriority = 1\n"
    )
    running = Server(repository, policy, preload=("face_analysis",))
    with running.triton:
        assert eventually(lambda: running.model("face_analysis")["memory_measured"])
        running.use("face_swapper_first", "face_swapper_second")
        variant_mb = running.model("face_swapper_second")["memory_mb"]
        used_mb = running.manager.snapshot()["memory_mb"]
        # What toys take differs by a third from run to run, so the limit is set when it is known.
        running.manager._policy = replace(running.manager._policy, memory_budget_mb=used_mb + 0.9 * variant_mb)
        yield running


def loaded(server: Server) -> set[str]:
    models = server.manager.snapshot()["models"].items()
    return {name.removeprefix("face_swapper_") for name, state in models if state["loaded"] and "swapper_" in name}


def test_memory_is_made_by_unloading_what_was_used_longest_ago(tight: Server) -> None:
    tight.use("face_swapper_first", "face_swapper_second", "face_swapper_first", "face_swapper_third")
    assert loaded(tight) == {"first", "third"}
    assert tight.model("face_swapper_second")["unloads"] == {"memory": 1}
    tight.use("face_swapper_dear", "face_swapper_second")
    assert loaded(tight) == {"dear", "second"}, "the one of higher priority stays, though it was used before"
    tight.use("face_swapper_first")
    assert loaded(tight) == {"dear", "first"}


def test_what_is_in_use_is_not_unloaded_for_memory(tight: Server) -> None:
    with tight.clients(4, "busy") as (one, two, three, _):
        with one.hold("face_swapper_first", WAIT_MS), two.hold("face_swapper_second", WAIT_MS):
            no_room = r"no room for face_swapper_third beside the models that are in use: .* > memory_budget_mb"
            with pytest.raises(OverloadedError, match=no_room), three.hold("face_swapper_third", 300):
                pytest.fail("there is no room")
            assert loaded(tight) == {"first", "second"}
        with three.hold("face_swapper_third", WAIT_MS):
            assert "third" in loaded(tight)


def test_a_model_that_never_fits_is_refused_with_the_arithmetic_and_others_go_on(tight: Server) -> None:
    with tight.clients(2, "p") as (client, _):
        with pytest.raises(StageFailedError) as caught, client.hold("face_swapper_huge", WAIT_MS):
            pytest.fail("it does not fit")
        assert "face_swapper_huge does not fit into memory: tritonserver " in str(caught.value)
        assert "+ face_swapper_huge 1000000 " in str(caught.value)
        assert "MB > memory_budget_mb = " in str(caught.value)
    tight.use("face_swapper_first")


def test_a_model_that_is_promised_is_not_unloaded_before_its_first_use(tight: Server) -> None:
    """Two that do not both fit would else unload each other, with every client told to come back."""
    tight.use("face_swapper_first", "face_swapper_second")
    first, second = (tight.manager._models[f"face_swapper_{name}"] for name in ("first", "second"))
    now_s = time.monotonic()
    first.used, first.last_used_s = False, now_s - FIRST_USE_S + 0.5  # for half a second more
    second.used, second.last_used_s = False, now_s + 100 - FIRST_USE_S
    with tight.clients(2, "promised") as (client, _), client.hold("face_swapper_third", WAIT_MS):
        assert loaded(tight) == {"second", "third"}
    second.used, second.last_used_s = False, time.monotonic() - 1  # used longest ago, but promised
    tight.use("face_swapper_first")
    assert loaded(tight) == {"first", "second"}


def test_only_what_was_asked_for_is_loaded(tight: Server) -> None:
    with ControlClient(tight.triton.grpc_url) as control:
        ready = {state.name for state in control.index() if state.state == "READY"}
    assert {name for name in ready if "swapper_" not in name} == {"face_detector", "face_embedder", "face_analysis"}


def test_a_server_that_stops_loads_nothing_and_leaves_no_socket(tight: Server) -> None:
    """Last in this file: it ends the server."""
    path = Path(tight.manager.environment()["WARMSWAP_RESIDENCY_SOCKET"])
    with tight.clients(2, "p") as (client, _):
        with client.hold("face_swapper_first", WAIT_MS):
            tight.manager.drain()
            with pytest.raises(OverloadedError, match="the server is stopping"), client.hold("face_swapper_dear", 100):
                pytest.fail("it must not be loaded")
        with client.hold("face_swapper_first", 0):  # what is there still answers
            pass
    tight.triton.stop()
    assert not path.parent.exists()


FAILING_WARMUP = """
model_warmup [ { name: "fails" batch_size: 1 inputs { key: "x"
  value: { data_type: TYPE_FP32 dims: [ 1 ] input_data_file: "x.raw" } } } ]
"""


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Server]:
    """A replica under watch, with a variant whose warm-up fails and one whose warm-up does not end."""
    repository = write_repository(tmp_path / "repository")
    failing = write_stage(repository, "face_swapper_failing", extra=FAILING_WARMUP).parent
    (failing / "warmup").mkdir()
    (failing / "warmup/x.raw").write_bytes(np.array([OUT_OF_TABLE], np.float32).tobytes())
    hanging = write_stage(repository, "face_swapper_hanging")
    write_hanging_graph(hanging / "model.onnx")
    write_manifest(hanging, "face_swapper_hanging")
    write_stage(repository, "face_swapper_plain")
    policy = '[models.face_swapper]\nresidency = "on_demand"\n'
    running = Server(repository, policy, preload=("face_analysis", "face_swapper"))
    with running.triton:
        assert running.model("face_swapper")["loads"] == 1
        watch = threading.Thread(target=running.triton.watch)
        watch.start()
        yield running
        assert watch.is_alive(), "the watch has given up"
    watch.join(30)


def test_a_load_that_fails_in_its_warm_up_leaves_a_replica_that_serves(watched: Server) -> None:
    """Triton 24.10 may crash over it or refuse it; here it refuses, the next test has the crash."""
    model = "face_swapper_failing"
    failed = pytest.raises(StageFailedError, match=f"{model} could not be loaded")
    with watched.clients(2, "p") as (client, _), failed, client.hold(model, WAIT_MS):
        pytest.fail("it cannot be loaded")
    watched.use("face_swapper_plain")
    watched.triton.check_alive()


def test_a_load_that_crashes_the_server_is_not_tried_again_soon_and_the_replica_serves(watched: Server) -> None:
    model = "face_swapper_hanging"
    with watched.clients(2, "p") as (client, _):
        with pytest.raises(ModelLoadingError), client.hold(model, 0):
            pytest.fail("it does not end")
        assert eventually(lambda: model in stub_pids(watched.triton.processes))
        os.kill(watched.triton.pid, signal.SIGSEGV)
        crashed = f"tritonserver crashed while it loaded {model}"
        with pytest.raises(StageFailedError, match=crashed) as caught, client.hold(model, WAIT_MS):
            pytest.fail("it cannot be loaded")
    assert float(str(caught.value).rpartition(" in ")[2].removesuffix(" s")) > CRASH_BACKOFF_S - 60
    assert eventually(lambda: watched.triton.state.is_serving)
    assert watched.model("face_swapper")["state"] == "ready", "what is preloaded is there again"
    watched.use("face_swapper_plain")
    samples = scrape(watched.triton.metrics_url)
    assert value(samples, "warmswap_stage_restarts_total", model=model, reason="crashed") == 1


def test_a_budget_too_small_is_refused_before_anything_starts(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    policy = "memory_budget_mb = 300\n" + "".join(f"[models.{name}]\nmemory_mb = 90\n" for name in STAGE_NAMES)
    with pytest.raises(UsageError, match=r"face_detector 90 \+ .* > memory_budget_mb = 300"):
        Server(repository, policy).triton.start()
