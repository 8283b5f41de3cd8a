"""Builds the models of a pack, holds them to their references, and writes them into a model repository."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import onnx

from warmswap_ensemble.contract import ANY, FACE_EMBEDDER, FACE_SWAPPER
from warmswap_ensemble.manifest import Manifest, read_manifest
from warmswap_export import parity
from warmswap_export.built import Arrays, BuiltStage, StageSource
from warmswap_export.errors import ExportError, PackError
from warmswap_export.graph import OPSET, open_output_dims
from warmswap_export.packs import Pack, StagePack, stage_spec
from warmswap_export.precision import PRECISIONS
from warmswap_export.samples import KnownFaces, any_embedding, find_faces, first_look_frames, stage_samples
from warmswap_export.scaffold import base_repository
from warmswap_export.sources import StageFiles, WeightOptions, collect
from warmswap_export.warmup import write_stage_warmup

MODEL_FILE = "model.onnx"
BASE_PACK: Final = "open"
"""The pack whose models find the faces of the demo pictures, and whose samples are the warm-up of every version."""
BASE_VERSION: Final = 1
ARCHITECTURES: Final = (
    "arcface", "centerface", "dlib_resnet", "geometric", "landmark68", "neural_swapper", "retinaface", "scrfd",
)  # fmt: skip
STAGING: Final = ".export-"
STALE_AFTER_S: Final = 3600
Progress = Callable[[str, str], None]


@dataclass(slots=True)
class PackBuild:
    """The stages of a pack, built on demand and run on the demo pictures.

    Attributes:
        pack: What is built.
        progress: Called with a stage and what is being done.
        weights: Where the files that users bring come from.
    """

    pack: Pack
    progress: Progress = lambda model, step: None
    weights: WeightOptions = field(default_factory=WeightOptions)
    _files: dict[str, StageFiles] = field(default_factory=dict)
    _stages: dict[str, BuiltStage] = field(default_factory=dict)
    _runners: dict[str, parity.GraphRunner] = field(default_factory=dict)
    _samples: dict[str, dict[str, Any]] = field(default_factory=dict)
    _faces: KnownFaces | None = None
    _scratch: Path | None = None

    def __enter__(self) -> Self:
        """Return the build."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove what was unpacked, converted or made up on the way."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def files(self, model: str) -> StageFiles:
        """Return the files that a stage is built from."""
        if model not in self._files:
            stage = self.pack.stage(model)
            if stage.weights and self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="warmswap-export-"))
            folder = (self._scratch or Path(tempfile.gettempdir())) / model
            self._files[model] = collect(stage, self.weights, folder, lambda step: self.progress(model, step))
        return self._files[model]

    def stage(self, model: str) -> BuiltStage:
        """Return a stage in single precision, built from its sources."""
        if model not in self._stages:
            self._stages[model] = self._build(model, "fp32")
        return self._stages[model]

    def graph(self, model: str, precision: str) -> onnx.ModelProto:
        """Return the graph of a stage in a precision.

        Raises:
            ExportError: the stage has no form of half precision.
        """
        built = self.stage(model)
        if precision == "fp32":
            return built.graph
        if not built.half_tolerances:
            name = self.pack.stage(model).name
            raise ExportError(f"{name} cannot be exported in {precision}; leave it out with --stage, or take fp32")
        return self._build(model, precision).graph

    def _build(self, model: str, precision: str) -> BuiltStage:
        stage, files = self.pack.stage(model), self.files(model)
        self.progress(model, f"building {precision}")
        source = StageSource(files.paths, stage.options, stage.settings, precision)
        try:
            built: BuiltStage = _architecture(stage).build(source)
        except PackError as error:
            raise PackError(f"pack {stage.pack} [stages.{model}]: {error}") from error
        _clean(built.graph, stage)
        return built

    def release(self, model: str) -> None:
        """Forget what was built for a stage: some are half a gigabyte, several times over."""
        for kept in (self._stages, self._runners):
            kept.pop(model, None)

    def run(self, model: str, inputs: Arrays) -> Arrays:
        """Run a built stage."""
        if model not in self._runners:
            self._runners[model] = parity.GraphRunner(self.stage(model).graph.SerializeToString())
        return self._runners[model](inputs)

    def samples(self, model: str) -> dict[str, Any]:
        """Return a batch of two real inputs of a stage."""
        if model not in self._samples:
            if self._faces is None:
                settings = {spec: self._base_settings(spec) for spec in ("face_detector", "face_landmarker")}
                self._faces = find_faces(self._run_base, settings)
            samples = stage_samples(model, self.pack.stage(model).settings, self._faces)
            if stage_spec(model) is FACE_SWAPPER:
                samples["source_embedding"] = self._source_embedding(model, self._faces)
            self._samples[model] = samples
        return self._samples[model]

    def other_frames(self, model: str) -> dict[str, Any]:
        """Return what a detector that looks at a small frame first is sent beside full frames: one frame of each."""
        self.samples(model)
        assert self._faces is not None
        return first_look_frames(self.pack.stage(model).settings, self._faces)

    def measure(self, model: str, graph_bytes: bytes, precision: str = "fp32") -> list[parity.Difference]:
        """Hold a serialised graph of a stage to the contract and to the stage's references.

        Raises:
            ParityError: the graph's tensors are not those of the contract.
        """
        built, samples = self.stage(model), self.samples(model)
        self.progress(model, "checking parity")
        runner = parity.GraphRunner(graph_bytes)
        parity.check_contract(runner, stage_spec(model))
        cut = self._cut_frames(model, samples)
        if precision not in PRECISIONS or (precision != "fp32" and not built.half_tolerances):
            raise ExportError(f"{self.pack.stage(model).name} has no form of {precision}")
        with np.errstate(invalid="ignore", divide="ignore"):  # what is not a number is told as a difference
            if precision == "fp32":
                differences = parity.measure_parity(runner, built, samples)
                return differences + (parity.measure_other_frame(runner, built, cut) if cut else [])
            return parity.measure_half(runner, lambda inputs: self.run(model, inputs), built, samples)

    def _cut_frames(self, model: str, samples: Arrays) -> dict[str, Any]:
        """Return frames of another size for a detector that the pipeline gives such."""
        multiple = int(self.pack.stage(model).settings.get("frame_multiple", 0))
        if not multiple:
            return {}
        frames = samples["image_rgb"]
        height, width = (-(-size * 2 // 3) // multiple * multiple for size in frames.shape[1:3])
        return {"image_rgb": np.ascontiguousarray(frames[:, :height, multiple : width + 2 * multiple])}

    def _source_embedding(self, swapper: str, faces: KnownFaces) -> Any:
        """Return embeddings for the swapper's sample: of the embedder it goes with, where that is at hand."""
        wanted = self.pack.stage(swapper).settings.get("embedding_space")
        own = next((stage.settings for stage in self.pack.stages if stage.model == FACE_EMBEDDER.name), None)
        settings = self._base_settings(FACE_EMBEDDER.name)
        if wanted in (None, settings["embedding_space"]):
            crops = faces.crops(settings)[0]
            return self._run_base(FACE_EMBEDDER.name, {"aligned_crop_rgb": crops})["embedding"][::-1].copy()
        if own is not None and own["embedding_space"] == wanted:
            crops = faces.crops(own)[0]
            return self.run(FACE_EMBEDDER.name, {"aligned_crop_rgb": crops})["embedding"][::-1].copy()
        return any_embedding(int(self.pack.stage(swapper).settings["embedding_length"]))

    def _is_base(self, model: str) -> bool:
        return any(stage.model == model and stage.pack == BASE_PACK for stage in self.pack.stages)

    def _base_settings(self, model: str) -> dict[str, Any]:
        if self._is_base(model):
            return dict(self.pack.stage(model).settings)
        return read_manifest(base_repository() / model / str(BASE_VERSION)).settings

    def _run_base(self, model: str, inputs: Arrays) -> Arrays:
        if self._is_base(model):
            return self.run(model, inputs)
        path = base_repository() / model / str(BASE_VERSION) / MODEL_FILE
        return parity.GraphRunner(path.read_bytes())(inputs)


def export_stage(
    build: PackBuild, model: str, repository: Path, version: int, *, force: bool = False, precision: str = "fp32"
) -> Manifest:
    """Write one stage of a pack as a version of its model.

    The version appears at once (renamed into place), or not at all.

    Raises:
        ExportError: the version is there already with other content and ``force`` is not given.
        ParityError: the graph does not agree with its references.
    """
    stage = build.pack.stage(model)
    made = build.graph(model, precision)
    data = made.SerializeToString(deterministic=True)
    differences = build.measure(model, data, precision)
    parity.refuse_misses(model, differences)
    manifest = Manifest(
        model=model,
        version=version,
        name=stage.name,
        pack=stage.pack,
        files={MODEL_FILE: hashlib.sha256(data).hexdigest()},
        origin=build.files(model).origin,
        licence=stage.licence,
        licence_note=stage.licence_note,
        commercial_use=stage.commercial_use,
        exporter=f"warmswap {metadata.version('warmswap')}",
        opset=OPSET,
        parity=parity.as_manifest(differences),
        settings=dict(stage.settings),
        twin_seed=build.files(model).twin_seed,
        precision=precision,
    )
    build.progress(model, "writing")
    _write_version(repository / model / str(version), {MODEL_FILE: data}, manifest, force=force)
    if stage.pack == BASE_PACK:
        write_stage_warmup(repository / model, build.samples(model) | build.other_frames(model))
    return manifest


def export_pack(
    pack: Pack,
    repository: Path,
    version: int = 1,
    *,
    stages: Iterable[str] = (),
    force: bool = False,
    precision: str = "fp32",
    weights: WeightOptions | None = None,
    progress: Progress | None = None,
) -> list[Manifest]:
    """Write the stages of a pack (all, or those named) into a repository and return their manifests."""
    chosen = list(stages) or [stage.model for stage in pack.stages]
    weights = weights or WeightOptions()
    for model in chosen:
        stage = pack.stage(model)
        _architecture(stage)
        seed = weights.twin_seed if stage.weights else None
        _refuse_taken(repository / model / str(version), stage, (precision, seed), force=force)
    manifests = []
    with PackBuild(pack, progress or (lambda model, step: None), weights) as build:
        for model in chosen:  # what is missing is told before a minute of work
            build.files(model)
        for model in chosen:
            manifests.append(export_stage(build, model, repository, version, force=force, precision=precision))
            if pack.stage(model).weights and model != FACE_EMBEDDER.name:
                build.release(model)
    return manifests


def _architecture(stage: StagePack) -> Any:
    """Return the module of a stage's architecture.

    Raises:
        PackError: there is none, or it does not know one of the pack's options.
    """
    place = f"pack {stage.pack} [stages.{stage.model}]"
    if stage.architecture not in ARCHITECTURES:
        raise PackError(
            f"{place}: no architecture is called {stage.architecture!r}; there are: {', '.join(ARCHITECTURES)}"
        )
    module = importlib.import_module(f"warmswap_export.architectures.{stage.architecture}")
    known: set[str] = getattr(module, "OPTIONS", set())
    unknown = sorted(stage.options.keys() - known)
    if unknown:
        those = f"known are {', '.join(sorted(known))}" if known else f"{stage.architecture} has none"
        raise PackError(f"{place}: unknown options {', '.join(unknown)}; {those}")
    return module


def _refuse_taken(version_dir: Path, stage: StagePack, form: tuple[str, int | None], *, force: bool) -> None:
    """Refuse a version that holds another model before any work is done; the same model may be exported again.

    Args:
        version_dir: Where it would be written.
        stage: What would be written.
        form: Its precision, and its seed if it is a twin.
        force: Refuse nothing.
    """
    if force or not version_dir.exists():
        return
    try:
        manifest = read_manifest(version_dir)
    except Exception:  # no manifest: whatever it holds, it is not ours
        manifest = None
    found = manifest and (manifest.name, manifest.pack, manifest.precision, manifest.twin_seed)
    if found != (stage.name, stage.pack, *form):
        raise ExportError(f"{version_dir} holds another model; choose a new --version, or overwrite it with --force")


def _write_version(version_dir: Path, files: dict[str, bytes], manifest: Manifest, *, force: bool) -> None:
    current = version_dir / MODEL_FILE
    same = current.is_file() and current.read_bytes() == files[MODEL_FILE]
    if version_dir.exists() and not same and not force:
        raise ExportError(f"{version_dir} holds another model; choose a new --version, or overwrite it with --force")
    try:
        version_dir.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(version_dir.parent)
        # Triton takes no directory for a version whose name begins with a dot.
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=version_dir.parent, ignore_cleanup_errors=True) as folder:
            staging = Path(folder) / "new"
            staging.mkdir(mode=0o755)
            manifest_path = manifest.write(staging)
            if same:  # the model keeps its modification time, or a running Triton would load it again
                manifest_path.replace(version_dir / manifest_path.name)
                return
            for name, data in files.items():
                (staging / name).write_bytes(data)
            _exchange(staging, version_dir, Path(folder) / "old")
    except OSError as error:
        raise ExportError(f"{version_dir} cannot be written: {error.strerror or error}") from error


def _exchange(staging: Path, version_dir: Path, aside: Path) -> None:
    """Put a version in the place of one that may be there, which is kept if that fails."""
    replaced = version_dir.exists()
    if replaced:
        version_dir.rename(aside)
    try:
        staging.rename(version_dir)
    except OSError:
        if replaced:
            aside.rename(version_dir)
        raise


def _remove_stale(model_dir: Path) -> None:
    """Remove what exports left that were killed; a younger one may be running."""
    for folder in model_dir.glob(f"{STAGING}*"):
        if time.time() - folder.stat().st_mtime > STALE_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)


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
    spec = stage_spec(stage_model)
    open_output_dims(model, [tensor.name for tensor in spec.outputs if ANY in tensor.shape])
    expected = {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        batch, *axes = value.type.tensor_type.shape.dim
        batch.dim_param = "N"
        for index, (axis, size) in enumerate(zip(axes, expected.get(value.name, ()), strict=False), start=1):
            if size > 0:
                axis.dim_value = size
            else:
                axis.dim_param = f"{value.name}_{index}"
