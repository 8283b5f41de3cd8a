"""OpenTelemetry traces of the real server, from the protocol through the pipeline to each stage."""

from __future__ import annotations

import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.e2e.otlp_sink import OtlpSink, Span
from tests.e2e.pictures import COLLINS, HOPPER
from tests.e2e.repositories import REPOSITORY
from tests.e2e.wire import PROTOCOLS, build_inputs, swap_inputs
from tests.ops.serve_process import ServeProcess
from tests.ops.toys import write_repository
from warmswap_client import NO_RETRIES, FaceSwapClient, ServerBusyError
from warmswap_ensemble.contract import STAGES
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.tracing import Tracing

pytestmark = pytest.mark.triton

STAGE_NAMES = {spec.name for spec in STAGES}


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as running:
        yield running


@pytest.fixture(scope="module")
def traced(sink: OtlpSink) -> Iterator[LocalTriton]:
    """The repository as it is shipped, every request traced."""
    with LocalTriton(REPOSITORY, tracing=Tracing(sink.url, rate=1)) as server:
        yield server


def url_of(server: LocalTriton, protocol: str) -> str:
    return f"grpc://{server.grpc_url}" if protocol == "grpc" else f"http://{server.http_url}"


def children(trace: list[Span], parent: Span) -> list[Span]:
    return [span for span in trace if span.parent_id == parent.span_id]


def only(spans: list[Span], name: str) -> Span:
    (span,) = (span for span in spans if span.name == name)
    return span


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_swap_is_one_trace_down_to_each_stage(sink: OtlpSink, traced: LocalTriton, protocol: str) -> None:
    with FaceSwapClient(url_of(traced, protocol)) as client:
        request_id = client.swap(COLLINS, HOPPER).request_id
    trace = sink.trace_of(request_id)
    top = only(trace, "InferRequest")
    assert top.parent_id == ""
    pipeline = only(children(trace, top), "face_swap")
    below = children(trace, pipeline)
    assert {span.name for span in below} == STAGE_NAMES | {"compute"}
    for stage in (span for span in below if span.name in STAGE_NAMES):
        assert pipeline.start_ns <= stage.start_ns <= stage.end_ns <= pipeline.end_ns
        assert [span.name for span in children(trace, stage)] == ["compute"]
        assert stage.attributes["triton.request_id"] == request_id
        assert stage.attributes["triton.model_version"]
    assert {span.resource["service.name"] for span in trace} == {"warmswap"}
    assert {span.resource["service.version"] for span in trace} == {version("warmswap")}
    assert len({span.resource["service.instance.id"] for span in trace}) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_analysis_is_traced_too(sink: OtlpSink, traced: LocalTriton, protocol: str) -> None:
    with FaceSwapClient(url_of(traced, protocol)) as client:
        trace = sink.trace_of(client.analyze(HOPPER).request_id)
    names = {span.name for span in children(trace, only(trace, "face_analysis"))}
    assert names == {"face_detector", "face_embedder", "compute"}


