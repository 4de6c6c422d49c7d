"""Batches over several devices, and the loaders of several processes; each in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="needs the jax extra")

pytestmark = pytest.mark.jax

PREAMBLE = """
import jax, numpy as np
import jax.numpy as jnp
from data_cases import Numbered, assert_same, expected, make_store, numbers_of
from iltools_datasets import TrajectoryStore
from iltools_datasets.data import JaxDataLoader
from iltools_datasets.data.data_loader import _shard_batch, _transition_collate_fn

def refused(message, *arguments, **options):
    try:
        JaxDataLoader(*arguments, **options)
    except ValueError as error:
        assert str(error) == message, str(error)
    else:
        raise AssertionError("taken: " + message)

devices = jax.devices()
assert len(devices) == 4
"""


def run(script: str, *arguments: str) -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    command = [sys.executable, "-W", "error", "-c", PREAMBLE + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_batches_are_cut_up_for_the_devices(tmp_path: Path) -> None:
    run(
        """
import sys
store = make_store(sys.argv[1])
alone = JaxDataLoader(store, 16, seed=1)
mean = jax.pmap(lambda batch: batch.obs.mean())
jitted = jax.jit(lambda batch: batch.obs.mean(axis=1))
for num_workers in (0, 2):
    with JaxDataLoader(store, 16, num_workers, devices=devices, seed=1) as loader, \\
         JaxDataLoader(store, 16, num_workers, devices=devices, layout="global", seed=1) as whole:
        alone.set_epoch(0)
        for batch, together, wanted in zip(loader, whole, alone, strict=True):
            assert batch.obs.shape == (4, 4, 5) and batch.reward.shape == (4, 4) and batch.done.shape == (4, 4)
            assert [shard.device for shard in batch.obs.addressable_shards] == devices
            for number, shard in enumerate(batch.obs.addressable_shards):
                np.testing.assert_array_equal(shard.data[0], wanted.obs[4 * number : 4 * number + 4])
            np.testing.assert_allclose(mean(batch), wanted.obs.reshape(4, 20).mean(axis=1))
            assert together.obs.shape == (16, 5)
            assert len(together.obs.sharding.device_set) == 4
            assert together.obs.sharding.spec == jax.sharding.PartitionSpec("device")
            np.testing.assert_array_equal(together.obs, wanted.obs)
            np.testing.assert_allclose(jitted(together), wanted.obs.mean(axis=1))
two = next(iter(JaxDataLoader(Numbered(8), 4, devices=devices[2:], shuffle=False)))
assert two.obs.shape == (2, 2, 4) and numbers_of(two) == [0, 1, 2, 3]
assert {shard.device for shard in two.obs.addressable_shards} == set(devices[2:])
one = next(iter(JaxDataLoader(Numbered(8), 3, devices=devices[:1], shuffle=False)))
assert one.obs.shape == (1, 3, 4)
""",
        str(tmp_path / "store"),
    )


def test_the_last_batch_and_what_cannot_be_divided() -> None:
    run(
        """
two = devices[:2]
refused("Batch size 3 is not divisible by number of devices 2.", Numbered(10), 3, devices=two)
refused("Last batch of 3 is not divisible by number of devices 2; drop_last=True leaves it out.",
        Numbered(11), 4, devices=two, drop_last=False)
refused("Last batch of 1 is not divisible by number of devices 2; drop_last=True leaves it out.",
        Numbered(11), 4, devices=two, drop_last=False, rank=0, world_size=2, seed=0)
assert len(JaxDataLoader(Numbered(11), 4, devices=two)) == 2
kept = JaxDataLoader(Numbered(10), 4, devices=two, drop_last=False)
assert [batch.obs.shape for batch in kept] == [(2, 2, 4)] * 2 + [(2, 1, 4)]

# One that divides an epoch need not divide the rest of one.
state = {**JaxDataLoader(Numbered(10), 3, seed=0).state_dict(), "position": 3}
loader = JaxDataLoader(Numbered(10), 4, devices=two, drop_last=False)
try:
    loader.load_state_dict(state)
except ValueError as error:
    assert str(error).startswith("Last batch of 3"), error
else:
    raise AssertionError
assert loader.state_dict()["position"] == 0

batch = _transition_collate_fn([Numbered(9)[n] for n in range(6)])
assert numbers_of(_shard_batch(batch, two)) == [0, 1, 2, 3, 4, 5]
try:
    _shard_batch(batch, devices)
except ValueError as error:
    assert str(error) == "Batch size 6 is not divisible by number of devices 4.", error
else:
    raise AssertionError
from iltools_datasets.errors import SchemaError
widened = JaxDataLoader(Numbered(9), 4, devices=two, transform=lambda batch: batch._replace(obs=batch.obs[:3]))
try:
    next(iter(widened))
except SchemaError as error:
    assert str(error) == "obs: a batch of 3 cannot be split evenly over 2 devices", error
else:
    raise AssertionError
"""
    )


PROCESS = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from data_cases import Numbered, numbers_of
from iltools_datasets.data import JaxDataLoader
from iltools_datasets.ranks import jax_rank

try:
    JaxDataLoader(Numbered(20), 4, devices=jax.devices(), seed=3, **jax_rank())
except ValueError as error:
    assert "give each process its own, jax.local_devices(), with rank and world_size" in str(error), error
else:
    raise AssertionError
loader = JaxDataLoader(Numbered(20), 4, devices=jax.local_devices(), seed=3, **jax_rank())
for batch in loader:
    assert batch.obs.shape == (2, 2, 4)
    print("here:", *numbers_of(batch))
"""


def test_two_processes(tmp_path: Path) -> None:
    import socket

    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    environment.pop("XLA_FLAGS", None)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), address, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], [output[1][-2000:] for output in outputs]
    lines = [line for output, _ in outputs for line in output.splitlines() if line.startswith("here:")]
    numbers = [int(number) for line in lines for number in line.split()[1:]]
    assert len(lines) == 4
    assert len(set(numbers)) == 16
