"""Our buffer, storage and sampler made inside the actor of TorchRL's `RayReplayBuffer`, from constructors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")
ray = pytest.importorskip("ray", reason="needs the ray extra")

from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from torchrl.data import ImmutableDatasetWriter, RayReplayBuffer  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning")]


def storage_at(path: str) -> ours.TrajectoryStorage:
    return ours.TrajectoryStorage(TrajectoryStore.open(path))


def test_batches_from_an_actor(tmp_path: Path) -> None:
    import test_ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(test_ray)  # the actor does not have the tests
    path = build_store(tmp_path / "store", make_clips([40, 7, 90]))
    rb = RayReplayBuffer(
        replay_buffer_cls=ours.TensorDictReplayBuffer,
        storage=partial(storage_at, str(path)),
        sampler=partial(ours.SamplerWithoutReplacement, seed=3),
        writer=ImmutableDatasetWriter,
        batch_size=12,
        ray_init_config={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20},
        remote_config={"num_cpus": 0},
    )
    try:
        plain = ours.SamplerWithoutReplacement(seed=3)
        storage = storage_at(str(path))
        for _ in range(5):
            batch = rb.sample()
            expected, _ = plain.sample(storage, 12)
            assert torch.equal(batch["index"].reshape(-1), expected)
            assert torch.equal(batch["observation"], storage.get(expected)["observation"])
    finally:
        rb.close()
        ray.shutdown()
