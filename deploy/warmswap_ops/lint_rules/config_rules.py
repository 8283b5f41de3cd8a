"""Rules on what a configuration says, accelerators and warm-up aside."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import (
    ANY,
    MODELS,
    PIPELINE_SETTINGS,
    PIPELINE_STAGES,
    STAGES,
    TRITON_SETTINGS,
    TensorSpec,
)
from warmswap_ensemble.manifest import MANIFEST_NAME
from warmswap_ops.errors import RepositoryError
from warmswap_ops.finding import Finding
from warmswap_ops.lint import RepositoryOnDisk, Rule
from warmswap_ops.lint_config import DATA_TYPE, KIND, ConfigOnDisk, read_text
from warmswap_ops.matching import PIN_PREFIX
from warmswap_ops.onnxruntime_keys import KNOWN_PARAMETERS, PASSED_PARAMETERS, PASSED_PREFIX

ALREADY_OPTIMISED: Final = 2
"""``optimization.graph.level`` that switches the optimiser off."""
COMPILED: Final = "compiled"
"""Field of a manifest whose graph was optimised offline."""
_DELAY: Final = 1
_STAGE_NAMES: Final = frozenset(spec.name for spec in STAGES)


def config_can_be_read(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every configuration is a text that protobuf reads: known fields, known enum values.

    Triton refuses the model otherwise, and with it the start where models are given at the start.
    """
    for config in repository.all_configs:
        if config.problem:
            yield Finding(config.path, config.problem, "correct the text", line=config.problem_line)


