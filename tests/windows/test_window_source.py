"""Windows for many envs against plain indexing, over a store and over a data set."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets import StoreBuilder, TrajectoryStore
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.archive.rows import RowReader
from iltools_datasets.errors import (
    MissingKeyError,
    OutOfRangeError,
    SchemaError,
    StateError,
    StoreChangedError,
    UnknownSegmentError,
)
from iltools_datasets.storage import VectorizedTrajectoryDataset
from iltools_datasets.windows.source import WindowSource
from numbered_store import clips_fixture, store_fixture  # noqa: F401

Clips = list[dict[str, np.ndarray]]

boundaries = st.sampled_from(["wrap", "clamp", "mask"])
some_offsets = st.sets(st.integers(-8, 40), min_size=1, max_size=6).map(sorted)


def rows_of(clip: np.ndarray, steps: np.ndarray, boundary: str) -> np.ndarray:
    """The definition: rows of one trajectory at steps, wherever they lie."""
    count = len(clip)
    return clip[steps % count] if boundary == "wrap" else clip[np.clip(steps, 0, count - 1)]


@pytest.fixture(name="archive", scope="session")
def archive_fixture(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("windows") / "clips.zarr"
    with ArchiveWriter(path) as writer:
        for k, clip in enumerate(clips):
            writer.add("lab", f"m{k // 2}", f"t{k % 2}", clip)
    return path


@pytest.mark.usefixtures("store")
class TestStore:
    @given(
        envs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 120)), min_size=1, max_size=5),
        offsets=some_offsets,
        boundary=boundaries,
        advance=st.integers(0, 30),
        num_windows=st.integers(1, 4),
    )
    def test_agrees_with_the_definition(
        self,
        store: TrajectoryStore,
        clips: Clips,
        envs: list[tuple[int, int]],
        offsets: list[int],
        boundary: Any,
        advance: int,
        num_windows: int,
    ) -> None:
        traj, start = zip(*envs, strict=True)
        source = WindowSource(
            store, ["qpos", ("next", "qpos"), "action"], None, traj, start, offsets=offsets, boundary=boundary,
            advance=advance,
        )  # fmt: skip
        step = np.array(start)
        for _ in range(num_windows):
            window = source()
            for e, k in enumerate(traj):
                steps = step[e] + np.array(offsets)
                clip = clips[k]
                np.testing.assert_array_equal(window["qpos"][e], rows_of(clip["qpos"][:-1], steps, boundary))
                np.testing.assert_array_equal(window["next"]["qpos"][e], rows_of(clip["qpos"][1:], steps, boundary))
                np.testing.assert_array_equal(window["action"][e], rows_of(clip["action"], steps, boundary))
                if boundary == "mask":
                    count = len(clip["action"])
                    np.testing.assert_array_equal(window["mask"][e], (steps >= 0) & (steps < count))
            assert ("mask" in window) == (boundary == "mask")
            step += advance

    @given(start=st.integers(0, 60), window=st.integers(1, 50), boundary=boundaries)
    def test_a_window_is_offsets_in_a_row(self, store: TrajectoryStore, start: int, window: int, boundary: Any) -> None:
        envs = dict.fromkeys(range(3), 4)
        steps = [start, 0, 2 * start]
        plain = WindowSource(store, None, window, envs, steps, boundary=boundary)
        spelled = WindowSource(store, None, None, envs, steps, boundary=boundary, offsets=range(window), advance=window)
        for _ in range(3):
            a, b = plain(), spelled()
            assert a.keys() == b.keys()
            np.testing.assert_array_equal(a["qvel"], b["qvel"])
            np.testing.assert_array_equal(a["next"]["qvel"], b["next"]["qvel"])
        np.testing.assert_array_equal(plain.env_steps, spelled.env_steps)

    def test_motion_tracking(self, store: TrajectoryStore, clips: Clips) -> None:
        source = WindowSource(store, ["qpos"], env_to_traj=[4], offsets=[0, 1, 2, 5, 10], boundary="mask")
        for t in range(95):
            window = source()
            ahead = t + np.array([0, 1, 2, 5, 10])
            np.testing.assert_array_equal(window["mask"][0], ahead < 95)
            np.testing.assert_array_equal(window["qpos"][0], clips[4]["qpos"][np.minimum(ahead, 94)])
        assert source.finished.tolist() == [True]

    def test_arrays_are_aligned_and_leased(self, store: TrajectoryStore) -> None:
        source = WindowSource(store, ["qpos", "action"], 4, [1, 4])
        assert source.leases_buffers is True
        first = source()
        kept = first["qpos"].copy()
        for _ in range(20):
            assert all(array.ctypes.data % 64 == 0 for array in source().values())
        np.testing.assert_array_equal(first["qpos"], kept)

    def test_envs_are_put_elsewhere(self, store: TrajectoryStore, clips: Clips) -> None:
        source = WindowSource(store, ["qpos"], 3, {0: 4, 1: (0, 1)}, {1: 7})
        assert source.env_traj_ids.tolist() == [4, 1]
        source()
        source.update_references(env_to_traj={1: (2, 1)}, env_to_step={1: 2})
        assert (source.env_traj_ids.tolist(), source.env_steps.tolist()) == ([4, 5], [3, 2])
        window = source()
        np.testing.assert_array_equal(window["qpos"][0], clips[4]["qpos"][3:6])
        np.testing.assert_array_equal(window["qpos"][1], clips[5]["qpos"][2:5])

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"env_to_traj": {0: 1, 2: 1}}, OutOfRangeError),
            ({"env_to_traj": {0: 1, -1: 1}}, OutOfRangeError),
            ({"env_to_traj": {0: 1, 1: 6}}, OutOfRangeError),
            ({"env_to_traj": {0: 1, 1: (7, 0)}}, UnknownSegmentError),
            ({"env_to_traj": {0: 1}, "env_to_step": {1: -1}}, OutOfRangeError),
            ({"env_to_traj": {0: 1, 1: 2.0}}, TypeError),
        ],
    )
    def test_a_refused_change_moves_nobody(
        self, store: TrajectoryStore, change: dict[str, Any], error: type[Exception]
    ) -> None:
        source = WindowSource(store, ["qpos"], 3, [4, 4], [1, 2])
        with pytest.raises(error):
            source.update_references(**change)
        assert (source.env_traj_ids.tolist(), source.env_steps.tolist()) == ([4, 4], [1, 2])

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"window": 3, "offsets": [0]}, SchemaError, "one of them"),
            ({"window": None}, SchemaError, "one of them"),
            ({"window": 0}, SchemaError, "at least 1"),
            ({"window": None, "offsets": []}, SchemaError, "increase"),
            ({"window": None, "offsets": [0, 2, 1]}, SchemaError, "increase"),
            ({"boundary": "stop"}, SchemaError, "boundary"),
            ({"advance": -1}, SchemaError, "advance"),
            ({"env_to_traj": None}, SchemaError, "env_to_traj is needed"),
            ({"env_to_traj": {}}, SchemaError, "names no envs"),
            ({"env_to_traj": {1: 0}}, OutOfRangeError, "env 1"),
            ({"env_to_traj": [9]}, OutOfRangeError, "trajectory 9"),
            ({"env_to_step": [-1]}, OutOfRangeError, "negative"),
            ({"keys": ["qpos", "nothing"]}, MissingKeyError, "nothing"),
            ({"keys": []}, SchemaError, "no keys"),
            ({"window": 40, "boundary": "error"}, OutOfRangeError, "env 0: a window over 40 steps.*trajectory 1 of 39"),
        ],
    )
    def test_bad_arguments(
        self, store: TrajectoryStore, arguments: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        given = {"keys": ["qpos"], "window": 3, "env_to_traj": [1], **arguments}
        with pytest.raises(error, match=message):
            WindowSource(store, **given)

    def test_boundary_error(self, store: TrajectoryStore) -> None:
        source = WindowSource(store, ["qpos"], 30, [1, 4], boundary="error")
        source()
        with pytest.raises(OutOfRangeError, match="env 0: steps 30 to 59 leave trajectory 1 of 39"):
            source()
        assert source.env_steps.tolist() == [30, 30]
        with pytest.raises(OutOfRangeError, match="does not fit trajectory 0"):
            source.update_references(env_to_traj={0: 0}, env_to_step={0: 0})
        source.update_references(env_to_step={0: 9})
        source()

    def test_a_key_named_mask(self, tmp_path: Path) -> None:
        with StoreBuilder(tmp_path / "s") as builder:
            builder.add(0, 0, states={"mask": np.zeros((4, 1))})
        store = TrajectoryStore.open(tmp_path / "s")
        with pytest.raises(SchemaError, match="mask"):
            WindowSource(store, None, 2, [0], boundary="mask")
        assert WindowSource(store, None, 2, [0])()["mask"].shape == (1, 2, 1)


class TestState:
    def test_goes_on_with_the_same_windows(self, store: TrajectoryStore) -> None:
        source = WindowSource(store, ["qpos"], 3, [4, 5], boundary="clamp")
        source()
        state = source.state_dict()
        as_text = json.loads(
            json.dumps({key: value.tolist() if hasattr(value, "tolist") else value for key, value in state.items()})
        )
        ahead = [source()["qpos"] for _ in range(20)]
        for saved in (state, as_text):
            other = WindowSource(store, ["qpos"], 3, [0, 0], boundary="clamp")
            other.load_state_dict(saved)
            for window in ahead:
                np.testing.assert_array_equal(other()["qpos"], window)

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "other"},
            {"version": 2},
            {"boundary": "clamp"},
            {"advance": 2},
            {"offsets": [0, 1]},
            {"traj": [0]},
            {"traj": [0, 6]},
            {"traj": [0, -1]},
            {"step": [0, -1]},
            {"step": [0.5, 1]},
            {"step": None},
        ],
    )
    def test_refuses_what_is_not_its_own(self, store: TrajectoryStore, change: dict[str, Any]) -> None:
        source = WindowSource(store, ["qpos"], 3, [4, 5], [1, 2])
        with pytest.raises(StateError):
            source.load_state_dict({**source.state_dict(), **change})
        incomplete = source.state_dict()
        incomplete.pop("step")
        with pytest.raises(StateError, match="step"):
            source.load_state_dict(incomplete)
        assert (source.env_traj_ids.tolist(), source.env_steps.tolist()) == ([4, 5], [1, 2])

    def test_refuses_another_store(self, store: TrajectoryStore, tmp_path: Path) -> None:
        with StoreBuilder(tmp_path / "s") as builder:
            builder.add(0, 0, states={"qpos": np.zeros((9, 1))})
        other = WindowSource(TrajectoryStore.open(tmp_path / "s"), ["qpos"], 3, [0])
        with pytest.raises(StoreChangedError):
            WindowSource(store, ["qpos"], 3, [0]).load_state_dict(other.state_dict())


class TestDataset:
    """Over a `VectorizedTrajectoryDataset`, whose steps are states."""

    @pytest.fixture(params=["store", "archive"])
    def dataset(
        self, store: TrajectoryStore, archive: Path, request: pytest.FixtureRequest
    ) -> Callable[..., VectorizedTrajectoryDataset]:
        def make(num_envs: int, allow_wrap: bool = True) -> VectorizedTrajectoryDataset:
            place = store if request.param == "store" else archive
            return VectorizedTrajectoryDataset(place, num_envs, {"allow_wrap": allow_wrap, "buffer_size": 128})

        return make

    @given(
        envs=st.lists(st.tuples(st.sampled_from([1, 3, 4, 5]), st.integers(0, 120)), min_size=1, max_size=4),
        offsets=st.sets(st.integers(-4, 12), min_size=1, max_size=5).map(sorted),
        boundary=boundaries,
    )
    def test_agrees_with_the_definition(
        self,
        dataset: Callable[..., VectorizedTrajectoryDataset],
        clips: Clips,
        envs: list[tuple[int, int]],
        offsets: list[int],
        boundary: Any,
    ) -> None:
        traj, start = zip(*envs, strict=True)
        source = WindowSource(
            dataset(len(envs)), ["qpos", "qvel"], None, traj, start, offsets=offsets, boundary=boundary, advance=3
        )
        for n in range(3):
            window = source()
            for e, k in enumerate(traj):
                steps = start[e] + 3 * n + np.array(offsets)
                for key in ("qpos", "qvel"):
                    np.testing.assert_array_equal(window[key][e], rows_of(clips[k][key], steps, boundary))
                if boundary == "mask":
                    np.testing.assert_array_equal(window["mask"][e], (steps >= 0) & (steps < len(clips[k]["qpos"])))

    def test_begins_where_the_data_set_stands(
        self, dataset: Callable[..., VectorizedTrajectoryDataset], clips: Clips
    ) -> None:
        data = dataset(2, allow_wrap=False)
        data.update_references(env_to_traj={0: 1, 1: 4}, env_to_step={1: 5})
        source = WindowSource(data, ["qpos"], 30, boundary="error")
        np.testing.assert_array_equal(source()["qpos"][1], clips[4]["qpos"][5:35])
        with pytest.raises(OutOfRangeError, match="env 0: steps 30 to 59 leave trajectory 1 of 40"):
            source()

    @pytest.mark.parametrize("boundary", ["wrap", "clamp", "mask"])
    def test_its_arrays_are_leased_and_its_own_envs_stay(
        self, dataset: Callable[..., VectorizedTrajectoryDataset], boundary: Any
    ) -> None:
        data = dataset(2)
        data.update_references({0: 4, 1: 5}, {0: 3, 1: 1})
        source = WindowSource(data, ["qpos", "action"], 3, boundary=boundary)
        assert source.leases_buffers is True
        windows = [source() for _ in range(20)]
        copies = [window["qpos"].copy() for window in windows]
        for _ in range(20):
            source()
        for window, copy in zip(windows, copies, strict=True):
            np.testing.assert_array_equal(window["qpos"], copy)
        assert (data.env_traj_ids.tolist(), data.env_steps.tolist()) == ([4, 5], [3, 1])

    @pytest.mark.parametrize(("boundary", "offsets"), [("wrap", [-2, 0, 5]), ("clamp", [0, 1, 9])])
    def test_the_next_window_is_read_ahead(
        self, archive: Path, monkeypatch: pytest.MonkeyPatch, boundary: Any, offsets: list[int]
    ) -> None:
        """Far steps, so that the next window lies in other blocks of the buffer than this one."""
        with VectorizedTrajectoryDataset(archive, 2, {"buffer_size": 64, "allow_wrap": True}) as data:
            source = WindowSource(data, ["qpos"], None, [4, 4], [0, 20], offsets=offsets, boundary=boundary, advance=33)
            source()
            data.close()  # waits for what is under way
            monkeypatch.setattr(RowReader, "read", lambda *_: pytest.fail("read although it was read ahead"))
            assert source()["qpos"].shape == (2, 3, 5)

    def test_no_python_object_per_env_is_made(self, dataset: Callable[..., VectorizedTrajectoryDataset]) -> None:
        """Counted as calls, Python's and C's: as many for a thousand envs as for four."""
        calls = []
        for num_envs in (4, 1000):
            source = WindowSource(dataset(num_envs), ["qpos", "action"], 3, [4] * num_envs)
            source()
            count = 0

            def counted(_frame: object, _event: str, _argument: object) -> None:
                nonlocal count
                count += 1

            sys.setprofile(counted)
            try:
                source()
            finally:
                sys.setprofile(None)
            calls.append(count)
        assert calls[0] == calls[1]

    def test_what_stands_nowhere_is_refused(self, dataset: Callable[..., VectorizedTrajectoryDataset]) -> None:
        """The arrays of a data set's places are public: anybody may have written into them."""
        for name, value, error in (
            ("env_steps", -1, OutOfRangeError),
            ("env_steps", 2**63 - 1, OutOfRangeError),
            ("env_traj_ids", -1, UnknownSegmentError),
            ("env_traj_ids", 6, UnknownSegmentError),
        ):
            data = dataset(3)
            getattr(data, name)[1] = value
            with pytest.raises(error):
                WindowSource(data, ["qpos"], 3)
            with pytest.raises(error):
                data.fetch_window([0, 1], "qpos", 2)
            assert data.fetch_window([0, 2], "qpos", 2).shape == (2, 2, 5)

    def test_states_and_mistakes(self, dataset: Callable[..., VectorizedTrajectoryDataset]) -> None:
        source = WindowSource(dataset(2), ["qpos"], 3, {0: 4, 1: 5})
        source()
        state = source.state_dict()
        ahead = source()["qpos"]
        source.load_state_dict(state)
        np.testing.assert_array_equal(source()["qpos"], ahead)
        with pytest.raises(UnknownSegmentError):
            source.update_references(env_to_traj={0: (1, 1)})
        with pytest.raises(OutOfRangeError):
            source.update_references(env_to_traj={0: 6})
        with pytest.raises(SchemaError, match="names 3 envs"):
            WindowSource(dataset(2), ["qpos"], 3, [0, 0, 0])
