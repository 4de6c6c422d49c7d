"""A store on the device gives, inside of jit, the bits that the host path gives."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs the jax extra")
import jax.numpy as jnp  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import StoreBuilder, TrajectoryStore  # noqa: E402
from iltools_datasets.errors import (  # noqa: E402
    BudgetError,
    MissingExtraError,
    MissingKeyError,
    OutOfRangeError,
    SchemaError,
)
from iltools_datasets.jax.device_store import DeviceStore  # noqa: E402
from iltools_datasets.jax.upload import check_row_count  # noqa: E402
from iltools_datasets.jax_stream import DoubleBufferStreamer  # noqa: E402
from iltools_datasets.windows.source import WindowSource  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402
from jax_cases import clips_fixture, columns_fixture, store_fixture  # noqa: E402, F401

pytestmark = pytest.mark.jax

boundaries = st.sampled_from(["wrap", "clamp", "mask"])
steps = st.one_of(st.integers(-200, 200), st.sampled_from([-(2**31), -(2**31) + 1, 2**31 - 2, 2**31 - 1]))
places = st.lists(st.tuples(st.integers(0, 5), steps), min_size=4, max_size=4)
"""Always four, so that not every example is compiled."""


@pytest.fixture(scope="module")
def on_device(store: TrajectoryStore) -> DeviceStore:
    return DeviceStore.from_store(store)


@partial(jax.jit, static_argnames=("length", "boundary", "offsets"))
def jitted_window(
    store: DeviceStore,
    traj: jax.Array,
    step: jax.Array,
    length: int | None = None,
    boundary: Any = "wrap",
    offsets: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    return store.window(traj, step, length, boundary, offsets=offsets)


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def assert_same(found: dict[str, Any], expected: dict[Any, np.ndarray]) -> None:
    for key, want in expected.items():
        value: Any = found
        for name in (key,) if isinstance(key, str) else key:
            value = value[name]
        assert value.shape == want.shape
        assert value.dtype == want.dtype
        assert bits(value) == bits(want), key


@given(places=places, length=st.sampled_from([1, 6]), boundary=boundaries)
def test_windows_are_those_of_the_host(
    store: TrajectoryStore,
    on_device: DeviceStore,
    places: list[tuple[int, int]],
    length: int,
    boundary: Any,
) -> None:
    traj, step = np.array(places).T
    expected = store.windows(traj, step, length, boundary)
    for window in (on_device.window, partial(jitted_window, on_device)):
        assert_same(window(traj.astype(np.int32), step.astype(np.int32), length, boundary), expected)


@settings(max_examples=25)
@given(places=places, offsets=st.sets(st.integers(-300, 300), min_size=1, max_size=5).map(sorted), boundary=boundaries)
def test_offsets_are_those_of_the_source(
    store: TrajectoryStore, on_device: DeviceStore, places: list[tuple[int, int]], offsets: list[int], boundary: Any
) -> None:
    traj, step = np.array([(k, abs(t) % 2**31) for k, t in places]).T
    expected = WindowSource(store, ["qpos"], None, traj, step, offsets=offsets, boundary=boundary)()
    found = jitted_window(on_device, traj, step, boundary=boundary, offsets=tuple(offsets))
    assert_same(found, expected)


@pytest.mark.parametrize("boundary", ["wrap", "clamp", "mask"])
def test_a_rollout_inside_of_jit_is_the_stream(store: TrajectoryStore, on_device: DeviceStore, boundary: Any) -> None:
    traj, length, num_windows = [1, 3, 4], 4, 40
    source = WindowSource(store, ["qpos", "action"], length, traj, boundary=boundary)
    with DoubleBufferStreamer(source) as streamer:
        streamed = [streamer.next_window() for _ in range(num_windows)]

    @jax.jit
    def roll(store: DeviceStore) -> dict[str, Any]:
        def body(step: jax.Array, _: None) -> tuple[jax.Array, dict[str, Any]]:
            return step + length, store.window(jnp.array(traj), step, length, boundary)

        return jax.lax.scan(body, jnp.zeros(3, jnp.int32), None, num_windows)[1]

    rolled = roll(DeviceStore.from_store(store, ["qpos", "action"]))
    for n, window in enumerate(streamed):
        for key, value in window.items():
            assert bits(rolled[key][n]) == bits(value)


class TestShapes:
    def test_leading_dimensions(self, on_device: DeviceStore) -> None:
        assert on_device.window(4, 3, 6)["qpos"].shape == (6, 5)
        assert on_device.window([[4], [5]], np.arange(3), 6)["qpos"].shape == (2, 3, 6, 5)
        batched = jax.vmap(lambda k, t: on_device.window(k, t, 6, "mask"))(jnp.arange(6), jnp.arange(6))
        at_once = on_device.window(jnp.arange(6), jnp.arange(6), 6, "mask")
        assert jax.tree.all(jax.tree.map(lambda a, b: bits(a) == bits(b), batched, at_once))

    def test_is_a_pytree(self, on_device: DeviceStore) -> None:
        leaves, structure = jax.tree.flatten(on_device)
        again = jax.tree.unflatten(structure, leaves)
        assert again.fields == on_device.fields
        assert again.num_trajectories == 6
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
        assert jax.tree.structure(jax.tree.map(lambda leaf: leaf * 1, on_device)) == structure

    def test_is_compiled_once_for_all_stores_alike(self, store: TrajectoryStore) -> None:
        traces = []

        @jax.jit
        def first(store: DeviceStore) -> jax.Array:
            traces.append(None)
            return store.window(0, 0, 1)["qpos"]

        for _ in range(3):
            first(DeviceStore.from_store(store, ["qpos"]))
        assert len(traces) == 1

    def test_state_and_next_share_an_array(self, store: TrajectoryStore, on_device: DeviceStore) -> None:
        assert [array.shape for array in on_device.columns] == [(193, 5), (193, 3), (187, 2)]
        assert sorted(map(str, on_device.keys)) == sorted(map(str, store.keys))
        assert on_device.nbytes == 4 * (193 * 8 + 187 * 2) + 3 * 4 * 6

    def test_a_next_that_does_not_follow_is_its_own(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        with StoreBuilder(tmp_path / "s") as builder:
            for k in range(3):
                builder.add(0, k, {}, {"x": rng.random((9, 2)), ("next", "x"): rng.random((9, 2))})
        store = TrajectoryStore.open(tmp_path / "s")
        assert len(DeviceStore.from_store(store, dtype=None).columns) == 2

    def test_keys_alone(self, store: TrajectoryStore) -> None:
        only_next = DeviceStore.from_store(store, [("next", "qpos")])
        assert only_next.window(0, 0, 2)["next"]["qpos"].shape == (2, 5)
        assert list(only_next.window(0, 0, 2)) == ["next"]


class TestValues:
    def build(self, path: Path, values: np.ndarray) -> TrajectoryStore:
        with StoreBuilder(path / "s") as builder:
            builder.add(0, 0, states={"x": values[: len(values) // 2]})
            builder.add(0, 1, states={"x": values[len(values) // 2 :]})
        return TrajectoryStore.open(path / "s")

    @pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "uint8", "int8", "bool", "uint16"])
    def test_bits_of_any_kind(self, tmp_path: Path, dtype: str) -> None:
        raw = np.random.default_rng(0).integers(0, 256, (12, 3, 8), np.uint8)
        values = raw > 127 if dtype == "bool" else raw.view(dtype)
        store = self.build(tmp_path, values)
        expected = store.windows([0, 1], [2, -1], 4, "wrap")
        assert_same(jitted_window(DeviceStore.from_store(store), jnp.array([0, 1]), jnp.array([2, -1]), 4), expected)

    def test_floats_are_cast(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).standard_normal((12, 3))
        store = self.build(tmp_path, values)
        for dtype in (None, jnp.bfloat16, np.float16):
            window = DeviceStore.from_store(store, ["x"], dtype=dtype).window(0, 1, 4)["x"]
            assert bits(window) == bits(values[1:5].astype(dtype or np.float32))

    def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        store = self.build(tmp_path, np.array([[1.0], [2], [1e300], [4], [5], [6]]))
        with pytest.raises(SchemaError, match="a value of float64 does not fit float32"):
            DeviceStore.from_store(store)

    def test_int64_is_refused_only_if_too_large(self, tmp_path: Path) -> None:
        store = self.build(tmp_path, np.arange(12)[:, None])
        assert DeviceStore.from_store(store).window(0, 1, 2)["x"].tolist() == [[1], [2]]
        (tmp_path / "large").mkdir()
        large = self.build(tmp_path / "large", np.arange(12)[:, None] + 2**31)
        with pytest.raises(SchemaError, match="does not fit int32"):
            DeviceStore.from_store(large)


class TestRefusals:
    def test_a_budget(self, store: TrajectoryStore) -> None:
        needed = 4 * 187 * 5
        assert DeviceStore.from_store(store, ["qpos"], budget=needed).columns[0].nbytes == needed
        with pytest.raises(BudgetError, match=f"{needed} bytes per device are needed, {needed - 1} are the budget"):
            DeviceStore.from_store(store, ["qpos"], budget=needed - 1)
        assert (
            DeviceStore.from_store(store, ["qpos"], dtype=jnp.bfloat16, budget=needed // 2).columns[0].nbytes
            == needed // 2
        )

    def test_the_budget_is_per_device(self, store: TrajectoryStore) -> None:
        mesh = Mesh(np.array(jax.devices()[:2]), ("rows",))
        halves = NamedSharding(mesh, PartitionSpec("rows"))
        DeviceStore.from_store(store, ["qpos"], sharding=halves, budget=4 * 94 * 5)
        with pytest.raises(BudgetError):
            DeviceStore.from_store(store, ["qpos"], sharding=NamedSharding(mesh, PartitionSpec()), budget=4 * 94 * 5)

    def test_rows_beyond_int32(self) -> None:
        check_row_count(2**31 - 1)
        with pytest.raises(OutOfRangeError, match="2147483648 states"):
            check_row_count(2**31)

    def test_rows_are_counted_before_anything_else(
        self, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TrajectoryStore, "__len__", lambda _: 2**31 - 1)
        with pytest.raises(OutOfRangeError, match="int32"):
            DeviceStore.from_store(store)

    def test_keys(self, store: TrajectoryStore) -> None:
        with pytest.raises(MissingKeyError, match="nothing"):
            DeviceStore.from_store(store, ["nothing"])
        with pytest.raises(SchemaError, match="no keys"):
            DeviceStore.from_store(store, [])

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda d: d.window(6, 0, 2), OutOfRangeError, "trajectory 6"),
            (lambda d: d.window([0, -1], 0, 2), OutOfRangeError, "trajectory -1"),
            (lambda d: d.window(0, 2**31, 2), OutOfRangeError, "int32"),
            (lambda d: d.window(0, 0.5, 2), TypeError, "integers"),
            (lambda d: d.window(0, jnp.ones(2), 2), TypeError, "integers"),
            (lambda d: d.window(0, 0), SchemaError, "one of them"),
            (lambda d: d.window(0, 0, 0), SchemaError, "at least 1"),
            (lambda d: d.window(0, 0, offsets=[1, 1]), SchemaError, "increase"),
            (lambda d: d.window(0, 0, 2, "stop"), ValueError, "boundary"),
            (lambda d: d.window([1, 1], [0, 38], 2, "error"), OutOfRangeError, "steps 38 to 39 leave trajectory 1"),
            (lambda d: jax.jit(lambda t: d.window(1, t, 2, "error"))(0), ValueError, "inside of jit"),
        ],
    )
    def test_windows(
        self, on_device: DeviceStore, call: Callable[[DeviceStore], Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            call(on_device)

    def test_boundary_error_within(self, store: TrajectoryStore, on_device: DeviceStore) -> None:
        assert_same(on_device.window([1, 4], [30, 2], 9, "error"), store.windows([1, 4], [30, 2], 9, "error"))

    def test_jit_never_leaves_the_data(self, store: TrajectoryStore, on_device: DeviceStore) -> None:
        found = jitted_window(on_device, jnp.array([-3, 99]), jnp.array([0, 0]), 2)
        assert_same(found, store.windows([0, 5], [0, 0], 2))

    def test_without_jax(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "jax", None)
        monkeypatch.delitem(sys.modules, "iltools_datasets.jax.device_store")
        with pytest.raises(MissingExtraError, match=r"iltools-datasets\[jax\]"):
            importlib.import_module("iltools_datasets.jax.device_store")


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("rows")], ids=["copies", "split"])
def test_over_several_devices(store: TrajectoryStore, spec: PartitionSpec) -> None:
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("needs several devices")
    on_device = DeviceStore.from_store(store, sharding=NamedSharding(Mesh(np.array(devices), ("rows",)), spec))
    traj, step = np.array([0, 5, 4, 1]), np.array([0, 30, -3, 38])
    assert_same(jitted_window(on_device, traj, step, 9, "mask"), store.windows(traj, step, 9, "mask"))


def test_one_given_device(store: TrajectoryStore) -> None:
    device = jax.devices()[-1]
    assert DeviceStore.from_store(store, ["qpos"], sharding=device).columns[0].devices() == {device}


def test_bfloat16_of_a_data_set_that_others_wrote(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes the data set with the torch extra")
    tensordict = pytest.importorskip("tensordict", reason="writes the data set with the torch extra")
    states = torch.randn(21, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    done = torch.zeros(20, 1, dtype=torch.bool)
    done[[8, 19]] = True
    data = {"x": states[:-1], "next": {"x": states[1:], "done": done}}
    tensordict.TensorDict(data, [20]).memmap(tmp_path / "td")
    store = TrajectoryStore.from_tensordict_memmap(tmp_path / "td")
    expected = states[9:13].float().numpy()
    source = WindowSource(store, ["x", ("next", "x")], 4, [1])
    with DoubleBufferStreamer(source) as streamer:
        streamed = streamer.next_window()
    on_device = DeviceStore.from_store(store, ["x", ("next", "x")])
    assert len(on_device.columns) == 1
    for window in (jax.tree.map(lambda array: array[0], streamed), on_device.window(1, 0, 4)):
        assert window["x"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(window["x"].astype(np.float32), expected)
        np.testing.assert_array_equal(window["next"]["x"].astype(np.float32), states[10:14].float().numpy())
