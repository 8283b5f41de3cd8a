"""Pack files: which models make up a pack, where they come from, what the pipeline must know of them.

A pack names the models of some or all stages. Packs are put together with ``+``: ``buffalo_l+inswapper_128`` takes the
detector and the embedder of the one and the swapper of the other; where two have the same stage the later one wins.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import STAGES, SWAPPER_VARIANT_PREFIX, ModelSpec, model_spec
from warmswap_export.errors import PackError
from warmswap_export.fetch import PackageFile
from warmswap_export.weights import WeightFile

UNKNOWN: Final = "unknown"
NEEDED_SETTINGS: Final = {
    "face_detector": ("input_size_hw", "min_score"),
    "face_landmarker": ("crop_size", "warp_template"),
    "face_embedder": ("crop_size", "warp_template", "embedding_length", "embedding_space"),
    "face_swapper": ("crop_size", "warp_template", "identity"),
}
"""What the pipeline must know of each stage."""


@dataclass(frozen=True, slots=True)
class StagePack:
    """One model of a pack.

    Attributes:
        model: Stage of the contract, for example ``face_detector``, or a variant of the swapper (``face_swapper_512``).
        pack: Pack file that it stands in.
        name: What its authors call it.
        architecture: Module of ``warmswap_export.architectures`` that turns its files into a graph of the contract.
        licence: SPDX expression; ``LicenseRef-...`` where SPDX has none.
        commercial_use: Whether the licence allows it; ``None`` when unknown.
        licence_note: One sentence on who allows or forbids what.
        settings: Written into the manifest for the pipeline.
        options: For the architecture module.
        networks: Role (``network``, ``converter`` ...) to the network of ``networks.registry`` that its checkpoints
            hold, and that stand-ins with random weights are made of.
        sources: Role to the file of a public package that it is taken from.
        weights: Role to the files, of which the user brings one.
    """

    model: str
    pack: str
    name: str
    architecture: str
    licence: str
    commercial_use: bool | None
    settings: Mapping[str, Any]
    licence_note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, PackageFile] = field(default_factory=dict)
    weights: Mapping[str, tuple[WeightFile, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pack:
    """A named set of models, at most one per stage."""

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
    """Read a pack: the name of one that ships with this package, a path of a TOML file, or several joined by ``+``.

    Raises:
        PackError: there is no such pack, or its file is wrong.
    """
    packs = [_load_one(part) for part in name.split("+")]
    stages = {stage.model: stage for pack in packs for stage in pack.stages}
    return Pack(name, tuple(sorted(stages.values(), key=lambda stage: stage_order(stage.model))))


def stage_order(model: str) -> tuple[int, str]:
    """Return what stages are sorted by: a request's order; variants of the swapper come last, by name."""
    known = [spec.name for spec in STAGES]
    return (known.index(model), "") if model in known else (len(known), model)


def stage_spec(model: str) -> ModelSpec:
    """Return the contract of a stage, or of a variant of the swapper.

    Raises:
        PackError: the name is of no stage.
    """
    spec = model_spec(model)
    if spec is None or spec not in STAGES:
        known = ", ".join([*(stage.name for stage in STAGES), f"{SWAPPER_VARIANT_PREFIX}<variant>"])
        raise PackError(f"{model!r} is no stage of the contract; stages are {known}")
    return spec


def parse_pack(text: str, origin: str = "the pack file") -> Pack:
    """Read the text of a pack file.

    Args:
        text: TOML.
        origin: How error messages call the file.

    Raises:
        PackError: it is not TOML, a field is missing, unknown or of the wrong kind, or a stage is not in the contract.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PackError(f"{origin} is not TOML: {error}") from error
    table = _Table(values, origin)
    name = table.take("name", str)
    table.take("summary", str, default="")
    stages = table.take("stages", dict)
    table.refuse_rest()
    return Pack(name, tuple(_parse_stage(name, model, _Table(stages, origin).sub(model)) for model in stages))


def _load_one(name: str) -> Pack:
    if name.endswith(".toml"):
        try:
            return parse_pack(Path(name).read_text(encoding="utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise PackError(f"{name} cannot be read: {error}") from error
    if name not in pack_names():
        raise PackError(
            f"no pack is called {name!r}; there are: {', '.join(pack_names())}. "
            "Join several with +, or give the path of a .toml file"
        )
    text = (resources.files("warmswap_export") / "packs" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_pack(text, f"{name}.toml")


class _Table:
    """A TOML table that knows where it stands, so that a message can name the field."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self.values = dict(values)
        self.place = place

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = MISSING) -> Any:
        value = self.values.pop(key, default)
        if value is MISSING:
            raise PackError(f"{self.place} lacks {key!r}")
        if not isinstance(value, kind):
            names = [item.__name__ for item in (kind if isinstance(kind, tuple) else (kind,))]
            raise PackError(f"{self.place}: {key} must be of type {' or '.join(names)}, got {value!r}")
        return value

    def sub(self, key: str) -> _Table:
        return _Table(_Table(self.values, self.place).take(key, dict), f"{self.place} [{key}]")

    def build(self, kind: type) -> Any:
        """Make a dataclass of the table: its fields are the allowed keys."""
        known = {item.name: item for item in fields(kind)}
        self.refuse_rest(known)
        missing = [
            name
            for name, item in known.items()
            if name not in self.values and item.default is MISSING and item.default_factory is MISSING
        ]
        if missing:
            raise PackError(f"{self.place} lacks {', '.join(map(repr, missing))}")
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in self.values.items()})

    def refuse_rest(self, known: Iterable[str] = ()) -> None:
        unknown = sorted(self.values.keys() - set(known))
        if unknown:
            expected = f"; known are {', '.join(known)}" if known else ""
            raise PackError(f"{self.place} has unknown fields {', '.join(map(repr, unknown))}{expected}")


def _parse_stage(pack: str, model: str, table: _Table) -> StagePack:
    try:
        spec = stage_spec(model)
    except PackError as error:
        raise PackError(f"{table.place}: {error}") from error
    commercial_use = table.take("commercial_use", (bool, str))
    if commercial_use not in (True, False, UNKNOWN):
        raise PackError(f'{table.place}: commercial_use must be true, false or "unknown", got {commercial_use!r}')
    sources = table.take("sources", dict, default={})
    weights = table.take("weights", dict, default={})
    stage = StagePack(
        model=model,
        pack=pack,
        name=table.take("name", str),
        architecture=table.take("architecture", str),
        licence=table.take("licence", str),
        commercial_use=None if commercial_use == UNKNOWN else bool(commercial_use),
        licence_note=table.take("licence_note", str, default=""),
        settings=table.take("settings", dict),
        options=table.take("options", dict, default={}),
        networks=table.take("networks", dict, default={}),
        sources={role: _Table(sources, table.place).sub(role).build(PackageFile) for role in sources},
        weights={role: _parse_weights(role, files, table.place) for role, files in weights.items()},
    )
    table.refuse_rest()
    missing = [key for key in NEEDED_SETTINGS[spec.name] if key not in stage.settings]
    if missing:
        raise PackError(f"{table.place} [settings] lacks {', '.join(map(repr, missing))}")
    return stage


def _parse_weights(role: str, files: Any, place: str) -> tuple[WeightFile, ...]:
    place = f"{place} [weights.{role}]"
    if not isinstance(files, list) or not files or not all(isinstance(item, dict) for item in files):
        raise PackError(f"{place} must be a list of tables ([[...]]), got {files!r}")
    return tuple(_Table(item, place).build(WeightFile) for item in files)
