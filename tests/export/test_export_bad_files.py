"""Bad files, packs and disks: one line that says what is wrong, and nothing left behind (make test-export)."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.tiny_models import emap, embedder, pack, save, swapper, swapper_weights
from warmswap_ensemble.manifest import read_manifest, version_dirs

pytestmark = pytest.mark.export

MAIN = "import sys; from warmswap_client.cli import main; sys.exit(main())"
PROGRESS = re.compile(r"\w+: [\w ]+ \.\.\.")
LIBPNG = "libpng warning: iCCP"
"""OpenCV says this of a demo picture."""
PROJECT = "project = true\nunit_length = true"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """Where a test puts its files, where it exports to, and where temporary folders go."""

    files: Path
    out: Path
    temp: Path

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(root)) for root in (self.out, self.temp) for path in root.rglob("*"))

    def export(self, what: Path | str, *options: str) -> tuple[str, ...]:
        return ("export", str(what), "--weights", str(self.files), "--out", str(self.out), *options)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("files", "out", "temp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    return Place(tmp_path / "files", tmp_path / "out", tmp_path / "temp")


@pytest.fixture
def warmswap(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """The command in this process: PyTorch is loaded once; an unexpected exception fails the test."""
    from warmswap_client.cli import main

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        code = main(arguments)
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


def warmswap_process(*arguments: str, before: str = "") -> Ran:
    """The command as a process of its own, as users start it."""
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{MAIN}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def only_error(ran: Ran, code: int) -> str:
    """Return the error, which is the last and only line besides the progress."""
    *progress, last = ran.err.splitlines() or [""]
    assert ran.code == code, ran.err
    assert last.startswith("error: "), ran.err
    assert all(PROGRESS.fullmatch(line) or line.startswith(LIBPNG) for line in progress), ran.err
    assert not ran.out
    assert len(last) < 1200, last
    return last.removeprefix("error: ")


def refusal(warmswap: Callable[..., Ran], place: Place, what: Path | str, *options: str, code: int = 2) -> str:
    message = only_error(warmswap(*place.export(what, *options)), code)
    assert place.left() == []
    return message


def names(message: str, *parts: str) -> bool:
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"
    return True


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of every architecture, one after another's name."""
    import torch

    from warmswap_export.networks.registry import create_network
    from warmswap_export.published import publish

    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    publish(create_network("retinaface_mnet025"), folder / "retinaface.onnx")
    swapper(folder / "neural_swapper.onnx")
    embedder(folder / "arcface.onnx")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A repository with one good version of a tiny swapper."""
    from warmswap_export.export import export_pack
    from warmswap_export.packs import load_pack
    from warmswap_export.sources import WeightOptions

    root = tmp_path_factory.mktemp("exported")
    place = Place(root / "files", root / "out", root / "temp")
    place.temp.mkdir()
    swapper(place.files / "net.onnx")
    path = pack(place.files)
    export_pack(load_pack(str(path)), place.out, weights=WeightOptions((place.files,)))
    return place


# ---------------------------------------------------------------- ONNX files


def test_an_onnx_file_that_is_truncated_is_named(warmswap: Any, place: Place, published: Path) -> None:
    data = (published / "retinaface.onnx").read_bytes()
    path = place.files / "net.onnx"
    path.write_bytes(data[: len(data) // 2])

    names(refusal(warmswap, place, pack(place.files, "retinaface")), str(path), "cannot be read as an ONNX file")


@pytest.mark.parametrize(
    "content", [b"not a model, just a text\n", b"", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_text_that_is_called_onnx_is_named(warmswap: Any, place: Place, content: bytes) -> None:
    path = place.files / "net.onnx"
    path.write_bytes(content)

    names(refusal(warmswap, place, pack(place.files)), str(path), "cannot be read as an ONNX file")


@pytest.mark.parametrize(
    ("architecture", "other", "expected"),
    [
        ("scrfd", "retinaface", ("no SCRFD with landmarks", "9 outputs", "got 3 outputs: ")),
        ("scrfd", "neural_swapper", ("no SCRFD with landmarks", "got 1 outputs: output")),
        ("retinaface", "neural_swapper", ("no RetinaFace", "4, 2 and 10 columns", "output")),
        ("retinaface", "arcface", ("no RetinaFace", "4, 2 and 10 columns", "embedding")),
        ("arcface", "retinaface", ("no embedder for 112 px", "[N, 3, 112, 112]", "[N, 512]", "640, 640")),
        ("arcface", "neural_swapper", ("no embedder for 112 px", "[1, 3, 128, 128]")),
        ("neural_swapper", "retinaface", ("no such swapper", "[N, 3, 128, 128]", "[N, 512]", "640, 640")),
        ("neural_swapper", "arcface", ("no such swapper", "[1, 3, 112, 112]")),
    ],
)
def test_a_file_of_another_architecture_is_refused(
    warmswap: Any, place: Place, published: Path, architecture: str, other: str, expected: tuple[str, ...]
) -> None:
    path = place.files / "net.onnx"
    path.write_bytes((published / f"{other}.onnx").read_bytes())

    names(refusal(warmswap, place, pack(place.files, architecture)), str(path), *expected)


NINE = "".join(f"o{i} = Identity (x)\n" for i in range(9))


@pytest.mark.parametrize(
    ("text", "architecture", "expected"),
    [
        (
            f"tiny (float[1, 3, 64, 64] x) => ({', '.join(f'float[1, 3, 64, 64] o{i}' for i in range(9))}) {{{NINE}}}",
            "scrfd",
            ("no SCRFD with landmarks",),
        ),
        (
            f"tiny (float[64, 10] x) => ({', '.join(f'float[64, 10] o{i}' for i in range(9))}) {{{NINE}}}",
            "scrfd",
            ("no SCRFD with landmarks",),
        ),
        (
            "tiny (float[8, 4] x, float[8, 2] y, float[8, 10] z) => (float[1, 8, 4] a, float[1, 8, 2] b, "
            "float[1, 8, 10] c) <int64[1] zero = {0}> "
            "{ a = Unsqueeze (x, zero) b = Unsqueeze (y, zero) c = Unsqueeze (z, zero) }",
            "retinaface",
            ("no RetinaFace", "one picture"),
        ),
        (
            "tiny (float[1, 3, 112, 112] x) => (float y) { y = ReduceSum <keepdims = 0> (x) }",
            "arcface",
            ("no embedder",),
        ),
        (
            "tiny (float[1, 3, 128, 128] x) => (float y) { y = ReduceSum <keepdims = 0> (x) }",
            "neural_swapper",
            ("got",),
        ),
        ("tiny () => (float[2] y) { y = Constant <value = float[2] {1.0, 2.0}> () }", "arcface", ("no embedder",)),
        ("tiny () => (float[2] y) { y = Constant <value = float[2] {1.0, 2.0}> () }", "scrfd", ("no SCRFD",)),
        ("tiny () => (float[2] y) { y = Constant <value = float[2] {1.0, 2.0}> () }", "neural_swapper", ("got",)),
    ],
)
def test_odd_signatures_are_refused(
    warmswap: Any, place: Place, text: str, architecture: str, expected: tuple[str, ...]
) -> None:
    path = save(place.files / "net.onnx", text)

    names(refusal(warmswap, place, pack(place.files, architecture)), str(path), *expected)


@pytest.mark.parametrize("opset", [8, 18, 21])
def test_an_opset_that_cannot_be_read_is_named(warmswap: Any, place: Place, opset: int) -> None:
    path = swapper(place.files / "net.onnx", opset=opset)

    names(refusal(warmswap, place, pack(place.files)), str(path), f"opset {opset}", "opsets 9 to 17")


@pytest.mark.parametrize(("kind", "found"), [("int32", "INT32"), ("double", "DOUBLE"), ("uint8", "UINT8")])
def test_tensors_of_other_types_are_named(warmswap: Any, place: Place, kind: str, found: str) -> None:
    text = f"""tiny ({kind}[1, 3, 128, 128] target, float[1, 512] source) => (float[1, 3, 128, 128] output)
        {{ output = Cast <to = 1> (target) }}"""
    path = save(place.files / "net.onnx", text)

    names(refusal(warmswap, place, pack(place.files)), str(path), "target must be FLOAT or FLOAT16", f"got {found}")


def test_another_file_than_the_pinned_one_is_refused(warmswap: Any, place: Place) -> None:
    path = swapper(place.files / "net.onnx")
    its = pack(place.files, pinned="0" * 64)

    names(refusal(warmswap, place, its), str(path), "has sha256", "0" * 64, "--accept-unpinned")


@pytest.mark.parametrize("weight", ["blur", "style"])
def test_a_weight_that_is_not_a_number_is_refused_by_parity(warmswap: Any, place: Place, weight: str) -> None:
    weights = swapper_weights()
    weights[weight].flat[0] = np.nan
    swapper(place.files / "net.onnx", weights=weights)

    message = refusal(warmswap, place, pack(place.files), code=1)
    names(message, "face_swapper", "swapped_crop_rgb differs from published graph", "nan")


def test_an_embedder_with_a_weight_that_is_not_a_number_is_refused(warmswap: Any, place: Place) -> None:
    rng = np.random.default_rng(0)
    weights = {"k": rng.normal(size=(8, 3, 5, 5)).astype(np.float32), "w": np.full((8, 512), np.inf, np.float32)}
    embedder(place.files / "net.onnx", weights=weights)

    names(refusal(warmswap, place, pack(place.files, "arcface"), code=1), "embedding differs", "nan")


def test_a_detector_with_a_weight_that_is_not_a_number_is_refused(warmswap: Any, place: Place, published: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(published / "retinaface.onnx")
    changed = max(model.graph.initializer, key=lambda item: numpy_helper.to_array(item).size)
    values = np.full_like(numpy_helper.to_array(changed), np.nan)
    changed.CopyFrom(numpy_helper.from_array(values, changed.name))
    onnx.save(model, place.files / "net.onnx")

    names(refusal(warmswap, place, pack(place.files, "retinaface"), code=1), "face_detector", "nan")


def test_a_file_that_only_works_for_one_picture_is_refused(warmswap: Any, place: Place) -> None:
    text = """tiny (float[1, 3, 128, 128] target, float[1, 512] source) => (float[1, 3, 128, 128] output)
        { flat = Reshape (target, all) output = Reshape (flat, whole) }"""
    whole = {"all": np.array([-1], np.int64), "whole": np.array([1, 3, 128, -1], np.int64)}
    save(place.files / "net.onnx", text.replace("whole)", "picture)"), {**whole, "picture": np.array([-1, 3, 64, 256])})

    names(refusal(warmswap, place, pack(place.files), code=1), "the graph fails on", "target_crop_rgb [2, 128")


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"buff2fs": np.zeros((512, 256), np.float32)}, "buff2fs) must be of shape (512, 512), got (512, 256)"),
        ({}, "colours) must be of shape (512, 512), got (4,)"),
    ],
)
def test_a_missing_emap_is_told(warmswap: Any, place: Place, last: dict[str, Any], expected: str) -> None:
    path = swapper(place.files / "net.onnx", last=last)

    message = refusal(warmswap, place, pack(place.files, options=PROJECT))
    names(message, str(path), "emap is missing", expected, "take the file as published")


def test_a_file_without_tensors_has_no_emap(warmswap: Any, place: Place) -> None:
    text = """tiny (float[1, 3, 128, 128] target, float[1, 512] source) => (float[1, 3, 128, 128] output)
        { output = Identity (target) }"""
    path = save(place.files / "net.onnx", text)

    names(refusal(warmswap, place, pack(place.files, options=PROJECT)), str(path), "no tensors", "emap")


@pytest.mark.parametrize(
    ("role", "option", "wrong"),
    [("converter", "converter = true", "embedder"), ("embedder", EMBEDDED := 'identity = "embedded_crop"', "swapper")],
)
def test_a_wrong_part_is_named(warmswap: Any, place: Place, role: str, option: str, wrong: str) -> None:
    swapper(place.files / "net.onnx")
    path = embedder(place.files / "part.onnx") if wrong == "embedder" else swapper(place.files / "part.onnx")
    more = f'[[stages.face_swapper.weights.{role}]]\nfile = "part.onnx"'

    names(refusal(warmswap, place, pack(place.files, options=option, more=more)), str(path), f"cannot serve as {role}")


def test_a_part_that_the_pack_lacks_is_named(warmswap: Any, place: Place) -> None:
    swapper(place.files / "net.onnx")

    message = refusal(warmswap, place, pack(place.files, options="converter = true"))
    names(message, "pack tiny [stages.face_swapper]", "[[weights.converter]]")


def test_a_damaged_archive_is_named(warmswap: Any, place: Place) -> None:
    path = place.files / "models.zip"
    swapper(place.temp / "net.onnx")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(place.temp / "net.onnx", "net.onnx")
    (place.temp / "net.onnx").unlink()
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)

    names(refusal(warmswap, place, pack(place.files)), str(path), "cannot be read as a zip archive")


# ---------------------------------------------------------------- checkpoints


class Makes:
    """What a malicious checkpoint holds: loading it would make a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


