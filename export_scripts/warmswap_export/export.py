"""Builds the models of a pack, holds them to their references, and writes them into a model repository."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx

from warmswap_ensemble.contract import ANY, MODELS
from warmswap_ensemble.manifest import Manifest
from warmswap_export import graph, parity
from warmswap_export.built import Arrays, BuiltStage
from warmswap_export.errors import ExportError
from warmswap_export.fetch import fetch
from warmswap_export.packs import Pack, StagePack
from warmswap_export.samples import make_samples
from warmswap_export.warmup import write_stage_warmup

MODEL_FILE = "model.onnx"
Progress = Callable[[str, str], None]


@dataclass(slots=True)
class PackBuild:
    """The stages of a pack, built on demand and run on the demo pictures.

    Attributes:
        pack: What is built.
        progress: Called with a stage and what is being done.
    """

    pack: Pack
    progress: Progress = lambda model, step: None
    _stages: dict[str, BuiltStage] = field(default_factory=dict)
    _runners: dict[str, parity.GraphRunner] = field(default_factory=dict)
    _samples: dict[str, dict[str, Any]] | None = None

    def stage(self, model: str) -> BuiltStage:
        """Return a stage, built from its sources."""
        if model not in self._stages:
            stage = self.pack.stage(model)
            self.progress(model, "fetching")
            sources = {name: fetch(source) for name, source in stage.sources.items()}
            self.progress(model, "building")
            module = importlib.import_module(f"warmswap_export.architectures.{stage.architecture}")
            built: BuiltStage = module.build(sources)
            _clean(built.graph, stage)
            self._stages[model] = built
        return self._stages[model]

    def run(self, model: str, inputs: Arrays) -> Arrays:
        """Run a built stage."""
        if model not in self._runners:
            self._runners[model] = parity.GraphRunner(self.stage(model).graph.SerializeToString())
        return self._runners[model](inputs)

    def samples(self) -> dict[str, dict[str, Any]]:
        """Return a batch of real inputs per stage."""
        if self._samples is None:
            settings = {stage.model: stage.settings for stage in self.pack.stages}
            self._samples = make_samples(self.run, settings)
        return self._samples

    def measure(self, model: str, graph_bytes: bytes) -> list[parity.Difference]:
        """Hold a serialised graph of a stage to the contract and to the stage's references.

        Raises:
            ParityError: the graph's tensors are not those of the contract.
        """
        built = self.stage(model)
        samples = self.samples()[model]
        self.progress(model, "checking parity")
        runner = parity.GraphRunner(graph_bytes)
        parity.check_contract(runner, MODELS[model])
        return parity.measure_parity(runner, built, samples)


def export_stage(build: PackBuild, model: str, repository: Path, version: int, *, force: bool = False) -> Manifest:
    """Write one stage of a pack as a version of its model.

    The version appears at once (renamed into place), or not at all.

    Raises:
        ExportError: the version is there already with other content and ``force`` is not given.
        ParityError: the graph does not agree with its references.
    """
    stage = build.pack.stage(model)
    data = build.stage(model).graph.SerializeToString(deterministic=True)
    differences = build.measure(model, data)
    parity.refuse_misses(model, differences)
    manifest = Manifest(
        model=model,
        version=version,
        name=stage.name,
        pack=build.pack.name,
        files={MODEL_FILE: hashlib.sha256(data).hexdigest()},
        origin=[source.describe() for source in stage.sources.values()],
        licence=stage.licence,
        commercial_use=stage.commercial_use,
        exporter=f"warmswap {metadata.version('warmswap')}",
        opset=graph.OPSET,
        parity=parity.as_manifest(differences),
        settings=dict(stage.settings),
    )
    build.progress(model, "writing")
    _write_version(repository / model / str(version), {MODEL_FILE: data}, manifest, force=force)
    write_stage_warmup(repository / model, MODELS[model], build.samples()[model])
    return manifest


def export_pack(
    pack: Pack,
    repository: Path,
    version: int = 1,
    *,
    stages: Iterable[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> list[Manifest]:
    """Write the stages of a pack (all, or those named) into a repository and return their manifests."""
    build = PackBuild(pack) if progress is None else PackBuild(pack, progress)
    chosen = list(stages) or [stage.model for stage in pack.stages]
    return [export_stage(build, model, repository, version, force=force) for model in chosen]


def _write_version(version_dir: Path, files: dict[str, bytes], manifest: Manifest, *, force: bool) -> None:
    if version_dir.exists() and not force:
        current = version_dir / MODEL_FILE
        if current.is_file() and current.read_bytes() == files[MODEL_FILE]:
            manifest.write(version_dir)
            return
        raise ExportError(f"{version_dir} holds another model; choose a new --version, or overwrite it with --force")
    version_dir.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{version_dir.name}-", dir=version_dir.parent))
    try:
        for name, data in files.items():
            (staging / name).write_bytes(data)
        manifest.write(staging)
        staging.chmod(0o755)
        if version_dir.exists():
            shutil.rmtree(version_dir)
        staging.rename(version_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _clean(model: onnx.ModelProto, stage: StagePack) -> None:
    """Drop what ties the file to the machine that made it, and say what it is."""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    model.producer_name = "warmswap"
    model.producer_version = ""
    model.doc_string = ""
    model.graph.name = stage.architecture
    del model.metadata_props[:]
    del model.graph.value_info[:]
    _declare_shapes(model, stage.model)


def _declare_shapes(model: onnx.ModelProto, stage_model: str) -> None:
    """Declare the contract's dimensions, fixed or open; Triton refuses a graph that is not open where the config is."""
    spec = MODELS[stage_model]
    graph.open_output_dims(model, [tensor.name for tensor in spec.outputs if ANY in tensor.shape])
    expected = {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        batch, *axes = value.type.tensor_type.shape.dim
        batch.dim_param = "N"
        for index, (axis, size) in enumerate(zip(axes, expected.get(value.name, ()), strict=False), start=1):
            if size > 0:
                axis.dim_value = size
            else:
                axis.dim_param = f"{value.name}_{index}"
