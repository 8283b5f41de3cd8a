"""What does a detector save that takes pixels and gives boxes, over one that takes a blob and gives raw heads?

Three ways from a decoded frame to boxes: ``face_detector`` (preprocessing, decode and NMS within the graph), the
published file on the same server with insightface's own client code around it, and the same without a server. What all
three have in common, the network itself, is measured beside them: it is most of the time on a CPU.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from warmswap_ensemble.contract import FACE_DETECTOR
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.insightface_detector import InsightFaceDetector, RemoteSession
from warmswap_loadtests.linked_repository import CPU_CONFIG, GraphTensor, link_model, only_version, plain_config
from warmswap_loadtests.onnx_session import THREADS_KEY, configured_threads, open_session
from warmswap_loadtests.quiet_insightface import insightface_version
from warmswap_loadtests.served import Call, run_closed_loop
from warmswap_loadtests.stage_client import StageClient
from warmswap_loadtests.stats import Latencies, median_of_ratios, pool
from warmswap_ops.control import ControlClient
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.repository import read_repository

Faces = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""(F, 4) bbox, (F,) score, (F, 5, 2) kps."""
Connect = Callable[[], contextlib.AbstractContextManager[Call[object]]]

CLIENTS: Final = (1, 4)
SIDE: Final = 640
TOLERANCE_PX: Final = 1.0
PUBLISHED: Final = "published_detector"
OUTPUTS: Final = ("bbox", "score", "kps")  # those that the pipeline asks for

FOLDED: Final = "folded, Triton"
RAW: Final = "raw heads, Triton"
IN_PROCESS: Final = "insightface, in process"
NETWORK: Final = "the network alone"

HOW_TO_GET: Final = "warmswap export buffalo_l --random-weights 1 --out REPO --keep-twin-files DIR"


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """How much is measured.

    Attributes:
        repository: Its ``face_detector`` is measured, the highest version.
        published: The file that it was made from.
        rounds: Times that all ways take turns.
        requests: Requests of each client per turn.
    """

    repository: Path
    published: Path
    rounds: int
    requests: int