CROSSFACE = 'network = "crossface"'


def checkpoint_pack(place: Place, network: str = CROSSFACE, **values: Any) -> Path:
    return pack(place.files, file="net.pth", networks=network, **values)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_checkpoint_is_named(warmswap: Any, place: Place, legacy: bool) -> None:
    import torch

    path = place.files / "net.pth"
    torch.save({"a": torch.ones(10_000)}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    names(refusal(warmswap, place, checkpoint_pack(place)), str(path), "cannot be read as a PyTorch checkpoint")


@pytest.mark.parametrize("content", [b"", b"a text", b"<!DOCTYPE html><html>", bytes(range(256)), b"PK\x03\x04 torn"])
def test_a_file_that_is_no_checkpoint_is_named(warmswap: Any, place: Place, content: bytes) -> None:
    path = place.files / "net.pth"
    path.write_bytes(content)

    message = refusal(warmswap, place, checkpoint_pack(place))
    names(message, str(path), "cannot be read as a PyTorch checkpoint")
    assert "weights_only=False" not in message


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_not_run(place: Place, legacy: bool) -> None:
    import torch

    path, proof = place.files / "net.pth", place.files / "proof"
    content = {"state_dict": {"a": torch.ones(2)}, "x": Makes(str(proof))}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)

    message = only_error(warmswap_process(*place.export(checkpoint_pack(place))), 2)
    names(message, str(path), "pickled Python objects", "could run any code", ".state_dict()")
    assert place.left() == []
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the checkpoint of this test is not malicious"


