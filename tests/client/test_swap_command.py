from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.client.support import answer_all
from warmswap_client import client as client_module
from warmswap_client.cli import main
from warmswap_client.commands._progress import Progress
from warmswap_client.commands._targets import SUFFIXES
from warmswap_client.fake_transport import FakeRequest, FakeTransport, Tensors, swap_answer
from warmswap_client.results import parse_swap
from warmswap_ensemble.contract import IMAGE_FORMATS, SWAP_OPTIONS


def answer_in_format(request: FakeRequest) -> Tensors:
    """A server that obeys ``output_format``; ``same`` is what the first bytes of the target say."""
    target = request.inputs["target_image"]
    if target == b"bad":
        raise request.failure("INVALID_ARGUMENT", "invalid_image: not a picture")
    wanted = str(request.parameters.get("output_format", "same"))
    image_format = target.decode().split()[0] if wanted == "same" else wanted
    return swap_answer(b"swapped " + target, image_format=image_format)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTransport:
    """A fake server behind every URL."""
    transport = FakeTransport(answer_in_format)
    monkeypatch.setattr(client_module, "make_transport", lambda endpoint: transport)
    return transport


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a source and an album."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source.jpg").write_bytes(b"jpeg source")
    (tmp_path / "album" / "deep").mkdir(parents=True)
    for name, data in {
        "a.jpg": b"jpeg a",
        "b.PNG": b"png b",
        "c.jpeg": b"jpeg c",
        "notes.txt": b"text",
        "deep/d.webp": b"webp d",
    }.items():
        (tmp_path / "album" / name).write_bytes(data)
    return tmp_path


def swap(*arguments: str) -> int:
    return main(["swap", "--source", "source.jpg", *arguments])


def test_one_target_prints_one_json_object(
    fake: FakeTransport, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swap("--target", "album/a.jpg", "--output", "out.jpg", "--json") == 0
    assert (folder / "out.jpg").read_bytes() == b"swapped jpeg a"
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["output"] == "out.jpg"
    assert report["faces"] == [
        {
            "bbox": [10.0, 20.0, 110.0, 140.0],
            "score": 0.9,
            "swapped": True,
            "similarity_before": 0.05,
            "similarity_after": 0.75,
        }
    ]
    assert report["timings_ms"] == {"detect": 5.0, "swap": 12.5}
    assert report["models"] == {"face_detector": "1", "face_swapper": "1"}
    assert "twins" not in report
    assert captured.err == ""


def test_human_output_shows_similarity_before_and_after(
    fake: FakeTransport, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swap("--target", "album/a.jpg", "--output", "out.jpg") == 0
    out = capsys.readouterr().out
    assert "out.jpg: 1 of 1 faces swapped, 18 ms" in out
    assert "0.05 -> 0.75" in out


def test_every_option_is_a_flag_and_only_given_ones_are_sent(fake: FakeTransport, folder: Path) -> None:
    values = {
        "face_selector": "index:1",
        "source_face_selector": "largest",
        "reference_threshold": "0.25",
        "min_score": "0.5",
        "max_faces": "3",
        "output_format": "webp",
        "quality": "80",
        "swapper": "512",
        "on_no_face": "passthrough",
        "rollout_key": "user-7",
    }
    assert values.keys() == SWAP_OPTIONS.keys()
    flags = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]
    basics = ("--target", "album/a.jpg", "--output", "out.webp")
    assert swap(*basics, "--reference", "album/c.jpeg", *flags) == 0
    assert fake.requests[0].parameters == {**values, "max_faces": 3, "quality": 80}
    assert fake.requests[0].inputs["reference_image"] == b"jpeg c"
    assert swap("--target", "album/a.jpg", "--output", "out.jpg") == 0
    assert fake.requests[1].parameters == {}
    assert set(fake.requests[1].inputs) == {"source_image", "target_image"}


@pytest.mark.parametrize(
    ("output", "arguments", "parameters", "written"),
    [
        pytest.param("out.png", [], {"output_format": "png"}, "out.png", id="name-decides"),
        pytest.param("out.png", ["--output-format", "jpeg"], {"output_format": "jpeg"}, "out.png", id="option-wins"),
        pytest.param("out", [], {}, "out", id="no-suffix"),
        pytest.param("album/deep", [], {}, "album/deep/a.jpg", id="folder"),
        pytest.param("album/deep", ["--output-format", "png"], {"output_format": "png"}, "album/deep/a.png", id="in"),
    ],
)
def test_name_and_format_of_one_result(
    fake: FakeTransport,
    folder: Path,
    output: str,
    arguments: list[str],
    parameters: dict[str, str],
    written: str,
) -> None:
    assert swap("--target", "album/a.jpg", "--output", output, *arguments) == 0
    assert fake.requests[0].parameters == parameters
    assert (folder / written).read_bytes() == b"swapped jpeg a"


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        pytest.param(["album"], {"a.jpg", "b.PNG", "c.jpeg"}, id="folder"),
        pytest.param(["album/a.jpg", "album/b.PNG"], {"a.jpg", "b.PNG"}, id="files"),
        pytest.param(["album/*.j*"], {"a.jpg", "c.jpeg"}, id="pattern"),
        pytest.param(["album/**/*"], {"a.jpg", "b.PNG", "c.jpeg", "d.webp"}, id="deep-pattern"),
        pytest.param(["album/deep"], {"d.webp"}, id="folder-with-one"),
        pytest.param(["album", "album/a.jpg"], {"a.jpg", "b.PNG", "c.jpeg"}, id="each-once"),
    ],
)
@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_several_targets_go_into_a_new_folder(
    fake: FakeTransport,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    targets: list[str],
    expected: set[str],
    concurrency: str,
) -> None:
    assert swap("--target", *targets, "--output", "new/out", "--json", "--concurrency", concurrency) == 0
    assert {path.name for path in (folder / "new" / "out").iterdir()} == expected
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {Path(line["output"]).name for line in lines} == expected
    assert {Path(line["target"]).name for line in lines} == expected


