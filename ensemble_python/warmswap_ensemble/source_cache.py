"""Remembers what was found in a source picture: in practice one source meets many targets."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable

from warmswap_ensemble.types import SourceFace, Stage


class SourceCache:
    """A bounded cache, least recently used out first. Several threads may use it."""

    def __init__(self, max_entries: int) -> None:
        """Keep at most ``max_entries`` sources (about 200 kB each); 0 keeps none."""
        self.max_entries = max_entries
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[Hashable, SourceFace] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many sources are kept."""
        return len(self._entries)

    def get(self, key: Hashable) -> SourceFace | None:
        """Return the source kept under ``key``, or None; counts a hit or a miss."""
        with self._lock:
            source = self._entries.get(key)
            if source is None:
                self.misses += 1
            else:
                self.hits += 1
                self._entries.move_to_end(key)
            return source

    def put(self, key: Hashable, source: SourceFace) -> None:
        """Keep a source, dropping the least recently used one when full."""
        with self._lock:
            self._entries[key] = source
            self._entries.move_to_end(key)
            while len(self._entries) > self.max_entries:
                self._entries.popitem(last=False)


def source_key(data: bytes, stages: Iterable[Stage], *options: Hashable) -> Hashable:
    """Return the key of a source: its content, the models that looked at it, and the options they used."""
    digest = hashlib.sha256(data).digest()
    return (digest, tuple((stage.model, stage.version, stage.sha256) for stage in stages), options)
