"""Windows spread over several devices, and over the devices of several processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs the jax extra")
import jax.numpy as jnp  # noqa: E402
from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets.errors import SchemaError  # noqa: E402
from iltools_datasets.jax_stream import DoubleBufferStreamer  # noqa: E402
from iltools_datasets.windows.source import WindowSource  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding  # noqa: E402
from jax_cases import clips_fixture, store_fixture  # noqa: E402, F401

pytestmark = pytest.mark.jax

NUM_DEVICES = 4


@pytest.fixture(autouse=True)
def _several_devices() -> None:
    if len(jax.devices()) < NUM_DEVICES:
        pytest.skip(f"needs {NUM_DEVICES} devices, and JAX had begun before they could be asked for")


@pytest.fixture
def over_envs() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()[:NUM_DEVICES]), ("batch",)), PartitionSpec("batch"))


def source_of(store: TrajectoryStore, num_envs: int = 8) -> WindowSource:
    return WindowSource(store, ["qpos", ("next", "qpos")], 3, [1, 3, 4, 5] * (num_envs // 4))


def test_global_arrays_for_jit(store: TrajectoryStore, over_envs: NamedSharding) -> None:
    expected = source_of(store)
    step = jax.jit(lambda window: jnp.sum(window["qpos"], axis=(1, 2)), out_shardings=over_envs)
    with DoubleBufferStreamer(source_of(store), sharding=over_envs) as streamer:
        for _ in range(30):
            window, want = streamer.next_window(), expected()
            assert window["qpos"].sharding.is_equivalent_to(over_envs, 3)
            np.testing.assert_array_equal(window["qpos"], want["qpos"])
            np.testing.assert_array_equal(window["next"]["qpos"], want["next"]["qpos"])
            np.testing.assert_allclose(step(window), want["qpos"].sum(axis=(1, 2)))
            for shard in window["qpos"].addressable_shards:
                np.testing.assert_array_equal(shard.data, want["qpos"][shard.index])


@pytest.mark.parametrize("given", [True, False], ids=["sharding", "all devices"])
def test_pmap_layout(store: TrajectoryStore, over_envs: NamedSharding, given: bool) -> None:
    expected = source_of(store)
    step = jax.pmap(lambda window: jnp.sum(window["qpos"], axis=(1, 2)))
    sharding = over_envs if given else None
    with DoubleBufferStreamer(source_of(store), sharding=sharding, layout="pmap") as streamer:
        for _ in range(10):
            window, want = streamer.next_window(), expected()
            assert window["qpos"].shape == (NUM_DEVICES, 2, 3, 5)
            np.testing.assert_array_equal(np.reshape(window["qpos"], (8, 3, 5)), want["qpos"])
            np.testing.assert_allclose(np.ravel(step(window)), want["qpos"].sum(axis=(1, 2)))
            assert [shard.device for shard in window["qpos"].addressable_shards] == jax.devices()[:NUM_DEVICES]


def test_windows_kept_over_devices_do_not_change(store: TrajectoryStore, over_envs: NamedSharding) -> None:
    expected = source_of(store, 64)
    with DoubleBufferStreamer(source_of(store, 64), sharding=over_envs, depth=4) as streamer:
        windows = [streamer.next_window() for _ in range(50)]
    for window in windows:
        np.testing.assert_array_equal(window["qpos"], expected()["qpos"])


class TestRefusals:
    def test_an_indivisible_batch_at_once(self, store: TrajectoryStore, over_envs: NamedSharding) -> None:
        source = WindowSource(store, ["qpos"], 3, [1] * 6)
        for layout in ("global", "pmap"):
            with pytest.raises(SchemaError, match="num_envs: a batch of 6 cannot be split evenly over 4 devices"):
                DoubleBufferStreamer(source, sharding=over_envs, layout=layout)

    @pytest.mark.parametrize("layout", ["global", "pmap"])
    @pytest.mark.parametrize(
        ("array", "message"), [(np.zeros((6, 2)), "x: a batch of 6"), (np.float32(1), "x: a scalar")]
    )
    def test_an_indivisible_window(
        self, over_envs: NamedSharding, layout: Any, array: np.ndarray, message: str
    ) -> None:
        with (
            DoubleBufferStreamer(lambda: {"x": array}, sharding=over_envs, layout=layout) as streamer,
            pytest.raises(SchemaError, match=message),
        ):
            streamer.next_window()

    def test_an_axis_beyond_the_first(self) -> None:
        columns = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("x",)), PartitionSpec(None, "x"))
        with DoubleBufferStreamer(lambda: {"x": np.zeros((4, 6))}, sharding=columns) as streamer:
            assert streamer.next_window()["x"].addressable_shards[0].data.shape == (4, 3)
        with (
            DoubleBufferStreamer(lambda: {"x": np.zeros((4, 5))}, sharding=columns) as streamer,
            pytest.raises(SchemaError, match="x"),
        ):
            streamer.next_window()

    def test_arguments(self, over_envs: NamedSharding) -> None:
        device = jax.devices()[0]
        with pytest.raises(SchemaError, match="not both"):
            DoubleBufferStreamer(dict, device, sharding=over_envs)
        with pytest.raises(SchemaError, match="several devices"):
            DoubleBufferStreamer(dict, device, layout="pmap")
        with pytest.raises(SchemaError, match="NamedSharding"):
            DoubleBufferStreamer(dict, sharding=SingleDeviceSharding(device), layout="pmap")


PROCESS = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from iltools_datasets import TrajectoryStore
from iltools_datasets.jax.device_store import DeviceStore
from iltools_datasets.jax_stream import DoubleBufferStreamer
from iltools_datasets.windows.source import WindowSource

address, number, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=number)
mesh = Mesh(np.array(jax.devices()), ("batch",))
sharding = NamedSharding(mesh, PartitionSpec("batch"))
store = TrajectoryStore.open(path)
mine = [1, 3, 4, 5] if number == 0 else [5, 4, 3, 1]

mean = jax.jit(lambda x: x.mean(), out_shardings=NamedSharding(mesh, PartitionSpec()))
for layout, shape in (("global", (8, 3, 5)), ("pmap", (4, 2, 3, 5))):
    source, expected = (WindowSource(store, ["qpos"], 3, mine) for _ in range(2))
    with DoubleBufferStreamer(source, sharding=sharding, layout=layout) as streamer:
        for _ in range(3):
            window = streamer.next_window()["qpos"]
            assert window.shape == shape, window.shape
            local = np.concatenate([shard.data for shard in window.addressable_shards]).reshape(4, 3, 5)
            np.testing.assert_array_equal(local, expected()["qpos"])
            print("here:", layout, float(mean(window)))

on_device = DeviceStore.from_store(store, ["qpos", ("next", "qpos")], sharding=sharding)
pick = jax.jit(lambda store: store.window(4, 90, 9)["qpos"], out_shardings=NamedSharding(mesh, PartitionSpec()))
np.testing.assert_array_equal(pick(on_device), store.windows([4], [90], 9, keys=["qpos"])["qpos"][0])
try:
    DoubleBufferStreamer(WindowSource(store, ["qpos"], 3, [1, 3, 4]), sharding=sharding)
except ValueError as error:
    print("here:", error)
"""


def test_two_processes(store: TrajectoryStore, tmp_path: Path) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), address, str(number), str(store.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], [output[1][-2000:] for output in outputs]
    # The collectives print lines of their own.
    said = [[line for line in output.splitlines() if line.startswith("here:")] for output, _ in outputs]
    assert len(said[0]) == 7
    assert said[0] == said[1]
    assert said[0][-1] == "here: num_envs: a batch of 3 cannot be split evenly over 2 devices"
