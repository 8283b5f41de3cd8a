"""Records the golden answers of the pipelines: what the warm-up of ``face_swap`` and ``face_analysis`` must give."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from warmswap_ensemble.contract import FACE_ANALYSIS, FACE_SWAP, MODELS, ModelSpec
from warmswap_ensemble.image import ImageLimits, decode_image, encode_image
from warmswap_ensemble.manifest import ManifestError, version_dirs
from warmswap_ensemble.options import AnalyzeOptions
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.self_test import (
    GOLDEN_NAME,
    Golden,
    golden_analysis,
    golden_swap,
    golden_swap_options,
    read_warmup_pictures,
)
from warmswap_ensemble.source_cache import SourceCache
from warmswap_ensemble.stage_calls import Arrays, StageCalls
from warmswap_ensemble.stage_versions import resolve_stages
from warmswap_ensemble.types import Stage
from warmswap_export.errors import ExportError
from warmswap_export.parity import GraphRunner
from warmswap_export.samples import DEMO_PICTURES, examples_dir
from warmswap_export.warmup import WARMUP_FOLDER, write_bytes_warmup

JPEG_QUALITY: Final = 92


def write_golden(repository: Path) -> list[Path]:
    """Run the golden requests on the highest version of every stage and record the answers.

    Pictures that are in ``warmup/`` already are kept; else the demo pictures are put there.

    Returns:
        The ``golden.json`` files, one per version of each pipeline in the repository.

    Raises:
        ExportError: a stage or a pipeline is missing.
        SelfTestError: an answer is not fit to be golden.
    """
    written: list[Path] = []
    for spec in (FACE_ANALYSIS, FACE_SWAP):
        versions = version_dirs(repository / spec.name)
        if not versions:
            raise ExportError(f"{repository / spec.name} has no version directory; copy the pipeline there first")
        try:
            stages = resolve_stages(spec.name, repository, {})
        except ManifestError as error:
            raise ExportError(f"cannot record golden answers: {error}") from error
        pictures = _warmup_pictures(repository / spec.name, spec)
        runners = {
            name: GraphRunner((repository / name / str(stage.version) / "model.onnx").read_bytes())
            for name, stage in stages.items()
        }
        golden = _answer(spec, pictures, stages, runners, first_look=True)
        golden = golden.with_full_frames(_answer(spec, pictures, stages, runners, first_look=False))
        for version_dir in versions:
            golden.write(version_dir)
            written.append(version_dir / GOLDEN_NAME)
    return written


def _answer(
    spec: ModelSpec,
    pictures: Sequence[bytes],
    stages: dict[str, Stage],
    runners: dict[str, GraphRunner],
    *,
    first_look: bool,
) -> Golden:
    with ThreadPoolExecutor(max_workers=1) as executor:
        calls = StageCalls(stages, lambda *call: _run(runners, *call), first_look=first_look)
        pipeline = Pipeline(calls, ImageLimits(), SourceCache(0), executor)
        if spec is FACE_SWAP:
            source, target = pictures
            result = pipeline.swap(source, target, None, golden_swap_options(stages))
            return golden_swap(pictures, stages, result)
        return golden_analysis(pictures, stages, *pipeline.analyze(pictures[0], AnalyzeOptions()))


def _run(runners: dict[str, GraphRunner], stage: Stage, inputs: Arrays, output_names: Sequence[str]) -> Arrays:
    outputs = runners[stage.model](inputs)
    return {name: outputs[name] for name in output_names}


def _warmup_pictures(model_dir: Path, spec: ModelSpec) -> list[bytes]:
    names = [tensor.name for tensor in MODELS[spec.name].inputs if not tensor.optional]
    if not all((model_dir / WARMUP_FOLDER / f"{name}.raw").is_file() for name in names):
        pictures = dict(zip(("source_image", "target_image"), map(_demo_jpeg, DEMO_PICTURES), strict=True))
        pictures["image"] = pictures["target_image"]
        for name in names:
            write_bytes_warmup(model_dir, name, pictures[name])
    return read_warmup_pictures(model_dir, names)


def _demo_jpeg(file_name: str) -> bytes:
    data = (examples_dir() / file_name).read_bytes()
    if file_name.endswith(".jpg"):
        return data
    return encode_image(decode_image(data, file_name, ImageLimits()), "jpeg", JPEG_QUALITY)
