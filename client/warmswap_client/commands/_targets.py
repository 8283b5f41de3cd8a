"""Which pictures a ``swap`` reads, and where each result goes."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_client.errors import InputFileError, OutputFileError
from warmswap_ensemble.contract import IMAGE_FORMATS

SUFFIXES: Final = {"jpeg": (".jpg", ".jpeg"), "png": (".png",), "webp": (".webp",)}
"""The first suffix of a format is the one we write; tests hold the keys to ``IMAGE_FORMATS``."""

_PICTURE_SUFFIXES: Final = {suffix for name in IMAGE_FORMATS for suffix in SUFFIXES[name]}


@dataclass(frozen=True, slots=True)
class Targets:
    """Pictures to work on.

    Attributes:
        paths: In the order given, each once.
        is_batch: Whether the output is a folder: several pictures, or a folder or pattern that may hold several.
    """

    paths: tuple[Path, ...]
    is_batch: bool


def find_targets(arguments: Sequence[str]) -> Targets:
    """Expand files, folders (their pictures, not deeper) and patterns (``**`` goes deeper).

    Raises:
        InputFileError: an argument stands for no picture.
    """
    paths: dict[Path, None] = {}
    is_batch = False
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = [child for child in sorted(path.iterdir()) if _is_picture(child)]
            is_batch = True
        elif path.exists() or not glob.has_magic(argument):
            found = [path]  # a missing file is reported as a failure of its own
        else:
            matches = (Path(match) for match in sorted(glob.glob(argument, recursive=True)))
            found = [match for match in matches if _is_picture(match)]
            is_batch = True
        if not found:
            raise InputFileError(f"no JPEG, PNG or WebP pictures in {argument}")
        paths.update(dict.fromkeys(found))
    return Targets(tuple(paths), is_batch or len(paths) > 1)


def format_of(path: Path) -> str | None:
    """Return the format that a file name promises; None if it promises none."""
    return next((name for name, suffixes in SUFFIXES.items() if path.suffix.lower() in suffixes), None)


def named_as(path: Path, image_format: str) -> Path:
    """Give a path the suffix of its format, keeping ``.jpeg`` and capitals where they are right already."""
    suffixes = SUFFIXES.get(image_format, ())
    return path if not suffixes or path.suffix.lower() in suffixes else path.with_suffix(suffixes[0])


def protect(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse to overwrite one of the pictures that were read.

    Raises:
        OutputFileError: the output is one of them.
    """
    for path in inputs:
        if output.resolve() == path.resolve():
            raise OutputFileError(f"{output} is an input and would be overwritten; use --force if you mean it")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _PICTURE_SUFFIXES and path.is_file()
