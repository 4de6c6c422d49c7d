"""Roll-outs of an expert in one npy: runs of valid rows become transitions, which stay what they were up to a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets import TrajectoryStore, build_store
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.doctor import examine
from iltools_datasets.errors import SchemaError, SourceError
from iltools_datasets.ingest.default_keys import default_obs_keys
from iltools_datasets.sources import export, open_source, open_sources, recognise

WIDTHS = {"observations": 4, "actions": 2, "action_mean": 2, "action_sigma": 2, "student_observations": 6}
STORED = {
    "observations": "observation",
    "actions": "action",
    "action_mean": "action_mean",
    "action_sigma": "action_sigma",
    "student_observations": "student_observation",
}


def rollouts(steps: int, envs: int, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(steps + 31 * envs)
    arrays = {key: rng.standard_normal((steps, envs, width), dtype=np.float32) for key, width in WIDTHS.items()}
    return {**arrays, "metadata": {"num_steps": steps * envs}, **more}


def save(path: Path, held: dict[str, Any]) -> Path:
    np.save(path, held, allow_pickle=True)  # type: ignore[arg-type]
    return path


def runs_of(mask: np.ndarray) -> list[tuple[int, list[int]]]:
    """Env and steps of each run, by walking over them one by one."""
    runs: list[tuple[int, list[int]]] = []
    for env in range(mask.shape[1]):
        before = False
        for step in range(mask.shape[0]):
            if mask[step, env]:
                if not before:
                    runs.append((env, []))
                runs[-1][1].append(step)
            before = bool(mask[step, env])
    return runs


@settings(max_examples=20)
@given(mask=st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1)))
def test_a_store_holds_the_valid_rows_as_transitions_without_a_next(tmp_path_factory: Any, mask: Any) -> None:
    place, valid = tmp_path_factory.mktemp("rolled"), np.array(mask)
    held = rollouts(*valid.shape, valid_mask=valid)
    path, runs = save(place / "expert.npy", held), runs_of(valid)
    source = open_source(path)
    if not runs:
        with pytest.raises(SourceError, match="nothing to export"):
            export(source, place / "a.zarr")
        return
    report = export(source, place / "a.zarr", layout="packed" if len(runs) > 3 else "nested")
    assert report.trajectory_lengths == [len(steps) for _, steps in runs]
    assert source.count(source.files()[0]) == len(runs)
    reader = ArchiveReader(place / "a.zarr")
    told = [(clip.attributes["env"], clip.attributes["first_step"]) for clip in reader.trajectories]
    assert told == [(env, steps[0]) for env, steps in runs]
    build_store(place / "a.zarr", place / "store", default_obs_keys(reader))
    store = TrajectoryStore.open(place / "store")
    assert store.segments.length.tolist() == [len(steps) for _, steps in runs]
    rows = store.gather(np.arange(len(store)))
    assert not [key for key in rows if isinstance(key, tuple) and key[1] not in ("terminated", "truncated", "done")]
    for key, name in STORED.items():
        expected = np.concatenate([held[key][steps, env] for env, steps in runs])
        np.testing.assert_array_equal(rows[name], expected)
        assert rows[name].dtype == np.float32
    # Nobody knows where an episode ended, and nobody is told that one did.
    assert not rows["next", "done"].any()
    assert not rows["terminated"].any()


def test_without_a_mask_and_flat(tmp_path: Path) -> None:
    for held, runs in ((rollouts(5, 3), 3), ({k: v[:, 0] for k, v in rollouts(5, 1).items() if k in WIDTHS}, 1)):
        path = save(tmp_path / f"expert{runs}.npy", held)
        assert recognise(path).format == "expert-npy"
        source = open_source(path)
        recordings = list(source.read(source.files()[0]))
        assert [recording.num_states for recording in recordings] == [5] * runs
        first = held["observations"][:, 0] if held["observations"].ndim == 3 else held["observations"]
        np.testing.assert_array_equal(recordings[0].arrays["observation"], first)


def test_options_and_what_is_left_out(tmp_path: Path) -> None:
    held = rollouts(4, 2, rewards=np.zeros((4, 2)), observations=np.ones((4, 2, 3), dtype=">f8"))
    path = save(tmp_path / "expert.npy", held)
    (source,) = open_sources([path], fps=50, skip="student_observations,action_mean")
    report = export(source, tmp_path / "a.zarr")
    assert report.notes == [f"{path}: left out 'rewards', which is none of the format's arrays"]
    clip = ArchiveReader(tmp_path / "a.zarr").trajectories[0]
    assert sorted(clip.keys) == ["action", "action_sigma", "observation"]
    assert clip.keys["observation"].dtype == np.float64
    assert clip.attributes["fps"] == 50
    needed = open_source(path, skip="actions", joint_names="hip,knee")
    recording = next(iter(needed.read(needed.files()[0])))
    assert "action" in recording.arrays
    assert recording.attributes["joint_names"] == ["hip", "knee"]
    with pytest.raises(SourceError, match="cannot be resampled: its rows are transitions"):
        export(source, tmp_path / "b.zarr", fps=25)
    assert not (tmp_path / "b.zarr").exists()


def test_observations_side_by_side_and_flags_of_another_archive(tmp_path: Path) -> None:
    export(open_source(save(tmp_path / "expert.npy", rollouts(6, 2))), tmp_path / "a.zarr")
    build_store(
        tmp_path / "a.zarr", tmp_path / "store", ["observation", "student_observation"], concat_obs_to_key="both"
    )
    store = TrajectoryStore.open(tmp_path / "store")
    rows = store.gather(np.arange(len(store)))
    np.testing.assert_array_equal(
        rows["both"], np.concatenate([rows["observation"], rows["student_observation"]], axis=1)
    )
    assert ("next", "both") not in rows
    assert not [finding for finding in examine(tmp_path / "a.zarr").findings if finding.check == "length"]


def test_states_and_transitions_are_not_one_store(tmp_path: Path) -> None:
    from iltools_datasets.archive import ArchiveWriter

    rows = {"observation": np.zeros((4, 2), np.float32), "action": np.zeros((4, 1), np.float32)}
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add("s", "m", "traj0", rows)
        writer.add("s", "m", "traj1", rows, {"rows": "transitions"})
    with pytest.raises(
        SchemaError, match="traj1: expected a row per state as in s/m/traj0, found a row per transition"
    ):
        build_store(tmp_path / "a.zarr", tmp_path / "store", ["observation"])


def test_in_a_folder_other_arrays_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    save(tmp_path / "deep" / "expert.npy", rollouts(3, 1))
    np.save(tmp_path / "array.npy", np.zeros((3, 4)))
    report = export(open_sources([tmp_path]), tmp_path / "a.zarr")
    assert report.formats == {"expert-npy": 1}
    assert ArchiveReader(tmp_path / "a.zarr").trajectories[0].path == "expert_npy/expert/traj0"
    assert any("passed over 1 .npy file" in note for note in report.notes)
    (tmp_path / "deep" / "expert.npy").unlink()
    with pytest.raises(SourceError, match=r"no roll-outs of an expert in a \.npy"):
        export(open_source(tmp_path, "expert-npy"), tmp_path / "b.zarr")


BROKEN = {
    "no observations": ({"observations": ...}, "no 'observations'"),
    "no actions": ({"actions": ...}, "no 'actions'; there are"),
    "a number": ({"observations": 1}, "'observations': expected an array of numbers, found int"),
    "other steps": ({"actions": np.zeros((3, 2, 2))}, r"'actions': expected \[4, 2, ...\]"),
    "a mask of another shape": ({"valid_mask": np.ones(3, bool)}, r"'valid_mask': expected \[4, 2\]"),
}


@pytest.mark.faults
@pytest.mark.parametrize("what", BROKEN)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, what: str) -> None:
    change, message = BROKEN[what]
    held = {key: value for key, value in {**rollouts(4, 2), **change}.items() if value is not ...}
    path = save(tmp_path / "expert.npy", held)
    with pytest.raises(SourceError, match=r"expert\.npy.*" + message):
        export(open_source(path), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.faults
def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer", reason="needs the cli extra")
    from iltools_datasets.cli import main

    def iltools(*arguments: object) -> Any:
        with pytest.raises(SystemExit) as stopped:
            main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert not stopped.value.code, captured.err
        return json.loads(captured.out)

    archive, store = tmp_path / "a.zarr", tmp_path / "store"
    mask = np.ones((5, 3), bool)
    mask[2, 1] = mask[1, 2] = False  # one run of a single row
    save(tmp_path / "expert.npy", rollouts(5, 3, valid_mask=mask))
    assert iltools("export", "auto", tmp_path, "--out", archive)["formats"] == {"expert-npy": 1}
    about = iltools("info", archive)
    assert (about["num_clips"], about["num_transitions"]) == (5, 13)
    iltools("doctor", archive)
    assert iltools("build", archive, "--out", store)["num_transitions"] == 13
    about = iltools("info", store)
    assert (about["num_states"], about["num_transitions"]) == (13, 13)
    assert iltools("view", store)["num_states"] == 5
    assert iltools("verify", store)["damages"] == []
