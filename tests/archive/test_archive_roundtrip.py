"""What is written comes back: through our reader, through zarr-python, in both layouts, from foreign archives."""

import json
import pickle
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
import zarr.codecs
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.archive import reader as archive_reader
from iltools_datasets.archive.schema import natural_key
from iltools_datasets.errors import ArchiveCorruptError, ArchiveExistsError

LAYOUTS = ("nested", "packed")
DTYPES = ("float64", "float32", "float16", "int64", "uint8", "bool")


def make_clips(rng: np.random.Generator, count: int, longest: int = 40) -> dict[tuple[str, str, str], dict]:
    clips = {}
    for number in range(count):
        states = int(rng.integers(1, longest))
        clips["lib", f"walk{number % 3}", f"traj{number}"] = {
            "qpos": rng.standard_normal((states, 5)),
            "image": rng.integers(0, 255, (states, 4, 3, 2), dtype=np.uint8),
            "contact": rng.random((states, 2)) < 0.5,
            "height": rng.standard_normal(states).astype(np.float32),
            "action": rng.standard_normal((states - 1, 3)).astype(np.float32),
        }
    return clips


def write(path, clips, layout, **options):
    with ArchiveWriter(path, layout=layout, **options) as writer:
        for number, ((source, motion, name), arrays) in enumerate(clips.items()):
            writer.add(source, motion, name, arrays, {"number": number, "rate": 50.0})


