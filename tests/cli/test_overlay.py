"""`iltools view --clips`: several clips on common axes, in seconds where they say their rates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveWriter

pytest.importorskip("typer", reason="the command line needs the extra cli")

from iltools_datasets.cli.opened import open_path
from iltools_datasets.cli.overlay import chosen_clips, moving_most, scenes_of, times_of

COLUMNS = ["still", "swings", "leans"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Clips of two seconds at 50 Hz and of three at 20 Hz, one that declares no rate, and one of another robot."""
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        for name, rate, states in (("slow", 20.0, 61), ("fast", 50.0, 101), ("unrated", None, 4), ("x, y", 50.0, 9)):
            time = np.arange(states) / (rate or 1.0)
            joints = np.stack([0 * time, 5 * np.sin(time), 0.1 * time], axis=1)
            attributes = {"joint_names": COLUMNS} | ({"fps": rate} if rate else {})
            writer.add("lab", "walk", name, {"joint_pos": joints}, attributes)
        writer.add("lab", "walk", "other", {"joint_pos": np.zeros((5, 4))}, {"fps": 50.0})
    return tmp_path / "a.zarr"


def texts(picture: Path) -> list[str]:
    """What is written in a picture: matplotlib says each text of an svg in a comment."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", picture.read_text(), re.DOTALL)]


def test_a_picture_names_the_clips_and_counts_seconds(iltools: Any, archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="a picture needs the extra view")
    picture = tmp_path / "both.svg"
    outcome = iltools("view", archive, "--clips", "slow,fast", "--out", picture)
    assert outcome.code == 0, outcome.err
    said = texts(picture)
    assert said.count("time (s)") == 3
    assert {"lab/walk/slow", "lab/walk/fast", *COLUMNS} <= set(said)
    assert "3.0" in said
    assert "60" not in said, "states are not what the axis counts"
    unrated = tmp_path / "unrated.svg"
    assert iltools("view", archive, "--clips", "unrated,x, y", "--key", "joint_pos", "--out", unrated).code == 2
    assert iltools("view", archive, "--clips", "unrated,4", "--out", unrated).code == 0


def test_counts_have_no_fractions(iltools: Any, archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="a picture needs the extra view")
    for number, options in enumerate((("--clips", "unrated,slow"), ("--clip", "unrated"))):
        picture = tmp_path / f"{number}.svg"
        assert iltools("view", archive, *options, "--out", picture).code == 0
        axes = re.findall(r'id="matplotlib\.axis_\d+">(.*?)\n   </g>\n  ', picture.read_text(), re.DOTALL)
        labelled = [axis for axis in axes if "<!-- state -->" in axis or "<!-- clips -->" in axis]
        assert labelled
        for axis in labelled:
            assert not re.search(r"<!-- [^>]*\.\d+ -->", axis)


def test_the_terminal_has_one_axis_of_time(iltools: Any, archive: Path) -> None:
    outcome = iltools("view", archive, "--clips", "slow,fast", "--most", "1")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert "0 to 3.00 s" in lines[0]
    assert "lab/walk/slow, 61 states" in lines[1]
    assert "lab/walk/fast, 101 states" in lines[2]
    assert lines[3] == "swings"
    assert "2 columns more" in lines[-1]
    opened = open_path(str(archive))
    scenes = scenes_of(opened, chosen_clips(opened, "slow,fast"), None)
    times, unit = times_of(scenes)
    assert unit == "s"
    for scene, time in zip(scenes, times, strict=True):
        np.testing.assert_allclose(scene.values[:, 1], 5 * np.sin(time))
    assert moving_most(scenes, 2) == [1, 2]
    assert moving_most(scenes, 0) == [0, 1, 2]
    times, unit = times_of(scenes_of(opened, chosen_clips(opened, "slow,unrated"), None))
    assert unit == "states"
    assert [time.tolist() for time in times] == [list(range(61)), list(range(4))]


def test_json_and_names_with_commas(iltools: Any, archive: Path) -> None:
    document = iltools("view", archive, "--clips", "x, y", "--json").json
    assert [clip["clip"] for clip in document["clips"]] == ["lab/walk/x, y"]
    document = iltools("view", archive, "--clips", "fast, lab/walk/slow", "--json").json
    assert [(clip["clip"], clip["num_states"]) for clip in document["clips"]] == [
        ("lab/walk/fast", 101),
        ("lab/walk/slow", 61),
    ]
    assert "columns" not in document


@pytest.mark.parametrize(
    ("clips", "words"),
    [("fast,other", "has 4 columns"), ("fast,fast", "name one twice"), ("fast,gone", "no clip 'gone'")],
)
def test_what_cannot_be_laid_over_one_another(iltools: Any, archive: Path, clips: str, words: str) -> None:
    outcome = iltools("view", archive, "--clips", clips)
    assert outcome.code == 2
    assert words in " ".join(outcome.err.split())
