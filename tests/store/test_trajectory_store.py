"""The store against plain concatenation, and what it refuses."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets import Segment, StoreBuilder, TrajectoryStore, _core, errors
from stores import Clips, build_store, expected_columns, make_clips

LENGTHS = [5, 2, 9, 3, 2, 14, 6]
BACKENDS = ["mmap", "ram", "pread"]


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips(LENGTHS)


@pytest.fixture(scope="module")
def store_path(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("store") / "store", clips, attributes={"fps": 50})


@pytest.fixture(scope="module")
def columns(clips: Clips) -> dict:
    return expected_columns(clips)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reads_back_what_was_built(store_path: Path, columns: dict, backend: str) -> None:
    store = TrajectoryStore.open(store_path, backend)
    assert len(store) == sum(LENGTHS) - len(LENGTHS)
    assert store.num_states == sum(LENGTHS)
    assert store.num_trajectories == len(LENGTHS)
    assert set(store.keys) == set(columns)
    assert store.attributes == {"fps": 50}
    assert store.task_names == {0: "made/up0", 1: "made/up1", 2: "made/up2"}
    assert store.trajectory_name(4) == "clip4"
    everything = store.gather(np.arange(len(store)))
    for key, expected in columns.items():
        assert everything[key].dtype == expected.dtype == store.dtype(key)
        assert store.shape(key) == expected.shape[1:]
        np.testing.assert_array_equal(everything[key], expected)


@pytest.mark.parametrize("backend", BACKENDS)
@given(data=st.data())
def test_gather_equals_fancy_indexing(store_path: Path, columns: dict, backend: str, data: st.DataObject) -> None:
    store = TrajectoryStore.open(store_path, backend)
    index = np.array(data.draw(st.lists(st.integers(0, len(store) - 1), max_size=60)), dtype=np.int64)
    keys = data.draw(st.lists(st.sampled_from(store.keys), unique=True, min_size=1))
    batch = store.gather(index, keys)
    assert list(batch) == keys
    for key in keys:
        np.testing.assert_array_equal(batch[key], columns[key][index])
        assert batch[key].flags.writeable
        assert batch[key].ctypes.data % 64 == 0


@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=12), seed=st.integers(0, 2**32 - 1))
def test_any_lengths_round_trip(lengths: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    clips = make_clips(lengths, seed)
    store = TrajectoryStore.open(build_store(tmp_path_factory.mktemp("any") / "store", clips))
    order = np.random.default_rng(seed).permutation(len(store))
    batch = store.gather(order)
    for key, expected in expected_columns(clips).items():
        np.testing.assert_array_equal(batch[key], expected[order])
    starts = np.cumsum([0, *(n - 1 for n in lengths[:-1])])
    expected_segments = [Segment(k // 3, k % 3, int(starts[k]), n - 1) for k, n in enumerate(lengths)]
    assert store.segments == expected_segments


@given(data=st.data(), boundary=st.sampled_from(["wrap", "clamp", "mask", "error"]))
def test_windows_equal_the_definition(store_path: Path, columns: dict, data: st.DataObject, boundary: str) -> None:
    store = TrajectoryStore.open(store_path)
    count = data.draw(st.integers(0, 8))
    segment = data.draw(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=count, max_size=count))
    step = data.draw(st.lists(st.integers(-20, 20), min_size=count, max_size=count))
    length = data.draw(st.integers(1, 20))
    start, size = store.segments.start, store.segments.length
    place = np.array(step, dtype=int).reshape(-1, 1) + np.arange(length)
    size_of = size[segment].reshape(-1, 1)
    inside = (place >= 0) & (place < size_of)
    if boundary == "error" and not inside.all():
        with pytest.raises(errors.OutOfRangeError, match="leave task"):
            store.windows(segment, step, length, "error")
        return
    local = place % size_of if boundary == "wrap" else np.clip(place, 0, size_of - 1)
    rows = start[segment].reshape(-1, 1) + local
    windows = store.windows(segment, step, length, boundary)
    for key, expected in columns.items():
        np.testing.assert_array_equal(windows[key], expected[rows])
    if boundary == "mask":
        np.testing.assert_array_equal(windows["mask"], inside)


def test_batches_do_not_depend_on_threads(tmp_path: Path) -> None:
    clips = make_clips([3000, 5000])
    columns = expected_columns(clips)
    path = build_store(tmp_path / "store", clips)
    index = np.random.default_rng(1).integers(0, 7998, 30_000)
    for threads in (1, 2, 4):
        batch = TrajectoryStore.open(path, num_threads=threads).gather(index)
        for key, expected in columns.items():
            np.testing.assert_array_equal(batch[key], expected[index])


class TestOut:
    def test_is_filled(self, store_path: Path, columns: dict) -> None:
        store = TrajectoryStore.open(store_path)
        out = {"action": np.zeros((2, 3), np.float32)}
        batch = store.gather([4, 1], ["action"], out=out)
        assert batch["action"] is out["action"]
        np.testing.assert_array_equal(out["action"], columns["action"][[4, 1]])

    def test_refuses_what_does_not_fit_before_writing(self, store_path: Path) -> None:
        store = TrajectoryStore.open(store_path)
        read_only = np.zeros((2, 3), np.float32)
        read_only.flags.writeable = False
        whole = np.zeros((4, 3), np.float32)
        bad = [
            (np.zeros((2, 4), np.float32), ValueError, "shape"),
            (np.zeros((2, 3), np.float64), TypeError, "dtype"),
            (read_only, ValueError, "read-only"),
            (np.zeros((4, 3), np.float32)[::2], ValueError, "C-contiguous"),
        ]
        for array, kind, word in bad:
            first = np.full((2, 13), 7, np.float32)
            with pytest.raises(kind, match=word):
                store.gather([0, 1], ["observation", "action"], out={"observation": first, "action": array})
            assert (first == 7).all()
            assert (array == 0).all()
        with pytest.raises(errors.MissingKeyError, match="action"):
            store.gather([0, 1], ["action"], out={})
        with pytest.raises(ValueError, match="shares memory"):
            store.gather(
                [0, 1],
                ["action", ("next", "done")],
                out={"action": whole[:2], ("next", "done"): whole.view(bool).reshape(-1)[:2].reshape(2, 1)},
            )


class TestBadIndex:
    @pytest.mark.parametrize("bad", [[-1], [34], [0, 2**62], [0, -(2**62)]])
    def test_out_of_range(self, store_path: Path, bad: list[int]) -> None:
        store = TrajectoryStore.open(store_path)
        with pytest.raises(IndexError, match=r"outside the 34 transitions"):
            store.gather(bad)

    def test_wrong_type(self, store_path: Path) -> None:
        store = TrajectoryStore.open(store_path)
        with pytest.raises(TypeError):
            store.gather([0.5])
        with pytest.raises(ValueError, match="vector"):
            store.gather([[0]])

    def test_unknown_names(self, store_path: Path) -> None:
        store = TrajectoryStore.open(store_path)
        with pytest.raises(errors.MissingKeyError, match="nope"):
            store.gather([0], ["nope"])
        with pytest.raises(errors.UnknownSegmentError, match="trajectory 9 in task 0"):
            store.segments.find(0, 9)
        with pytest.raises(errors.OutOfRangeError):
            store.windows([7], [0], 1)
        with pytest.raises(ValueError, match="boundary"):
            store.windows([0], [0], 1, "sideways")
        with pytest.raises(ValueError, match="length"):
            store.windows([0], [0], 0)


class TestBuilder:
    def test_an_exception_leaves_nothing(self, tmp_path: Path) -> None:
        def interrupted_build() -> None:
            with StoreBuilder(tmp_path / "store") as builder:
                builder.add(0, 0, {"x": np.zeros((3, 1))})
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted_build()
        assert list(tmp_path.iterdir()) == []

    def test_existing_store_needs_overwrite(self, tmp_path: Path) -> None:
        path = build_store(tmp_path / "store", make_clips([4]))
        old = TrajectoryStore.open(path)
        with pytest.raises(FileExistsError, match="overwrite=True"):
            StoreBuilder(path)
        build_store(path, make_clips([9, 3], seed=5), overwrite=True)
        assert (len(old), len(TrajectoryStore.open(path))) == (3, 10)
        np.testing.assert_array_equal(old.gather([0, 1, 2])["qpos"], make_clips([4])[0]["qpos"][:-1])

    def test_second_builder_is_told_who_builds(self, tmp_path: Path) -> None:
        builder = StoreBuilder(tmp_path / "store")
        with pytest.raises(errors.StoreBusyError, match=str(os.getpid())):
            StoreBuilder(tmp_path / "store")
        builder.abort()

    def test_refusals_name_trajectory_and_key(self, tmp_path: Path) -> None:
        with StoreBuilder(tmp_path / "store") as builder:
            builder.add(0, 0, {"x": np.zeros((3, 8), np.float32)}, {"a": np.zeros((2, 1))}, name="walk/0")
            cases = [
                ({"x": np.zeros((3, 1), np.float32)}, {"a": np.zeros((2, 1))}, r"walk/1.*\"x\".*\[8\].*\[1\]"),
                ({"x": np.zeros((3, 8), np.float64)}, {"a": np.zeros((2, 1))}, r"\"x\".*float32.*float64"),
                ({"x": np.zeros((3, 8), np.float32)}, {}, r"\"a\" is missing"),
                ({"x": np.zeros((3, 8), np.float32)}, {"a": np.zeros((3, 1))}, r"\"a\": expected 2 rows, found 3"),
                ({"x": np.zeros((1, 8), np.float32)}, {"a": np.zeros((0, 1))}, "at least 2 states, found 1"),
                ({"x": np.zeros((3, 8), np.float32), "y": np.zeros(3)}, {"a": np.zeros((2, 1))}, r"\"y\" is new"),
            ]
            for states, transitions, words in cases:
                with pytest.raises(errors.SchemaError, match=words):
                    builder.add(0, 1, states, transitions, name="walk/1")
            with pytest.raises(errors.DuplicateTrajectoryError, match="task 0, trajectory 0"):
                builder.add(0, 0, {"x": np.zeros((3, 8), np.float32)}, {"a": np.zeros((2, 1))})
        assert len(TrajectoryStore.open(tmp_path / "store")) == 2

    @pytest.mark.parametrize(
        "key", ["shape", "device", "_type", "../x", "a/b", "a\0b", "x" * 300, "", ".hidden", "a b", "meta.json"]
    )
    def test_hostile_keys_are_refused(self, tmp_path: Path, key: str) -> None:
        with pytest.raises(errors.SchemaError), StoreBuilder(tmp_path / "store") as builder:
            builder.add(0, 0, {key: np.zeros((3, 1))})
        assert list(tmp_path.iterdir()) == []

    def test_case_twins_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(errors.SchemaError, match="told apart"), StoreBuilder(tmp_path / "store") as builder:
            builder.add(0, 0, {"Obs": np.zeros((3, 1)), "obs": np.zeros((3, 1))})

    def test_objects_and_scalars_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="object"), StoreBuilder(tmp_path / "store") as builder:
            builder.add(0, 0, {"x": np.array([{}, {}, {}])})
        with pytest.raises(errors.SchemaError, match="scalar"), StoreBuilder(tmp_path / "store") as builder:
            builder.add(0, 0, {"x": np.float32(1)})

    def test_concat_checks_its_parts(self, tmp_path: Path) -> None:
        with StoreBuilder(tmp_path / "store", concat={"obs": ["a", "b"]}) as builder:
            with pytest.raises(errors.SchemaError, match="'b' is missing"):
                builder.add(0, 0, {"a": np.zeros((3, 1))})
            with pytest.raises(errors.SchemaError, match="differ in dtype"):
                builder.add(0, 0, {"a": np.zeros((3, 1)), "b": np.zeros((3, 1), np.float32)})
            with pytest.raises(errors.SchemaError, match="differ in length"):
                builder.add(0, 0, {"a": np.zeros((3, 1)), "b": np.zeros((4, 1))})
            a, b = np.arange(12.0).reshape(3, 2, 2), np.arange(3.0)
            builder.add(0, 0, {"a": a, "b": b})
        batch = TrajectoryStore.open(tmp_path / "store").gather([0, 1])
        np.testing.assert_array_equal(batch["a"], a[:-1])
        np.testing.assert_array_equal(batch["next", "a"], a[1:])
        np.testing.assert_array_equal(batch["b"], b[:-1])
        np.testing.assert_array_equal(batch["obs"], np.concatenate([a.reshape(3, 4), b.reshape(3, 1)], 1)[:-1])

    @pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int64", "float16", "float64", "complex64", ">f4"])
    def test_dtypes_are_kept(self, tmp_path: Path, dtype: str) -> None:
        values = np.arange(12).reshape(4, 3).astype(dtype)
        with StoreBuilder(tmp_path / "store") as builder:
            builder.add(0, 0, {"x": values})
        batch = TrajectoryStore.open(tmp_path / "store").gather([2, 0])
        np.testing.assert_array_equal(batch["x"], values[[2, 0]])
        assert batch["x"].dtype == np.dtype(dtype).newbyteorder("=")


class TestOpening:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no store here"):
            TrajectoryStore.open(tmp_path / "nowhere")

    def test_another_version(self, tmp_path: Path) -> None:
        path = build_store(tmp_path / "store", make_clips([4]))
        text = (path / "manifest.json").read_text()
        inner = text[text.index('"manifest":') + len('"manifest":') : -1].replace('"version":1', '"version":3')
        crc = _crc32c(inner.encode())
        (path / "manifest.json").write_text(f'{{"crc32c":{crc},"manifest":{inner}}}')
        with pytest.raises(errors.StoreVersionError, match="version 3"):
            TrajectoryStore.open(path)

    def test_cut_manifest(self, tmp_path: Path) -> None:
        path = build_store(tmp_path / "store", make_clips([4]))
        manifest = path / "manifest.json"
        whole = manifest.read_bytes()
        for cut in [0, 1, len(whole) // 2, len(whole) - 1]:
            manifest.write_bytes(whole[:cut])
            with pytest.raises(errors.StoreCorruptError, match=r"manifest\.json"):
                TrajectoryStore.open(path)

    def test_handles_pickle_by_reference(self, store_path: Path) -> None:
        store = TrajectoryStore.open(store_path, "ram")
        data = pickle.dumps(store)
        assert len(data) < 1000
        again = pickle.loads(data)
        assert (again.uuid, again.core.backend) == (store.uuid, "ram")

    def test_a_handle_of_a_replaced_store_is_refused(self, tmp_path: Path) -> None:
        path = build_store(tmp_path / "store", make_clips([4]))
        data = pickle.dumps(TrajectoryStore.open(path))
        build_store(path, make_clips([4]), overwrite=True)
        with pytest.raises(errors.StoreChangedError, match="rebuilt"):
            pickle.loads(data)

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_a_gather_in_a_child_process(self, tmp_path: Path, method: str) -> None:
        clips = make_clips([3000])
        store = TrajectoryStore.open(build_store(tmp_path / "store", clips), num_threads=2)
        index = np.arange(2999)[::-1].repeat(10)
        expected = store.gather(index)["observation"].sum(dtype=np.float64)
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(_sum_of_gather, (store, index)) == expected


def _sum_of_gather(store: TrajectoryStore, index: np.ndarray) -> float:
    return float(store.gather(index)["observation"].sum(dtype=np.float64))


def _crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit from its definition (Castagnoli polynomial, reflected)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_manifest_is_json_with_its_own_checksum(store_path: Path) -> None:
    text = (store_path / "manifest.json").read_text()
    document = json.loads(text)
    assert document["manifest"]["format"] == "iltools-store"
    inner = text[text.index('"manifest":') + len('"manifest":') : -1]
    assert _crc32c(inner.encode()) == document["crc32c"]


def test_verify_names_column_and_block(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", make_clips([50]))
    store = TrajectoryStore.open(path)
    seen: list[tuple[int, int]] = []
    assert store.verify(lambda done, total: seen.append((done, total))) == []
    assert seen[-1][0] == seen[-1][1] > 0
    file = next(store.data_dir.rglob("observation.memmap"))
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    (damage,) = store.verify()
    assert (damage.key, damage.block) == ("observation", 0)
    assert "observation" in damage.what
    assert str(file) == damage.file


def test_data_files_are_read_only(store_path: Path) -> None:
    files = list(TrajectoryStore.open(store_path).data_dir.rglob("*.memmap"))
    assert files
    assert all(file.stat().st_mode & 0o222 == 0 for file in files)


def test_size_on_disk(tmp_path: Path) -> None:
    clips = make_clips([1000] * 10)
    store = TrajectoryStore.open(build_store(tmp_path / "store", clips))
    raw = sum(clip[key].nbytes for clip in clips for key in ("qpos", "qvel", "action"))
    assert store.bytes_on_disk <= 1.05 * raw


class TestForeignMemmap:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        tensordict = pytest.importorskip("tensordict", reason="needs the torch extra")
        torch = pytest.importorskip("torch", reason="needs the torch extra")
        done = torch.zeros(10, 1, dtype=torch.bool)
        done[[3, 7]] = True
        data = tensordict.TensorDict(
            {
                "obs": torch.arange(20.0).reshape(10, 2),
                "bits": torch.arange(10, dtype=torch.bfloat16),
                "x y": torch.arange(10),
                "next": {"done": done, "obs": torch.arange(20.0).reshape(10, 2) + 1},
                "traj": torch.tensor([4, 4, 9, 9, 9, 9, 9, 1, 1, 1]),
            },
            [10],
        )
        data.memmap(tmp_path / "memmap")
        return tmp_path / "memmap"

    def test_by_end_key(self, directory: Path) -> None:
        store = TrajectoryStore.from_tensordict_memmap(directory)
        assert [(s.start, s.length) for s in store.segments] == [(0, 4), (4, 4), (8, 2)]
        batch = store.gather([9, 0])
        np.testing.assert_array_equal(batch["next", "obs"], [[19, 20], [1, 2]])
        np.testing.assert_array_equal(batch["x y"], [9, 0])
        assert store.is_bfloat16("bits")
        assert batch["bits"].dtype == np.uint16
        again = pickle.loads(pickle.dumps(store))
        assert again.segments == store.segments

    def test_by_traj_key(self, directory: Path) -> None:
        store = TrajectoryStore.from_tensordict_memmap(directory, traj_key="traj")
        assert store.segments.length.tolist() == [2, 5, 3]

    def test_damage_is_refused_and_nothing_written(self, directory: Path) -> None:
        with pytest.raises(errors.MissingKeyError, match="nope"):
            TrajectoryStore.from_tensordict_memmap(directory, traj_key="nope")
        file = directory / "obs.memmap"
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[:40])
        with pytest.raises(errors.StoreCorruptError, match="expected 80 bytes, found 40"):
            TrajectoryStore.from_tensordict_memmap(directory)
        assert file.stat().st_size == 40
        (directory / "meta.json").write_text("{")
        with pytest.raises(errors.StoreCorruptError, match=r"meta\.json"):
            TrajectoryStore.from_tensordict_memmap(directory)
        with pytest.raises(errors.StoreNotFoundError):
            TrajectoryStore.from_tensordict_memmap(directory / "nowhere")


def test_own_data_directory_is_a_tensordict(store_path: Path, clips: Clips) -> None:
    tensordict = pytest.importorskip("tensordict", reason="needs the torch extra")
    loaded = tensordict.TensorDict.load_memmap(TrajectoryStore.open(store_path).data_dir)
    observation = np.concatenate([np.concatenate([clip["qpos"], clip["qvel"]], axis=1) for clip in clips])
    np.testing.assert_array_equal(loaded["states", "observation"].numpy(), observation)
    np.testing.assert_array_equal(loaded["transitions", "action"].numpy(), expected_columns(clips)["action"])
    assert loaded["transitions"].batch_size[0] == sum(LENGTHS) - len(LENGTHS)


def test_gather_over_plain_columns() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.standard_normal((500, 5)), rng.integers(0, 255, (500, 3, 4), dtype=np.uint8), np.arange(500)]
    index = rng.integers(0, 500, 333)
    for column, batch in zip(columns, _core.gather(columns, index), strict=True):
        np.testing.assert_array_equal(batch, column[index])
    with pytest.raises(IndexError):
        _core.gather(columns, np.array([500]))
    with pytest.raises(ValueError, match="C-contiguous"):
        _core.gather([columns[0][:, ::2]], index)
    with pytest.raises(TypeError, match="objects"):
        _core.gather([np.array([{}, {}])], np.array([0]))