ATTEMPTS = 12
"""Over gRPC Triton 24.10 loses about one traceparent of thirty; over HTTP none."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trace_of_the_client_is_continued(sink: OtlpSink, traced: LocalTriton, protocol: str) -> None:
    module = tritonclient.grpc if protocol == "grpc" else tritonclient.http
    url = traced.grpc_url if protocol == "grpc" else traced.http_url
    parent_id = "b7ad6b7169203331"
    with module.InferenceServerClient(url) as client:
        for attempt in range(1, 1 + (ATTEMPTS if protocol == "grpc" else 1)):
            trace_id, request_id = f"{ord(protocol[0]):030x}{attempt:02x}", f"continued:{protocol}:{attempt}"
            headers = {"traceparent": f"00-{trace_id}-{parent_id}-01"}
            client.infer("face_swap", build_inputs(module, swap_inputs()), request_id=request_id, headers=headers)
            trace = sink.trace_of(request_id)
            if trace[0].trace_id == trace_id:
                break
    assert {span.trace_id for span in trace} == {trace_id}
    assert only(trace, "InferRequest").parent_id == parent_id
    assert {span.name for span in trace} >= STAGE_NAMES


def test_requests_side_by_side_never_mix_their_traces(sink: OtlpSink, traced: LocalTriton) -> None:
    ids = [f"beside:{number}" for number in range(12)]
    with FaceSwapClient(url_of(traced, "grpc")) as client, ThreadPoolExecutor(4) as pool:
        assert [r.request_id for r in pool.map(lambda i: client.swap(COLLINS, HOPPER, request_id=i), ids)] == ids
    traces = {request_id: sink.trace_of(request_id) for request_id in ids}
    assert len({trace[0].trace_id for trace in traces.values()}) == len(ids)
    for request_id, trace in traces.items():
        with_id = [span for span in trace if span.name in STAGE_NAMES | {"face_swap"}]
        assert {span.attributes["triton.request_id"] for span in with_id} == {request_id}
        assert {span.name for span in with_id} == STAGE_NAMES | {"face_swap"}


def test_refused_request_is_traced_and_nothing_breaks(sink: OtlpSink, traced: LocalTriton) -> None:
    with FaceSwapClient(url_of(traced, "grpc")) as client:
        for number in range(5):
            with pytest.raises(Exception, match="invalid_image"):
                client.swap(COLLINS, b"no picture", request_id=f"refused:{number}")
        assert client.swap(COLLINS, HOPPER).faces
    trace = sink.trace_of("refused:4")
    assert not {span.name for span in trace} & STAGE_NAMES


def ask_toy(url: str, count: int) -> None:
    x = tritonclient.grpc.InferInput("x", [2], "FP32")
    x.set_data_from_numpy(np.array([1.0, 2.0], np.float32))
    with tritonclient.grpc.InferenceServerClient(url) as client:
        for number in range(count):
            answer = client.infer("face_swap", [x], request_id=str(number), client_timeout=60.0)
            assert answer.as_numpy("y").tolist() == [16.0, 32.0]


def test_one_of_n_requests_is_traced(tmp_path: Path) -> None:
    with (
        OtlpSink() as sink,
        ServeProcess(write_repository(tmp_path / "repository"), f"--trace-url={sink.url}", "--trace-rate=4") as serve,
    ):
        url = serve.phase("ready")["urls"]["grpc"]
        ask_toy(url, 12)
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0  # what was not sent yet is sent at the end
        assert Counter(span.name for span in sink.spans())["InferRequest"] == 3


@pytest.mark.parametrize("hangs", [False, True], ids=["down", "hangs"])
def test_collector_that_is_away_disturbs_nothing(hangs: bool, tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = socket.socket()
        stack.enter_context(listener)
        listener.bind(("127.0.0.1", 0))
        if hangs:
            listener.listen()  # the kernel takes the connections, nobody answers
        collector = f"http://127.0.0.1:{listener.getsockname()[1]}"
        repository = write_repository(tmp_path / "repository")
        serve = stack.enter_context(ServeProcess(repository, f"--trace-url={collector}", "--trace-rate=1"))
        ask_toy(serve.phase("ready")["urls"]["grpc"], 20)
        serve.send(signal.SIGTERM)
        assert serve.phase("stopped")["reason"] == "all requests finished"
        assert serve.wait() == 0
        assert "OTLP HTTP Client" in serve.stderr()  # an operator can see it


def test_stage_that_goes_away_under_traced_requests_crashes_nothing() -> None:
    """Triton frees a trace with its request; one that is refused half-way has calls of stages behind it."""
    with OtlpSink() as sink, LocalTriton(REPOSITORY, tracing=Tracing(sink.url, rate=1)) as server:
        with (
            FaceSwapClient(f"grpc://{server.grpc_url}", retry=NO_RETRIES) as client,
            tritonclient.grpc.InferenceServerClient(server.grpc_url) as control,
        ):
            for stage in ("face_embedder", "face_landmarker"):  # they are called side by side
                control.unload_model(stage)
                for _ in range(20):
                    with pytest.raises(ServerBusyError):
                        client.swap(COLLINS, HOPPER)
                control.load_model(stage)
                request_id = client.swap(COLLINS, HOPPER).request_id
                assert {span.name for span in sink.trace_of(request_id)} >= STAGE_NAMES
        server.check_alive()