def test_a_pickled_module_is_refused_with_the_way_to_convert_it(warmswap: Any, place: Place) -> None:
    import torch

    from warmswap_export.networks.registry import create_network

    path = place.files / "net.pth"
    torch.save(create_network("retinaface_mnet025"), path)

    message = refusal(warmswap, place, checkpoint_pack(place))
    names(
        message, str(path), "pickled Python objects (warmswap_export.networks.", "torch.load(FILE, weights_only=False)"
    )


def test_keys_that_do_not_fit_are_counted_and_named(warmswap: Any, place: Place) -> None:
    import torch

    from warmswap_export.networks.registry import create_network

    weights = dict(create_network("retinaface_mnet025").state_dict())
    del weights["fpn.merge1.0.weight"]
    weights |= {f"other.{i}": torch.ones(1) for i in range(7)}
    weights["ClassHead.0.conv1x1.bias"] = torch.ones(9)
    path = place.files / "net.pth"
    torch.save(weights, path)

    message = refusal(
        warmswap, place, checkpoint_pack(place, 'network = "retinaface_mnet025"', architecture="retinaface")
    )
    names(
        message,
        f"{path} is not a checkpoint of RetinaFace",
        "1 keys are missing (fpn.merge1.0.weight)",
        "7 keys are unexpected (other.0, other.1, other.2, other.3, other.4, ...)",
        "1 have another shape (ClassHead.0.conv1x1.bias (9,) instead of (4,))",
    )


