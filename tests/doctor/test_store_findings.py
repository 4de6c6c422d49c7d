"""The doctor finds in a store what it finds in the archive that it was built from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets import StoreBuilder, TrajectoryStore, build_store
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.doctor import Diagnosis, examine, examine_store
from iltools_datasets.doctor.examine import evenly_spread
from iltools_datasets.errors import ArgumentError, NotAnIntegerError
from test_doctor import ATTRIBUTES, sound_motion


def places(diagnosis: Diagnosis) -> list[tuple[Any, ...]]:
    return [(found.check, found.clip, found.key, found.frame) for found in diagnosis.findings]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    flipped, fast, leaps = sound_motion(1), sound_motion(2), sound_motion(3)
    flipped["qpos"][40:, 3:7] *= -1
    fast["qvel"][:, 8] *= 2
    leaps["qpos"][70:, 9] += 3
    clips = {"sound": sound_motion(), "flipped": flipped, "fast": fast, "leaps": leaps}
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        for name, arrays in clips.items():
            writer.add("lab", "walk", name, arrays, {**ATTRIBUTES, "fps": 50.0 if name != "leaps" else 25.0})
    return tmp_path / "a.zarr"


@pytest.mark.parametrize("float_dtype", [None, "float32"])
def test_the_same_is_found(archive: Path, tmp_path: Path, float_dtype: str | None) -> None:
    path, _ = build_store(archive, tmp_path / "store", float_dtype=float_dtype)
    of_archive, of_store = examine(archive), examine_store(TrajectoryStore.open(path))
    assert places(of_store) == places(of_archive)
    assert {check for check, *_ in places(of_archive)} >= {"quaternion", "velocity", "jump", "rate"}
    assert (of_store.num_clips, of_store.num_states) == (of_archive.num_clips, of_archive.num_states)


def test_a_nan_in_a_store(tmp_path: Path) -> None:
    states = {"joint_pos": np.zeros((9, 2), np.float32)}
    broken = {"joint_pos": np.zeros((9, 2), np.float32)}
    broken["joint_pos"][5, 1] = np.inf
    with StoreBuilder(tmp_path / "store") as builder:
        builder.add(0, 0, states, {"action": np.zeros((8, 1))}, name="a")
        builder.add(0, 1, broken, {"action": np.full((8, 1), np.nan)}, name="b")
    found = examine_store(TrajectoryStore.open(tmp_path / "store"))
    assert [place[:1] + place[2:] for place in places(found)] == [("value", "joint_pos", 5), ("value", "action", 0)]
    assert all(place[1].endswith("/b") for place in places(found))


def test_some_clips_stand_for_all(archive: Path, tmp_path: Path) -> None:
    path, _ = build_store(archive, tmp_path / "store")
    for diagnosis in (examine(archive, most=2), examine_store(TrajectoryStore.open(path), most=2)):
        assert diagnosis.num_clips == 2
        assert any("2 of 4 clips, evenly spread, were looked at" in note for note in diagnosis.notes)
        assert {clip for check, clip, *_ in places(diagnosis) if check != "rate"} <= {"lab/walk/fast", "lab/walk/sound"}
    with pytest.raises(ArgumentError, match="at least 1"):
        examine(archive, most=0)
    with pytest.raises(NotAnIntegerError, match="most: expected an integer"):
        examine(archive, most=2.5)  # type: ignore[arg-type]


def test_evenly_spread() -> None:
    assert evenly_spread(0, 3) == []
    assert evenly_spread(3, None) == [0, 1, 2]
    for count in (1, 2, 7, 100, 20_000):
        for most in (1, 2, 5, 500):
            chosen = evenly_spread(count, most)
            assert len(set(chosen)) == len(chosen) == min(count, most)
            assert set(chosen) <= set(range(count))
            if most > 1:
                assert (chosen[0], chosen[-1]) == (0, count - 1)
            assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 2 else True
