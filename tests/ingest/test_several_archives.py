"""Stores of several archives, of chosen clips, and what a second build of the same re-uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import Clip, write_archive
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.errors import (
    ArgumentError,
    DuplicateTrajectoryError,
    SchemaError,
    SourceError,
    SourceNotFoundError,
    StoreExistsError,
)
from iltools_datasets.ingest.archives import Archives
from iltools_datasets.ingest.choice import Choice
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.store.trajectory_store import TrajectoryStore

OBS_KEYS = ["qpos", "qvel"]


def walks(names: list[str], seed: int = 0, width: int = 3) -> dict[str, Clip]:
    rng = np.random.default_rng(seed)
    return {
        name: {key: rng.standard_normal((4 + number, width)) for key in OBS_KEYS} for number, name in enumerate(names)
    }


def named(store: TrajectoryStore) -> dict[str, np.ndarray]:
    """Every clip's first states, by its whole name."""
    rows = store.gather(np.arange(len(store)), ["qpos"])["qpos"]
    return {
        f"{store.task_names[segment.task_id]}/{store.trajectory_name(position)}": rows[
            segment.start : segment.start + segment.length
        ]
        for position, segment in enumerate(store.segments)
    }


@pytest.fixture
def two(tmp_path: Path) -> tuple[list[Path], dict[str, Clip]]:
    first = walks(["lab/walk/a1", "lab/walk/a10", "lab/run/a2", "other/sit/x"], 1)
    second = walks(["lab/walk/a2", "lab/run/b", "third/jump/y"], 2)
    places = [write_archive(tmp_path / f"{name}.zarr", clips) for name, clips in (("one", first), ("two", second))]
    return places, {**first, **second}


def test_motions_of_one_name_are_one_task(two: tuple[list[Path], dict[str, Clip]], tmp_path: Path) -> None:
    places, clips = two
    path, report = build_store(places, tmp_path / "store", OBS_KEYS)
    store = TrajectoryStore.open(path)
    found = named(store)
    assert list(found) == [
        "lab/run/a2", "lab/run/b", "lab/walk/a1", "lab/walk/a2", "lab/walk/a10", "other/sit/x", "third/jump/y",
    ]  # fmt: skip
    for name, rows in found.items():
        np.testing.assert_array_equal(rows, clips[name]["qpos"][:-1].astype(np.float32))
    ids = [(segment.task_id, segment.traj_id) for segment in store.segments]
    assert ids == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (3, 0)]
    assert report.source == f"{places[0]}, {places[1]}"
    assert [entry["path"] for entry in store.attributes["archives"]] == list(map(str, places))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_any_split_of_the_clips_gives_the_same_store(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    place = tmp_path_factory.mktemp("split")
    names = [f"s{number % 2}/m{number % 3}/c{number}" for number in range(int(rng.integers(2, 9)))]
    clips = walks(names, seed)
    whole, _ = build_store(write_archive(place / "whole.zarr", clips), place / "a", OBS_KEYS)
    parts: list[dict[str, Clip]] = [{}, {}, {}]
    for name, clip in clips.items():
        parts[int(rng.integers(0, 3))][name] = clip
    archives = [write_archive(place / f"{number}.zarr", part) for number, part in enumerate(parts) if part]
    split, _ = build_store([archives[number] for number in rng.permutation(len(archives))], place / "b", OBS_KEYS)
    one, other = named(TrajectoryStore.open(whole)), named(TrajectoryStore.open(split))
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_clip_of_the_same_path_in_two_archives_is_refused(tmp_path: Path) -> None:
    places = [write_archive(tmp_path / f"{name}.zarr", walks(["lab/walk/a"])) for name in ("one", "two")]
    with pytest.raises(DuplicateTrajectoryError, match=r"lab/walk/a: is in .*one\.zarr and in .*two\.zarr"):
        build_store(places, tmp_path / "store", OBS_KEYS)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("select", "names"),
    [
        ("lab/*", ["lab/run/a2", "lab/run/b", "lab/walk/a1", "lab/walk/a2", "lab/walk/a10"]),
        (["*/a?", "third/*"], ["lab/run/a2", "lab/walk/a1", "lab/walk/a2", "third/jump/y"]),
        (["!lab/*"], ["other/sit/x", "third/jump/y"]),
        (["lab/*", "!*/a*"], ["lab/run/b"]),
        (Choice(min_states=6), ["lab/run/a2", "other/sit/x", "third/jump/y"]),
        (Choice(("lab/*",), min_states=5, max_states=5), ["lab/run/b", "lab/walk/a10"]),
        (lambda clip: clip.motion == "sit", ["other/sit/x"]),
    ],
)
def test_what_is_selected_is_numbered_from_nought(
    two: tuple[list[Path], dict[str, Clip]], tmp_path: Path, select: Any, names: list[str]
) -> None:
    path, _ = build_store(two[0], tmp_path / "store", OBS_KEYS, select=select)
    store = TrajectoryStore.open(path)
    assert list(named(store)) == names
    ids = [(segment.task_id, segment.traj_id) for segment in store.segments]
    assert ids[0] == (0, 0)
    assert {task for task, _ in ids} == set(range(len(store.task_names)))


