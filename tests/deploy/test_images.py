"""What can be told of the images without building them."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tomllib
from pathlib import Path

import pytest

from images import slim
from images.layers import Layer, size_table
from images.machine import ImageError, run
from images.slim import Rule, SlimError
from images.wheels import fetch_wheels

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "deploy/images"
SERVERS = ("cpu", "gpu")
needs_binutils = pytest.mark.skipif(shutil.which("objcopy") is None, reason="needs binutils")


def dockerfile(name: str) -> str:
    return (IMAGES / f"{name}.Dockerfile").read_text().replace("\\\n", " ")


def pins(path: Path) -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {re.sub(r"[-_.]+", "-", name.lower()): version for name, version in pairs}


@pytest.mark.parametrize("name", SERVERS)
def test_server_images_run_as_nobody_with_the_agreed_environment(name: str) -> None:
    final = dockerfile(name).rsplit("\nFROM ", 1)[1]
    assert "USER 65532:65532" in final
    assert 'ENTRYPOINT ["python", "-m", "warmswap_ops"]' in final
    for setting in (
        "ORT_DISABLE_TELEMETRY=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "WARMSWAP_REPOSITORY=/models",
        "XDG_CACHE_HOME=/var/cache/warmswap",
        "PATH=/opt/warmswap/bin:",
    ):
        assert setting in final
    assert "COPY --from=application --chown=65532:0 /cache /var/cache" in final


@pytest.mark.parametrize("name", SERVERS)
def test_base_is_an_argument_with_a_pinned_default(name: str) -> None:
    first = next(line for line in dockerfile(name).splitlines() if line and not line.startswith("#"))
    default = re.fullmatch(r"ARG BASE_IMAGE=(\S+):(\S+)", first)
    assert default is not None, first
    assert default[2] != "latest"


@pytest.mark.parametrize("name", SERVERS)
def test_code_is_the_last_layer_above_its_dependencies(name: str) -> None:
    final = dockerfile(name).rsplit("\nFROM ", 1)[1]
    copies = [line for line in final.splitlines() if line.startswith("COPY")]
    assert copies[-2:] == [
        "COPY --from=dependencies /opt/warmswap /opt/warmswap",
        "COPY --from=application /application /opt/warmswap",
    ]


def test_gpu_image_refuses_to_serve_without_a_gpu() -> None:
    assert '"--require-gpu"' in dockerfile("gpu").rsplit("CMD", 1)[1]


@pytest.mark.parametrize("name", ["cpu", "gpu", "models", "full"])
def test_nothing_of_the_build_machine_gets_in(name: str) -> None:
    text = dockerfile(name) + (IMAGES / "install.sh").read_text()
    assert "--isolated" in text  # pip reads neither its files nor its environment
    assert not re.search(r"index-url|trusted-host|\.crt|\.pem|https?://(?!127\.0\.0\.1)", text)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_versions_are_those_that_the_project_is_tested_with(name: str) -> None:
    tested = pins(ROOT / "constraints.txt")
    tested["opencv-python-headless"] = tested["opencv-python"]
    for package, version in pins(IMAGES / name).items():
        assert tested[package] == version, package


def test_requirements_cover_the_server_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.split(r"[\[<>=]", line)[0] for line in extras["server"]} - {"opencv-python"} | {
        "opencv-python-headless"
    }
    assert wanted <= set(pins(IMAGES / "requirements.txt"))


def test_context_is_an_allow_list() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    copied = {match[1].split("/")[0] for match in re.finditer(r"^COPY (?!--from)(\S+)", dockerfile("cpu"), re.M)}
    assert {f"!{name}" for name in copied} <= set(lines)


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    return folder


def test_rule_removes_what_it_names_and_keeps_what_it_excepts(tmp_path: Path) -> None:
    packages = tree(tmp_path, "a/stubs/3.10/stub", "a/stubs/3.11/stub", "a/code.py", "b/tests/test_b.py")
    rules = (Rule("one is started", ("a/stubs/*",), keep=("a/stubs/3.11",)), Rule("tests", ("*/tests",)))
    assert slim.slim(packages, rules) == 20
    left = sorted(str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file())
    assert left == ["a/code.py", "a/stubs/3.11/stub"]


def test_rule_that_finds_nothing_is_an_error(tmp_path: Path) -> None:
    packages = tree(tmp_path, "a/code.py")
    with pytest.raises(SlimError, match=r"b/\* finds nothing; is the rule still needed\? \(not used\)"):
        slim.slim(packages, (Rule("not used", ("b/*",)),))


def test_rule_does_not_follow_links(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", "precious")
    packages = tree(tmp_path / "packages", "code.py")
    (packages / "link").symlink_to(outside)
    slim.slim(packages, (Rule("a link", ("link",)),))
    assert (outside / "precious").exists()


def test_scripts_of_dependencies_go(tmp_path: Path) -> None:
    tree(tmp_path, "python3.11", "warmswap", "f2py", "Activate.ps1")
    slim.remove_scripts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["python3.11", "warmswap"]


def test_tree_without_packages_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slim.main([str(tmp_path)]) == 1
    assert f"is {tmp_path} a virtual environment" in capsys.readouterr().err


def test_source_that_does_not_compile_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def :\n")
    with pytest.raises(SlimError, match="does not compile"):
        slim.compile_sources(tmp_path)


def test_compiled_files_hold_whatever_the_time_of_their_source(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    slim.compile_sources(tmp_path)
    (compiled,) = tmp_path.rglob("*.pyc")
    assert struct.unpack("<I", compiled.read_bytes()[4:8]) == (0b01,)  # by hash, unchecked (PEP 552)


@needs_binutils
@pytest.mark.skipif(shutil.which("ld") is None, reason="needs binutils")
def test_icu_table_is_replaced_under_its_own_name(tmp_path: Path) -> None:
    libraries = tmp_path / "nvidia_pytriton.libs"
    libraries.mkdir()
    library = libraries / "libicudata-0.so.70.1"
    blob = tmp_path / "table"
    blob.write_bytes(bytes(100_000))
    steps = (
        ["objcopy", "-I", "binary", "-O", "elf64-x86-64", "-B", "i386:x86-64", "table", "t.o"],
        ["objcopy", "--redefine-sym=_binary_table_start=icudt70_dat", "t.o"],
        ["ld", "-shared", f"-soname={library.name}", "-o", str(library), "t.o"],
    )
    for step in steps:
        subprocess.run(step, cwd=tmp_path, check=True)
    assert slim.empty_icu_data(tmp_path) > 80_000
    dynamic = run(["readelf", "--dynamic", str(library)])
    assert f"soname: [{library.name}]" in dynamic
    assert "icudt70_dat" in run(["nm", "-D", str(library)])
    assert slim.empty_icu_table() in library.read_bytes()
    assert list(libraries.iterdir()) == [library]


def test_missing_icu_library_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SlimError, match="expected one"):
        slim.empty_icu_data(tmp_path)


def test_size_table_adds_up() -> None:
    layers = [Layer("/", "sha256:" + "a" * 64, 75_600_000, 30_100_000, 26_700_000)] * 2
    assert size_table(layers).splitlines()[-1] == "| **all, MB** | 151.2 | 60.2 | 53.4 | |"


def test_failing_program_is_named_with_its_last_lines() -> None:
    with pytest.raises(ImageError, match=r"ended with 3:\nno such thing"):
        run(["sh", "-c", "echo no such thing >&2; exit 3"])


def test_wheels_of_other_versions_go(tmp_path: Path) -> None:
    folder, wheels = tmp_path / "requirements", tmp_path / "wheels"
    folder.mkdir()
    wheels.mkdir()
    (folder / "requirements.txt").write_text("a_package==2.0  # why\n")
    (folder / "requirements-build.txt").write_text("# nothing\n")
    for version in ("1.0", "2.0"):
        (wheels / f"a_package-{version}-py3-none-any.whl").touch()
    fetch_wheels(folder, wheels)
    assert [path.name for path in wheels.iterdir()] == ["a_package-2.0-py3-none-any.whl"]
