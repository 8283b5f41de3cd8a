"""Takes out of an installed tree what the server never uses: ``python slim.py TREE [--rules application]``.

Runs in a stage of the image build with the standard library and ``binutils`` alone. Each rule gives its reason. A rule
that finds nothing to remove is an error: the package has changed, and somebody has to look whether it still holds.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20


class SlimError(Exception):
    """A rule does not fit the tree."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Something to remove.

    Attributes:
        why: Why the server does without it.
        globs: What to remove, relative to the folder of packages.
        keep: What of it stays, relative to the same folder.
    """

    why: str
    globs: tuple[str, ...]
    keep: tuple[str, ...] = ()


DEPENDENCIES: Final = (
    Rule(
        "Triton's Python backend has a stub per Python; the launcher starts that of the running one",
        ("pytriton/tritonserver/python_backend_stubs/*",),
        keep=(f"pytriton/tritonserver/python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}",),
    ),
    Rule(
        "the wheel's own libpython belongs to the 3.13 stub; ours links the system's",
        ("nvidia_pytriton.libs/libpython3-*",),
    ),
    Rule(
        "pytriton's Python code: the launcher starts the tritonserver in it by itself",
        ("pytriton/*",),
        keep=("pytriton/tritonserver", "pytriton/__init__.py"),
    ),
    Rule(
        "onnxruntime as a C library, a copy of what is linked into its Python module",
        ("onnxruntime/capi/libonnxruntime.so*",),
    ),
    Rule(
        "onnxruntime's tools to convert, quantize and optimize offline, and its examples",
        ("onnxruntime/transformers", "onnxruntime/tools", "onnxruntime/quantization", "onnxruntime/datasets"),
    ),
    Rule("OpenCV's Haar cascades; detection is a model of the repository", ("cv2/data/*.xml",)),
    Rule(
        "Pillow's AVIF and font plug-ins with the libraries that only they use; pictures are JPEG, PNG and WebP",
        (
            "PIL/_avif.*",
            "PIL/_imagingft.*",
            "pillow.libs/libavif-*",
            "pillow.libs/libfreetype-*",
            "pillow.libs/libharfbuzz-*",
        ),
    ),
    Rule(
        "tests, and type stubs of compiled modules",
        (
            "numpy/**/tests",
            "numpy/**/*.pyi",
            "numpy/core/lib",
            "numpy/core/include",
            "numpy/random/lib",
            "cv2/**/*.pyi",
            "grpc/**/*.pyi",
        ),
    ),
    Rule("NumPy's Fortran compiler front end and its build system", ("numpy/f2py", "numpy/distutils")),
)
APPLICATION: Final = (
    Rule(
        "the exporter and the load tests of our own wheel need libraries that no image has",
        ("warmswap_export", "warmswap_loadtests"),
    ),
)
RULES: Final = {"dependencies": DEPENDENCIES, "application": APPLICATION}

# Libraries that auditwheel has moved to other names are stripped safely where it was tried: these are the ones that
# shrink by more than a megabyte. NumPy and OpenCV come stripped.
STRIPPED: Final = (
    "nvidia_pytriton.libs/*.so*",
    "pytriton/tritonserver/bin/tritonserver",
    "pytriton/tritonserver/backends/python/*.so",
    "pytriton/tritonserver/python_backend_stubs/*/triton_python_backend_stub",
    "pillow.libs/*.so*",
    "rapidjson.*.so",
    "ml_dtypes/*.so",
)
SCRIPTS: Final = ("python", "warmswap")
ICU_DATA: Final = "nvidia_pytriton.libs/libicudata-*.so.*"


def slim(packages: Path, rules: Iterable[Rule]) -> int:
    """Apply rules.

    Args:
        packages: Folder of installed packages.
        rules: What to remove.

    Returns:
        What was removed, in bytes.

    Raises:
        SlimError: a pattern of a rule finds nothing.
    """
    total_bytes = 0
    for rule in rules:
        kept = {packages / path for path in rule.keep}
        removed_bytes = 0
        for pattern in rule.globs:
            found = [path for path in sorted(packages.glob(pattern)) if path not in kept]
            if not found:
                raise SlimError(f"{packages}: {pattern} finds nothing; is the rule still needed? ({rule.why})")
            removed_bytes += sum(map(_remove, found))
        print(f"{removed_bytes / MIB:7.1f} MiB  {rule.why}")
        total_bytes += removed_bytes
    return total_bytes


def remove_scripts(folder: Path) -> None:
    """Remove every program of a ``bin`` but Python and ours: activation for shells, and commands of dependencies."""
    for path in folder.iterdir():
        if not path.name.startswith(SCRIPTS):
            path.unlink()


def strip_symbols(packages: Path, patterns: Sequence[str] = STRIPPED) -> int:
    """Remove symbol tables that serve debuggers; return the bytes gained.

    A file that does not become smaller stays as it was.

    Raises:
        SlimError: a pattern finds nothing.
    """
    gained_bytes = 0
    for pattern in patterns:
        found = [path for path in packages.glob(pattern) if path.is_file() and not path.is_symlink()]
        if not found:
            raise SlimError(f"{packages}: {pattern} finds nothing to strip")
        for path in found:
            stripped = path.with_name(f"{path.name}.stripped")
            subprocess.run(["strip", "--strip-unneeded", "-o", stripped, path], check=True)
            gain_bytes = path.stat().st_size - stripped.stat().st_size
            if gain_bytes > 0:
                shutil.copymode(path, stripped)
                stripped.replace(path)
                gained_bytes += gain_bytes
            else:
                stripped.unlink()
    print(f"{gained_bytes / MIB:7.1f} MiB  symbols for debuggers")
    return gained_bytes


def empty_icu_data(packages: Path) -> int:
    """Replace ICU's 29 MB of locales and converters by an empty table; return the bytes gained.

    Only libxml2 asks for ICU, and Triton asks libxml2 only to read answers of cloud object stores. Both need the
    library to be there; without data ICU still converts UTF-8, UTF-16 and Latin-1, whose converters are code. The
    format of an empty table is that of ICU's own ``stubdata``: a header of 32 bytes, then a count of 0.

    Raises:
        SlimError: there is not one such library with one table.
    """
    found = list(packages.glob(ICU_DATA))
    if len(found) != 1:
        raise SlimError(f"{packages}: expected one {ICU_DATA}, found {len(found)}")
    (library,) = found
    listing = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    tables = [name for name in listing.split() if name.startswith("icudt") and name.endswith("_dat")]
    if len(tables) != 1:
        raise SlimError(f"{library}: expected one table icudtNN_dat, found {tables}")
    size_bytes = library.stat().st_size
    build = library.parent / "icu-stub"
    build.mkdir()
    try:
        (build / "table").write_bytes(empty_icu_table())
        # fmt: off
        steps = (
            ["objcopy", "-I", "binary", "-O", "elf64-x86-64", "-B", "i386:x86-64",
             f"--redefine-sym=_binary_table_start={tables[0]}", "--set-section-alignment=.data=16",
             "--rename-section=.data=.rodata,alloc,load,readonly,data,contents", "table", "table.o"],
            ["ld", "-shared", "-z", "noexecstack", f"-soname={library.name}", "-o", str(library), "table.o"],
        )
        # fmt: on
        for step in steps:
            subprocess.run(step, cwd=build, check=True)
    finally:
        shutil.rmtree(build)
    gained_bytes = size_bytes - library.stat().st_size
    print(f"{gained_bytes / MIB:7.1f} MiB  locales and converters of ICU")
    return gained_bytes


def empty_icu_table() -> bytes:
    """Return an ICU common-data table without entries, little-endian."""
    header = struct.pack("<HBB", 32, 0xDA, 0x27)
    info = struct.pack("<HHBBBB4s4s4s", 20, 0, 0, 0, 2, 0, b"ToCP", bytes([1, 0, 0, 0]), bytes(4))
    return (header + info).ljust(32, b"\0") + bytes(16)


def compile_sources(folder: Path) -> None:
    """Compile all sources, bound to nothing: the image is read-only, and its times may be set to one value.

    Raises:
        SlimError: a source does not compile.
    """
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(folder, quiet=1, force=True, invalidation_mode=unchecked):
        raise SlimError(f"{folder}: a source does not compile")


def main(arguments: Sequence[str] | None = None) -> int:
    """Slim a tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="a virtual environment or a prefix")
    parser.add_argument("--rules", choices=sorted(RULES), default="dependencies")
    args = parser.parse_args(arguments)
    packages = args.tree / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    try:
        if not packages.is_dir():
            raise SlimError(f"{packages} is not there: is {args.tree} a virtual environment of this Python?")
        slim(packages, RULES[args.rules])
        remove_scripts(args.tree / "bin")
        if args.rules == "dependencies":
            strip_symbols(packages)
            empty_icu_data(packages)
        compile_sources(packages)
    except SlimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _remove(path: Path) -> int:
    if path.is_symlink() or path.is_file():
        size_bytes = path.lstat().st_size
        path.unlink()
        return size_bytes
    size_bytes = sum(
        os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names
    )
    shutil.rmtree(path)
    return size_bytes


if __name__ == "__main__":
    sys.exit(main())
