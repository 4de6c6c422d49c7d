"""Every code block of the specification runs, and gives what its comments say, with its package's name read as ours."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax", reason="needs the jax extra")
from iltools_datasets.data import JaxDataLoader, LeRobotDatasetConfig
from lerobot_cases import make_set

pytestmark = pytest.mark.jax

SPEC = Path(__file__).resolve().parents[3] / "shared" / "spec" / "lerobot_jax_data.md"

# Run where JAX has four devices. What the blocks leave to the reader is what checks them.
SCRIPT = """
import dataclasses, re, sys
from pathlib import Path
from typing import Any, Protocol
import jax
import jax.numpy as jnp

assert len(jax.devices()) == 4
seen = []

def train_step(state, batch):
    seen.append({name: getattr(batch, name).shape for name in batch._fields})
    return jnp.mean(batch.obs)

pmapped = jax.pmap(lambda batch: jnp.mean(batch.obs))

def pmap_train_step(state, batch):
    pmapped(batch)
    return train_step(state, batch)

from iltools_datasets.data import Transition
names = {"Any": Any, "Protocol": Protocol, "Transition": Transition, "state": 0}
names |= {"train_step": train_step, "pmap_train_step": pmap_train_step}
shapes = []
for number, block in enumerate(Path(sys.argv[1]).read_text().split("\\0")):
    before = len(seen)
    exec(compile(block, f"block {number}", "exec"), names)
    if "ds" in names:
        names.setdefault("dataset", names["ds"])
    loader = names.get("loader")
    if loader is not None and before < len(seen):
        loader.close()
    shapes.append(seen[before:])

singles, devices, whole = [found for found in shapes if found]
assert len(singles) == 400 // 64
assert all(found["obs"] == (64, 14) for found in singles)
assert len(devices) == 400 // 64
for found in devices:
    assert found["obs"] == (4, 16, 14) and found["reward"] == (4, 16)
assert len(whole) == 10 * (3 * 50 // 128)
for found in whole:
    assert found == {"obs": (128, 14), "action": (128, 14), "reward": (128,), "next_obs": (128, 14), "done": (128,)}
assert names["t"].obs.shape == names["t"].action.shape == (14,)
metadata = names["ds"].metadata
assert metadata["repo_id"] == "lerobot/aloha_sim_insertion_human" and metadata["fps"] == 50
assert metadata["total_episodes"] == 8

from iltools_datasets.data import LeRobotDatasetAdapter
chunks = LeRobotDatasetAdapter(names["chunked"])
assert chunks[0].action.shape == (4, 14)
print("blocks:", number + 1)
"""


def blocks() -> list[str]:
    if not SPEC.is_file():
        pytest.skip(f"no specification at {SPEC}")
    found = re.findall(r"^```python\n(.*?)^```", SPEC.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [block.replace("vibe_rl.data", "iltools_datasets.data") for block in found]


def test_they_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {
        episode: {
            "observation.state": rng.standard_normal((50, 14), dtype=np.float32),
            "action": rng.standard_normal((50, 14), dtype=np.float32),
            "next.done": (np.arange(50) == 49)[:, None],
            "timestamp": (np.arange(50) / 50).astype(np.float32)[:, None],
            "frame_index": np.arange(50)[:, None],
            "episode_index": np.full((50, 1), episode),
            "index": (50 * episode + np.arange(50))[:, None],
            "task_index": np.zeros((50, 1), np.int64),
        }
        for episode in range(8)
    }
    home = tmp_path / "home"
    root = home / "lerobot" / "aloha_sim_insertion_human"
    make_set(root, "v2.1", [50] * 8, fps=50, columns=columns)
    found = blocks()
    assert len(found) == 8
    for number, block in enumerate(found):
        if "delta_timestamps=" in block:
            found[number] = block + "\nchunked = config\n"
    (tmp_path / "blocks").write_text("\0".join(found))
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "HF_LEROBOT_HOME": str(home),
        "ILTOOLS_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "blocks")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "blocks: 8" in done.stdout


def test_the_config_is_the_one_that_is_written_down() -> None:
    (block,) = (block for block in blocks() if "class LeRobotDatasetConfig" in block)
    names: dict[str, object] = {"Any": object}
    exec(compile("from __future__ import annotations\n" + block, "spec", "exec"), names)
    written = names["LeRobotDatasetConfig"]
    described = [
        [(f.name, f.default if f.default_factory is dataclasses.MISSING else f.default_factory()) for f in fields]
        for fields in (dataclasses.fields(written), dataclasses.fields(LeRobotDatasetConfig))  # type: ignore[arg-type]
    ]
    assert described[0] == described[1]


def test_the_loader_has_the_defaults_that_are_written_down() -> None:
    blocks()
    text = SPEC.read_text(encoding="utf-8")
    written = dict(
        re.findall(r"^\| `(\w+)` \| [^|]+ \| `([^`]+)` \|$", text[text.index("## JaxDataLoader") :], re.MULTILINE)
    )
    parameters = inspect.signature(JaxDataLoader).parameters
    assert len(written) == 6
    assert list(parameters)[1:7] == list(written)
    assert {name: repr(parameters[name].default) for name in written} == written


@pytest.mark.parametrize("name", ["Dataset", "LeRobotDatasetConfig", "JaxDataLoader", "_pack_obs", "_shard_batch"])
def test_the_names_are_where_the_table_says(name: str) -> None:
    from importlib import import_module

    homes = {
        "Dataset": "dataset",
        "LeRobotDatasetConfig": "lerobot_dataset",
        "JaxDataLoader": "data_loader",
        "_pack_obs": "lerobot_dataset",
        "_shard_batch": "data_loader",
    }
    assert hasattr(import_module(f"iltools_datasets.data.{homes[name]}"), name)
