"""A store, and the same data as TorchRL keeps it. Test modules here import its fixtures."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets.torchrl import TrajectoryStorage  # noqa: E402
from stores import build_store, expected_columns, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.data import TensorStorage  # noqa: E402

LENGTHS = [5, 2, 9, 14, 3, 7, 2, 11]
"""States per clip: 45 transitions in all."""


def assert_same(ours: object, theirs: object) -> None:
    """The same keys, shapes, dtypes, devices and values."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert ours.device == theirs.device
        assert torch.equal(ours, theirs)
        return
    assert ours.batch_size == theirs.batch_size
    assert ours.device == theirs.device
    assert set(ours.keys(True, True)) == set(theirs.keys(True, True))
    for key in theirs.keys(True, True):
        assert_same(ours[key], theirs[key])


@pytest.fixture(scope="session", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return TrajectoryStore.open(build_store(tmp_path_factory.mktemp("torchrl") / "store", make_clips(LENGTHS)))


@pytest.fixture(name="storage")
def storage_fixture(store: TrajectoryStore) -> TrajectoryStorage:
    return TrajectoryStorage(store)


@pytest.fixture(scope="session", name="data")
def data_fixture() -> TensorDict:
    columns = {key: torch.from_numpy(value) for key, value in expected_columns(make_clips(LENGTHS)).items()}
    return TensorDict(columns, batch_size=[sum(LENGTHS) - len(LENGTHS)], device="cpu")


@pytest.fixture(name="oracle")
def oracle_fixture(data: TensorDict) -> TensorStorage:
    return TensorStorage(data.clone())
