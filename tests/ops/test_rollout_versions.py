"""Which version is replaced, and by which number; and which replicas cannot take part."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ops.rollout_replicas import LocalFleet, LocalReplica
from warmswap_ensemble.routes import Rollout, Routes
from warmswap_ops.errors import RolloutError
from warmswap_ops.rollout.state_file import replace_routes
from warmswap_ops.rollout.versions import choose_versions


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    with LocalFleet(tmp_path, models=("face_detector", "face_landmarker")) as opened:
        yield opened


def chosen(fleet: LocalFleet, *models: str) -> dict[str, tuple[int, int]]:
    seen = fleet.all(lambda replica: replica.state(time.time))
    return choose_versions(fleet, seen, models or ("face_detector",))


def set_routes(replica: LocalReplica, routes: Routes) -> None:
    replace_routes(replica.repository, routes, replica.routes.generation)


def test_the_first_rollout_brings_the_next_number(fleet: LocalFleet) -> None:
    assert chosen(fleet, "face_detector", "face_landmarker") == {"face_detector": (1, 2), "face_landmarker": (1, 2)}


def test_a_number_is_never_used_again(fleet: LocalFleet) -> None:
    """Not one whose version was removed, not even on one replica only, and not one that somebody put there by hand."""
    set_routes(fleet.local[1], Routes(1, used={"face_detector": 4}))
    assert chosen(fleet) == {"face_detector": (1, 5)}
    shutil.copytree(fleet.local[0].repository / "face_detector/1", fleet.local[0].repository / "face_detector/7")
    assert chosen(fleet) == {"face_detector": (1, 8)}


def test_what_answers_is_what_is_replaced(fleet: LocalFleet) -> None:
    """Where nothing is pinned that is the highest version that is loaded, whatever lies on disk."""
    for replica in fleet.local:
        shutil.copytree(replica.repository / "face_detector/1", replica.repository / "face_detector/2")
        replica.triton.start("face_detector", 2)
    assert chosen(fleet) == {"face_detector": (2, 3)}
    for replica in fleet.local:
        set_routes(replica, Routes(1, {"face_detector": 1}))
    assert chosen(fleet) == {"face_detector": (1, 3)}


def test_replicas_that_serve_different_versions_are_refused(fleet: LocalFleet) -> None:
    set_routes(fleet.local[0], Routes(1, {}, Rollout("r1", {"face_detector": (3, 4)})))
    with pytest.raises(RolloutError, match=r"different versions of face_detector: \[1, 3\]"):
        chosen(fleet)
    assert chosen(fleet, "face_landmarker") == {"face_landmarker": (1, 2)}


def compile_it(replica: LocalReplica) -> None:
    config = replica.repository / "face_detector/config.pbtxt"
    config.write_text(config.read_text() + '\ndefault_model_filename: "model.abc.compiled.onnx"\n')


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        pytest.param(lambda r: r.triton.end("face_detector", 1), "b: face_detector is not loaded", id="not loaded"),
        pytest.param(
            lambda r: shutil.rmtree(r.repository / "face_detector/1"), "b has no version of face_detector", id="none"
        ),
        pytest.param(compile_it, "b serves a compiled repository, and face_detector", id="compiled"),
    ],
)
def test_one_replica_that_cannot_take_part_is_enough(
    fleet: LocalFleet, harm: Callable[[LocalReplica], None], says: str
) -> None:
    harm(fleet.local[1])
    with pytest.raises(RolloutError, match=says):
        chosen(fleet)


def test_a_repository_must_be_writable(fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the question is answered for it."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != fleet.local[1].repository)
    with pytest.raises(RolloutError, match=r"^b: its repository \S+ cannot be written: roll out by replacing"):
        chosen(fleet)


def test_a_variant_that_is_not_loaded_now(tmp_path: Path) -> None:
    with LocalFleet(tmp_path, "a", ("face_swapper_512",)) as fleet:
        fleet.local[0].triton.end("face_swapper_512", 1)
        with pytest.raises(RolloutError, match="face_swapper_512 is loaded on demand, and not loaded now"):
            chosen(fleet, "face_swapper_512")