@pytest.mark.parametrize(
    ("content", "described"),
    [
        ({"epoch": 3, "name": "x"}, "a dictionary with epoch, name"),
        ({}, "nothing in it"),
        ([1, 2], "a list"),
        ({"state_dict": {"lr": 0.1}}, "a dictionary with state_dict"),
    ],
)
def test_a_checkpoint_without_tensors_is_refused(warmswap: Any, place: Place, content: Any, described: str) -> None:
    import torch

    path = place.files / "net.pth"
    torch.save(content, path)

    names(refusal(warmswap, place, checkpoint_pack(place)), f"{path} holds no weights", described)


def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path) -> None:
    import torch

    from warmswap_export.checkpoints import load_into
    from warmswap_export.networks.registry import create_network

    network, other = create_network("retinaface_mnet025"), create_network("retinaface_mnet025")
    plain = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    prefixed = {f"module.{key}": value for key, value in plain.items()}
    for content in (plain, prefixed, {"state_dict": prefixed, "epoch": 4}, {"model": {"state_dict": plain}}):
        torch.save(content, tmp_path / "net.pth")
        for value in other.state_dict().values():
            value.zero_()
        load_into(other, tmp_path / "net.pth")
        assert all(torch.equal(other.state_dict()[key], value) for key, value in plain.items())


