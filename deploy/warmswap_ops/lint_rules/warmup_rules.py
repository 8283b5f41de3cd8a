"""Rules on ``model_warmup``: what runs before a model is READY."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Final

from warmswap_ops.finding import Finding
from warmswap_ops.lint import RepositoryOnDisk, Rule
from warmswap_ops.lint_config import DATA_TYPE, ConfigOnDisk, Segment

WARMUP_FOLDER: Final = "warmup"
BYTES_PER_ELEMENT: Final = {
    "TYPE_BOOL": 1,
    "TYPE_UINT8": 1,
    "TYPE_UINT16": 2,
    "TYPE_UINT32": 4,
    "TYPE_UINT64": 8,
    "TYPE_INT8": 1,
    "TYPE_INT16": 2,
    "TYPE_INT32": 4,
    "TYPE_INT64": 8,
    "TYPE_FP16": 2,
    "TYPE_BF16": 2,
    "TYPE_FP32": 4,
    "TYPE_FP64": 8,
}
_FLOATS: Final = frozenset({"TYPE_FP16", "TYPE_BF16", "TYPE_FP32", "TYPE_FP64"})
_MAX_STRINGS: Final = 1 << 16

Sample = tuple[ConfigOnDisk, int, Any]
Input = tuple[ConfigOnDisk, tuple[Segment, ...], str, Any]


def models_are_warmed(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every model has a model_warmup.

    Without one it is READY before it has run once, and the first client pays for memory, kernels and lazy loading.
    """
    for config in repository.configs:
        if not config.is_ensemble and not config.message.model_warmup:
            yield config.finding(
                "no model_warmup", "write a sample of real input for each batch size and shape that clients send"
            )


