"""Pack files: which models make up a pack, where they come from, what the pipeline must know of them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from warmswap_ensemble.contract import STAGES
from warmswap_export.errors import PackError
from warmswap_export.fetch import PackageFile


@dataclass(frozen=True, slots=True)
class StagePack:
    """One model of a pack.

    Attributes:
        model: Stage of the contract, for example ``face_detector``.
        name: What its authors call it.
        architecture: Module of ``warmswap_export.architectures``.
        licence: SPDX expression.
        commercial_use: Whether the licence allows it; ``None`` when unknown.
        sources: Files it is built from, by the name the architecture gives them.
        settings: Written into the manifest for the pipeline.
    """

    model: str
    name: str
    architecture: str
    licence: str
    commercial_use: bool | None
    sources: Mapping[str, PackageFile]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pack:
    """A named set of models, one per stage."""

    name: str
    stages: tuple[StagePack, ...]

    def stage(self, model: str) -> StagePack:
        """Return the pack's model for a stage.

        Raises:
            PackError: the pack has none.
        """
        for stage in self.stages:
            if stage.model == model:
                return stage
        raise PackError(f"pack {self.name} has no {model}; it has {', '.join(s.model for s in self.stages)}")


def pack_names() -> list[str]:
    """Return the names of the packs that ship with this package."""
    folder = resources.files("warmswap_export") / "packs"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def load_pack(name: str) -> Pack:
    """Read a pack that ships with this package.

    Raises:
        PackError: there is no such pack, or its file is wrong.
    """
    if name not in pack_names():
        raise PackError(f"no pack is called {name!r}; there are: {', '.join(pack_names())}")
    text = (resources.files("warmswap_export") / "packs" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_pack(text)


def parse_pack(text: str) -> Pack:
    """Read the text of a pack file.

    Raises:
        PackError: it is not TOML, a field is missing or unknown, or a stage is not in the contract.
    """
    try:
        values = tomllib.loads(text)
        stages = tuple(_parse_stage(model, table) for model, table in values["stages"].items())
        return Pack(values["name"], stages)
    except tomllib.TOMLDecodeError as error:
        raise PackError(f"the pack file is not TOML: {error}") from error
    except KeyError as error:
        raise PackError(f"the pack file lacks {error}") from error
    except TypeError as error:
        raise PackError(f"the pack file has a wrong field: {error}") from error


def _parse_stage(model: str, table: dict[str, Any]) -> StagePack:
    known = [spec.name for spec in STAGES]
    if model not in known:
        raise PackError(f"{model!r} is no stage of the contract; stages are {', '.join(known)}")
    sources = {name: PackageFile(**source) for name, source in table.get("sources", {}).items()}
    return StagePack(
        model=model,
        name=table["name"],
        architecture=table["architecture"],
        licence=table["licence"],
        commercial_use=table.get("commercial_use"),
        sources=sources,
        settings=table["settings"],
    )