def test_a_checkpoint_with_prefixes_is_exported(warmswap: Any, place: Place) -> None:
    import torch

    from warmswap_export.networks.registry import create_network

    torch.manual_seed(1)
    weights = {f"module.{key}": value for key, value in create_network("retinaface_mnet025").state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 250}, place.files / "net.pth")
    its = checkpoint_pack(place, 'network = "retinaface_mnet025"', architecture="retinaface")

    ran = warmswap(*place.export(its, "--json"))

    assert ran.code == 0, ran.err
    (model,) = json.loads(ran.out)["models"]
    assert (model["model"], model["precision"], model["twin_seed"]) == ("face_detector", "fp32", None)
    assert read_manifest(place.out / "face_detector" / "1").pack == "tiny"
    assert list(place.temp.iterdir()) == []


def test_a_checkpoint_of_a_network_that_the_pack_does_not_name(warmswap: Any, place: Place) -> None:
    (place.files / "net.pth").write_bytes(b"")

    names(refusal(warmswap, place, checkpoint_pack(place, "")), "[stages.face_swapper.networks]", "net.pth")


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, **options)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, emap())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "found no emap.npy"),
        (lambda: saved(np.zeros((512, 256), np.float32)), "must hold an array of shape (512, 512), got (512, 256)"),
        (lambda: saved(np.array([{"a": 1}], object), allow_pickle=True), "cannot be read as a NumPy array"),
        (lambda: pickle.dumps(emap()), "cannot be read as a NumPy array"),
        (lambda: b"", "cannot be read as a NumPy array"),
        (lambda: saved(emap())[:1000], "cannot be read as a NumPy array"),
        (zipped, "holds several arrays"),
        (lambda: saved(np.full((512, 512), "x")), "must hold finite numbers"),
    ],
)
def test_a_bad_emap_file_is_named(warmswap: Any, place: Place, content: Any, expected: str) -> None:
    (place.files / "net.pth").write_bytes(b"is not read before the emap")
    if content is not None:
        (place.files / "emap.npy").write_bytes(content())
    its = checkpoint_pack(place, options=PROJECT, more='[[stages.face_swapper.weights.emap]]\nfile = "emap.npy"')

    names(refusal(warmswap, place, its), "emap.npy", expected)


