"""What a good request gives: faces, formats, reports, the same over both protocols, alone or among others."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.e2e import pictures
from tests.e2e.pictures import COLLINS, COLLINS_PATH, HOPPER, HOPPER_PATH, group
from tests.e2e.wire import PROTOCOLS, WAIT_S, Service, assert_alike, open_service, picture, swap_inputs
from tests.ops.serve_process import eventually
from warmswap_client import NO_RETRIES, AsyncFaceSwapClient, FaceSwapClient, SwapResult
from warmswap_ensemble.contract import FACE_SWAP, PIPELINE_STAGES
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton

MIN_GAIN = 0.03


def swapped_positions(result: SwapResult) -> list[int]:
    return [position for position, face in enumerate(result.faces) if face.swapped]


def url_of(server: LocalTriton, protocol: str) -> str:
    return f"grpc://{server.grpc_url}" if protocol == "grpc" else f"http://{server.http_url}"


def test_both_protocols_give_the_same_bytes(server: LocalTriton) -> None:
    images = set()
    for protocol in PROTOCOLS:
        with open_service(server, protocol) as service:
            answer = service.send("face_swap", swap_inputs())
            assert answer.outputs.keys() == {"image", "report"}
            images.add(answer.outputs["image"].item())
            images.add(service.client.swap(COLLINS_PATH, HOPPER_PATH).image)
    assert len(images) == 1


def test_every_face_of_a_group_becomes_like_the_source(service: Service) -> None:
    result = service.client.swap(COLLINS, group(), face_selector="reference", reference=HOPPER)
    assert len(result.faces) == 4
    assert swapped_positions(result) == [0, 2, 3]
    for face in result.faces:
        if face.swapped:
            assert (face.similarity_after or 0.0) - (face.similarity_before or 0.0) >= MIN_GAIN
        else:
            assert face.similarity_after is None


def test_reported_similarities_are_those_of_the_picture(service: Service) -> None:
    """The analysis looks at the picture that came back, and so at what a caller gets."""
    (source,) = service.client.analyze(COLLINS).faces
    before = service.client.analyze(group()).faces
    result = service.client.swap(COLLINS, group(), output_format="png")
    after = service.client.analyze(result.image).faces
    assert len(before) == len(result.faces) == len(after) == 4
    for face, face_before, face_after in zip(result.faces, before, after, strict=True):
        np.testing.assert_allclose(face.bbox, face_before.bbox, atol=0.01)
        assert face.similarity_before == pytest.approx(float(face_before.embedding @ source.embedding), abs=0.005)
        assert face.similarity_after == pytest.approx(float(face_after.embedding @ source.embedding), abs=0.05)
    gains = [float((a.embedding - b.embedding) @ source.embedding) for a, b in zip(after, before, strict=True)]
    assert min(gains[0], gains[2], gains[3]) >= MIN_GAIN


@pytest.mark.parametrize(
    ("face_selector", "expected"),
    [
        pytest.param("all", [0, 1, 2, 3], id="all"),
        pytest.param("index:0", [0], id="first"),
        pytest.param("index:3", [3], id="last"),
    ],
)
def test_face_selector_decides_who_is_swapped(service: Service, face_selector: str, expected: list[int]) -> None:
    result = service.client.swap(COLLINS, group(), face_selector=face_selector)
    assert swapped_positions(result) == expected
    assert len(result.faces) == 4


def test_largest_face_is_that_of_the_largest_box(service: Service) -> None:
    result = service.client.swap(COLLINS, group(), face_selector="largest")
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (face.bbox for face in result.faces)]
    assert swapped_positions(result) == [areas.index(max(areas))]


def test_reference_selects_whom_it_shows(service: Service) -> None:
    result = service.client.swap(HOPPER, group(), face_selector="reference", reference=COLLINS)
    assert swapped_positions(result) == [1]
    every = service.client.swap(HOPPER, group(), face_selector="reference", reference=COLLINS, reference_threshold=-1)
    assert swapped_positions(every) == [0, 1, 2, 3]


def test_source_face_selector_takes_the_named_face(service: Service) -> None:
    hopper = service.client.swap(group(), HOPPER, source_face_selector="index:0")
    collins = service.client.swap(group(), HOPPER, source_face_selector="index:1")
    assert (hopper.faces[0].similarity_before or 0.0) > (collins.faces[0].similarity_before or 0.0) + MIN_GAIN
    assert hopper.source is not None
    assert collins.source is not None
    assert hopper.source.bbox[2] < collins.source.bbox[0]


def test_min_score_leaves_out_weak_faces(service: Service) -> None:
    scores = sorted(face.score for face in service.client.swap(COLLINS, group()).faces)
    middle = (scores[1] + scores[2]) / 2
    assert len(service.client.swap(COLLINS, group(), min_score=middle).faces) == 2
    assert len(service.client.analyze(group(), min_score=middle).faces) == 2
    assert len(service.client.analyze(group(), max_faces=3).faces) == 3


@pytest.mark.parametrize("target_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("output_format", ["same", "jpeg", "png", "webp"])
def test_output_format_is_what_was_asked_for(service: Service, output_format: str, target_format: str) -> None:
    target = pictures.encode(pictures.hopper(), target_format)
    result = service.client.swap(COLLINS, target, output_format=output_format)
    expected = target_format.lower() if output_format == "same" else output_format
    assert result.image_format == expected
    assert result.image.startswith(pictures.MAGIC[expected])
    decoded = pictures.decode(result.image)
    assert decoded.format == expected.upper()
    assert decoded.size == result.size_wh == pictures.hopper().size


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_quality_decides_the_size(service: Service, output_format: str) -> None:
    sizes = [
        len(service.client.swap(COLLINS, HOPPER, output_format=output_format, quality=quality).image)
        for quality in (1, 50, 100)
    ]
    assert sizes[0] * 2 < sizes[1] < sizes[2] / 2


def test_report_has_everything(service: Service, server: LocalTriton) -> None:
    report = json.loads(service.send("face_swap", swap_inputs()).outputs["report"].item())
    assert report.keys() == {"faces", "source", "image", "timings_ms", "models", "request_id"}
    (face,) = report["faces"]
    assert face.keys() == {"bbox", "score", "swapped", "similarity_before", "similarity_after"}
    assert report["source"].keys() == {"bbox", "score", "cached"}
    assert report["image"] == {"format": "jpeg", "width": 512, "height": 600}
    steps = {"decode", "detect", "landmarks_and_embed", "swap", "composite", "encode_and_embed"}
    assert report["timings_ms"].keys() == {*steps, "total"}
    assert all(ms >= 0 for ms in report["timings_ms"].values())
    assert sum(report["timings_ms"][step] for step in steps) <= report["timings_ms"]["total"] + 0.01
    served = server.phases[-1].details["versions"]
    assert report["models"] == {name: served[name] for name in (*PIPELINE_STAGES[FACE_SWAP.name], FACE_SWAP.name)}


def test_analysis_gives_a_normed_embedding_per_face(service: Service) -> None:
    answer = service.send("face_analysis", {"image": picture(group())})
    shapes = {name: array.shape for name, array in answer.outputs.items()}
    assert shapes == {"bbox": (4, 4), "score": (4,), "kps": (4, 5, 2), "embedding": (4, 128)}
    np.testing.assert_allclose(np.linalg.norm(answer.outputs["embedding"], axis=1), 1, atol=1e-4)
    faces = service.client.analyze(group()).faces
    assert [face.bbox[0] for face in faces] == sorted(face.bbox[0] for face in faces)
    for face in faces:
        x1, y1, x2, y2 = face.bbox
        assert ((face.kps >= (x1, y1)) & (face.kps <= (x2, y2))).all()
        assert face.kps[0, 0] < face.kps[1, 0]  # left means image-left


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_asynchronous_client_gives_the_same(server: LocalTriton, protocol: str) -> None:
    async def ask() -> tuple[list[SwapResult], int]:
        async with AsyncFaceSwapClient(url_of(server, protocol), timeout_s=WAIT_S, retry=NO_RETRIES) as client:
            await client.wait_until_ready()
            assert (await client.status()).ready
            results = await asyncio.gather(*(client.swap(COLLINS, HOPPER) for _ in range(4)))
            return results, len((await client.analyze(group())).faces)

    results, count = asyncio.run(ask())
    assert count == 4
    with open_service(server, protocol) as service:
        for result in results:
            assert_alike(result.image, service.first_image())


def test_many_clients_at_once_all_get_the_same_picture(server: LocalTriton) -> None:
    start = threading.Barrier(8)

    def ask(number: int) -> list[bytes]:
        with FaceSwapClient(url_of(server, PROTOCOLS[number % 2]), timeout_s=WAIT_S, retry=NO_RETRIES) as client:
            start.wait(WAIT_S)
            return [client.swap(COLLINS, HOPPER).image for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        images = [image for answers in pool.map(ask, range(8)) for image in answers]
    assert len(images) == 40
    with open_service(server, "grpc") as service:
        for image in images:
            assert_alike(image, service.first_image())


def test_one_client_after_another_gets_the_same_bytes(service: Service) -> None:
    assert {service.client.swap(COLLINS, HOPPER).image for _ in range(5)} == {
        service.client.swap(COLLINS, HOPPER).image
    }


def test_neighbours_with_different_requests_get_their_own_answers(server: LocalTriton) -> None:
    targets = {
        name: pictures.encode(pictures.hopper().resize(size)) for name, size in (("a", (400, 469)), ("b", (300, 352)))
    }
    with open_service(server, "grpc") as service:
        alone = {name: service.client.swap(COLLINS, data).image for name, data in targets.items()}

        def ask(number: int) -> bool:
            if number % 3 == 2:
                return service.send("face_swap", swap_inputs(target=b"")).message.startswith("invalid_image: ")
            name = "ab"[number % 3]
            assert_alike(service.client.swap(COLLINS, targets[name]).image, alone[name])
            return True

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(ask, range(24)))


def cache_counts(server: LocalTriton) -> tuple[int, int]:
    with urllib.request.urlopen(server.metrics_url, timeout=WAIT_S) as response:
        lines = response.read().decode().splitlines()
    counts = {}
    for kind in ("hits", "misses"):
        name = f'warmswap_source_cache_{kind}_total{{model="face_swap",version="1"}} '
        (counts[kind],) = (int(float(line.removeprefix(name))) for line in lines if line.startswith(name))
    return counts["hits"], counts["misses"]


def test_metrics_count_cached_sources(service: Service, server: LocalTriton) -> None:
    """Each of the two processes keeps a cache of its own, so a new source is missed at most twice."""
    nonce = f"{service.protocol} {service.server.pid}".encode()
    hits, misses = cache_counts(server)
    answers = [service.client.swap(HOPPER + nonce, COLLINS) for _ in range(8)]
    cached = [answer.source.cached for answer in answers if answer.source]
    assert cached[0] is False
    assert 1 <= cached.count(False) <= 2
    expected = (hits + cached.count(True), misses + cached.count(False))
    assert eventually(lambda: cache_counts(server) == expected), (cache_counts(server), expected)
    for answer in answers:
        assert_alike(answer.image, answers[0].image)
