"""The pure parts of ``bench detect``, and what it says when something is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from warmswap_loadtests.detect import DetectOptions, Faces, largest_difference, measure_detect, read_frame
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.insightface_detector import RemoteSession
from warmswap_loadtests.linked_repository import GraphTensor
from warmswap_loadtests.quiet_insightface import import_insightface

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


def faces(*moved: float) -> Faces:
    count = len(moved)
    boxes = np.zeros((count, 4), np.float32) + np.array(moved, np.float32).reshape(count, 1)
    return boxes, np.ones(count, np.float32), np.zeros((count, 5, 2), np.float32)


def test_difference_of_answers() -> None:
    assert largest_difference(faces(1, 2), faces(1, 2.5)) == pytest.approx(0.5)
    assert largest_difference(faces(), faces()) == 0
    assert largest_difference(faces(1), faces(1, 2)) == float("inf")


def test_frame_is_that_of_the_warmup(tmp_path: Path) -> None:
    assert read_frame(REPOSITORY / "face_detector" / "warmup" / "image_rgb.raw").shape == (640, 640, 3)
    (tmp_path / "image_rgb.raw").write_bytes(bytes(12))
    with pytest.raises(BenchError, match="12 bytes"):
        read_frame(tmp_path / "image_rgb.raw")
    with pytest.raises(BenchError, match="warm-up"):
        read_frame(tmp_path / "nowhere.raw")


@pytest.mark.parametrize(("repository", "named"), [(Path("nowhere"), "face_detector"), (REPOSITORY, "det.onnx")])
def test_what_is_missing_and_how_to_get_it(repository: Path, named: str, tmp_path: Path) -> None:
    options = DetectOptions(repository, tmp_path / "det.onnx", rounds=1, requests=1)
    with pytest.raises(BenchError, match=rf"{named}.*--keep-twin-files") as caught:
        measure_detect(options, lambda _: None)
    assert caught.value.exit_code == 1


def test_insightface_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("insightface")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(BenchError, match=r"deploy/setup\.sh .*insightface"):
        import_insightface("model_zoo.scrfd")


class FakeClient:
    def infer(
        self, model: str, version: str, inputs: object, output_names: list[str]
    ) -> dict[str, tuple[str, str, str]]:
        return {name: (model, version, name) for name in reversed(output_names)}


def test_session_over_the_server_keeps_the_order_of_outputs() -> None:
    ports = [GraphTensor(name, "tensor(float)", [1]) for name in ("a", "b")]
    session = RemoteSession(FakeClient(), "published", ports[:1], ports)  # type: ignore[arg-type]
    assert session.get_inputs() == ports[:1]
    assert session.get_outputs() == ports
    assert session.run(["b", "a"], {}) == [("published", "1", "b"), ("published", "1", "a")]
