"""From an archive to a store: what arrives, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import Clip, motion_clips, write_archive
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.errors import MissingKeyError, SchemaError, SourceError, StoreExistsError
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.store.trajectory_store import TrajectoryStore

OBS_KEYS = ["qpos", "qvel"]


def export(tmp_path: Path, clips: dict[str, Clip], **options: Any) -> TrajectoryStore:
    archive = write_archive(tmp_path / "archive.zarr", clips)
    path, _ = build_store(archive, tmp_path / "store", options.pop("obs_keys", OBS_KEYS), **options)
    return TrajectoryStore.open(path)


def everything(store: TrajectoryStore) -> dict[Any, np.ndarray]:
    return store.gather(np.arange(len(store)))


def stacked(clips: dict[str, Clip], key: str, rows: slice) -> np.ndarray:
    return np.concatenate([clip[key][rows] for clip in clips.values()])


def test_transitions_equal_the_source(tmp_path: Path) -> None:
    clips = motion_clips()
    rows = everything(export(tmp_path, clips))
    for key in ("qpos", "qvel"):
        np.testing.assert_array_equal(rows[key], stacked(clips, key, slice(None, -1)).astype(np.float32))
        np.testing.assert_array_equal(rows["next", key], stacked(clips, key, slice(1, None)).astype(np.float32))
    np.testing.assert_array_equal(rows["action"], stacked(clips, "action", slice(None, -1)).astype(np.float32))
    np.testing.assert_array_equal(rows["observation"], np.concatenate([rows["qpos"], rows["qvel"]], axis=1))
    np.testing.assert_array_equal(
        rows["next", "observation"], np.concatenate([rows["next", "qpos"], rows["next", "qvel"]], axis=1)
    )


def test_tasks_and_trajectories_are_numbered_in_natural_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["b/walk/traj10", "b/walk/traj2", "a/walk10/x", "a/walk2/x"]
    clips = {name: {"qpos": rng.standard_normal((length, 1))} for length, name in enumerate(names, start=2)}
    store = export(tmp_path, clips, obs_keys=["qpos"])
    found = {
        (segment.task_id, segment.traj_id): (store.task_names[segment.task_id], store.trajectory_name(position))
        for position, segment in enumerate(store.segments)
    }
    assert found == {
        (0, 0): ("a/walk2", "x"),
        (1, 0): ("a/walk10", "x"),
        (2, 0): ("b/walk", "traj2"),
        (2, 1): ("b/walk", "traj10"),
    }


def test_nothing_is_stored_twice(tmp_path: Path) -> None:
    clips = motion_clips(lengths=(400, 900))
    store = export(tmp_path, clips)
    raw = sum(array.astype(np.float32).nbytes for clip in clips.values() for array in clip.values())
    columns = sum(file.stat().st_size for file in store.data_dir.rglob("*.memmap"))
    assert columns <= 1.05 * raw


@pytest.mark.parametrize("obs_keys", [["qpos"], ["qvel", "qpos"], ["image", "qpos"]])
def test_concatenation_flattens_in_the_order_asked_for(tmp_path: Path, obs_keys: list[str]) -> None:
    clips = motion_clips()
    rng = np.random.default_rng(1)
    clips = {
        name: {**clip, "image": rng.integers(0, 256, (len(clip["qpos"]), 2, 3), dtype=np.uint8)}
        for name, clip in clips.items()
    }
    rows = everything(export(tmp_path, clips, obs_keys=obs_keys, concat_obs_to_key="policy"))
    expected = np.concatenate([rows[key].reshape(len(rows[key]), -1).astype(np.float32) for key in obs_keys], axis=1)
    np.testing.assert_array_equal(rows["policy"], expected)
    assert rows["image"].dtype == np.uint8
    assert rows["image"].shape[1:] == (2, 3)


def test_an_array_called_like_the_concatenation_may_be_the_observation_itself(tmp_path: Path) -> None:
    clips = {"a/b/c": {"observation": np.arange(6.0).reshape(3, 2)}}
    rows = everything(export(tmp_path, clips, obs_keys=["observation"]))
    np.testing.assert_array_equal(rows["observation"], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(rows["next", "observation"], [[2, 3], [4, 5]])


def test_an_array_obs_gets_another_name(tmp_path: Path) -> None:
    clips = {name: {**clip, "obs": clip["qpos"] + 1} for name, clip in motion_clips().items()}
    rows = everything(export(tmp_path, clips))
    np.testing.assert_array_equal(rows["lmj_observation"], stacked(clips, "obs", slice(None, -1)).astype(np.float32))
    assert ("next", "lmj_observation") in rows
    assert "obs" not in rows


def test_an_array_obs_can_be_the_observation(tmp_path: Path) -> None:
    clips = {name: {"obs": clip["qpos"], "qvel": clip["qvel"]} for name, clip in motion_clips().items()}
    rows = everything(export(tmp_path, clips, obs_keys=["qvel", "obs"]))
    np.testing.assert_array_equal(rows["lmj_observation"], stacked(clips, "obs", slice(None, -1)).astype(np.float32))
    np.testing.assert_array_equal(rows["observation"], np.concatenate([rows["qvel"], rows["lmj_observation"]], axis=1))


def test_other_names_for_the_observations(tmp_path: Path) -> None:
    clips = {name: {**clip, "obs": clip["qpos"] + 1} for name, clip in motion_clips().items()}
    store = export(tmp_path, clips, original_obs_td_key="raw", concat_obs_to_key=None)
    assert "raw" in store.keys
    assert "observation" not in store.keys


# Actions


@pytest.mark.parametrize("name", ["action", "actions"])
@pytest.mark.parametrize("rows_missing", [0, 1])
def test_the_action_is_found(tmp_path: Path, name: str, rows_missing: int) -> None:
    clips = {
        path: {"qpos": clip["qpos"], name: clip["action"][: len(clip["action"]) - rows_missing]}
        for path, clip in motion_clips().items()
    }
    rows = everything(export(tmp_path, clips, obs_keys=["qpos"]))
    expected = np.concatenate([clip[name][: len(clip["qpos"]) - 1] for clip in clips.values()])
    np.testing.assert_array_equal(rows["action"], expected.astype(np.float32))
    assert ("next", "action") not in rows
    assert "actions" not in rows


def test_both_action_and_actions_is_an_error_unless_one_is_named(tmp_path: Path) -> None:
    clips = {name: {**clip, "actions": clip["action"] + 1} for name, clip in motion_clips().items()}
    with pytest.raises(SchemaError, match=r"lab/run/traj0.*both 'action' and 'actions'"):
        export(tmp_path, clips)
    rows = everything(export(tmp_path, clips, act_key="actions"))
    np.testing.assert_array_equal(rows["action"], stacked(clips, "actions", slice(None, -1)).astype(np.float32))


@pytest.mark.parametrize("act_key", [None, "action"])
def test_an_archive_without_action_gets_zeros(tmp_path: Path, act_key: str | None) -> None:
    clips = {name: {"qpos": clip["qpos"]} for name, clip in motion_clips().items()}
    archive = write_archive(tmp_path / "archive.zarr", clips)
    path, report = build_store(archive, tmp_path / "store", ["qpos"], act_key=act_key)
    store = TrajectoryStore.open(path)
    np.testing.assert_array_equal(everything(store)["action"], np.zeros((len(store), 1), np.float32))
    assert report.zero_action
    assert "no action" in str(report)


def test_a_name_of_ones_own_must_exist(tmp_path: Path) -> None:
    with pytest.raises(MissingKeyError, match=r"archive\.zarr.*lab/run/traj0.*'ctrl'"):
        export(tmp_path, motion_clips(), act_key="ctrl")
    assert not (tmp_path / "store").exists()


def test_an_action_in_some_trajectories_only_is_an_error(tmp_path: Path) -> None:
    clips = motion_clips()
    del clips["lab/walk/traj1"]["action"]  # type: ignore[attr-defined]
    with pytest.raises(MissingKeyError, match=r"lab/walk/traj1.*'action'"):
        export(tmp_path, clips)


# Flags


def flags_of(store: TrajectoryStore) -> dict[str, list[int]]:
    rows = everything(store)
    for key in ("terminated", "truncated"):
        if key in rows:
            np.testing.assert_array_equal(rows[key], rows["next", key])
    named = {key[1]: value for key, value in rows.items() if key[0] == "next" and value.dtype == bool}
    for value in named.values():
        assert value.shape == (len(store), 1)
    return {key: np.flatnonzero(value).tolist() for key, value in named.items()}


def test_without_flags_the_last_transition_is_terminated(tmp_path: Path) -> None:
    store = export(tmp_path, motion_clips(lengths=(5, 9)))
    ends = [3, 11, 15, 23]
    assert flags_of(store) == {"terminated": ends, "done": ends}


def test_nothing_is_inferred_when_not_wanted(tmp_path: Path) -> None:
    assert flags_of(export(tmp_path, motion_clips(), infer_terminated_if_missing=False)) == {}


def test_truncated_is_there_when_asked_for(tmp_path: Path) -> None:
    store = export(tmp_path, motion_clips(lengths=(5, 9)), include_truncated=True)
    ends = [3, 11, 15, 23]
    assert flags_of(store) == {"terminated": ends, "truncated": [], "done": ends}


def test_flags_can_be_left_out(tmp_path: Path) -> None:
    clips = {name: {**clip, "done": np.zeros(len(clip["qpos"]), bool)} for name, clip in motion_clips().items()}
    store = export(tmp_path, clips, include_terminated=False, include_truncated=False)
    assert flags_of(store) == {}
    assert "done" not in store.keys


@pytest.mark.parametrize("terminated", ["terminated", "done"])
@pytest.mark.parametrize("truncated", ["truncated", "absorbing"])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32])
def test_flags_per_state_belong_to_the_state_a_transition_leads_to(
    tmp_path: Path, terminated: str, truncated: str, dtype: Any
) -> None:
    clip = {
        "qpos": np.zeros((5, 1)),
        terminated: np.array([1, 0, 1, 0, 0], dtype),
        truncated: np.array([0, 1, 0, 0, 0], dtype)[:, None],
    }
    store = export(tmp_path, {"a/b/c": clip}, obs_keys=["qpos"])
    assert flags_of(store) == {"terminated": [1], "truncated": [0], "done": [0, 1, 3]}


def test_flags_per_transition_are_taken_as_they_are(tmp_path: Path) -> None:
    clip = {"qpos": np.zeros((4, 1)), "terminated": np.array([1, 0, 0], bool), "truncated": np.array([0, 0, 1], bool)}
    store = export(tmp_path, {"a/b/c": clip}, obs_keys=["qpos"])
    assert flags_of(store) == {"terminated": [0], "truncated": [2], "done": [0, 2]}


def test_only_trajectories_without_a_flag_are_inferred(tmp_path: Path) -> None:
    clips = {
        "a/b/c": {"qpos": np.zeros((3, 1)), "terminated": np.zeros(3, bool)},
        "a/b/d": {"qpos": np.zeros((3, 1))},
    }
    archive = write_archive(tmp_path / "archive.zarr", clips)
    path, report = build_store(archive, tmp_path / "store", ["qpos"])
    assert flags_of(TrajectoryStore.open(path)) == {"terminated": [3], "done": [1, 3]}
    assert report.inferred_terminated == 1


def test_a_flag_that_is_neither_0_nor_1_is_refused(tmp_path: Path) -> None:
    clip = {"qpos": np.zeros((4, 1)), "done": np.array([0, 1, 7, 0])}
    with pytest.raises(SourceError, match=r"a/b/c, key 'done', row 2.*7"):
        export(tmp_path, {"a/b/c": clip}, obs_keys=["qpos"])


def test_a_truncated_flag_in_some_trajectories_only(tmp_path: Path) -> None:
    clips = {
        "a/b/c": {"qpos": np.zeros((3, 1)), "truncated": np.zeros(3, bool)},
        "a/b/d": {"qpos": np.zeros((3, 1))},
    }
    with pytest.raises(MissingKeyError, match=r"a/b/d.*'truncated'"):
        export(tmp_path, clips, obs_keys=["qpos"])
    assert "truncated" not in flags_of(export(tmp_path, clips, obs_keys=["qpos"], strict=False))


# Values and dtypes


@pytest.mark.parametrize(
    ("dtype", "float_dtype", "expected"),
    [
        ("float64", "float32", "float32"),
        ("float64", None, "float64"),
        ("float64", "float16", "float16"),
        ("float16", "float32", "float16"),
        ("float32", "float32", "float32"),
        ("int64", "float32", "int64"),
        ("uint8", "float32", "uint8"),
        ("bool", "float32", "bool"),
        (">f4", "float32", "float32"),
        (">i4", "float32", "int32"),
    ],
)
def test_dtypes(tmp_path: Path, dtype: str, float_dtype: str | None, expected: str) -> None:
    values = np.array([0, 1, 0, 1, 1], dtype)
    clip = {"qpos": np.zeros((5, 1)), "x": values}
    archive = write_archive(tmp_path / "archive.zarr", {"a/b/c": clip}, zarr_format=2)
    path, _ = build_store(archive, tmp_path / "store", ["qpos"], float_dtype=float_dtype)
    store = TrajectoryStore.open(path)
    assert store.dtype("x") == np.dtype(expected)
    np.testing.assert_array_equal(everything(store)["x"], values[:-1].astype(expected))


def test_large_integers_stay_exact(tmp_path: Path) -> None:
    clip = {"qpos": np.zeros((3, 1)), "frame": np.array([2**24 + 1, 2**53 + 1, 0])}
    store = export(tmp_path, {"a/b/c": clip}, obs_keys=["qpos"])
    np.testing.assert_array_equal(everything(store)["frame"], [2**24 + 1, 2**53 + 1])


def test_an_integer_that_the_concatenation_cannot_hold_is_refused(tmp_path: Path) -> None:
    clip = {"qpos": np.zeros((3, 1), np.float32), "frame": np.array([1, 2**24 + 1, 0])}
    with pytest.raises(SourceError, match=r"a/b/c, key 'frame', row 1: 16777217 has no exact float32"):
        export(tmp_path, {"a/b/c": clip}, obs_keys=["qpos", "frame"])


def bad_clips(value: float) -> dict[str, Clip]:
    clips = motion_clips()
    clips["lab/walk/traj1"]["qvel"][6, 2] = value
    return clips


def test_nan_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"archive\.zarr: trajectory lab/walk/traj1, key 'qvel', row 6: nan"):
        export(tmp_path, bad_clips(np.nan))
    assert not (tmp_path / "store").exists()


def test_nan_is_kept_when_asked_for(tmp_path: Path) -> None:
    clips = bad_clips(np.nan)
    rows = everything(export(tmp_path, clips, on_nan="keep"))
    np.testing.assert_array_equal(rows["qvel"], stacked(clips, "qvel", slice(None, -1)).astype(np.float32))


@pytest.mark.parametrize("on_nan", ["error", "keep"])
@pytest.mark.parametrize("value", [1e300, -1e300])
def test_a_value_that_does_not_fit_is_refused_by_name(tmp_path: Path, on_nan: str, value: float) -> None:
    with pytest.raises(SourceError, match=r"lab/walk/traj1, key 'qvel', row 6: -?1e\+300 does not fit float32"):
        export(tmp_path, bad_clips(value), on_nan=on_nan)
    assert everything(export(tmp_path, bad_clips(value), float_dtype=None))["qvel"].dtype == np.float64


def test_infinity_is_a_value(tmp_path: Path) -> None:
    assert np.isinf(everything(export(tmp_path, bad_clips(np.inf)))["qvel"]).sum() == 1


def test_nan_in_the_action_of_the_last_state_does_not_matter(tmp_path: Path) -> None:
    clips = motion_clips()
    for clip in clips.values():
        clip["action"][-1] = np.nan
    assert np.isfinite(everything(export(tmp_path, clips))["action"]).all()


# Trajectories that differ


def broken(key: str, array: np.ndarray | None) -> dict[str, Clip]:
    clips = motion_clips()
    clip = dict(clips["lab/walk/traj1"])
    if array is None:
        del clip[key]
    else:
        clip[key] = array
    return {**clips, "lab/walk/traj1": clip}


@pytest.mark.parametrize(
    ("clips", "error", "message"),
    [
        (broken("qvel", None), MissingKeyError, r"lab/walk/traj1.*'qvel'"),
        (broken("qvel", np.zeros((9, 5))), SchemaError, r"lab/walk/traj1, key 'qvel': expected.*\[3\].*\[5\]"),
        (broken("qvel", np.zeros((9, 3), np.float32)), SchemaError, r"lab/walk/traj1, key 'qvel'.*float64.*float32"),
        (broken("qvel", np.zeros((8, 3))), SchemaError, r"lab/walk/traj1.*'qvel'.*8.*9"),
        (broken("action", np.zeros((9, 3))), SchemaError, r"lab/walk/traj1, key 'action'.*\[2\].*\[3\]"),
        (broken("extra", np.zeros((9, 3))), MissingKeyError, r"lab/run/traj0.*'extra'"),
    ],
)
def test_a_trajectory_that_differs_is_an_error(
    tmp_path: Path, clips: dict[str, Clip], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        export(tmp_path, clips)
    assert "archive.zarr" in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "clips", [broken("qvel", None), broken("qvel", np.zeros((9, 5))), broken("action", np.zeros((9, 3)))]
)
def test_it_is_skipped_when_not_strict(tmp_path: Path, clips: dict[str, Clip]) -> None:
    archive = write_archive(tmp_path / "archive.zarr", clips)
    _, report = build_store(archive, tmp_path / "store", OBS_KEYS, strict=False)
    assert [entry.name for entry in report.skipped] == ["lab/walk/traj1"]
    assert report.num_trajectories == 5


def test_a_further_key_that_not_all_have_is_left_out_when_not_strict(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive.zarr", broken("extra", np.zeros((9, 3))))
    path, report = build_store(archive, tmp_path / "store", OBS_KEYS, strict=False)
    assert "extra" in report.dropped_keys
    assert "extra" not in TrajectoryStore.open(path).keys
    assert report.num_trajectories == 6


def test_keys_can_be_excluded(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive.zarr", broken("extra", np.zeros((9, 3))))
    path, report = build_store(archive, tmp_path / "store", OBS_KEYS, exclude_keys=["extra"])
    assert "extra" not in TrajectoryStore.open(path).keys
    assert report.dropped_keys == {"extra": "named in exclude_keys"}


def test_trajectories_of_one_state_are_skipped_and_named(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive.zarr", motion_clips(lengths=(5, 1, 2)))
    path, report = build_store(archive, tmp_path / "store", OBS_KEYS)
    assert [entry.name for entry in report.skipped] == ["lab/run/traj1", "lab/walk/traj1"]
    store = TrajectoryStore.open(path)
    assert [(segment.traj_id, segment.length) for segment in store.segments] == [(0, 4), (2, 1), (0, 4), (2, 1)]


def test_no_trajectory_with_two_states_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"archive\.zarr.*two states"):
        export(tmp_path, motion_clips(lengths=(1, 1)))
    assert not (tmp_path / "store").exists()


def test_names_that_collide_are_an_error(tmp_path: Path) -> None:
    clips = {name: {**clip, "observation": clip["qpos"]} for name, clip in motion_clips().items()}
    with pytest.raises(SchemaError, match=r"'observation'.*exclude_keys"):
        export(tmp_path, clips)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obs_keys": []}, "obs_keys is empty"),
        ({"obs_keys": ["qpos", "qpos"]}, "twice"),
        ({"on_nan": "drop"}, "on_nan"),
        ({"float_dtype": "int8"}, "float_dtype"),
        ({"exclude_keys": ["qpos"]}, "exclude_keys"),
    ],
)
def test_impossible_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export(tmp_path, motion_clips(), **options)


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.zarr"):
        build_store(tmp_path / "nowhere.zarr", tmp_path / "store", OBS_KEYS)
    assert not (tmp_path / "store").exists()


# The store


def test_a_store_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    store = export(tmp_path, motion_clips())
    before = everything(store)
    with pytest.raises(StoreExistsError, match=r"store"):
        export(tmp_path, motion_clips(seed=1))
    assert TrajectoryStore.open(store.path).uuid == store.uuid
    replaced = export(tmp_path, motion_clips(seed=1), overwrite=True)
    assert not np.array_equal(everything(replaced)["qpos"], before["qpos"])


def test_a_failed_build_leaves_the_old_store(tmp_path: Path) -> None:
    store = export(tmp_path, motion_clips())
    with pytest.raises(SourceError):
        export(tmp_path, bad_clips(np.nan), overwrite=True)
    assert TrajectoryStore.open(store.path).uuid == store.uuid
    assert len(list(store.path.glob("data-*"))) == 1


def test_the_report_is_json(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive.zarr", motion_clips(lengths=(5, 1)))
    _, report = build_store(archive, tmp_path / "store", OBS_KEYS)
    document = json.loads(json.dumps(report.as_dict()))
    assert document["num_transitions"] == 8
    assert document["skipped"][0]["name"] == "lab/run/traj1"
    assert "lab/run/traj1" in str(report)


def test_it_loads_neither_torch_nor_jax() -> None:
    code = (
        "import sys, iltools_datasets.ingest.from_archive\n"
        "sys.exit(' '.join(m for m in ('torch', 'jax') if m in sys.modules) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    widths=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_any_archive_arrives(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], widths: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keys = [f"part{number}" for number in range(len(widths))]
    clips = {
        f"s/m{number % 2}/t{number}": {
            key: rng.standard_normal((length, width)).astype(np.float32)
            for key, width in zip(keys, widths, strict=True)
        }
        for number, length in enumerate(lengths)
    }
    kept = {name: clip for name, clip in sorted(clips.items()) if len(clip["part0"]) > 1}
    tmp_path = tmp_path_factory.mktemp("archive")
    if not kept:
        with pytest.raises(SourceError):
            export(tmp_path, clips, obs_keys=keys)
        return
    rows = everything(export(tmp_path, clips, obs_keys=keys))
    for offset, prefix in ((0, ()), (1, ("next",))):
        for key in keys:
            expected = np.concatenate([clip[key][offset : len(clip[key]) - 1 + offset] for clip in kept.values()])
            np.testing.assert_array_equal(rows[(*prefix, key) if prefix else key], expected)
        whole = np.concatenate([rows[(*prefix, key) if prefix else key] for key in keys], axis=1)
        np.testing.assert_array_equal(rows[(*prefix, "observation") if prefix else "observation"], whole)
