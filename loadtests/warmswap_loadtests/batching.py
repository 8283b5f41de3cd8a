"""What does a batch of faces save over the same faces one by one? Every version, in the server and without it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from warmswap_ensemble.contract import FACE_EMBEDDER, FACE_SWAPPER, MODELS
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.linked_repository import ALL_VERSIONS, CPU_CONFIG, link_model, only_version
from warmswap_loadtests.onnx_session import configured_threads, open_session
from warmswap_loadtests.processes import pss_mb
from warmswap_loadtests.stage_client import StageClient
from warmswap_loadtests.stats import median_of_ratios
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.repository import read_repository

Arrays = Mapping[str, NDArray[Any]]
Infer = Callable[[Arrays], object]

ONE_BY_ONE: Final = "one by one"
BATCH: Final = "batch"
TRITON: Final = "Triton"
IN_PROCESS: Final = "in process"
RUNTIMES: Final = (TRITON, IN_PROCESS)


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """How much is measured.

    Attributes:
        repository: Model repository whose versions are measured.
        rounds: Times that all ways take turns.
        batches: Faces of one batch, by model.
        turn_s: A turn repeats its faces until this time is over; once at least.
    """

    repository: Path
    rounds: int
    batches: Mapping[str, int]
    turn_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """One version of one model.

    Attributes:
        model: Name in the repository.
        version: Version.
        title: What the version is, for people.
        path: Its ONNX file.
        threads: Threads that the configuration gives to an operator.
        inputs: A batch of faces.
    """

    model: str
    version: int
    title: str
    path: Path
    threads: int
    inputs: Arrays

    @property
    def faces(self) -> int:
        """Faces of the batch."""
        return len(next(iter(self.inputs.values())))

    @property
    def output_names(self) -> list[str]:
        """All outputs of the model."""
        return [tensor.name for tensor in MODELS[self.model].outputs]


def measure_batching(options: BatchingOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure every version of embedder and swapper.

    Raises:
        BenchError: the repository lacks what is needed.
    """
    with TemporaryDirectory(prefix="warmswap_bench_") as folder:
        everything = Path(folder) / "all"
        for model in options.batches:
            _link(options.repository, model, everything, ALL_VERSIONS)
        cases = _find_cases(everything, options.batches)
        memory = {}
        progress("memory: the server without a model")
        empty_mb, _ = _memory_mb(everything, None)
        for case in cases:
            progress(f"memory: {case.title} alone")
            alone = Path(folder) / f"{case.model}_{case.version}"
            _link(options.repository, case.model, alone, only_version(case.version))
            memory[case.title] = _memory_mb(alone, case)
        progress("loading every version, in the server and in this process")
        with LocalTriton(everything, stages=tuple(options.batches), pipelines=(), config_name=CPU_CONFIG) as server:
            all_mb = pss_mb(server.processes)
            with StageClient(server.grpc_url) as client:
                times_s = _run_rounds(cases, client, options, progress)
    versions = [
        {
            "model": case.model,
            "version": case.version,
            "title": case.title,
            "batch": case.faces,
            "threads": case.threads,
            "memory_mb": {"after_load": memory[case.title][0], "after_batch": memory[case.title][1]},
            **{runtime: runtime_figures(times_s[case.title, runtime], case.faces) for runtime in RUNTIMES},
        }
        for case in cases
    ]
    return {"rounds": options.rounds, "versions": versions, "memory_mb": {"no model": empty_mb, "all": all_mb}}


def _link(repository: Path, model: str, folder: Path, policy: str) -> None:
    if not (repository / model).is_dir():
        raise BenchError(
            f"{repository} has no {model}; make a repository: "
            f"warmswap export buffalo_l+inswapper_128 --random-weights 1 --out {repository}"
        )
    link_model(repository / model, folder, policy)


def _find_cases(repository: Path, batches: Mapping[str, int]) -> list[Case]:
    cases = []
    for served in read_repository(repository, tuple(batches), ()):
        manifest = served.manifest
        assert manifest is not None  # a stage has one
        folder = repository / served.model
        make = {FACE_EMBEDDER.name: embedder_inputs, FACE_SWAPPER.name: swapper_inputs}[served.model]
        precision = "" if manifest.precision in manifest.name else f" {manifest.precision}"
        cases.append(
            Case(
                model=served.model,
                version=served.version,
                title=f"{served.model} {served.version}: {manifest.name}{precision}",
                path=served.folder / "model.onnx",
                threads=configured_threads(folder),
                inputs=make(folder / "warmup", manifest.settings, batches[served.model]),
            )
        )
    return cases


def embedder_inputs(warmup: Path, settings: Mapping[str, Any], count: int) -> Arrays:
    """Return ``count`` crops of the size that a version of the embedder is sent."""
    return {"aligned_crop_rgb": _crops(warmup / "aligned_crop_rgb.raw", int(settings["crop_size"]), count)}


def swapper_inputs(warmup: Path, settings: Mapping[str, Any], count: int) -> Arrays:
    """Return ``count`` faces as a version of the swapper is sent them; of the sources all are the same."""
    side = int(settings["crop_size"])
    landmarks = {
        name: _read(warmup / f"{name}.raw", np.float32).reshape(1, 68, 2).repeat(count, axis=0)
        for name in ("target_landmarks", "source_landmarks")
    }
    embedding = _read(warmup / "source_embedding.raw", np.float32)
    embedding = np.resize(embedding, int(settings.get("embedding_length", embedding.size)))
    embedding = (embedding / np.linalg.norm(embedding)).astype(np.float32)
    return {
        "target_crop_rgb": _crops(warmup / "target_crop_rgb.raw", side, count),
        "source_crop_rgb": _crops(
            warmup / "source_crop_rgb.raw", int(settings.get("source_crop_size", side)), 1
        ).repeat(count, axis=0),
        **landmarks,
        "source_embedding": embedding[None].repeat(count, axis=0),
    }


