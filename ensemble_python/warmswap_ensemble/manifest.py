"""``manifest.json``: what stands beside a model file in its version directory.

The exporter writes it, the launcher checks the sha256 in it, and the pipeline reads from it what it must know of a
version (crop size, warp template, thresholds). Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

MANIFEST_NAME: Final = "manifest.json"
SCHEMA_VERSION: Final = 1
UNKNOWN: Final = "unknown"
"""How ``commercial_use`` of a version is written when nobody knows."""


class ManifestError(Exception):
    """A manifest is missing, cannot be read, or does not fit the files beside it."""

    def __init__(self, path: Path, reason: str) -> None:
        """Name the file and what is wrong with it."""
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Manifest:
    """Facts about one version of one model.

    Attributes:
        model: Folder in the model repository, for example ``face_detector``.
        version: Version directory.
        name: What the model is called where it comes from, for example ``centerface``.
        pack: Pack that it belongs to, for example ``open``.
        files: File name to sha256 (hex), for every file of the version that the server reads.
        origin: Where the weights come from: package, version, file, sha256 of each.
        licence: SPDX expression.
        commercial_use: Whether the licence allows it; ``None`` when unknown, written as ``"unknown"``.
        exporter: Name and version of the program that wrote the files.
        opset: ONNX opset of the graph.
        parity: Figures measured at export, per check: the largest difference and the tolerance.
        settings: What the pipeline must know of the version; listed in ``model_repository/README.md``.
        licence_note: One sentence: who allows or forbids what.
        twin_seed: The weights are random numbers of this seed: a stand-in with the size and the cost of the real
            model, whose pictures mean nothing. ``None`` for a real model.
        precision: Of the weights, for example ``fp32`` or ``fp16``.
        compiled: What ``warmswap compile`` made of the version, ``None`` as exported. ``files`` holds the sha256 of
            the files that it added, ``source`` those of the files that it read; the rest is its own.
    """

    model: str
    version: int
    name: str
    pack: str
    files: dict[str, str]
    origin: list[dict[str, str]]
    licence: str
    commercial_use: bool | None
    exporter: str
    opset: int
    parity: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    licence_note: str = ""
    twin_seed: int | None = None
    precision: str = "fp32"
    compiled: dict[str, Any] | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def twin(self) -> bool:
        """Whether the weights are random numbers."""
        return self.twin_seed is not None

    @property
    def sha256(self) -> str:
        """Digest over the exported files: changes when any of them does, and not when the version is compiled."""
        lines = "".join(f"{name}:{digest}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def compiled_files(self) -> dict[str, str]:
        """File name to sha256 of the files that ``warmswap compile`` added."""
        return dict(self.compiled["files"]) if self.compiled else {}

    def write(self, version_dir: Path) -> Path:
        """Write ``manifest.json`` into ``version_dir`` and return its path."""
        path = version_dir / MANIFEST_NAME
        values = asdict(self) | {"commercial_use": commercial_use_as_json(self.commercial_use)}
        if self.compiled is None:
            del values["compiled"]
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return path


def commercial_use_as_json(allowed: bool | None) -> bool | str:
    """Return ``commercial_use`` as it is written."""
    return UNKNOWN if allowed is None else allowed


def read_manifest(version_dir: Path) -> Manifest:
    """Read the manifest of a version directory.

    Raises:
        ManifestError: it is missing, is not JSON, lacks a field, or a field holds what it must not.
    """
    path = version_dir / MANIFEST_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(path, "missing; export the model again, or copy it whole") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(path, f"cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ManifestError(path, f"must hold a JSON object, got {type(values).__name__}")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise ManifestError(path, f"schema_version must be {SCHEMA_VERSION}, got {values.get('schema_version')!r}")
    for name, (expected, fits) in _FIELDS.items():
        if name in values and not fits(values[name]):
            raise ManifestError(path, f"{name} must be {expected}, got {json.dumps(values[name])}")
    if values.get("commercial_use") == UNKNOWN:
        values["commercial_use"] = None
    try:
        return Manifest(**values)
    except TypeError as error:
        raise ManifestError(path, str(error).replace("Manifest.__init__() ", "")) from error


def verify_files(version_dir: Path, manifest: Manifest) -> None:
    """Compare the files of a version, exported and compiled, with the sha256 in its manifest.

    Raises:
        ManifestError: a file is missing or differs, or what was compiled are not the files that are there.
    """
    for name, expected in sorted((manifest.files | manifest.compiled_files).items()):
        verify_file(version_dir / name, expected)
    check_compiled_source(version_dir, manifest)


def verify_file(path: Path, expected: str) -> None:
    """Compare a file with its sha256.

    Raises:
        ManifestError: it is missing or differs.
    """
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ManifestError(path, f"named in {MANIFEST_NAME} but cannot be read: {error.strerror}") from error
    if actual != expected:
        raise ManifestError(path, f"sha256 is {actual}, {MANIFEST_NAME} says {expected}: corrupt or replaced file")


def check_compiled_source(version_dir: Path, manifest: Manifest) -> None:
    """Refuse a version whose exported files were exchanged after it was compiled.

    Raises:
        ManifestError: says so.
    """
    if manifest.compiled and manifest.compiled["source"] != manifest.files:
        raise ManifestError(
            version_dir / MANIFEST_NAME, "was compiled from other files than it names: run warmswap compile again"
        )


def version_dirs(model_dir: Path) -> list[Path]:
    """Return the version directories of a model, lowest number first; empty when there is none.

    Triton ignores a number that begins with 0.
    """
    if not model_dir.is_dir():
        return []
    numbered = [path for path in model_dir.iterdir() if _is_version(path.name) and path.is_dir()]
    return sorted(numbered, key=lambda path: int(path.name))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdecimal() and name[0] != "0"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_object_of(is_value: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_value, value.values()))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_origin(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_object_of(_is_text), value))


def _is_compiled(value: Any) -> bool:
    return _is_object(value) and all(_is_object_of(_is_text)(value.get(name)) for name in ("files", "source"))


_TEXT: Final = ("a text", _is_text)

_FIELDS: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "model": _TEXT,
    "version": ("a whole number above 0", lambda value: _is_whole(value) and value > 0),
    "name": _TEXT,
    "pack": _TEXT,
    "files": ("an object of file name to sha256", _is_object_of(_is_text)),
    "origin": ("a list of objects of texts", _is_origin),
    "licence": _TEXT,
    "commercial_use": (
        'true, false or "unknown"',
        lambda value: value is None or value is True or value is False or value == UNKNOWN,
    ),
    "exporter": _TEXT,
    "opset": ("a whole number", _is_whole),
    "parity": ("an object of objects", _is_object_of(_is_object)),
    "settings": ("an object", _is_object),
    "licence_note": _TEXT,
    "twin_seed": ("a whole number or null", lambda value: value is None or _is_whole(value)),
    "precision": _TEXT,
    "compiled": ('an object with "files" and "source", or null', lambda value: value is None or _is_compiled(value)),
}
"""Field to what it must hold: in words, and as a test."""
