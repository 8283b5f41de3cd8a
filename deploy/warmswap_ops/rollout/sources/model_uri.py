"""Names of versions in a model registry: ``models:/NAME/VERSION`` and ``models:/NAME@ALIAS``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from warmswap_ops.errors import UsageError

MODELS_SCHEME: Final = "models:"
_URI: Final = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>[1-9][0-9]*)|@(?P<alias>[\w-]+))")
_ALIAS: Final = re.compile(r"(?!latest$|v\d+$)[\w-]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelUri:
    """A registered model with a version number or an alias, never both.

    Attributes:
        text: As it was given.
        name: Of the registered model.
        version: Number, ``None`` with an alias.
        alias: ``None`` with a number.
    """

    text: str
    name: str
    version: str | None
    alias: str | None


def parse_model_uri(text: str) -> ModelUri:
    """Read a name.

    Raises:
        UsageError: it is of another form. Stages and ``latest`` are none of these: what they lead to changes with
            every registration.
    """
    found = _URI.fullmatch(text)
    if found is None:
        raise UsageError(f"--from {text!r} must be models:/NAME/VERSION, with a number, or models:/NAME@ALIAS")
    return ModelUri(text, **found.groupdict())


def check_alias(alias: str) -> str:
    """Return an alias that a registry takes.

    Raises:
        UsageError: it takes no such alias.
    """
    if not _ALIAS.fullmatch(alias):
        raise UsageError(
            f"alias {alias!r} must hold letters, digits, _ and - only, and be neither 'latest' nor v<number>"
        )
    return alias
