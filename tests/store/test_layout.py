"""What a store says of itself: where each key's bytes lie, which keys are states; and what asking costs."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets import StoreBuilder, TrajectoryStore, _core
from iltools_datasets.errors import MissingKeyError, OutOfRangeError
from iltools_datasets.store import trajectory_store
from stores import build_store, make_clips

LENGTHS = [9, 2, 33, 5, 17]


@pytest.fixture(scope="module", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return TrajectoryStore.open(build_store(tmp_path_factory.mktemp("layout") / "store", make_clips(LENGTHS)))


def test_the_bytes_lie_where_the_layout_says(store: TrajectoryStore) -> None:
    """numpy reads them from the files, by the layout and the rule of docs/store-format.md alone."""
    index = np.arange(len(store))
    state = index + np.repeat(np.arange(len(LENGTHS)), np.array(LENGTHS) - 1)
    row_of = {"transition": index, "state": state, "next_state": state + 1}
    width_of = {field.key: field.width for field in store.layout}
    for key, field in zip(store.keys, store.layout, strict=True):
        of = "transitions" if field.rows == "transition" else "states"
        path = store.data_dir.joinpath(of, *field.column).with_name(f"{field.column[-1]}.memmap")
        column = np.fromfile(path, np.uint8).reshape(-1, width_of[field.column])
        rows = column[row_of[field.rows], field.offset : field.offset + field.width]
        expected = store.gather(index, [key])[key]
        assert field.width == math.prod(field.shape) * expected.itemsize
        np.testing.assert_array_equal(rows, expected.reshape(len(store), -1).view(np.uint8), err_msg=str(key))


def test_what_is_a_state_and_what_is_part_of_what(store: TrajectoryStore) -> None:
    kinds = dict(zip(store.keys, [(field.column, field.rows, field.offset) for field in store.layout], strict=True))
    assert kinds == {
        "observation": (("observation",), "state", 0),
        ("next", "observation"): (("observation",), "next_state", 0),
        "qpos": (("observation",), "state", 0),
        ("next", "qpos"): (("observation",), "next_state", 0),
        "qvel": (("observation",), "state", 28),
        ("next", "qvel"): (("observation",), "next_state", 28),
        "action": (("action",), "transition", 0),
        ("next", "done"): (("next", "done"), "transition", 0),
        "terminated": (("next", "done"), "transition", 0),
    }
    successors = {key: store.successor(key) for key in store.keys}
    assert {key: after for key, after in successors.items() if after} == {
        key: ("next", key) for key in ("observation", "qpos", "qvel")
    }
    assert store.successor(("qpos",)) == ("next", "qpos")
    with pytest.raises(MissingKeyError, match="no key 'nothing'"):
        store.successor("nothing")


def test_a_next_that_is_stored_as_given_follows_nothing(tmp_path: Path) -> None:
    rows = np.arange(4, dtype=np.float32)[:, None]
    with StoreBuilder(tmp_path) as builder:
        builder.add(0, 0, {}, {"q": rows, ("next", "q"): rows + 0.5})
    store = TrajectoryStore.open(tmp_path)
    assert store.successor("q") is None
    assert {key: len(array) for key, array in store.trajectory(0).items()} == {"q": 4, ("next", "q"): 4}


def test_a_foreign_directory_s_next_is_the_state_that_follows(tmp_path: Path) -> None:
    tensordict = pytest.importorskip("tensordict", reason="needs the torch extra")
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    q, done = torch.arange(7.0)[:, None], torch.tensor([0, 0, 1, 0, 0, 0, 1]).bool()[:, None]
    content = {"q": q, "width": q, "next": {"q": q + 1, "width": q.repeat(1, 2), "done": done}}
    tensordict.TensorDict(content, [7]).memmap(str(tmp_path / "td"))
    store = TrajectoryStore.from_tensordict_memmap(tmp_path / "td")
    assert store.successor("q") == ("next", "q")
    assert store.successor("width") is None, "its next is of another shape"
    assert store.trajectory(1, ["q", "width"])["q"].ravel().tolist() == [3, 4, 5, 6, 7]


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(2, 12), min_size=1, max_size=6), position=st.integers(-6, 5))
def test_a_trajectory_comes_out_as_it_went_in(tmp_path: Path, lengths: list[int], position: int) -> None:
    clips = make_clips(lengths)
    store = TrajectoryStore.open(build_store(tmp_path / "store", clips, overwrite=True))
    if not -len(clips) <= position < len(clips):
        with pytest.raises(OutOfRangeError, match=f"segment {position} of {len(clips)}"):
            store.trajectory(position)
        return
    clip, found = clips[position], store.trajectory(position)
    assert set(found) == {"observation", "qpos", "qvel", "action", "terminated", ("next", "done")}
    for key in ("qpos", "qvel", "action"):
        np.testing.assert_array_equal(found[key], clip[key])
    np.testing.assert_array_equal(found["observation"], np.concatenate([clip["qpos"], clip["qvel"]], axis=1))
    for key in ("terminated", ("next", "done")):
        np.testing.assert_array_equal(found[key], clip["done"])
    named = store.trajectory(position, ["qvel", ("qvel",), ("next", "qvel")])
    np.testing.assert_array_equal(named["qvel"], clip["qvel"])
    np.testing.assert_array_equal(named["qvel",], clip["qvel"])
    np.testing.assert_array_equal(named["next", "qvel"], clip["qvel"][1:])


def test_segments_are_read_one_by_one(store: TrajectoryStore) -> None:
    segments = store.segments
    listed = list(segments)
    assert [segments[i] for i in range(-len(segments), len(segments))] == [*listed, *listed]
    assert [segment.start for segment in listed] == (np.cumsum(LENGTHS) - LENGTHS - np.arange(len(LENGTHS))).tolist()
    assert segments[np.int64(2)] == listed[2]
    assert segments[1:4:2] == [listed[1], listed[3]]
    for outside in (len(segments), -len(segments) - 1):
        with pytest.raises(OutOfRangeError, match=f"segment {outside} of 5"):
            segments[outside]


class _Counted:
    """Passes everything on to a native object and counts by name what costs as much as there are trajectories."""

    COSTLY = ("trajectory_names", "task_names", "task_id", "traj_id", "start", "length", "segments", "layout")

    def __init__(self, native: Any, counts: Counter[str]) -> None:
        self._native, self._counts = native, counts

    def __len__(self) -> int:
        return len(self._native)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._native, name)
        if name in self.COSTLY:
            self._counts[name] += 1
        return _Counted(value, self._counts) if isinstance(value, _core.SegmentTable) else value


@pytest.mark.parametrize("clips", [3, 60])
def test_looking_at_many_clips_converts_names_and_segments_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: int
) -> None:
    """A list of all names made for each of 20,000 clips took a minute."""
    pytest.importorskip("typer", reason="the command line needs the extra cli")
    from iltools_datasets.cli import main
    from iltools_datasets.windows.dataset import VectorizedTrajectoryDataset

    counts: Counter[str] = Counter()
    path = build_store(tmp_path / "store", make_clips([4] * clips))
    opened = TrajectoryStore(_Counted(_core.Store.open(str(path), "mmap"), counts))  # type: ignore[arg-type]
    monkeypatch.setattr(trajectory_store.TrajectoryStore, "open", lambda *_: opened)

    for verb in ("info", "view"):
        counts.clear()
        with pytest.raises(SystemExit, match="0"):
            main([verb, str(path)])
        assert (f"{clips} of 4 to 4 states" if verb == "info" else "clip0") in capsys.readouterr().out
        assert all(count <= 1 for count in counts.values()), (verb, counts)

    counts.clear()
    dataset = VectorizedTrajectoryDataset(opened, 2)
    assert len(dataset.available_trajectories) == len([opened.trajectory_name(k) for k in range(clips)]) == clips
    assert [opened.segments[k].length for k in range(clips)] == [3] * clips
    assert all(count <= 3 for count in counts.values()), counts