def batches_are_warmed(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """A model that takes batches is warmed with one.

    A sample of batch_size 1 warms batches of one only: memory plans, cuDNN's choices and TensorRT's engines belong to
    one shape (server#4503, #5326).
    """
    for config in repository.configs:
        warmed = {sample.batch_size for sample in config.message.model_warmup}
        if warmed and config.message.max_batch_size > 1 and max(warmed) <= 1:
            yield config.finding(
                f"max_batch_size is {config.message.max_batch_size}, and no sample has more than one",
                "add samples with a larger batch_size, at least the sizes that are usual",
                "model_warmup",
                severity="warning",
            )


def preferred_batches_are_warmed(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every preferred_batch_size is warmed.

    The batcher makes these sizes first, and each is a shape of its own (server#4503).
    """
    for config in repository.configs:
        warmed = {sample.batch_size for sample in config.message.model_warmup}
        cold = sorted(set(config.message.dynamic_batching.preferred_batch_size) - warmed)
        if cold:
            yield config.finding(
                f"preferred_batch_size {', '.join(map(str, cold))} without a sample of that batch_size",
                "add a sample for each, or remove them from preferred_batch_size",
                "dynamic_batching",
                "preferred_batch_size",
            )


def warmup_batch_size_is_served(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """The batch_size of a sample is at least 1 and at most max_batch_size.

    Triton skips a sample of batch_size 0 without a word; one that is too large fails the load (measured on 24.10).
    """
    for config, index, sample in _samples(repository):
        largest = max(1, config.message.max_batch_size)
        if not 1 <= sample.batch_size <= largest:
            skipped = ", so it is skipped" if sample.batch_size == 0 else ""
            yield config.finding(
                f"sample {sample.name!r} has batch_size {sample.batch_size}{skipped}",
                f"write a batch_size from 1 to {largest}",
                ("model_warmup", index),
                "batch_size",
            )


def warmup_is_not_random(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """No floating-point input is warmed with random_data.

    Triton fills it with random bytes, which as floats are NaN, infinite and denormal numbers: the run takes other paths
    than a real one, in a detector's sorting above all, and can be much slower.
    """
    for config, at, name, value in _inputs(repository):
        kind = DATA_TYPE.Name(value.data_type)
        if value.WhichOneof("input_data_type") == "random_data" and kind in _FLOATS:
            yield config.finding(
                f"{name!r}, {kind}, is warmed with random bytes",
                "record a real input and name it: input_data_file",
                *at,
            )


def warmup_is_not_zeros(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """No input is warmed with zero_data.

    Of zeros a detector finds nothing and the rest of its graph sees no work. The value beside the field is ignored:
    zero_data: false means zeros too (measured on 24.10).
    """
    for config, at, name, value in _inputs(repository):
        if value.WhichOneof("input_data_type") == "zero_data":
            yield config.finding(
                f"{name!r} is warmed with zeros",
                "record a real input and name it: input_data_file",
                *at,
                severity="warning",
            )


def warmup_dims_are_fixed(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """The dims of a sample are numbers above 0.

    Triton cannot make a tensor of -1: the load fails (measured on 24.10).
    """
    for config, at, name, value in _inputs(repository):
        if any(dim < 1 for dim in value.dims):
            yield config.finding(
                f"{name!r} has dims {list(value.dims)}", "write the shape that clients send, without the batch", *at
            )


def warmup_fits_the_inputs(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """A sample has every input that is not optional, with its type and dims, and no other.

    Triton finds out when it runs the sample: the load fails after all the weights are there (measured on 24.10).
    """
    for config, index, sample in _samples(repository):
        here = {tensor.name: tensor for tensor in config.message.input}
        needed = {name for name, tensor in here.items() if not tensor.optional}
        for name in sorted(needed - sample.inputs.keys()) if here else ():
            yield config.finding(
                f"sample {sample.name!r} lacks the input {name!r}", "add it", ("model_warmup", index), "name"
            )
        for name, value in sorted(sample.inputs.items()):
            tensor = here.get(name)
            at = (("model_warmup", index), ("inputs", name))
            if tensor is None and here:
                yield config.finding(f"{name!r} is not an input", f"inputs are {', '.join(sorted(here))}", *at)
            elif tensor is not None and (value.data_type != tensor.data_type or not _fits(value.dims, tensor.dims)):
                yield config.finding(
                    f"{name!r} is {DATA_TYPE.Name(value.data_type)} {list(value.dims)}, the input is "
                    f"{DATA_TYPE.Name(tensor.data_type)} {list(tensor.dims)}",
                    "write the same type, and dims that fit, without the batch",
                    *at,
                )


def warmup_files_are_complete(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every input_data_file is there, with the bytes of one sample.

    A file that is missing or too short fails the load; of one that is too long Triton reads the beginning and says
    nothing (measured on 24.10).
    """
    for config, at, name, value in _inputs(repository):
        if value.WhichOneof("input_data_type") != "input_data_file":
            continue
        path = config.folder / WARMUP_FOLDER / value.input_data_file
        kind, elements = DATA_TYPE.Name(value.data_type), prod(value.dims)
        if not path.is_file():
            yield config.finding(
                f"{name!r} is read from {WARMUP_FOLDER}/{value.input_data_file}, which is not there",
                "add the file",
                *at,
            )
        elif all(dim > 0 for dim in value.dims):
            size = path.stat().st_size
            needed = _bytes_of_strings(path, elements) if kind == "TYPE_STRING" else _bytes_of(kind, elements)
            if needed is None or size == needed:
                continue
            yield config.finding(
                f"{WARMUP_FOLDER}/{value.input_data_file} has {size} bytes, {kind} {list(value.dims)} needs {needed}",
                "write one sample, without the batch: little-endian, row-major; strings with their 4-byte length",
                *at,
                severity="error" if size < needed else "warning",
            )


RULES: Final[tuple[Rule, ...]] = (
    models_are_warmed,
    batches_are_warmed,
    preferred_batches_are_warmed,
    warmup_batch_size_is_served,
    warmup_is_not_random,
    warmup_is_not_zeros,
    warmup_dims_are_fixed,
    warmup_fits_the_inputs,
    warmup_files_are_complete,
)


def _samples(repository: RepositoryOnDisk) -> Iterator[Sample]:
    for config in repository.configs:
        for index, sample in enumerate(config.message.model_warmup):
            yield config, index, sample


def _inputs(repository: RepositoryOnDisk) -> Iterator[Input]:
    for config, index, sample in _samples(repository):
        for name, value in sorted(sample.inputs.items()):
            yield config, (("model_warmup", index), ("inputs", name)), name, value


def _fits(dims: list[int], declared: list[int]) -> bool:
    """Whether a shape is one of those declared; a -1 of its own is for ``warmup_dims_are_fixed`` to name."""
    return len(dims) == len(declared) and all(
        want in (-1, dim) or dim == -1 for dim, want in zip(dims, declared, strict=True)
    )


def _bytes_of(kind: str, elements: int) -> int | None:
    return elements * BYTES_PER_ELEMENT[kind] if kind in BYTES_PER_ELEMENT else None


def _bytes_of_strings(path: Path, elements: int) -> int | None:
    """Return how many bytes the strings of a file take, by the lengths in it; ``None`` for too many to count."""
    if elements > _MAX_STRINGS:
        return None
    size, needed = path.stat().st_size, 0
    with path.open("rb") as file:
        for _ in range(elements):
            file.seek(needed)
            head = file.read(4)
            needed += 4 + (struct.unpack("<I", head)[0] if len(head) == 4 else 0)
            if needed > size:
                break
    return needed