def test_suffix_follows_the_format(fake: FakeTransport, folder: Path) -> None:
    assert swap("--target", "album", "--output", "out", "--output-format", "jpeg") == 0
    assert {path.name for path in (folder / "out").iterdir()} == {"a.jpg", "b.jpg", "c.jpeg"}


def test_name_that_lies_about_its_format_is_corrected(fake: FakeTransport, folder: Path) -> None:
    (folder / "album" / "liar.png").write_bytes(b"jpeg really")
    assert swap("--target", "album", "--output", "out") == 0
    assert (folder / "out" / "liar.jpg").read_bytes() == b"swapped jpeg really"


def test_bad_target_does_not_stop_the_others(
    fake: FakeTransport, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "album" / "aa.jpg").write_bytes(b"bad")
    assert swap("--target", "album", "--output", "out", "--json") == 5
    assert {path.name for path in (folder / "out").iterdir()} == {"a.jpg", "b.PNG", "c.jpeg"}
    captured = capsys.readouterr()
    failures = [line for line in map(json.loads, captured.out.splitlines()) if "error" in line]
    assert failures == [
        {
            "target": "album/aa.jpg",
            "error": {
                "type": "InvalidImageError",
                "code": "invalid_image",
                "message": "the server refused the input: invalid_image: not a picture",
                "request_id": next(r.request_id for r in fake.requests if r.inputs["target_image"] == b"bad"),
            },
        }
    ]
    assert "1 of 4 targets failed" in captured.err
    assert "album/aa.jpg" in captured.err


def test_failures_for_different_reasons_exit_with_1(fake: FakeTransport, folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"bad")
    assert swap("--target", "bad.jpg", "missing.jpg", "album/a.jpg", "--output", "out") == 1
    assert (folder / "out" / "a.jpg").exists()


def test_two_targets_of_one_name_do_not_overwrite_each_other(
    fake: FakeTransport, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.jpg").write_bytes(b"jpeg other")
    assert swap("--target", "album/a.jpg", "a.jpg", "--output", "out") == 2
    assert (folder / "out" / "a.jpg").read_bytes() == b"swapped jpeg a"
    assert "was already written for another target" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "output"),
    [
        pytest.param("album/a.jpg", "album/a.jpg", id="target"),
        pytest.param("album/a.jpg", "source.jpg", id="source"),
        pytest.param("album/a.jpg", "album/deep/../a.jpg", id="other-spelling"),
        pytest.param("album/*.jpg", "album", id="batch"),
    ],
)
def test_inputs_are_not_overwritten_unless_forced(
    fake: FakeTransport, folder: Path, capsys: pytest.CaptureFixture[str], target: str, output: str
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert swap("--target", target, "--output", output) == 2
    assert "use --force" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert fake.requests == []
    assert swap("--target", target, "--output", output, "--force") == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} != before


