"""Pack files and the search for the files that users bring; needs no PyTorch."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from warmswap_ensemble.contract import STAGES
from warmswap_ensemble.geometry import WARP_TEMPLATES
from warmswap_export.errors import PackError, WeightsError
from warmswap_export.packs import load_pack, pack_names, parse_pack, stage_spec
from warmswap_export.weights import WeightFile, find_weights

GOOD = """
name = "mine"
[stages.face_embedder]
name = "My ArcFace"
architecture = "arcface"
licence = "MIT"
commercial_use = true
[[stages.face_embedder.weights.network]]
file = "mine.onnx"
[stages.face_embedder.settings]
crop_size = 112
warp_template = "arcface_112_v2"
embedding_length = 512
embedding_space = "mine"
same_person_similarity = 0.4
"""


@pytest.mark.parametrize("name", pack_names())
def test_every_shipped_pack_says_what_the_pipeline_must_know(name: str) -> None:
    pack = load_pack(name)

    assert pack.name == name
    for stage in pack.stages:
        assert stage.licence
        assert stage.commercial_use is True or stage.licence_note, "who forbids it, or why is it unknown?"
        wanted = {
            "face_detector": {"input_size_hw", "min_score"},
            "face_landmarker": {"crop_size", "warp_template"},
            "face_embedder": {"crop_size", "warp_template", "embedding_length", "embedding_space"},
            "face_swapper": {"crop_size", "warp_template", "identity"},
        }[stage_spec(stage.model).name]
        assert wanted <= stage.settings.keys()
        for key in ("warp_template", "source_warp_template"):
            assert stage.settings.get(key, "ffhq_512") in WARP_TEMPLATES
        if "source_embedding" in stage.settings.get("identity", ()):
            assert {"embedding_space", "embedding_length"} <= stage.settings.keys()
        assert stage.weights.keys() >= stage.networks.keys() - {"emap"}


def test_every_embedding_space_that_a_swapper_wants_is_made_by_some_embedder() -> None:
    stages = [stage for name in pack_names() for stage in load_pack(name).stages]
    made = {stage.settings["embedding_space"] for stage in stages if stage.model == "face_embedder"}
    wanted = {stage.settings.get("embedding_space") for stage in stages if stage.model == "face_swapper"} - {None}

    assert wanted <= made


def test_packs_are_put_together_and_the_later_one_wins() -> None:
    pack = load_pack("open+buffalo_l+inswapper_128")

    assert [stage.model for stage in pack.stages] == [*(spec.name for spec in STAGES), "face_swapper_512"]
    assert [stage.pack for stage in pack.stages] == ["buffalo_l", "open", "buffalo_l", "inswapper_128", "open"]


def test_a_pack_file_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)

    assert load_pack(f"buffalo_l+{path}").stage("face_embedder").name == "My ArcFace"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name = "mine"', "", "lacks 'name'"),
        ("[stages.face_embedder]", "[stages.face_embeder]", "no stage of the contract"),
        ('licence = "MIT"', 'license = "MIT"', "lacks 'licence'"),
        ('licence = "MIT"', 'licence = "MIT"\nlicens = 1', "unknown fields 'licens'"),
        ("commercial_use = true", 'commercial_use = "perhaps"', "got 'perhaps'"),
        ("commercial_use = true", "commercial_use = 1", "must be of type bool or str"),
        ("commercial_use = true", "", "lacks 'commercial_use'"),
        ('architecture = "arcface"', "architecture = 7", "architecture must be of type str, got 7"),
        ('file = "mine.onnx"', 'fiel = "mine.onnx"', "unknown fields 'fiel'"),
        ('file = "mine.onnx"', 'file = "mine.onnx"\nsha256 = ["abc"]', "64 hexadecimal digits"),
        ("[[stages.face_embedder.weights.network]]", "[stages.face_embedder.weights.network]", "list of tables"),
        ("[stages.face_embedder.settings]", "[stages.face_embedder.setings]", "lacks 'settings'"),
        ('name = "mine"', "name = mine", "is not TOML"),
    ],
)
def test_a_typo_is_named(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    with pytest.raises(PackError) as caught:
        parse_pack(GOOD.replace(old, new, 1), "mine.toml")

    message = str(caught.value)
    assert expected in message
    assert "mine.toml" in message or "sha256" in message
    assert "\n" not in message.split("is not TOML")[0]


def test_unknown_packs_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"'nosuch'; there are: .*buffalo_l"):
        load_pack("buffalo_l+nosuch")
    with pytest.raises(PackError, match=r"missing\.toml cannot be read"):
        load_pack(str(tmp_path / "missing.toml"))


def _file(path: Path, data: bytes = b"weights") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("place", [".", "buffalo_l", "models/buffalo_l", ".assets/models"])
def test_files_are_found_as_other_programs_lay_them_out(tmp_path: Path, place: str) -> None:
    digest = _file(tmp_path / place / "det_10g.onnx")

    found = find_weights([WeightFile("det_10g.onnx", sha256=(digest,))], [tmp_path], tmp_path / "scratch")

    assert (found.path, found.sha256, found.pinned) == (tmp_path / place / "det_10g.onnx", digest, True)


@pytest.mark.parametrize("member", ["det_10g.onnx", "buffalo_l/det_10g.onnx"])
def test_a_member_of_a_zip_archive_is_unpacked(tmp_path: Path, member: str) -> None:
    with zipfile.ZipFile(tmp_path / "buffalo_l.zip", "w") as archive:
        archive.writestr(member, b"weights")

    found = find_weights([WeightFile("det_10g.onnx")], [tmp_path], tmp_path / "scratch")

    assert found.path.read_bytes() == b"weights"
    assert found.path.is_relative_to(tmp_path / "scratch")
    assert not found.pinned


def test_a_file_may_be_named_itself_and_other_names_count(tmp_path: Path) -> None:
    _file(tmp_path / "backbone.pth")
    forms = [WeightFile("w600k_r50.onnx"), WeightFile("w600k_r50.pth", also=("backbone.pth",))]

    found = find_weights(forms, [tmp_path / "backbone.pth"], tmp_path)

    assert (found.path.name, found.published_as) == ("backbone.pth", "w600k_r50.pth")


def test_another_file_of_the_same_name_is_refused_unless_asked_for(tmp_path: Path) -> None:
    digest = _file(tmp_path / "det_10g.onnx")
    forms = [WeightFile("det_10g.onnx", sha256=("0" * 64,))]

    with pytest.raises(WeightsError, match=f"det_10g.onnx has sha256 {digest}, the pack knows .* as {'0' * 64}"):
        find_weights(forms, [tmp_path], tmp_path)

    assert not find_weights(forms, [tmp_path], tmp_path, accept_unpinned=True).pinned


def test_what_is_missing_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"found no det_10g\.onnx or other\.onnx in .*nowhere.*--weights"):
        find_weights([WeightFile("det_10g.onnx", also=("other.onnx",))], [tmp_path / "nowhere"], tmp_path)


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "buffalo_l.zip").write_bytes(b"PK\x03\x04 and then nothing")

    with pytest.raises(WeightsError, match=r"buffalo_l\.zip cannot be read as a zip archive"):
        find_weights([WeightFile("det_10g.onnx")], [tmp_path], tmp_path)
