"""The real transports against a real Triton: gRPC and HTTP, blocking and asynchronous, behave the same."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.client.support import OpenClient, open_any_client
from tests.client.toy_triton import ToyTriton, find_free_port, start_toy_triton
from warmswap_client import (
    NO_RETRIES,
    AsyncFaceSwapClient,
    FaceSwapClient,
    InvalidRequestError,
    ModelStatus,
    NoFaceError,
    NotReadyError,
    RequestCancelledError,
    RequestTimeoutError,
    ServerBusyError,
    ServerFailedError,
    ServerUnreachableError,
    UnknownModelError,
    WarmswapError,
)
from warmswap_client.endpoint import parse_url
from warmswap_client.transport import make_transport

pytestmark = pytest.mark.triton

PROTOCOLS = ("grpc", "http")


@pytest.fixture(params=PROTOCOLS)
def client(request: pytest.FixtureRequest, open_client: OpenClient, toy_triton: ToyTriton) -> FaceSwapClient:
    return open_client(getattr(toy_triton, f"{request.param}_url"), retry=NO_RETRIES, timeout_s=10.0)


@pytest.fixture(params=PROTOCOLS)
def nobody(request: pytest.FixtureRequest) -> str:
    """The URL of a port that nobody listens on."""
    return f"{request.param}://127.0.0.1:{find_free_port()}"


@pytest.fixture(params=PROTOCOLS)
def mute(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"{request.param}://127.0.0.1:{listener.getsockname()[1]}"


def test_swap_goes_through_with_its_options(client: FaceSwapClient) -> None:
    result = client.swap(b"s", b"t", reference=b"\x00r", min_score=0.25, quality=90, output_format="png")
    assert result.image == b"s|t|\x00r"
    assert result.report["parameters"] == {"min_score": "0.25", "quality": 90, "output_format": "png"}
    assert result.faces[0].similarity_after == 0.8


def test_picture_above_the_default_limit_of_grpc_goes_both_ways(client: FaceSwapClient) -> None:
    target = bytes(6_000_000)
    assert client.swap(b"s", target).image == b"s|" + target


@pytest.mark.parametrize("num_faces", [0, 2])
def test_analysis_goes_through(client: FaceSwapClient, num_faces: int) -> None:
    faces = client.analyze(b"x", max_faces=num_faces).faces
    assert [face.bbox for face in faces] == [(0.0, 1.0, 2.0, 3.0), (4.0, 5.0, 6.0, 7.0)][:num_faces]
    assert [(face.kps.shape, face.embedding.tolist()) for face in faces] == [
        ((5, 2), [0.0, 1.0, 2.0]),
        ((5, 2), [3.0, 4.0, 5.0]),
    ][:num_faces]


@pytest.mark.parametrize(
    ("order", "expected", "code"),
    [
        ("INVALID_ARG:no_face: no face was found", NoFaceError, "no_face"),
        ("INVALID_ARG:some text", InvalidRequestError, None),
        ("UNAVAILABLE:overloaded: the queue is full", ServerBusyError, "overloaded"),
        ("UNAVAILABLE:some text", ServerBusyError, None),
        ("NOT_FOUND:some text", UnknownModelError, None),
        ("INTERNAL:stage_failed: the detector failed", ServerFailedError, "stage_failed"),
        ("INTERNAL:some text", ServerFailedError, None),
        ("CANCELLED:cancelled: nobody waits", RequestCancelledError, "cancelled"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_error_of_the_server_is_the_same_over_both_protocols(
    client: FaceSwapClient, order: str, expected: type[WarmswapError], code: str | None
) -> None:
    with pytest.raises(expected) as caught:
        client.swap(b"s", b"t", face_selector=f"raise:{order}")
    assert type(caught.value) is expected
    assert (caught.value.url, caught.value.model, caught.value.code) == (client.url, "face_swap", code)


def test_slow_answer_is_a_timeout_and_the_client_goes_on(client: FaceSwapClient) -> None:
    begin = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"no answer within 0\.2"):
        client.swap(b"s", b"t", face_selector="sleep:0.8", timeout_s=0.2)
    assert time.monotonic() - begin < 0.7
    assert client.swap(b"s", b"t").image == b"s|t"


def test_refused_connection_is_not_a_timeout(open_client: OpenClient, nobody: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ServerUnreachableError, match="refused") as caught:
        open_client(nobody, timeout_s=10.0).swap(b"s", b"t")
    assert time.monotonic() - begin < 3.0
    assert caught.value.url == nobody


def test_retry_finds_a_server_that_comes_up(open_client: OpenClient, toy_triton: ToyTriton) -> None:
    """The retry of a refused connection must connect anew, not repeat the memory of the channel."""
    real = parse_url(toy_triton.grpc_url)
    port = find_free_port()
    client = open_client(f"grpc://127.0.0.1:{port}", retry=NO_RETRIES)
    with pytest.raises(ServerUnreachableError):
        client.swap(b"s", b"t")
    with Relay(port, real.port):
        time.sleep(0.6)  # the longest reconnect backoff of the channel
        assert client.swap(b"s", b"t").image == b"s|t"


def test_host_without_an_address_is_unreachable(open_client: OpenClient) -> None:
    for protocol in PROTOCOLS:
        with pytest.raises(ServerUnreachableError):
            open_client(f"{protocol}://nohost.invalid:1", retry=NO_RETRIES, timeout_s=10.0).swap(b"s", b"t")


def test_server_that_never_answers_is_a_timeout(open_client: OpenClient, mute: str) -> None:
    with pytest.raises(RequestTimeoutError):
        open_client(mute, timeout_s=0.3).swap(b"s", b"t")


def test_timeout_in_the_middle_of_sending_does_not_block_the_next_call() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = FaceSwapClient(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.5)
        for _ in range(2):
            with pytest.raises(RequestTimeoutError):
                client.swap(b"s", bytes(30_000_000))  # more than the buffers of a socket that nobody reads
        client.close()
        listener.settimeout(1.0)
        for _ in range(2):  # one connection for each call
            listener.accept()[0].close()


def test_questions(client: FaceSwapClient) -> None:
    assert (client.is_live(), client.is_ready(), client.is_ready("face_analysis")) == (True, True, True)
    assert client.is_ready("nope") is False
    client.wait_until_ready(5.0)


def test_questions_to_nobody(open_client: OpenClient, nobody: str) -> None:
    client = open_client(nobody, timeout_s=5.0)
    assert (client.is_live(), client.is_ready()) == (False, False)
    with pytest.raises(NotReadyError, match=r"no connection: .*refused"):
        client.wait_until_ready(0.3)
    with pytest.raises(ServerUnreachableError):
        client.status()


def test_wait_for_an_unknown_model_tells_why_it_failed(client: FaceSwapClient) -> None:
    with pytest.raises(NotReadyError, match="not in the server's repository"):
        client.wait_until_ready(0.3, "nope")


def test_status(client: FaceSwapClient) -> None:
    status = client.status()
    assert (status.live, status.ready, status.server_ready) == (True, True, True)
    assert status.runtime == {"triton": "2.51.0", "warmswap": "0.1.0", "onnxruntime": "1.32.0"}
    assert status.models == (
        ModelStatus("face_analysis", "1", "READY", ""),
        ModelStatus("face_swap", "1", "READY", ""),
    )


def test_unknown_model(toy_triton: ToyTriton) -> None:
    for url in (toy_triton.grpc_url, toy_triton.http_url):
        transport = make_transport(parse_url(url))
        try:
            with pytest.raises(UnknownModelError, match="'nope' is not found"):
                transport.infer(
                    model="nope", inputs={"x": b""}, outputs=["y"], parameters={}, request_id="", timeout_s=5.0
                )
        finally:
            transport.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_threads_share_a_client(toy_triton: ToyTriton, protocol: str) -> None:
    with FaceSwapClient(getattr(toy_triton, f"{protocol}_url"), retry=NO_RETRIES) as client:
        client.swap(b"s", b"main")
        with ThreadPoolExecutor(4) as pool:
            images = list(pool.map(lambda number: client.swap(b"s", b"%d" % number).image, range(24)))
        assert images == [b"s|%d" % number for number in range(24)]
        assert client.swap(b"s", b"main").image == b"s|main"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cancelled_task_is_cancelled_and_the_client_goes_on(toy_triton: ToyTriton, protocol: str) -> None:
    async def scenario() -> bytes:
        async with AsyncFaceSwapClient(getattr(toy_triton, f"{protocol}_url")) as client:
            task = asyncio.create_task(client.swap(b"s", b"t", face_selector="sleep:0.5"))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return (await client.swap(b"s", b"t")).image

    assert asyncio.run(scenario()) == b"s|t"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_calls_of_one_loop_run_side_by_side(toy_triton: ToyTriton, protocol: str) -> None:
    async def scenario() -> float:
        async with AsyncFaceSwapClient(getattr(toy_triton, f"{protocol}_url")) as client:
            await client.swap(b"s", b"t")
            begin = time.monotonic()
            await asyncio.gather(*(client.swap(b"s", b"t", face_selector="sleep:1") for _ in range(2)))
            return time.monotonic() - begin

    assert asyncio.run(scenario()) < 1.8  # two instances; one after the other would need 2 s


def test_close_ends_a_call_under_way_over_grpc(toy_triton: ToyTriton) -> None:
    client = FaceSwapClient(toy_triton.grpc_url)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.swap, b"s", b"t", face_selector="sleep:0.8")
        time.sleep(0.2)
        begin = time.monotonic()
        client.close()
        with pytest.raises(RequestCancelledError):
            call.result(timeout=5)
        assert time.monotonic() - begin < 0.5


def test_call_on_a_channel_that_another_thread_closed_is_cancelled(toy_triton: ToyTriton) -> None:
    transport = make_transport(parse_url(toy_triton.grpc_url))
    transport.close()
    transport.close()
    with pytest.raises(RequestCancelledError, match="closed"):
        transport.server_live(timeout_s=1.0)


def test_server_that_dies_mid_way_is_unreachable_for_everybody(tmp_path: Path) -> None:
    server = start_toy_triton(tmp_path)
    try:
        cases = [(kind, getattr(server, f"{protocol}_url")) for kind in ("sync", "async") for protocol in PROTOCOLS]
        under_way = threading.Barrier(len(cases) + 1)
        with ThreadPoolExecutor(len(cases)) as pool:
            calls = [pool.submit(_outlive, kind, url, under_way) for kind, url in cases]
            under_way.wait(20)
            time.sleep(0.3)
            server.kill()
            outcomes = [call.result(timeout=20) for call in calls]
    finally:
        server.stop()
    assert outcomes == [("ServerUnreachableError", "ServerUnreachableError")] * len(cases)


def _outlive(kind: str, url: str, under_way: threading.Barrier) -> tuple[str, str]:
    """Be in the middle of a call while the server dies, then call again; the names of both errors."""
    client = open_any_client(kind, url, retry=NO_RETRIES, timeout_s=10.0)
    names = []
    try:
        assert client.is_live()  # so that a kept connection exists
        under_way.wait(20)
        for selector in ("sleep:5", "all"):
            try:
                client.swap(b"s", b"t", face_selector=selector)
                names.append("no error")
            except WarmswapError as error:
                names.append(type(error).__name__)
    finally:
        client.close()
    return names[0], names[1]


class Relay:
    """Forwards TCP connections of one port to another, one at a time."""

    def __init__(self, port: int, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Relay:
        self._spawn(self._accept)
        return self

    def __exit__(self, *details: object) -> None:
        for open_socket in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        for thread in self._threads:
            thread.join(5)

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        try:
            inward, _ = self._listener.accept()
        except OSError:
            return
        outward = socket.create_connection(("127.0.0.1", self._to_port))
        self._sockets += [inward, outward]
        self._spawn(self._copy, inward, outward)
        self._spawn(self._copy, outward, inward)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            return