@pytest.mark.parametrize("target", ["nothing/*.jpg", "empty", "missing.jpg"])
def test_target_that_stands_for_no_picture_is_a_usage_error(
    fake: FakeTransport, folder: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    (folder / "empty").mkdir()
    assert swap("--target", target, "--output", "out.jpg") == 2
    assert target in capsys.readouterr().err
    assert not (folder / "out.jpg").exists()


def test_missing_source_is_found_before_anything_is_sent(fake: FakeTransport, folder: Path) -> None:
    assert main(["swap", "--source", "no.jpg", "--target", "album", "--output", "out"]) == 2
    assert fake.calls == []


def test_output_that_cannot_be_made_is_a_usage_error(
    fake: FakeTransport, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swap("--target", "album", "--output", "source.jpg") == 2
    assert "cannot make the folder source.jpg" in capsys.readouterr().err
    assert swap("--target", "album/a.jpg", "--output", "nowhere/out.jpg") == 2
    assert "cannot write nowhere/out.jpg" in capsys.readouterr().err


def test_every_format_of_the_contract_has_a_suffix() -> None:
    assert SUFFIXES.keys() == set(IMAGE_FORMATS)


@pytest.fixture
def twins(fake: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fake server's stages be twins."""

    def answer(request: FakeRequest) -> Tensors:
        outputs = answer_in_format(request)
        report = json.loads(outputs["report"][0]) | {"twins": ["face_detector 2", "face_swapper 3"], "more": {}}
        return {**outputs, "report": np.array([json.dumps(report).encode()], np.object_)}

    monkeypatch.setattr(client_module, "make_transport", lambda endpoint: FakeTransport(answer))


TWIN_WARNING = (
    "warning: face_detector 2, face_swapper 3: twins with random weights on the server; the picture means nothing\n"
)


@pytest.mark.usefixtures("twins")
def test_pictures_of_twins_come_with_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert swap("--target", "album/a.jpg", "--output", "out.jpg", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["twins"] == ["face_detector 2", "face_swapper 3"]
    assert captured.err == TWIN_WARNING


@pytest.mark.usefixtures("twins")
def test_warning_of_twins_comes_once_for_many_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert swap("--target", "album", "--output", "out") == 0
    assert capsys.readouterr().err == TWIN_WARNING


@pytest.mark.parametrize("value", [None, 3, "face_detector 2", {}])
def test_twins_that_are_no_list_are_not_believed(value: object) -> None:
    outputs = swap_answer(b"a picture")
    report = json.loads(outputs["report"][0]) | {"twins": value}
    outputs["report"] = np.array([json.dumps(report).encode()], np.object_)
    assert parse_swap(outputs, url="", model="face_swap").twins == ()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "visible"), [(Terminal, True), (io.StringIO, False)], ids=["terminal", "pipe"])
def test_progress_is_drawn_on_terminals_only(stream: Callable[[], io.StringIO], visible: bool) -> None:
    screen = stream()
    progress = Progress(2, screen)
    progress.advance()
    assert (f"[{'#' * 15}{'.' * 15}] 1/2" in screen.getvalue()) is visible
    assert bool(screen.getvalue()) is visible


def test_client_that_is_used_by_several_threads_sees_each_target_once(fake: FakeTransport, folder: Path) -> None:
    fake.handler = answer_all
    for number in range(20):
        (folder / "album" / f"{number}.jpg").write_bytes(b"jpeg %d" % number)
    assert swap("--target", "album/[0-9]*.jpg", "--output", "out", "--concurrency", "4") == 0
    assert sorted(request.inputs["target_image"] for request in fake.requests) == sorted(
        b"jpeg %d" % number for number in range(20)
    )
