"""What the doctor mends: what was sound before the fault is sound after it, and all else stays to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.doctor import examine, fix_archive
from iltools_datasets.errors import ArchiveExistsError, ArgumentError
from numpy.typing import NDArray
from test_doctor import ATTRIBUTES, FPS, Arrays, nan, one_wrong_velocity, sound_motion, wrong_joint_velocity


def write(path: Path, clips: dict[str, tuple[Arrays, dict[str, Any]]], layout: Any = "nested") -> Path:
    with ArchiveWriter(path, layout=layout, metadata={"name": "mine"}) as writer:
        for name, (arrays, attributes) in clips.items():
            writer.add("lab", "walk", name, arrays, attributes)
    return path


def read(path: Path, position: int = 0) -> tuple[Arrays, dict[str, Any]]:
    reader = ArchiveReader(path)
    return reader.read(reader.trajectories[position]), dict(reader.trajectories[position].attributes)


@given(seed=st.integers(0, 1000), flips=st.lists(st.integers(1, 119), min_size=1, max_size=8, unique=True))
@settings(max_examples=15, deadline=None)
def test_signs_come_back_to_the_bit(seed: int, flips: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("signs")
    sound = sound_motion(seed)
    faulty = {key: array.copy() for key, array in sound.items()}
    for frame in flips:
        faulty["qpos"][frame:, 3:7] *= -1
    path = write(place / "a.zarr", {"x": (faulty, ATTRIBUTES)})
    mended = fix_archive(path, place / "b.zarr")
    arrays, attributes = read(place / "b.zarr")
    assert all(np.array_equal(arrays[key], sound[key]) for key in sound)
    assert examine(place / "b.zarr").findings == []
    (change,) = mended.changes
    assert f"flipped {len(flips)} times" in change.message
    assert attributes == {**ATTRIBUTES, "doctor": [f"qpos: {change.message}"]}


@pytest.mark.parametrize("fault", [wrong_joint_velocity, one_wrong_velocity])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_the_columns_that_are_wrong_are_made_anew(
    tmp_path: Path, fault: Callable[[Arrays], None], dtype: Any
) -> None:
    sound = {key: array.astype(dtype) for key, array in sound_motion(1).items()}
    faulty = {key: array.copy() for key, array in sound.items()}
    fault(faulty)
    column = int(np.argwhere((faulty["qvel"] != sound["qvel"]).any(axis=0))[0, 0])
    path = write(tmp_path / "a.zarr", {"x": (faulty, ATTRIBUTES)})
    mended = fix_archive(path, tmp_path / "b.zarr")
    arrays, _ = read(tmp_path / "b.zarr")
    others = np.arange(sound["qvel"].shape[1]) != column
    assert np.array_equal(arrays["qvel"][:, others], sound["qvel"][:, others])
    assert np.array_equal(arrays["qpos"], sound["qpos"])
    assert arrays["qvel"].dtype == dtype
    expected = np.gradient(sound["qpos"][:, column + 1].astype(np.float64), 1 / FPS)
    np.testing.assert_allclose(arrays["qvel"][:, column], expected, rtol=1e-5, atol=1e-5)
    assert [(change.key, change.message) for change in mended.changes] == [
        ("qvel", "1 columns are differences of qpos at 50 Hz")
    ]
    assert examine(tmp_path / "b.zarr").findings == []


def test_angular_velocities_are_in_the_frame_of_their_key(tmp_path: Path) -> None:
    rotation = pytest.importorskip("scipy.spatial.transform", reason="scipy is the oracle here").Rotation
    time = np.arange(200) / FPS
    angles = np.stack([1.1 * np.sin(time), 0.7 * np.cos(1.3 * time), 0.5 * np.sin(0.7 * time + 1)], axis=1)
    turns = rotation.from_euler("xyz", angles)
    xyzw = turns.as_quat()
    world = ((turns[2:] * turns[:-2].inv()).as_rotvec()) * FPS / 2
    body = turns[1:-1].inv().apply(world)
    root = np.zeros((200, 3))
    qpos = np.concatenate([root, xyzw[:, [3, 0, 1, 2]], np.sin(time)[:, None]], axis=1)
    junk = np.full((200, 3), 40.0)
    bodies = {"body_quat_w": xyzw[:, None], "body_ang_vel_w": junk[:, None]}
    free = {"qpos": qpos, "qvel": np.concatenate([root, junk, np.cos(time)[:, None]], axis=1)}
    order = {"fps": FPS, "quaternion_order": "xyzw", "quaternions": {"body_quat_w": [0]}}
    path = write(tmp_path / "a.zarr", {"x": (bodies, order), "y": (free, {"fps": FPS})})
    fix_archive(path, tmp_path / "b.zarr")
    # The axis turns a little between two frames, and the two are told apart by far more.
    np.testing.assert_allclose(read(tmp_path / "b.zarr", 0)[0]["body_ang_vel_w"][1:-1, 0], world, atol=2e-3)
    np.testing.assert_allclose(read(tmp_path / "b.zarr", 1)[0]["qvel"][1:-1, 3:6], body, atol=2e-3)
    assert np.abs(world - body).max() > 0.5
    np.testing.assert_array_equal(read(tmp_path / "b.zarr", 1)[0]["qvel"][:, 6], np.cos(time))


@pytest.mark.parametrize(
    ("declared", "expected"),
    [({"fps": 25.0}, {"fps": 50.0}), ({"frequency": 25.0, "dt": 0.04}, {"frequency": 50.0, "dt": 0.02})],
)
def test_a_rate_that_nothing_fits_becomes_the_one_that_does(
    tmp_path: Path, declared: dict[str, float], expected: dict[str, float]
) -> None:
    path = write(tmp_path / "a.zarr", {"x": (sound_motion(1), declared)})
    mended = fix_archive(path, tmp_path / "b.zarr")
    arrays, attributes = read(tmp_path / "b.zarr")
    assert all(np.array_equal(arrays[key], array) for key, array in sound_motion(1).items())
    assert {name: attributes[name] for name in expected} == expected
    assert [change.message for change in mended.changes] == [
        "declares 50 frames per second, which the velocities fit; it declared 25"
    ]


def test_a_rate_that_is_told_counts_and_velocities_follow(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", {"x": (sound_motion(1), ATTRIBUTES)})
    fix_archive(path, tmp_path / "b.zarr", fps=100.0)
    arrays, attributes = read(tmp_path / "b.zarr")
    assert attributes["fps"] == 100.0
    np.testing.assert_allclose(arrays["qvel"][:, 8], np.gradient(sound_motion(1)["qpos"][:, 9], 0.01), atol=1e-9)
    assert examine(tmp_path / "b.zarr").findings == []
    with pytest.raises(ArgumentError, match="fps"):
        fix_archive(path, tmp_path / "c.zarr", fps=0.0)


@pytest.mark.parametrize("layout", ["nested", "packed"])
def test_sound_clips_are_as_they_were_and_what_cannot_be_computed_is_left(tmp_path: Path, layout: str) -> None:
    faulty = sound_motion(2)
    nan(faulty)
    images: dict[str, NDArray[Any]] = {**sound_motion(3)}
    clips = {"x": (sound_motion(1), ATTRIBUTES), "y": (faulty, ATTRIBUTES), "z": (images, ATTRIBUTES)}
    images["qvel"][:, 8] *= -1
    path = write(tmp_path / "a.zarr", clips, layout)
    mended = fix_archive(path, tmp_path / "b.zarr")
    assert {change.clip for change in mended.changes} == {"lab/walk/z"}
    for position, (arrays, attributes) in enumerate(list(clips.values())[:2]):
        found, told = read(tmp_path / "b.zarr", position)
        assert all(np.array_equal(found[key], array, equal_nan=True) for key, array in arrays.items())
        assert told == attributes
    assert {finding.check for finding in examine(tmp_path / "b.zarr").findings} == {"value"}
    assert ArchiveReader(tmp_path / "b.zarr").metadata == {"name": "mine"}
    if layout == "nested":
        chunk = "lab/walk/x/qpos/c.0.0"
        assert (tmp_path / "b.zarr" / chunk).samefile(path / chunk)
    with pytest.raises(ArchiveExistsError):
        fix_archive(path, tmp_path / "b.zarr")
    # In its own place: the old archive or the new one.
    assert fix_archive(path, path, overwrite=True).changes
    assert not fix_archive(path, path, overwrite=True).changes
