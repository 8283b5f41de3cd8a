"""Fields of a manifest, taken out with their path, so that an error can name it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

_QUANTITY: Final = re.compile(r"(\d+)(Ki|Mi|Gi|k|M|G|)")
_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class ManifestError(Exception):
    """A manifest has what is wrong, or what cannot be run here."""


@dataclass(frozen=True, slots=True)
class Node:
    """A mapping of a manifest.

    Attributes:
        value: The mapping.
        path: Where it is: ``Deployment.spec.template``.
    """

    value: Any
    path: str

    def __post_init__(self) -> None:
        """Refuse what is no mapping."""
        if not isinstance(self.value, dict):
            raise ManifestError(f"{self.path} must be a mapping, got {self.value!r}")

    def get(self, key: str) -> Any:
        """Return a value; ``None`` = it is not there."""
        return self.value.get(key)

    def node(self, key: str, default: Any = None) -> Node:
        """Return a mapping below this one."""
        value = self.get(key)
        return Node(default if value is None else value, f"{self.path}.{key}")

    def items(self, key: str) -> list[Any]:
        """Return a list below this one; empty = it is not there."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ManifestError(f"{self.path}.{key} must be a list, got {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise ManifestError(f"{self.path}.{key} must be a string, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None, least: float = 0) -> float:
        """Return a number that is at least ``least``."""
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            raise ManifestError(f"{self.path}.{key} must be a number of at least {least:g}, got {value!r}")
        return float(value)


def percentage(node: Node, key: str, default: str) -> float | str:
    """Return a number, or a share such as ``25%``."""
    value = node.get(key)
    if value is None:
        return default
    if isinstance(value, str) and re.fullmatch(r"\d+%", value):
        return value
    return node.number(key)


def quantity_bytes(node: Node, key: str) -> int | None:
    """Return a size such as ``256Mi`` in bytes; ``None`` = it is not there."""
    value = node.get(key)
    if value is None:
        return None
    found = _QUANTITY.fullmatch(str(value))
    if found is None:
        raise ManifestError(f"{node.path}.{key} must be a size such as 256Mi, got {value!r}")
    return int(found[1]) * _UNITS[found[2]]
