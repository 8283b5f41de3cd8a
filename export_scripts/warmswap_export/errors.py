"""Errors of the exporter.

ExportError             base; ``exit_code`` is what the command returns
├── PackError           a pack file is wrong or does not exist
├── FetchError          a source could not be fetched, or is not the pinned one
├── WeightsError        a file that the user brings is missing, is another one, or cannot be read
└── ParityError         the exported graph does not agree with its reference
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of the exporter's errors."""

    exit_code = 1


class PackError(ExportError):
    """A pack file is wrong or does not exist."""

    exit_code = 2


class FetchError(ExportError):
    """A source could not be fetched, or is not the pinned one."""


class WeightsError(ExportError):
    """A file that the user brings is missing, is another one, or cannot be read."""

    exit_code = 2


class ParityError(ExportError):
    """The exported graph does not agree with its reference."""
