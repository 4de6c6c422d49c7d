"""Real recordings in a store: size on disk, the data directory in TensorDict's own hands, and TorchRL's own epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets.replay_export import build_replay_from_zarr  # noqa: E402
from iltools_datasets.replay_manager import ExpertReplayManager  # noqa: E402
from iltools_datasets.replay_memmap import load  # noqa: E402
from iltools_datasets.sources import export, open_source  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.data import ReplayBuffer, TensorDictReplayBuffer  # noqa: E402
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.shared_data]

DATA_SETS = {
    "pusht": ("pusht_zarr/pusht_cchi_v7_replay.zarr", "flat-zarr", ["state", "keypoint"], 25_444),
    "g1": ("unitree_g1", "unitree-csv", ["qpos", "qvel"], 1748 + 1941),
}


@pytest.fixture(scope="module", params=list(DATA_SETS))
def built(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A manager over one data set, the archive it came from, and how many transitions there must be."""
    path, source_format, obs_keys, transitions = DATA_SETS[request.param]
    scratch = tmp_path_factory.mktemp(request.param)
    export(open_source(shared_data / path, source_format), scratch / "archive.zarr")
    manager = build_replay_from_zarr(scratch / "archive.zarr", scratch / "store", obs_keys)
    return manager, scratch / "archive.zarr", transitions


def source_columns(archive: Path, mgr: ExpertReplayManager) -> dict[Any, np.ndarray]:
    """Every transition of the archive, read with zarr alone in the order that the store's names give."""
    root = zarr.open_group(archive, mode="r")
    groups = [
        root[f"{mgr.store.task_names[segment.task_id]}/{mgr.store.trajectory_name(position)}"]
        for position, segment in enumerate(mgr.segments)
    ]
    keys = [key for key in dict(groups[0].arrays()) if key not in ("action", "done", "terminated")]
    columns: dict[Any, np.ndarray] = {}
    for key in keys:
        columns[key] = np.concatenate([group[key][:-1] for group in groups])
        columns["next", key] = np.concatenate([group[key][1:] for group in groups])
    if "action" in groups[0]:
        columns["action"] = np.concatenate(
            [group["action"][: segment.length] for group, segment in zip(groups, mgr.segments, strict=True)]
        )
    return {key: column.astype(np.float32) if column.dtype == np.float64 else column for key, column in columns.items()}


def test_one_epoch_of_torchrl_is_the_source_bit_for_bit(built: Any) -> None:
    mgr, archive, transitions = built
    expected = source_columns(archive, mgr)
    storage, _ = load(mgr.store.path)
    buffer = TensorDictReplayBuffer(storage=storage, sampler=SamplerWithoutReplacement(), batch_size=1000)
    seen = np.zeros(transitions, dtype=np.int64)
    for batch in buffer:
        rows = batch["index"].numpy()
        np.add.at(seen, rows, 1)
        for key, column in expected.items():
            assert batch[key].numpy().tobytes() == column[rows].tobytes(), key
    assert (seen == 1).all()


def test_nothing_is_stored_twice(built: Any) -> None:
    mgr, archive, _ = built
    groups = zarr.open_group(archive, mode="r").members(max_depth=None)
    raw = sum(
        node.size * min(node.dtype.itemsize, 4) for _, node in groups if isinstance(node, zarr.Array) and node.ndim
    )
    assert mgr.store.bytes_on_disk <= 1.05 * raw


def test_tensordict_opens_the_data_directory(built: Any) -> None:
    mgr, _, transitions = built
    data = TensorDict.load_memmap(mgr.store.data_dir)
    assert data["states"].batch_size == torch.Size([mgr.store.num_states])
    assert data["transitions"].batch_size == torch.Size([transitions])
    rows = mgr.store.gather(np.arange(100))
    assert torch.equal(data["states", "observation"][:100], torch.from_numpy(rows["observation"]))
    assert torch.equal(data["transitions", "action"][:100], torch.from_numpy(rows["action"]))


def test_every_byte_is_verified(built: Any) -> None:
    mgr, _, _ = built
    assert mgr.store.verify() == []


def test_a_plain_replay_buffer_takes_the_storage(built: Any) -> None:
    mgr, _, _ = built
    batch = ReplayBuffer(storage=mgr.buffer.storage, batch_size=32).sample()
    assert batch["observation"].shape[0] == 32
