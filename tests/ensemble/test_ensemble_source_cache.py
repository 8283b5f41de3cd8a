from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest

from tests.ensemble.support import make_face, make_stage
from warmswap_ensemble.options import FaceSelector
from warmswap_ensemble.source_cache import SourceCache, source_key
from warmswap_ensemble.types import SourceFace

DETECTOR, EMBEDDER = make_stage("face_detector", sha256="a" * 64), make_stage("face_embedder", sha256="b" * 64)
LARGEST = FaceSelector("largest")


def a_source() -> SourceFace:
    return SourceFace(
        make_face(0, 0, 9, 9), np.ones(4, np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((68, 2), np.float32)
    )


def test_empty_cache_misses() -> None:
    cache = SourceCache(2)
    assert cache.get("a") is None
    assert (len(cache), cache.hits, cache.misses) == (0, 0, 1)


def test_what_was_put_is_found() -> None:
    cache, source = SourceCache(2), a_source()
    cache.put("a", source)
    assert cache.get("a") is source
    assert (len(cache), cache.hits, cache.misses) == (1, 1, 0)


def test_least_recently_used_goes_first() -> None:
    cache = SourceCache(2)
    cache.put("a", a_source())
    cache.put("b", a_source())
    cache.get("a")
    cache.put("c", a_source())
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]


def test_putting_again_counts_as_use() -> None:
    cache, again = SourceCache(2), a_source()
    cache.put("a", a_source())
    cache.put("b", a_source())
    cache.put("a", again)
    cache.put("c", a_source())
    assert len(cache) == 2
    assert cache.get("a") is again
    assert cache.get("b") is None


@pytest.mark.parametrize("bound", [0, 1, 5])
def test_cache_never_exceeds_its_bound(bound: int) -> None:
    cache = SourceCache(bound)
    for key in range(20):
        cache.put(key, a_source())
        assert len(cache) <= bound
    assert len(cache) == bound


def test_same_picture_models_and_options_have_the_same_key() -> None:
    assert source_key(b"x", [DETECTOR, EMBEDDER], LARGEST, 0.5) == source_key(
        b"x", [make_stage("face_detector", sha256="a" * 64), EMBEDDER], FaceSelector("largest"), 0.5
    )


def test_whatever_changes_the_source_changes_the_key() -> None:
    keys = [
        source_key(b"", [DETECTOR, EMBEDDER], LARGEST, None),
        source_key(b"x", [DETECTOR, EMBEDDER], LARGEST, None),
        source_key(b"y", [DETECTOR, EMBEDDER], LARGEST, None),
        source_key(b"x", [make_stage("face_detector", sha256="c" * 64), EMBEDDER], LARGEST, None),
        source_key(b"x", [make_stage("face_detector", version=2, sha256="a" * 64), EMBEDDER], LARGEST, None),
        source_key(b"x", [DETECTOR], LARGEST, None),
        source_key(b"x", [DETECTOR, EMBEDDER], FaceSelector("index", 0), None),
        source_key(b"x", [DETECTOR, EMBEDDER], FaceSelector("index", 1), None),
        source_key(b"x", [DETECTOR, EMBEDDER], LARGEST, 0.5),
    ]
    assert len(set(keys)) == len(keys)


def test_another_thread_does_not_drop_what_is_being_found() -> None:
    """A second look and a request that the candidate answers share its cache."""
    cache, started, done = SourceCache(1), threading.Event(), threading.Event()

    class Meddled(OrderedDict[Hashable, SourceFace]):
        def get(self, key: Hashable, default: Any = None) -> Any:
            found = super().get(key, default)
            threads.append(threading.Thread(target=put))
            threads[-1].start()
            assert started.wait(30)
            done.wait(0.2)  # long enough for a put that nothing keeps from it
            return found

    def put() -> None:
        started.set()
        cache.put("b", a_source())
        done.set()

    threads: list[threading.Thread] = []
    cache._entries = Meddled()
    cache.put("a", source := a_source())
    assert cache.get("a") is source
    threads[0].join(30)
    assert done.is_set()
    assert len(cache) == 1