def measure_detect(options: DetectOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure the three ways in turns.

    Raises:
        BenchError: something is missing, or the ways find different faces.
    """
    source = options.repository / FACE_DETECTOR.name
    if not source.is_dir():
        raise BenchError(f"{options.repository} has no {FACE_DETECTOR.name}; make one: {HOW_TO_GET}")
    if not options.published.is_file():
        raise BenchError(f"there is no {options.published}; twins have a published form too: {HOW_TO_GET}")
    frame_rgb = read_frame(source / "warmup" / "image_rgb.raw")
    served = read_repository(options.repository, (FACE_DETECTOR.name,), ())[-1]
    assert served.manifest is not None  # a stage has one
    min_score, threads = float(served.manifest.settings["min_score"]), configured_threads(source)
    session = open_session(options.published, threads)
    inputs, outputs = _tensors(session)
    if len(inputs) != 1 or len(outputs) != 9:
        raise BenchError(
            f"{options.published} has {len(inputs)} inputs and {len(outputs)} outputs, not SCRFD's 1 and 9"
        )
    local = InsightFaceDetector(session, min_score, options.published)
    with TemporaryDirectory(prefix="warmswap_bench_") as folder:
        link_model(source, Path(folder), only_version(served.version))
        published_dir = Path(folder) / PUBLISHED
        (published_dir / "1").mkdir(parents=True)
        (published_dir / "1" / "model.onnx").symlink_to(options.published.resolve())
        config = plain_config(PUBLISHED, inputs, outputs, {THREADS_KEY: str(threads)})
        (published_dir / "config.pbtxt").write_text(config, encoding="utf-8")
        progress("starting the server")
        with LocalTriton(folder, stages=(FACE_DETECTOR.name,), pipelines=(), config_name=CPU_CONFIG) as server:
            with ControlClient(server.grpc_url) as control:
                control.load(PUBLISHED)
            ways = _Ways(server.grpc_url, str(served.version), frame_rgb, min_score, local, session)
            comparison = ways.compare()
            connects: dict[str, Connect] = {
                FOLDED: ways.folded,
                RAW: ways.raw,
                IN_PROCESS: ways.in_process,
                NETWORK: ways.network,
            }
            rounds = _run_rounds(connects, options, progress)
    return {
        "detector": f"{served.manifest.name} ({served.manifest.precision})",
        "published": options.published.name,
        "insightface": insightface_version(),
        "threads": threads,
        "min_score": min_score,
        "rounds": options.rounds,
        **comparison,
        "ways": [
            _way(way, clients, items, rounds, comparison["message_bytes"].get(way, (0, 0)))
            for (way, clients), items in rounds.items()
        ],
    }


def read_frame(path: Path) -> NDArray[np.uint8]:
    """Return the (640, 640, 3) frame of the detector's warm-up.

    Raises:
        BenchError: it is missing, or of another size.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BenchError(f"the benchmark sends the frame of the detector's warm-up: {error}") from error
    if data.size != SIDE * SIDE * 3:
        raise BenchError(f"{path} holds {data.size} bytes, expected {SIDE}x{SIDE} RGB pixels")
    return data.reshape(SIDE, SIDE, 3)


def _tensors(session: Any) -> tuple[list[GraphTensor], list[GraphTensor]]:
    inputs, outputs = (
        [GraphTensor(tensor.name, tensor.type, tensor.shape) for tensor in tensors]
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


class _Ways:
    """The ways, each as what one client does."""

    def __init__(
        self,
        address: str,
        version: str,
        frame_rgb: NDArray[np.uint8],
        min_score: float,
        local: InsightFaceDetector,
        session: Any,
    ) -> None:
        self._address, self._version, self._min_score = address, version, min_score
        self._batch = frame_rgb[None]
        self._frame_bgr = np.ascontiguousarray(frame_rgb[..., ::-1])  # insightface's own order costs it nothing here
        self._local, self._session = local, session
        self._inputs, self._outputs = _tensors(session)
        blob = (frame_rgb.transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / 128
        self._feeds = {self._inputs[0].name: np.ascontiguousarray(blob)}

    def compare(self) -> dict[str, Any]:
        """Return the faces found, how far the ways differ, and the bytes of their messages."""
        with StageClient(self._address) as client:
            folded = self._detect_folded(client)
            message_bytes = {FOLDED: (client.sent_bytes, client.received_bytes)}
            raw = self._remote(client).detect(self._frame_bgr)
            message_bytes[RAW] = (client.sent_bytes, client.received_bytes)
        local = self._local.detect(self._frame_bgr)
        difference_px = max(largest_difference(folded, other) for other in (raw, local))
        if difference_px > TOLERANCE_PX:
            raise BenchError(
                f"{FACE_DETECTOR.name} {self._version} and the published file find different faces "
                f"({len(folded[0])} and {len(raw[0])}, {difference_px:.3g} pixels apart): is one made from the other?"
            )
        return {"faces": len(folded[0]), "largest_difference_px": difference_px, "message_bytes": message_bytes}

    @contextlib.contextmanager
    def folded(self) -> Iterator[Call[object]]:
        """Pixels to the server, boxes back."""
        with StageClient(self._address) as client:
            yield _without_steps(lambda: self._detect_folded(client))

    @contextlib.contextmanager
    def raw(self) -> Iterator[Call[object]]:
        """A blob to the server, nine tensors back, decode and NMS here."""
        with StageClient(self._address) as client:
            detector = self._remote(client)
            yield _without_steps(lambda: detector.detect(self._frame_bgr))

    @contextlib.contextmanager
    def in_process(self) -> Iterator[Call[object]]:
        """No server; the clients share a session."""
        yield _without_steps(lambda: self._local.detect(self._frame_bgr))

    @contextlib.contextmanager
    def network(self) -> Iterator[Call[object]]:
        """The published graph on a blob that is ready, its heads thrown away."""
        yield _without_steps(lambda: self._session.run(None, self._feeds))

    def _detect_folded(self, client: StageClient) -> Faces:
        answer = client.infer(FACE_DETECTOR.name, self._version, {"image_rgb": self._batch}, OUTPUTS)
        keep = answer["score"][0] >= self._min_score
        return answer["bbox"][0][keep], answer["score"][0][keep], answer["kps"][0][keep]

    def _remote(self, client: StageClient) -> InsightFaceDetector:
        return InsightFaceDetector(RemoteSession(client, PUBLISHED, self._inputs, self._outputs), self._min_score)


def largest_difference(faces: Faces, others: Faces) -> float:
    """Return how far the boxes and points of two answers are apart, in pixels; infinite if their numbers differ."""
    if len(faces[0]) != len(others[0]):
        return float("inf")
    pairs = ((faces[index], others[index]) for index in (0, 2))
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs)


def _without_steps(detect: Callable[[], object]) -> Call[object]:
    def call(_: object) -> dict[str, float]:
        detect()
        return {}

    return call


def _run_rounds(
    connects: dict[str, Connect], options: DetectOptions, progress: Callable[[str], None]
) -> dict[tuple[str, int], list[Latencies]]:
    rounds: dict[tuple[str, int], list[Latencies]] = {(way, clients): [] for clients in CLIENTS for way in connects}
    for connect in connects.values():
        run_closed_loop(connect, repeat(None), max(CLIENTS), 2 * max(CLIENTS))
    for number in range(options.rounds):
        progress(f"round {number + 1} of {options.rounds}")
        for (way, clients), items in rounds.items():
            total = options.requests * clients
            items.append(run_closed_loop(connects[way], repeat(None), clients, total)[0])
    return rounds


def _way(
    way: str,
    clients: int,
    items: list[Latencies],
    rounds: dict[tuple[str, int], list[Latencies]],
    message_bytes: tuple[int, int],
) -> dict[str, Any]:
    together = pool(items)
    base, network = rounds[FOLDED, clients], _p50s_ms(rounds[NETWORK, clients])
    above_ms = [own - floor for own, floor in zip(_p50s_ms(items), network, strict=True)]
    return {
        "way": way,
        "clients": clients,
        "requests": len(together.values_ms),
        "p50_ms": together.percentile_ms(50),
        "p95_ms": together.percentile_ms(95),
        "rps": together.rps,
        "p50_ratio": median_of_ratios(_p50s_ms(items), _p50s_ms(base)),
        "rps_ratio": median_of_ratios([item.rps for item in items], [item.rps for item in base]),
        "above_network_ms": statistics.median(above_ms),
        "bytes_in": message_bytes[0],
        "bytes_out": message_bytes[1],
    }


def _p50s_ms(items: list[Latencies]) -> list[float]:
    return [item.percentile_ms(50) for item in items]


def detect_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    lines = [
        f"{figures['detector']} against {figures['published']} with insightface {figures['insightface']}, "
        f"{figures['threads']} threads",
        f"from a decoded {SIDE}x{SIDE} frame to boxes; {figures['faces']} faces with a score of "
        f"{figures['min_score']:g} or more, the same in all ways within {figures['largest_difference_px']:.2g} pixels",
        f"ratios: to {FOLDED}; above: p50 above that of the network; medians over {figures['rounds']} rounds; "
        "bytes: gRPC messages of one request",
        "",
        f"{'clients':>7}  {'':24}{'p50 ms':>8}{'p95 ms':>8}{'req/s':>8}{'p50 ratio':>11}{'req/s ratio':>13}"
        f"{'above ms':>10}{'bytes in':>11}{'bytes out':>11}",
    ]
    for way in figures["ways"]:
        lines.append(
            f"{way['clients']:7}  {way['way']:24}{way['p50_ms']:8.1f}{way['p95_ms']:8.1f}{way['rps']:8.2f}"
            f"{way['p50_ratio']:11.2f}{way['rps_ratio']:13.2f}{way['above_network_ms']:10.1f}"
            f"{way['bytes_in']:11,}{way['bytes_out']:11,}"
        )
    (sent, received), (raw_sent, raw_received) = (figures["message_bytes"][way] for way in (FOLDED, RAW))
    return [
        *lines,
        "",
        f"raw heads send {raw_sent / sent:.1f} times and receive {raw_received / received:.1f} times the bytes",
    ]