def assert_same(reader: ArchiveReader, clips) -> None:
    assert {trajectory.path for trajectory in reader.trajectories} == {"/".join(name) for name in clips}
    for trajectory in reader.trajectories:
        expected = clips[tuple(trajectory.path.split("/"))]
        found = reader.read(trajectory)
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert found[key].dtype == values.dtype
            assert trajectory.keys[key].shape == values.shape
            assert found[key].flags.writeable
            np.testing.assert_array_equal(found[key], values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_roundtrip(tmp_path, layout):
    clips = make_clips(np.random.default_rng(0), 12)
    write(tmp_path / "a.zarr", clips, layout)
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert_same(reader, clips)
    assert [task.name for task in reader.tasks] == ["lib/walk0", "lib/walk1", "lib/walk2"]
    assert reader.all_chunks_written
    assert reader.missing_chunks == {}
    numbers = {trajectory.path: trajectory.attributes["number"] for trajectory in reader.trajectories}
    assert numbers == {"/".join(name): number for number, name in enumerate(clips)}
    assert all(trajectory.attributes["rate"] == 50.0 for trajectory in reader.trajectories)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_zarr_python_reads_the_same(tmp_path, layout):
    clips = make_clips(np.random.default_rng(1), 6)
    write(tmp_path / "a.zarr", clips, layout)
    for consolidated in (True, False):
        root = zarr.open_group(tmp_path / "a.zarr", mode="r", use_consolidated=consolidated)
        members = dict(root.members(max_depth=None))
        if layout == "nested":
            for (source, motion, name), arrays in clips.items():
                for key, values in arrays.items():
                    array = members[f"{source}/{motion}/{name}/{key}"]
                    np.testing.assert_array_equal(array[...], values)
                    assert array.nchunks_initialized == array.nchunks
        else:
            for key in ("qpos", "action", "contact"):
                rows = np.concatenate([arrays[key] for arrays in clips.values()])
                np.testing.assert_array_equal(members[f"lib/packed/{key}"][...], rows)
            lengths = [len(arrays["qpos"]) for arrays in clips.values()]
            np.testing.assert_array_equal(members["lib/packed/length"][...], lengths)
            np.testing.assert_array_equal(members["lib/packed/start"][1:], np.cumsum(lengths)[:-1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_chunk_is_written_and_summed(tmp_path, layout):
    with ArchiveWriter(tmp_path / "a.zarr", layout=layout) as writer:
        writer.add("lib", "stand", "traj0", {"qpos": np.zeros((500_000, 2), np.float32)})
    array = dict(zarr.open_group(tmp_path / "a.zarr").members(max_depth=None))[
        "lib/stand/traj0/qpos" if layout == "nested" else "lib/packed/qpos"
    ]
    assert array.nchunks_initialized == array.nchunks > 1
    assert any(isinstance(codec, zarr.codecs.Crc32cCodec) for codec in array.compressors)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), layout=st.sampled_from(LAYOUTS))
def test_any_rows_of_any_clip(tmp_path_factory, data, layout):
    path = tmp_path_factory.mktemp("archive") / "a.zarr"
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    width = data.draw(st.sampled_from([(), (3,), (2, 0), (700, 60)]))
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    rng = np.random.default_rng(0)
    clips = {
        ("lib", "walk", f"traj{number}"): {"state": (rng.random((length, *width)) * 200).astype(dtype)}
        for number, length in enumerate(lengths)
    }
    write(path, clips, layout)
    reader = ArchiveReader(path)
    assert_same(reader, clips)
    for trajectory in reader.trajectories:
        start = data.draw(st.integers(0, trajectory.num_states))
        stop = data.draw(st.integers(start, trajectory.num_states))
        expected = clips[tuple(trajectory.path.split("/"))]["state"][start:stop]
        np.testing.assert_array_equal(reader.read(trajectory, ["state"], start, stop)["state"], expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stream_gives_every_clip_in_order(tmp_path, layout):
    clips = make_clips(np.random.default_rng(2), 30)
    write(tmp_path / "a.zarr", clips, layout)
    reader = ArchiveReader(tmp_path / "a.zarr")
    seen = []
    for trajectory, arrays in reader.stream(keys=["height"]):
        seen.append(trajectory)
        np.testing.assert_array_equal(arrays["height"], clips[tuple(trajectory.path.split("/"))]["height"])
    assert seen == reader.trajectories
    assert next(iter(reader.stream())) is not None  # a reader that stops early leaves no thread waiting


def test_a_stream_that_nobody_wants_any_more_waits_for_nobody(tmp_path, monkeypatch):
    """The garbage collector may end it in the middle of anything: while a thread is started it waited for ever."""
    write(tmp_path / "a.zarr", make_clips(np.random.default_rng(2), 3), "packed")
    monkeypatch.setattr(archive_reader, "_GROUP_BYTES", 1)
    before = threading.enumerate()
    may_read, is_reading, read = threading.Event(), threading.Event(), ArchiveReader._read_group

    def read_group(self, group, keys):
        if group[0] != self.trajectories[0]:
            is_reading.set()
            assert may_read.wait(60)
        return read(self, group, keys)

    monkeypatch.setattr(ArchiveReader, "_read_group", read_group)
    with ArchiveReader(tmp_path / "a.zarr") as reader:
        stream = reader.stream()
        next(stream)
        assert is_reading.wait(60)
        ending = threading.Thread(target=stream.close)
        ending.start()
        ending.join(10)
        is_waiting = ending.is_alive()
        may_read.set()
        assert not is_waiting
        assert len(list(reader.stream())) == 3
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in left if thread.name.startswith("iltools-read-ahead")]


def test_a_stream_goes_on_after_its_reader_was_closed(tmp_path, monkeypatch):
    """What its thread had not begun by then is read by whoever asks for it."""
    clips = make_clips(np.random.default_rng(2), 12)
    write(tmp_path / "a.zarr", clips, "packed")
    monkeypatch.setattr(archive_reader, "_GROUP_BYTES", 1)
    may_end = threading.Event()
    with ArchiveReader(tmp_path / "a.zarr") as reader:
        closing, groups = threading.Thread(target=reader.close), reader._groups

        def groups_before_it_is_closed(*asked):
            yield from groups(*asked)
            closing.start()

        monkeypatch.setattr(reader, "_groups", groups_before_it_is_closed)
        reader._rows.submit_ahead(lambda: may_end.wait(60))
        seen = []
        for trajectory, arrays in reader.stream(keys=["height"]):
            may_end.set()
            seen.append(trajectory)
            np.testing.assert_array_equal(arrays["height"], clips[tuple(trajectory.path.split("/"))]["height"])
        assert seen == reader.trajectories
        closing.join()


def test_names_are_sorted_as_people_count(tmp_path):
    names = ["traj10", "traj2", "traj1", "traj02"]
    clips = {
        (source, motion, name): {"qpos": np.full((2, 1), number, np.float32)}
        for source in ("lib10", "lib9")
        for motion in ("b", "a11", "a2")
        for number, name in enumerate(names)
    }
    for layout in LAYOUTS:
        write(tmp_path / f"{layout}.zarr", clips, layout)
        reader = ArchiveReader(tmp_path / f"{layout}.zarr")
        assert [task.name for task in reader.tasks] == [
            "lib9/a2", "lib9/a11", "lib9/b", "lib10/a2", "lib10/a11", "lib10/b"
        ]  # fmt: skip
        assert [t.name for t in reader.trajectories[:4]] == ["traj1", "traj02", "traj2", "traj10"]
        assert [(t.task_id, t.traj_id) for t in reader.trajectories] == [(k, i) for k in range(6) for i in range(4)]
        assert reader.trajectory(3, 2) == reader.trajectories[14]
        assert_same(reader, clips)


@given(st.lists(st.text(alphabet="ab019-", max_size=6)))
def test_natural_order_is_total(names):
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(names, key=natural_key) == sorted(shuffled, key=natural_key)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("shards", [None, (8, 4)])
def test_foreign_archives(tmp_path, zarr_format, consolidated, shards):
    if zarr_format == 2 and shards:
        pytest.skip("format 2 has no shards")
    rng = np.random.default_rng(3)
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    root.attrs["author"] = "someone"
    clips = {}
    for number in range(3):
        group = root.create_group(f"lib/run/clip{number}", attributes={"fps": 30})
        values = rng.standard_normal((11, 6))
        array = group.create_array("qpos", shape=values.shape, chunks=(4, 4), shards=shards, dtype=values.dtype)
        array[...] = values
        flags = rng.random((11, 1)) < 0.5
        group.create_array("terminated", data=flags, fill_value=True)
        clips["lib", "run", f"clip{number}"] = {"qpos": values, "terminated": flags}
    root.create_array("lib/run/clip0/dt", data=np.float64(0.02))
    if consolidated and zarr_format == 2:
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    elif consolidated:
        with pytest.warns(UserWarning, match="onsolidated"):
            zarr.consolidate_metadata(tmp_path / "a.zarr")
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert_same(reader, clips)
    assert not reader.all_chunks_written
    assert reader.attributes["author"] == "someone"
    assert reader.trajectories[1].attributes["fps"] == 30
    assert reader.skipped == ["lib/run/clip0/dt: no row per state"]
    for start in range(11):
        part = reader.read(reader.trajectories[0], start=start, stop=start + 1)
        np.testing.assert_array_equal(part["qpos"], clips["lib", "run", "clip0"]["qpos"][start : start + 1])


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize(
    "compressors",
    [
        None,
        zarr.codecs.ZstdCodec(),
        zarr.codecs.GzipCodec(),
        zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle"),
    ],
)
def test_foreign_encodings(tmp_path, endian, compressors):
    values = np.random.default_rng(4).standard_normal((10, 3)).astype(np.float32)
    array = zarr.create_array(
        tmp_path / "a.zarr",
        name="lib/run/clip0/qpos",
        shape=values.shape,
        dtype="float32",
        chunks=(4, 3),
        serializer=zarr.codecs.BytesCodec(endian=endian),
        compressors=compressors,
    )
    array[...] = values
    zarr.open_group(tmp_path / "a.zarr", mode="a")
    reader = ArchiveReader(tmp_path / "a.zarr")
    np.testing.assert_array_equal(reader.read(reader.trajectories[0])["qpos"], values)


def test_a_packed_archive_by_somebody_else(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group = root.create_group("lib/run")
    group.create_array("qpos", data=np.arange(10.0).reshape(10, 1))
    group.create_array("start", data=np.array([6, 0]))
    group.create_array("length", data=np.array([4, 5]))
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert [t.name for t in reader.trajectories] == ["traj0", "traj1"]
    np.testing.assert_array_equal(reader.read(reader.trajectories[0])["qpos"][:, 0], [6, 7, 8, 9])
    np.testing.assert_array_equal(reader.read(reader.trajectories[1])["qpos"][:, 0], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", ["store", "url", "file"])
def test_object_stores(tmp_path, layout, place):
    url = {"url": f"memory://{layout}/a.zarr", "file": f"file://{tmp_path}/a.zarr"}
    if place == "url":
        pytest.importorskip("fsspec", reason="needs the s3 extra")
    location = url.get(place) or zarr.storage.MemoryStore()
    clips = make_clips(np.random.default_rng(5), 7)
    write(location, clips, layout)
    reader = ArchiveReader(location)
    assert_same(reader, clips)
    trajectory = reader.trajectories[-1]
    part = reader.read(trajectory, ["qpos"], 1, trajectory.num_states)["qpos"]
    np.testing.assert_array_equal(part, clips[tuple(trajectory.path.split("/"))]["qpos"][1:])
    with pytest.raises(ArchiveExistsError):
        write(location, clips, layout)
    write(location, dict(list(clips.items())[:2]), layout, overwrite=True)
    assert len(ArchiveReader(location)) == 2


@pytest.mark.faults
def test_a_missing_object_of_ours_is_damage():
    store = zarr.storage.MemoryStore()
    write(store, make_clips(np.random.default_rng(5), 2), "nested")
    del store._store_dict["lib/walk0/traj0/qpos/c.0.0"]
    reader = ArchiveReader(store)
    with pytest.raises(ArchiveCorruptError, match=r"lib/walk0/traj0/qpos/c\.0\.0: chunk is missing"):
        reader.read(reader.trajectories[0])


def test_packs_are_set_aside_between_clips(tmp_path, monkeypatch):
    monkeypatch.setattr("iltools_datasets.archive.layouts._PENDING_BYTES", 2000)
    clips = make_clips(np.random.default_rng(6), 40)
    write(tmp_path / "a.zarr", clips, "packed")
    assert_same(ArchiveReader(tmp_path / "a.zarr"), clips)


def test_metadata_and_pickle(tmp_path):
    clips = make_clips(np.random.default_rng(7), 3)
    write(tmp_path / "a.zarr", clips, "nested", metadata={"name": "clips", "dt": np.float32(0.5)})
    reader = pickle.loads(pickle.dumps(ArchiveReader(tmp_path / "a.zarr")))
    assert reader.metadata == {"name": "clips", "dt": 0.5}
    write(tmp_path / "b.zarr", clips, "nested")
    assert ArchiveReader(tmp_path / "b.zarr").metadata is None
    Path(tmp_path / "meta.json").write_text(json.dumps({"name": "beside"}))
    assert ArchiveReader(tmp_path / "b.zarr").metadata == {"name": "beside"}