# ---------------------------------------------------------------- packs and options


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"options": "unit_lenght = true"},
            ("pack tiny", "face_swapper", "unknown options unit_lenght", "unit_length"),
        ),
        (
            {"architecture": "arcface", "options": "mean_rbg = [1.0, 1.0, 1.0]"},
            ("unknown options mean_rbg", "mean_rgb"),
        ),
        ({"architecture": "scrfd", "options": "mean_rgb = [1.0, 1.0, 1.0]"}, ("unknown options mean_rgb", "has none")),
        ({"options": "crop_sise = 3"}, ("unknown options crop_sise",)),
        ({"architecture": "neural_swaper", "stage": "face_swapper"}, ("'neural_swaper'", "neural_swapper")),
        ({"architecture": "anchors", "stage": "face_detector"}, ("'anchors'", "scrfd")),
        ({"settings": 'warp_template = "arcface_128"'}, ("[settings]", "lacks 'crop_size'")),
    ],
)
def test_a_wrong_pack_is_refused_before_its_files_are_read(
    warmswap: Any, place: Place, values: dict[str, Any], expected: tuple[str, ...]
) -> None:
    names(refusal(warmswap, place, pack(place.files, **values)), *expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("mean_rgb = [0.5]", ("mean_rgb must be three numbers", "[0.5]")),
        ('std_rgb = "half"', ("std_rgb must be three numbers", "'half'")),
        ("std_rgb = [0.5, 0.5, 0]", ("std_rgb must be above 0", "[0.5, 0.5, 0]")),
        ('identity = "name"', ("identity must be one of embedding, crop, embedded_crop", "'name'")),
    ],
)
def test_a_wrong_value_of_an_option_is_named(
    warmswap: Any, place: Place, options: str, expected: tuple[str, ...]
) -> None:
    swapper(place.files / "net.onnx")

    names(refusal(warmswap, place, pack(place.files, options=options)), "pack tiny [stages.face_swapper]", *expected)


def test_an_unknown_network_is_named(warmswap: Any, place: Place) -> None:
    (place.files / "net.pth").write_bytes(b"")

    message = refusal(warmswap, place, checkpoint_pack(place, 'network = "crossfaec"'))
    names(message, "no network is called 'crossfaec'; there are: ", "crossface")