@pytest.mark.parametrize(
    ("select", "message"),
    [("lab/wlak/*", r"no clip is called like 'lab/wlak/\*'"), (["lab/*", "!lab/*"], "nothing is selected of 7 clips")],
)
def test_a_selection_of_nothing_is_an_error(
    two: tuple[list[Path], dict[str, Clip]], tmp_path: Path, select: Any, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_store(two[0], tmp_path / "store", OBS_KEYS, select=select)
    with pytest.raises(ArgumentError, match="at least one archive"):
        Archives([])
    assert not (tmp_path / "store").exists()


def test_robots_of_two_widths_are_built_by_selecting_and_the_message_says_how(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.zarr", {**walks(["g1/walk/a"]), **walks(["h1/walk/b"], width=5)})
    with pytest.raises(SchemaError, match=r"select='h1/\*' takes some of them"):
        build_store(archive, tmp_path / "store", OBS_KEYS)
    path, _ = build_store(archive, tmp_path / "store", OBS_KEYS, select="h1/*")
    assert list(named(TrajectoryStore.open(path))) == ["h1/walk/b"]


def test_only_what_the_doctor_finds_nothing_in(tmp_path: Path) -> None:
    clips = walks(["lab/walk/ill", "lab/walk/well"])
    clips["lab/walk/ill"]["qvel"][2, 1] = np.nan
    archive = write_archive(tmp_path / "a.zarr", clips)
    path, _ = build_store(archive, tmp_path / "store", OBS_KEYS, select=Choice(healthy=True))
    assert list(named(TrajectoryStore.open(path))) == ["lab/walk/well"]


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("nowhere.zarr", SourceNotFoundError),
        ("ftpx://bucket/a.zarr", SourceError),
        ("s3:/bucket/a.zarr", ArgumentError),
    ],
)
def test_places_where_there_is_no_archive(tmp_path: Path, place: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=place):
        build_store(place, tmp_path / "store", OBS_KEYS)
    assert not (tmp_path / "store").exists()


def test_the_observation_is_what_an_archive_has_where_nobody_says(tmp_path: Path) -> None:
    _, report = build_store(write_archive(tmp_path / "a.zarr", walks(["lab/walk/a"])), tmp_path / "store")
    assert report.obs_keys == ("qpos", "qvel")


