"""Statistics of the files: checked, merged for chosen episodes, and left out where they cannot be true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets.lerobot import LeRobotReader
from sets import VERSIONS, LeRobotSet, make_set

LENGTHS = {0: 5, 1: 3, 4: 7}


def of_rows(made: LeRobotSet, key: str, episodes: list[int]) -> dict[str, Any]:
    rows = np.concatenate([made.columns[episode][key] for episode in episodes]).astype(np.float64)
    return {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0), "count": [len(rows)]}


@pytest.mark.parametrize("version", VERSIONS)
def test_those_of_the_whole_set_and_of_chosen_episodes(version: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", version, LENGTHS)
    reader = LeRobotReader(made.root)
    for episodes in ([0, 1, 4], [4, 0], [1]):
        found = reader.statistics(None if len(episodes) == 3 else reader.choice(episodes))
        if version == "v2.0" and len(episodes) < 3:
            assert not found.of
            assert "no statistics of single episodes" in found.notes[0]
            continue
        assert found.notes == ()
        assert set(found.of) == set(made.columns[0])
        for key, stats in found.of.items():
            for name, expected in of_rows(made, key, episodes).items():
                assert stats[name].shape == np.shape(expected)
                np.testing.assert_allclose(stats[name], expected, rtol=1e-6, atol=1e-9, err_msg=f"{key} {name}")
    assert reader.stats["action"]["mean"].shape == (4,)


@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        ("action", {"mean": [0.0]}, r"mean: expected shape \[4\], found \[1\]"),
        ("action", {"std": [float("nan")] * 4}, "std is not finite"),
        ("action", {"max": [float("inf")] * 4}, "max is not finite"),
        ("action", {"std": [-1.0] * 4}, "std is negative"),
        ("action", {"min": [9.0] * 4}, "min is above max"),
        ("action", {"mean": [99.0] * 4}, "mean is not between min and max"),
        ("action", {"count": [14]}, "count is 14, there are 15 frames"),
        ("action", {"mean": ["a"] * 4}, "mean is no array of numbers"),
        ("task_index", {"max": [7], "mean": [0.5]}, "they range from 0 to 7, the rows from 0 to 1"),
        ("ghost", {"mean": [0.0]}, "no array of the set"),
    ],
)
def test_what_cannot_be_true_is_left_out_with_a_note(
    key: str, change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    made = make_set(tmp_path / "set", "v3.0", LENGTHS)
    path = made.root / "meta/stats.json"
    stats = json.loads(path.read_text())
    stats.setdefault(key, {}).update(change)
    path.write_text(json.dumps(stats))
    found = LeRobotReader(made.root).statistics()
    assert set(found.of) == set(made.columns[0]) - {key}
    (note,) = found.notes
    assert repr(key) in note
    import re

    assert re.search(reason, note)


def test_quantiles_cannot_be_merged(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)

    def add(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for line in lines:
            line["stats"]["action"]["q01"] = line["stats"]["action"]["min"]
        return lines

    made.edit_lines("episodes_stats.jsonl", add)
    reader = LeRobotReader(made.root)
    assert "q01" in reader.statistics(reader.choice([0])).of["action"]
    found = reader.statistics()
    assert "q01" not in found.of["action"]
    assert any("quantiles" in note for note in found.notes)


def test_an_episode_without_statistics(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)
    made.edit_lines("episodes_stats.jsonl", lambda lines: lines[:2])
    reader = LeRobotReader(made.root)
    assert reader.statistics(reader.choice([0, 1])).of
    assert reader.statistics().notes == ("there are no statistics of episode 4",)