@pytest.mark.parametrize(
    ("what", "options", "expected"),
    [
        ("nosuch", (), ("no pack is called 'nosuch'",)),
        (
            "inswapper_128",
            ("--stage", "face_detector"),
            ("pack inswapper_128 has no face_detector; it has face_swapper",),
        ),
        ("inswapper_128", ("--version", "0"), ("--version must be 1 or more, got 0",)),
        ("inswapper_128", ("--random-weights", "1"), ("--random-weights", "--weights", "give one of them")),
        ("inswapper_128", ("--keep-twin-files", "x"), ("--keep-twin-files is only used with --random-weights",)),
        ("inswapper_128", (), ("found no inswapper_128.onnx in ", "--weights DIR")),
    ],
)
def test_wrong_arguments_are_refused(
    warmswap: Any, place: Place, what: str, options: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    names(refusal(warmswap, place, what, *options), *expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--random-weights", "1", "--keep-twin-files", "FULL"), ("must name a new or empty folder", "has files")),
        (("--random-weights", "1", "--keep-twin-files", "FULL/file"), ("must name a new or empty folder", "is a file")),
        (("--random-weights", "-1"), ("--random-weights must be", "got -1")),
        (("--random-weights", str(2**64)), ("--random-weights must be", f"got {2**64}")),
    ],
)
def test_wrong_options_of_twins_are_refused(
    warmswap: Any, place: Place, options: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    (place.files / "file").write_bytes(b"kept")
    arguments = [option.replace("FULL", str(place.files)) for option in options]

    ran = warmswap("export", "retinaface_mnet025", "--out", str(place.out), *arguments)

    names(only_error(ran, 2), *expected)
    assert place.left() == []
    assert (place.files / "file").read_bytes() == b"kept"


def test_a_stage_without_a_form_of_half_precision_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = ("--stage", "face_swapper", "--precision", "fp16", "--out", folder)
        message = only_error(warmswap_process("export", "open", *options), 1)
        assert not list(Path(folder).iterdir())

    names(message, "geometric cannot be exported in fp16", "fp32")


def test_a_file_that_is_missing_is_found_out_before_any_stage_is_exported(warmswap: Any, place: Place) -> None:
    """Both are of one pack; the detector, which comes first, has its file."""
    (place.files / "det.onnx").write_bytes(b"")
    first = pack(place.files, "retinaface", "det.onnx", name="one")
    second = pack(place.files, "neural_swapper", "swap.onnx", name="two")

    names(refusal(warmswap, place, f"{first}+{second}"), "found no swap.onnx")


# ---------------------------------------------------------------- what is there already, disks, and kills


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("holds", ["another pack", "another precision", "no manifest", "a file"])
def test_a_version_that_is_taken_is_kept_unless_forced(warmswap: Any, place: Place, holds: str) -> None:
    version_dir = place.out / "face_swapper" / "1"
    swapper(place.files / "net.onnx")
    its = pack(place.files)
    if holds in ("another pack", "another precision"):
        other = pack(place.files, name="tiny2") if holds == "another pack" else its
        precision = "fp32" if holds == "another pack" else "fp16"
        assert warmswap(*place.export(other, "--precision", precision)).code == 0
    elif holds == "a file":
        version_dir.parent.mkdir()
        version_dir.write_bytes(b"a file")
    else:
        version_dir.mkdir(parents=True)
        (version_dir / "model.onnx").write_bytes(b"of somebody else")
    before = tree(place.out)

    ran = warmswap(*place.export(its))

    message = only_error(ran, 1)
    names(message, str(version_dir), "holds another model", "--version", "--force")
    assert ran.err.count("\n") == 1, "no work before the refusal"
    assert tree(place.out) == before
    assert warmswap(*place.export(its, "--force")).code == 0
    assert read_manifest(version_dir).pack == "tiny"
    assert read_manifest(version_dir).precision == "fp32"
    assert sorted(path.name for path in version_dir.parent.iterdir()) == ["1", "config.pbtxt", "configs", "warmup"]
    assert list(place.temp.iterdir()) == []


FULL = """
import errno, pathlib
write = pathlib.Path.write_bytes
def full(self, data):
    if self.name == "model.onnx":
        write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(self, data)
pathlib.Path.write_bytes = full
"""


def test_a_full_disk_leaves_nothing(place: Place) -> None:
    swapper(place.files / "net.onnx")

    message = only_error(warmswap_process(*place.export(pack(place.files)), before=FULL), 1)

    names(message, str(place.out / "face_swapper" / "1"), "cannot be written", "No space left on device")
    assert place.left() in ([], ["face_swapper"])


def test_a_full_disk_keeps_the_version_that_was_there(exported: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from warmswap_ensemble.manifest import Manifest
    from warmswap_export.errors import ExportError
    from warmswap_export.export import export_pack
    from warmswap_export.packs import load_pack
    from warmswap_export.sources import WeightOptions

    before = tree(exported.out)

    def full(self: Manifest, version_dir: Path) -> Path:
        del self
        (version_dir / "manifest.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Manifest, "write", full)
    for force in (False, True):
        with pytest.raises(ExportError, match="No space left"):
            export_pack(
                load_pack(str(exported.files / "tiny.toml")),
                exported.out,
                weights=WeightOptions((exported.files,)),
                force=force,
            )
        assert tree(exported.out) == before
        assert [path.name for path in (exported.out / "face_swapper").iterdir()] == ["1"]


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small file system")
def test_a_file_system_that_is_really_full(place: Place) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place.out], check=False).returncode:
        pytest.skip("may not mount")
    try:
        swapper(place.files / "net.onnx")
        message = only_error(warmswap_process(*place.export(pack(place.files))), 1)
        names(message, str(place.out / "face_swapper" / "1"), "No space left on device")
        assert place.left() in ([], ["face_swapper"])
    finally:
        subprocess.run(["umount", place.out], check=True)


def test_a_repository_that_is_a_file_is_named(warmswap: Any, place: Place) -> None:
    swapper(place.files / "net.onnx")
    out = place.files / "net.onnx"

    ran = warmswap("export", str(pack(place.files)), "--weights", str(place.files), "--out", str(out))

    names(only_error(ran, 1), str(out), "Not a directory")


KILL = """
import os, signal
from warmswap_ensemble.manifest import Manifest
Manifest.write = lambda self, folder: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_export_that_is_killed_leaves_no_version(place: Place, warmswap: Any) -> None:
    swapper(place.files / "net.onnx")
    its = pack(place.files)

    killed = warmswap_process(*place.export(its), before=KILL)

    assert killed.code == -signal.SIGKILL
    model_dir = place.out / "face_swapper"
    assert version_dirs(model_dir) == []
    (left,) = model_dir.iterdir()
    assert left.name.startswith("."), "Triton takes directories for versions whose names begin with a digit"
    assert warmswap(*place.export(its)).code == 0
    assert [path.name for path in version_dirs(model_dir)] == ["1"]
    assert left.exists(), "it may be of an export that is running"
    long_ago = time.time() - 7200
    os.utime(left, (long_ago, long_ago))
    assert warmswap(*place.export(its, "--version", "2")).code == 0
    assert not left.exists()
    assert [path.name for path in version_dirs(model_dir)] == ["1", "2"]


# ---------------------------------------------------------------- verify


def test_verify_says_that_weights_are_missing(exported: Place, tmp_path: Path) -> None:
    arguments = ("verify", "--repository", str(exported.out), "--pack", str(exported.files / "tiny.toml"))

    without = warmswap_process(*arguments, "--weights", str(tmp_path))

    assert without.code == 1
    names(without.out, "face_swapper 1: FAILED", "parity was not measured: found no net.onnx", str(tmp_path))
    assert "Traceback" not in without.err


def test_verify_passes_with_the_weights(warmswap: Any, exported: Place) -> None:
    arguments = ("verify", "--repository", str(exported.out), "--pack", str(exported.files / "tiny.toml"))

    assert "face_swapper 1: ok" in warmswap(*arguments, "--weights", str(exported.files)).out


def test_verify_names_a_pack_that_it_does_not_know(warmswap: Any, exported: Place) -> None:
    ran = warmswap("verify", "--repository", str(exported.out), "--weights", str(exported.files))

    assert ran.code == 1
    names(ran.out, "face_swapper 1: FAILED", "name the file of pack 'tiny' with --pack")


def test_verify_refuses_a_manifest_of_a_precision_that_there_is_not(
    warmswap: Any, exported: Place, place: Place
) -> None:
    import shutil

    version_dir = place.out / "face_swapper" / "1"
    shutil.copytree(exported.out / "face_swapper" / "1", version_dir)
    values = json.loads((version_dir / "manifest.json").read_text())
    for precision, code in (("fp32", 0), ("int8", 1)):
        (version_dir / "manifest.json").write_text(json.dumps(values | {"precision": precision}))
        arguments = ("--repository", str(place.out), "--pack", str(exported.files / "tiny.toml"))
        assert warmswap("verify", *arguments, "--weights", str(exported.files)).code == code