class TestReuse:
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        return write_archive(tmp_path / "a.zarr", walks(["lab/walk/a", "lab/walk/b"]))

    def build(self, archive: Any, place: Path, **options: Any) -> tuple[str, Any]:
        path, report = build_store(archive, place, **{"obs_keys": OBS_KEYS, "reuse": True, **options})
        return TrajectoryStore.open(path).uuid, report

    def test_what_is_up_to_date_is_used_again(self, archive: Path, tmp_path: Path) -> None:
        uuid, built = self.build(archive, tmp_path / "store")
        again, reused = self.build(archive, tmp_path / "store")
        assert (again, built.reused, reused.reused) == (uuid, False, True)
        assert reused.num_transitions == built.num_transitions
        assert "re-used" in str(reused)
        assert "re-used" not in str(built)
        anew, report = self.build(archive, tmp_path / "store", overwrite=True)
        assert (anew == uuid, report.reused) == (False, False)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"float_dtype": None}, "was built with float_dtype='float32', not None"),
            ({"obs_keys": ["qvel", "qpos"]}, "was built with obs_keys="),
            ({"select": "*/a"}, "of other clips, or of files that have changed"),
        ],
    )
    def test_other_options_are_not(self, archive: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        uuid, _ = self.build(archive, tmp_path / "store")
        with pytest.raises(StoreExistsError, match=message):
            self.build(archive, tmp_path / "store", **options)
        assert TrajectoryStore.open(tmp_path / "store").uuid == uuid
        assert self.build(archive, tmp_path / "store", overwrite=True, **options)[0] != uuid

    def test_a_file_that_changed_is_seen(self, archive: Path, tmp_path: Path) -> None:
        self.build(archive, tmp_path / "store")
        chunk = next(file for file in archive.rglob("*") if file.is_file() and "qpos" in file.parts)
        times = chunk.stat()
        os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        with pytest.raises(StoreExistsError, match=r"files that have changed since; pass overwrite=True"):
            self.build(archive, tmp_path / "store")

    def test_where_nobody_can_tell_nothing_is_up_to_date(self, archive: Path, tmp_path: Path) -> None:
        (archive / "lab" / "linked").symlink_to(tmp_path / "elsewhere")
        self.build(archive, tmp_path / "store")
        with pytest.raises(StoreExistsError, match="nobody can tell"):
            self.build(archive, tmp_path / "store")

    @pytest.mark.parametrize(
        "answer", [PermissionError("403"), NotImplementedError(), {}], ids=["403", "no", "nothing"]
    )
    def test_where_nothing_can_be_listed_it_is_built_and_never_up_to_date(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any
    ) -> None:
        """Reading asks for files by name; a bucket may allow that and no listing."""
        fsspec = pytest.importorskip("fsspec")
        local = write_archive(tmp_path / "a.zarr", walks(["lab/walk/a"]))
        files = fsspec.filesystem("memory")
        files.put(str(local), "/unlisted.zarr", recursive=True)

        def find(*_: Any, **__: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(type(files), "find", find)
        self.build("memory://unlisted.zarr", tmp_path / "store")
        with pytest.raises(StoreExistsError, match="nobody can tell"):
            self.build("memory://unlisted.zarr", tmp_path / "store")

    def test_an_archive_on_object_storage(self, tmp_path: Path) -> None:
        fsspec = pytest.importorskip("fsspec")
        local = write_archive(tmp_path / "a.zarr", walks(["lab/walk/a"]))
        files = fsspec.filesystem("memory")
        files.put(str(local), "/reuse.zarr", recursive=True)
        uuid, _ = self.build("memory://reuse.zarr", tmp_path / "store")
        assert self.build("memory://reuse.zarr", tmp_path / "store")[0] == uuid
        files.pipe("/reuse.zarr/zarr.json", files.cat("/reuse.zarr/zarr.json"))
        with pytest.raises(StoreExistsError, match="changed since"):
            self.build("memory://reuse.zarr", tmp_path / "store")

    def test_from_zarr_to_manager_twice(self, archive: Path, tmp_path: Path) -> None:
        pytest.importorskip("torchrl", reason="needs the torch extra")
        from iltools_datasets.replay_export import build_replay_from_zarr

        first = build_replay_from_zarr(archive, tmp_path / "store", OBS_KEYS)
        second = build_replay_from_zarr(archive, tmp_path / "store", OBS_KEYS)
        assert first.report is not None
        assert second.report is not None
        assert (first.report.reused, second.report.reused) == (False, True)
        assert first.report.num_transitions == second.report.num_transitions
