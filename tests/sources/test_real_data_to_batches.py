"""Real recordings all the way: raw file, archive, store, one epoch of TorchRL batches."""

import numpy as np
import pytest
import zarr

pytest.importorskip("torchrl", reason="needs the torch extra")
pytestmark = [pytest.mark.torch, pytest.mark.shared_data]

from iltools_datasets.replay_export import build_replay_from_zarr  # noqa: E402
from iltools_datasets.sources import export, open_source  # noqa: E402


def one_epoch(manager, num_transitions, batch_size=512):
    """Draw exactly one epoch and put its rows in the order of the data set."""
    manager.set_uniform_sampler(batch_size=batch_size, without_replacement=True)
    batches = [manager.buffer.sample() for _ in range(-(-num_transitions // batch_size))]
    index = np.concatenate([np.asarray(batch["index"]) for batch in batches])[:num_transitions]
    assert np.array_equal(np.sort(index), np.arange(num_transitions))  # each exactly once
    order = np.argsort(index)
    return lambda key: np.concatenate([batch[key].numpy() for batch in batches])[:num_transitions][order]


@pytest.mark.parametrize("layout", ["nested", "packed"])
def test_pusht(shared_data, tmp_path, layout):
    raw = shared_data / "pusht_zarr" / "pusht_cchi_v7_replay.zarr"
    export(open_source(raw, fps=10), tmp_path / "a.zarr", layout=layout)
    manager = build_replay_from_zarr(tmp_path / "a.zarr", tmp_path / "store", ["state"], act_key="action")
    column = one_epoch(manager, 25_444)
    data = zarr.open_group(raw, mode="r")
    last = data["meta/episode_ends"][...] - 1
    state_rows = np.setdiff1d(np.arange(25_650), last)
    for key in ("state", "keypoint", "n_contacts"):
        values = data[f"data/{key}"][...]
        np.testing.assert_array_equal(column(key), values[state_rows])
        np.testing.assert_array_equal(column(("next", key)), values[state_rows + 1])
    np.testing.assert_array_equal(column("observation"), data["data/state"][...][state_rows])
    np.testing.assert_array_equal(column("action"), data["data/action"][...][state_rows])
    np.testing.assert_array_equal(
        np.flatnonzero(column(("next", "done"))), np.cumsum(np.diff(last, prepend=-1) - 1) - 1
    )


@pytest.mark.parametrize("float_dtype", [None, "float32"])
def test_unitree_dances(shared_data, tmp_path, float_dtype):
    export(open_source(shared_data / "unitree_g1", "unitree-csv"), tmp_path / "a.zarr")
    manager = build_replay_from_zarr(tmp_path / "a.zarr", tmp_path / "store", ["qpos", "qvel"], float_dtype=float_dtype)
    column = one_epoch(manager, 1748 + 1941)
    names = ("G1_Take_102.bvh_60hz.csv", "G1_gangnam_style_V01.bvh_60hz.csv")
    files = [np.genfromtxt(shared_data / "unitree_g1" / name, delimiter=",") for name in names]
    order = [0, 1, 2, 6, 3, 4, 5, *range(7, 36)]
    now = np.concatenate([rows[:-1, order] for rows in files]).astype(float_dtype or "float64")
    then = np.concatenate([rows[1:, order] for rows in files]).astype(float_dtype or "float64")
    np.testing.assert_array_equal(column("qpos"), now)
    np.testing.assert_array_equal(column(("next", "qpos")), then)
    np.testing.assert_array_equal(column("observation")[:, :36], now)
