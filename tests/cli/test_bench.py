"""`iltools bench` on a small store and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torchrl", reason="needs the torch extra")
pytest.importorskip("typer", reason="needs the cli extra")

from iltools_datasets.cli import main
from iltools_datasets.replay.throughput import MODES, WINDOW
from stores import build_store, make_clips


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--seconds", "0.02", *arguments])
    return int(ended.value.code or 0)


def test_measures_every_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build_store(tmp_path / "store", make_clips([200, 90, 300]))
    assert run(str(path), "--batch-size", "8", "--batch-size", "32", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["mode"], row["batch_size"]) for row in rows] == [(mode, size) for mode in MODES for size in (8, 32)]
    for row in rows:
        assert row["rows"] == row["batch_size"] * (WINDOW if row["mode"].startswith("windows") else 1)
        assert 0 < row["p50"] <= row["p99"]
        # observation (and its parts) twice, action, and three flags of one byte.
        assert row["bytes_per_batch"] >= row["rows"] * (4 * (13 * 2 * 2 + 3) + 2)


def test_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="needs the view extra")
    path = build_store(tmp_path / "store", make_clips([200]))
    picture = tmp_path / "bench.png"
    assert run(str(path), "--batch-size", "8", "--batch-size", "16", "--plot", str(picture)) == 0
    printed = capsys.readouterr().out
    assert all(mode in printed for mode in MODES)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "nowhere")) == 2
    assert "no store here" in capsys.readouterr().err
