"""Arguments of ``warmswap bench``, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmswap_client.cli import main


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["detect"],  # --published is missing
        ["batching", "--embedder-batch", "0"],
        ["paste", "--rounds", "few"],
        ["on-demand", "--cycles", "0"],
        ["cold", "--rate", "0"],
        ["cold", "--rate", "-2"],
        ["cold", "--rate", "nan"],
        ["cold", "--seconds", "0"],
        ["cold", "--runs", "0"],
        ["cold", "--pack", "closed"],
        ["cold", "--page-cache", "hot"],
        ["soak", "--minutes", "0"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    assert caught.value.code == 2
    assert "usage: warmswap bench" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["batching", "--repository", "nowhere"], "nowhere has no face_embedder"),
        (["detect", "--repository", "nowhere", "--published", "det_10g.onnx"], "nowhere has no face_detector"),
        (["detector", "--repository", "nowhere"], "nowhere has no face_detector"),
        (["paste", "--examples", "nowhere"], "nowhere"),
        (["on-demand", "--repository", "nowhere"], "nowhere has no face_swapper_512"),
        (["cold", "--repository", "nowhere"], "nowhere is no repository of the pack open (no face_detector)"),
        (
            ["cold", "--pack", "twin"],
            "out/twins/repository is no repository of the pack twin (no face_detector): make twins",
        ),
        (["cold", "--contender", "nothing", "--repository", "nowhere"], "nowhere"),
        (["cold", "--redraw", "--out", "nowhere"], "nowhere/results.json"),
        (["cold", "--redraw"], "--redraw needs --out"),
        (["soak", "--repository", "nowhere"], "nowhere"),
    ],
)
def test_what_is_missing_is_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments, "--json"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert named in json.loads(lines[-1])["error"]["message"]