def config_names_its_folder(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """The name in a configuration is that of the folder.

    Triton goes by the folder and refuses a model with another name, and with it the start where models are given at the
    start (measured on 24.10).
    """
    for config in repository.configs:
        if config.message.name not in ("", config.model):
            yield config.finding(
                f"name is {config.message.name!r}, the folder is {config.model!r}",
                f'write name: "{config.model}", or rename the folder',
                "name",
            )


def inputs_and_outputs_are_written(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every configuration has input and output.

    Without both the onnxruntime backend loads the graph a second time only to look at it (onnxruntime.cc:1016). With
    --disable-auto-complete-config a python model loads, is READY and refuses every request: "expected 0 inputs"
    (measured on 24.10).
    """
    for config in repository.configs:
        missing = [name for name in ("input", "output") if not getattr(config.message, name)]
        if missing:
            yield config.finding(f"no {' and no '.join(missing)}", "write every input and output with type and dims")


def instance_count_is_explicit(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every instance_group has a count and a kind.

    Left out, Triton decides: an onnxruntime model gets two instances on a CPU, each with weights and load time of its
    own (measured on 24.10; core model_config_utils.cc:1036), and any model one on each GPU that it finds.
    """
    for config in repository.configs:
        if config.is_ensemble:
            continue
        if not config.message.instance_group:
            yield config.finding(
                "no instance_group", "write instance_group [ { count: 1 kind: KIND_CPU } ], or KIND_GPU"
            )
        for index, group in enumerate(config.message.instance_group):
            at = ("instance_group", index)
            if group.count < 1:
                yield config.finding("instance_group without a count", "write count: 1", at)
            if group.kind == KIND.Value("KIND_AUTO"):
                yield config.finding(
                    "instance_group without a kind", "write kind: KIND_CPU or KIND_GPU", at, severity="warning"
                )


def onnxruntime_has_one_instance(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """A model of the onnxruntime backend has one instance.

    Instances share nothing: each holds all weights, and sessions are made one after another in the whole process
    (server#5907). More threads of one instance are cheaper.
    """
    for config in repository.configs:
        count = sum(group.count for group in config.message.instance_group)
        if config.is_onnxruntime and count > 1:
            yield config.finding(
                f"{count} instances, so the weights are loaded {count} times",
                "write count: 1 and give intra_op_thread_count the cores",
                "instance_group",
                severity="warning",
            )


def parameters_are_known(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every key in parameters is one that somebody reads.

    Triton's backends ignore a misspelt key (measured on 24.10 with the python backend), so the setting silently keeps
    its default; warmswap's portable backend and its pipelines refuse it when they load.
    """
    for config in repository.configs:
        known = _known_parameters(config)
        if known is None:
            continue
        for key in sorted(config.parameters.keys() - known):
            if config.is_onnxruntime and key.startswith(PASSED_PREFIX):
                continue
            near = difflib.get_close_matches(key, known, n=1)
            yield config.finding(
                f"unknown parameter {key!r}",
                f"did you mean {near[0]!r}?" if near else f"remove it; known are {', '.join(sorted(known))}",
                ("parameters", key),
            )


def threads_are_limited(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """A model of the onnxruntime backend has intra_op_thread_count.

    The default is one thread for each core of the host, also in a container that may use two of them, for each model.
    Harmless where --backend-config=onnxruntime,enable-global-threadpool=1 is given.
    """
    for config in repository.configs:
        if config.is_onnxruntime and config.parameters.get("intra_op_thread_count", "0") == "0":
            yield config.finding(
                "intra_op_thread_count is not set",
                'write parameters { key: "intra_op_thread_count" value: { string_value: "2" } } with your cores',
                ("parameters", "intra_op_thread_count"),
                severity="warning",
            )


def graph_level_fits_the_file(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """The graph optimiser is switched off only for graphs that were optimised before.

    optimization.graph.level 2 means none at all: a graph as exported then runs slower for ever, without a word
    (onnxruntime.cc:226).
    """
    for config in repository.configs:
        if not config.is_onnxruntime or config.message.optimization.graph.level != ALREADY_OPTIMISED:
            continue
        plain = [v.version for v in repository.versions if v.model == config.model and not _is_compiled(v.folder)]
        if plain:
            yield config.finding(
                f"optimization.graph.level is 2, and the manifests of the versions {plain} do not say {COMPILED!r}",
                "remove the level, or serve the output of warmswap compile",
                "optimization",
                "graph",
                "level",
            )


def config_fits_the_contract(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """The models of the contract have its tensors: names, types, dims, and a batch as large as the pipeline sends.

    Triton checks a configuration against the graph, not against its callers: the first request would find out.
    """
    for config in repository.configs:
        spec = MODELS.get(config.model)
        if spec is None:
            continue
        for field, specs in (("input", spec.inputs), ("output", spec.outputs)):
            yield from _compare(config, field, specs)
        size = config.message.max_batch_size
        if size < spec.max_batch or (spec.max_batch == 0 and size != 0):
            yield config.finding(
                f"max_batch_size is {size}, the pipeline sends batches of {spec.max_batch or 'no batch dimension'}",
                f"write max_batch_size: {spec.max_batch}",
                "max_batch_size",
            )


def queues_are_limited(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """What clients call refuses requests when too many wait.

    Without dynamic_batching { default_queue_policy { max_queue_size } } the queue has no end: under overload every
    request waits until its client has given up (docs: model_configuration, queue policy).
    """
    fix = "write dynamic_batching { default_queue_policy { max_queue_size: 32 timeout_action: REJECT } }"
    for config in repository.configs:
        if config.model not in PIPELINE_STAGES and (not config.is_python or config.model in _STAGE_NAMES):
            continue
        if config.message.HasField("sequence_batching"):
            continue
        policy = config.message.dynamic_batching.default_queue_policy
        if not config.message.HasField("dynamic_batching"):
            yield config.finding("no dynamic_batching, so no limit of the queue", fix)
        elif policy.max_queue_size == 0:
            yield config.finding("max_queue_size is 0: no limit", fix, "dynamic_batching", "default_queue_policy")
        elif policy.timeout_action == _DELAY:
            yield config.finding(
                "timeout_action is DELAY: what waited too long goes on waiting",
                "write timeout_action: REJECT",
                *("dynamic_batching", "default_queue_policy", "timeout_action"),
            )


def cpu_stage_does_not_batch(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """A model of the onnxruntime backend on a CPU has no dynamic_batching.

    Triton 24.10 lets requests that wait for a busy instance sleep for half a second (measured: 7 of 80 at two clients,
    none without), and on a CPU a batch of two costs what two runs cost.
    """
    for config in repository.configs:
        if config.is_onnxruntime and not config.on_gpu and config.message.HasField("dynamic_batching"):
            yield config.finding(
                "dynamic_batching on a CPU",
                "remove it, and let what clients call have the queue's limit",
                "dynamic_batching",
                severity="warning",
            )


RULES: Final[tuple[Rule, ...]] = (
    config_can_be_read,
    config_names_its_folder,
    inputs_and_outputs_are_written,
    instance_count_is_explicit,
    onnxruntime_has_one_instance,
    parameters_are_known,
    threads_are_limited,
    graph_level_fits_the_file,
    config_fits_the_contract,
    queues_are_limited,
    cpu_stage_does_not_batch,
)


def _known_parameters(config: ConfigOnDisk) -> frozenset[str] | None:
    """Return the keys that the model reads; ``None`` where only its author knows."""
    if config.is_onnxruntime:
        return KNOWN_PARAMETERS | PASSED_PARAMETERS
    if config.model in PIPELINE_STAGES:
        pins = (f"{PIN_PREFIX}{stage}" for stage in PIPELINE_STAGES[config.model])
        return frozenset({*PIPELINE_SETTINGS, *TRITON_SETTINGS, *pins})
    return None


def _is_compiled(version_dir: Path) -> bool:
    try:
        values = json.loads(read_text(version_dir / MANIFEST_NAME))
    except (RepositoryError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and bool(values.get(COMPILED))


def _compare(config: ConfigOnDisk, field: str, specs: tuple[TensorSpec, ...]) -> Iterator[Finding]:
    fix = "write what ensemble_python/warmswap_ensemble/contract.py says"
    here: list[Any] = list(getattr(config.message, field))
    names = [tensor.name for tensor in here]
    by_name = {spec.name: spec for spec in specs}
    for name in sorted(by_name.keys() - set(names)):
        yield config.finding(f"no {field} {name!r}, which the contract has", fix, field)
    for index, tensor in enumerate(here):
        at, spec = (field, index), by_name.get(tensor.name)
        if spec is None:
            yield config.finding(f"{field} {tensor.name!r} is not in the contract", fix, at, "name")
            continue
        wanted = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
        if DATA_TYPE.Name(tensor.data_type) != wanted:
            found = DATA_TYPE.Name(tensor.data_type)
            yield config.finding(f"{field} {tensor.name!r} is {found}, not {wanted}", fix, at, "data_type")
        dims = list(tensor.dims)
        if len(dims) != len(spec.shape) or any(
            want not in (ANY, dim) for want, dim in zip(spec.shape, dims, strict=True)
        ):
            yield config.finding(f"{field} {tensor.name!r} has dims {dims}, not {list(spec.shape)}", fix, at, "dims")
        if getattr(tensor, "optional", False) != spec.optional:
            yield config.finding(f"{field} {tensor.name!r}: optional must be {spec.optional}", fix, at)
