"""The public contract's examples, run against a small archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from archives import motion_clips, write_archive

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

pytestmark = pytest.mark.torch

NUM_ENVS = 8


@pytest.fixture
def zarr_path(tmp_path: Path) -> Path:
    """Three motions of clips long enough for every step the examples name; task 2 has six trajectories."""
    rng = np.random.default_rng(0)
    clips = motion_clips(lengths=(20, 30, 40))
    for number in range(6):
        clips[f"lab/zigzag/traj{number}"] = {
            key: rng.standard_normal((20 + number, width)) for key, width in (("qpos", 4), ("qvel", 3), ("action", 2))
        }
    return write_archive(tmp_path / "trajectories.zarr", clips)


def test_build_a_replay_and_draw_every_kind_of_batch(zarr_path: Path, tmp_path: Path) -> None:
    from iltools_datasets.replay_export import build_replay_from_zarr

    mgr = build_replay_from_zarr(
        zarr_path=str(zarr_path),
        scratch_dir=str(tmp_path / "iltools_memmap"),
        obs_keys=["qpos", "qvel"],
        act_key="action",
        concat_obs_to_key="observation",
    )

    mgr.set_uniform_sampler(batch_size=256, without_replacement=True)
    batch = mgr.buffer.sample()
    assert batch.batch_size == torch.Size([256])
    assert {"observation", "action", "qpos", "qvel", "terminated"} <= set(batch.keys())
    assert batch["observation"].shape == (256, 7)

    from iltools_datasets.replay_manager import EnvAssignment

    num_envs = NUM_ENVS
    assign = [EnvAssignment(task_id=0, traj_id=0, step=i) for i in range(num_envs)]
    mgr.set_assignment(assign)
    step_batch = mgr.buffer.sample()
    assert step_batch.batch_size == torch.Size([num_envs])
    assert step_batch["index"].tolist() == list(range(num_envs))

    mgr.set_uniform_sampler(batch_size=512, without_replacement=True, respect_assignment=True)
    batch = mgr.buffer.sample()
    assert batch.batch_size == torch.Size([512])
    assert batch["index"].max() < mgr.segments[0].length

    mgr.update_env_assignment(env_index=3, task_id=2, traj_id=5, step=0)
    mgr.update_assignments({0: (1, 2), 7: (2, 0, 10)})
    assert mgr.assignment is not None
    assert [mgr.assignment[env] for env in (0, 3, 7)] == [
        EnvAssignment(1, 2, 0),
        EnvAssignment(2, 5, 0),
        EnvAssignment(2, 0, 10),
    ]
    mgr.clear_assignment()
    assert mgr.assignment is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_move_a_batch_to_the_device(zarr_path: Path, tmp_path: Path) -> None:
    from iltools_datasets.replay_export import build_replay_from_zarr

    mgr = build_replay_from_zarr(zarr_path, tmp_path / "iltools_memmap", ["qpos"])
    batch = mgr.buffer.sample()
    batch = batch.to(torch.device("cuda"))
    assert batch["observation"].device.type == "cuda"


def test_build_a_memmap_from_tensors(tmp_path: Path) -> None:
    import torch
    from iltools_datasets.replay_memmap import ExpertMemmapBuilder, build_trajectory_td

    obs, act, nxt = torch.randn(100, 64), torch.randn(100, 12), torch.randn(100, 64)
    td = build_trajectory_td(observation=obs, action=act, next_observation=nxt)
    b = ExpertMemmapBuilder(str(tmp_path / "iltools_memmap"), max_size=100)
    seg = b.add_trajectory(task_id=0, traj_id=0, transitions=td)
    storage, segments = b.finalize()

    assert list(segments) == [seg]
    assert [seg.index_at(0), seg.index_at(99), seg.index_at(100, wrap=True)] == [0, 99, 0]
    with pytest.raises(IndexError):
        seg.index_at(100, wrap=False)
    assert torch.equal(storage.get(torch.arange(100))["next", "observation"], nxt)


def test_the_names_of_the_reference() -> None:
    from iltools_datasets import replay_manager, replay_memmap

    assert {"ExpertReplayManager", "ExpertReplaySpec", "EnvAssignment", "SequentialPerEnvSampler"} <= set(
        dir(replay_manager)
    )
    assert {"ExpertMemmapBuilder", "Segment", "build_trajectory_td", "build_trajectory_td_from_components"} <= set(
        dir(replay_memmap)
    )
    segment = replay_memmap.Segment(task_id=0, traj_id=1, start=10, length=5)
    assert (segment.task_id, segment.traj_id, segment.start, segment.length) == (0, 1, 10, 5)