def _crops(path: Path, side: int, count: int) -> NDArray[np.uint8]:
    """Return different crops of one size, made from the warm-up's: enlarged or thinned out, and moved sideways."""
    pixels = _read(path, np.uint8)
    recorded = math.isqrt(pixels.size // 3)
    if pixels.size == 0 or recorded * recorded * 3 != pixels.size:
        raise BenchError(f"{path} holds {pixels.size} bytes, which is no square RGB picture")
    crop = pixels.reshape(recorded, recorded, 3)
    rows = np.arange(side) * recorded // side
    crop = crop[rows][:, rows]
    return np.stack([np.roll(crop, 2 * number, axis=1) for number in range(count)])


def _read(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    try:
        return np.frombuffer(path.read_bytes(), dtype)
    except OSError as error:
        raise BenchError(f"the benchmark sends the warm-up's crops: {error}") from error


def _memory_mb(repository: Path, case: Case | None) -> tuple[float, float]:
    """Return what a server holds that serves one version alone, or none: when ready, and after a batch."""
    stages = (case.model,) if case else ()
    with LocalTriton(repository, stages=stages, pipelines=(), config_name=CPU_CONFIG) as server:
        loaded_mb = pss_mb(server.processes)
        if case:
            with StageClient(server.grpc_url) as client:
                client.infer(case.model, str(case.version), case.inputs, case.output_names)
        return loaded_mb, pss_mb(server.processes)


def _run_rounds(
    cases: list[Case], client: StageClient, options: BatchingOptions, progress: Callable[[str], None]
) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Return seconds for all faces of a case, a value per round, by case and runtime, then by way."""
    infer: dict[tuple[str, str], Infer] = {}
    repeats: dict[tuple[str, str], int] = {}
    for case in cases:
        session = open_session(case.path, case.threads)
        infer[case.title, TRITON] = partial(_infer_remote, client, case)
        infer[case.title, IN_PROCESS] = partial(session.run, case.output_names)
        for runtime in RUNTIMES:
            run = infer[case.title, runtime]
            _pass_s(run, case, BATCH, 1)  # the first of a new shape is slow
            elapsed_s = _pass_s(run, case, ONE_BY_ONE, 1)
            repeats[case.title, runtime] = max(1, round(options.turn_s / elapsed_s))
    times_s: dict[tuple[str, str], dict[str, list[float]]] = {key: {ONE_BY_ONE: [], BATCH: []} for key in infer}
    for number in range(options.rounds):
        progress(f"round {number + 1} of {options.rounds}")
        for case in cases:
            for runtime in RUNTIMES:
                key = (case.title, runtime)
                for way, values in times_s[key].items():
                    values.append(_pass_s(infer[key], case, way, repeats[key]))
    return times_s


def _infer_remote(client: StageClient, case: Case, inputs: Arrays) -> object:
    return client.infer(case.model, str(case.version), inputs, case.output_names)


def _pass_s(infer: Infer, case: Case, way: str, repeats: int) -> float:
    """Return the mean seconds of sending all faces of a case."""
    step = case.faces if way == BATCH else 1
    parts = [
        {name: array[start : start + step] for name, array in case.inputs.items()}
        for start in range(0, case.faces, step)
    ]
    begin = time.perf_counter()
    for _ in range(repeats):
        for part in parts:
            infer(part)
    return (time.perf_counter() - begin) / repeats


def runtime_figures(times_s: Mapping[str, list[float]], faces: int) -> dict[str, float]:
    """Return the median milliseconds per face of both ways, and how many times as long one by one takes."""
    return {
        "one_by_one_ms_per_face": statistics.median(times_s[ONE_BY_ONE]) * 1e3 / faces,
        "batch_ms_per_face": statistics.median(times_s[BATCH]) * 1e3 / faces,
        "ratio": median_of_ratios(times_s[ONE_BY_ONE], times_s[BATCH]),
    }


def batching_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for people."""
    memory, width = figures["memory_mb"], max(len(version["title"]) for version in figures["versions"])
    lines = [
        f"median ms per face over {figures['rounds']} rounds; ratio: one by one / batch, above 1 the batch is faster",
        "memory: PSS of the server with this version alone, when ready and after the batch",
        "",
        f"{'':{width}}{'':>6}{'--- Triton, gRPC ---':>24}{'---- in process ----':>24}{'memory MB':>14}",
        f"{'':{width}}{'batch':>6}" + f"{'one':>9}{'batch':>9}{'ratio':>6}" * 2 + f"{'ready':>8}{'after':>6}",
    ]
    for version in figures["versions"]:
        line = f"{version['title']:{width}}{version['batch']:6}"
        for runtime in RUNTIMES:
            values = version[runtime]
            line += f"{values['one_by_one_ms_per_face']:9.2f}{values['batch_ms_per_face']:9.2f}{values['ratio']:6.2f}"
        lines.append(line + f"{version['memory_mb']['after_load']:8.0f}{version['memory_mb']['after_batch']:6.0f}")
    return [
        *lines,
        "",
        f"server without a model {memory['no model']:.0f} MB, with every version above {memory['all']:.0f} MB",
    ]
