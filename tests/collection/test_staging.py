"""Steps whose tensors lie on a device: what is recorded, when, and what is said of steps that are wrong."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore
from iltools_datasets.errors import SchemaError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection import ExpertTrajectoryCollector, collector  # noqa: E402
from iltools_datasets.collection.staging import Staging  # noqa: E402

N, OBS, ACT = 6, 5, 2


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors go the way of a device's."""

    def are_tensors(given: dict[str, Any]) -> bool:
        return all(value is None or isinstance(value, torch.Tensor) for value in given.values())

    monkeypatch.setattr(collector, "is_on_device", are_tensors)


class Env:
    """Writes into the same tensors with every step, as simulators do."""

    def __init__(self, device: str, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device = device
        self.buffers = {
            "observations": torch.zeros(N, OBS, device=device),
            "actions": torch.zeros(N, ACT, dtype=torch.int32, device=device),
            "action_mean": torch.zeros(N, ACT, device=device),
            "action_sigma": torch.ones(N, ACT, dtype=torch.float64, device=device),
            "valid_mask": torch.ones(N, dtype=torch.bool, device=device),
        }
        self.step()

    def step(self) -> None:
        for buffer in self.buffers.values():
            values = torch.rand(buffer.shape, generator=self.generator)
            values = values > 0.1 if buffer.dtype == torch.bool else values * 100 + 1
            buffer.copy_(values.to(self.device))


def record(path: Path, device: str, *, plain: bool, steps: int = 40) -> dict[Any, Any]:
    env = Env(device)
    with ExpertTrajectoryCollector(OBS, ACT, directory=path, max_trajectories=25) as recording:
        for at in range(steps):
            given = {name: buffer.cpu().numpy() if plain else buffer for name, buffer in env.buffers.items()}
            recording.add_step(**given)
            env.step()
            if at % 3 == 0:
                ended = [one for one in recording.running if (one + at) % 4 == 0]
                recording.mark_trajectory_end(env_ids=ended, final_observations=env.buffers["observations"])
        counts = {key: value for key, value in recording.get_statistics().items() if key.startswith("num_")}
    store = TrajectoryStore.open(path)
    return {**store.gather(np.arange(len(store))), "names": store.trajectory_names, "counts": counts}


def assert_alike(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_equal(found[key], values, err_msg=str(key))


@pytest.mark.filterwarnings("ignore:2. trajectories")
@pytest.mark.usefixtures("staged")
def test_what_was_put_is_recorded_though_the_env_writes_on(tmp_path: Path) -> None:
    expected = record(tmp_path / "plain", "cpu", plain=True)
    assert_alike(record(tmp_path / "staged", "cpu", plain=False), expected)


@pytest.mark.filterwarnings("ignore:2. trajectories")
@pytest.mark.gpu
def test_a_devices_tensors_are_recorded_though_the_env_writes_on(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    expected = record(tmp_path / "plain", "cpu", plain=True)
    with torch.cuda.stream(torch.cuda.Stream()):
        assert_alike(record(tmp_path / "staged", "cuda", plain=False), expected)


@pytest.mark.usefixtures("staged")
def test_wrong_shapes_are_told_at_once_and_wrong_values_by_the_next_call(tmp_path: Path) -> None:
    good = {"observations": torch.zeros(N, OBS), "actions": torch.ones(N, ACT)}
    bad = {**good, "observations": torch.full((N, OBS), torch.nan)}
    recording = ExpertTrajectoryCollector(OBS, ACT, directory=tmp_path / "store")
    with pytest.raises(SchemaError, match=r"actions: expected \[num_envs, 2\], found \[6, 3\]"):
        recording.add_step(torch.zeros(N, OBS), torch.zeros(N, 3))
    recording.add_step(**good)
    for wrong, words in (
        ({"observations": torch.zeros(N + 1, OBS), "actions": torch.ones(N + 1, ACT)}, "expected 6 envs, found 7"),
        ({**good, "actions": torch.ones(N, ACT, dtype=torch.int64)}, "actions: expected float32"),
        ({**good, "action_mean": torch.ones(N, ACT)}, "with every step, as with the first"),
        ({**good, "valid_mask": torch.ones(N + 1, dtype=torch.bool)}, r"valid_mask: expected \[6\], found \[7\]"),
        ({**good, "observations": None}, r"observations: expected \[num_envs, 5\], found None"),
    ):
        with pytest.raises(SchemaError, match=words):
            recording.add_step(**wrong)
    assert recording.num_steps == N
    # What is on its way is counted as soon as somebody asks.
    recording.add_step(**good)
    assert (recording.num_steps, recording.num_running) == (2 * N, N)
    for call in (lambda: recording.add_step(**good), recording.flush, lambda: recording.num_steps):
        recording.add_step(**bad)
        with pytest.raises(SchemaError, match="observations: env 0, column 0: nan"):
            call()
        assert recording.num_steps == 2 * N
    recording.add_step(**bad)
    with pytest.raises(SchemaError, match="observations: env 0, column 0: nan"):
        recording.close()
    assert len(TrajectoryStore.open(tmp_path / "store")) == 2 * N


@pytest.mark.parametrize("value", [0.0, torch.nan])
@pytest.mark.parametrize("is_staged", [False, True])
def test_a_step_on_its_way_is_dropped_with_all_others(
    tmp_path: Path, request: pytest.FixtureRequest, is_staged: bool, value: float
) -> None:
    if is_staged:
        request.getfixturevalue("staged")
    recording = ExpertTrajectoryCollector(OBS, ACT, on_nan="error" if is_staged else "keep")
    recording.add_step(torch.full((N, OBS), value), torch.ones(N, ACT))
    recording.clear()
    assert recording.num_steps == 0
    recording.add_step(torch.zeros(2, OBS), torch.ones(2, ACT))
    recording.save(tmp_path / "expert.npy")
    assert np.load(tmp_path / "expert.npy", allow_pickle=True).item()["observations"].shape == (1, 2, OBS)
    recording.close()


@pytest.mark.usefixtures("staged")
def test_a_step_is_recorded_beside_what_its_caller_does_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, may_go_on = threading.Event(), threading.Event()
    piece = Staging._piece

    def held_up(self: Staging, *place: Any) -> Any:
        arrived.set()
        assert may_go_on.wait(60)
        return piece(self, *place)

    monkeypatch.setattr(Staging, "_piece", held_up)
    recording = ExpertTrajectoryCollector(OBS, ACT, directory=tmp_path / "store")
    observations = torch.arange(N * OBS, dtype=torch.float32).reshape(N, OBS)
    recording.add_step(observations, torch.ones(N, ACT))  # returns, though nothing of it can be recorded
    assert arrived.wait(60)
    expected = observations.numpy().copy()
    observations.zero_()
    may_go_on.set()
    assert recording.num_steps == N
    assert recording.get_statistics()["stalled_seconds"] > 0
    recording.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("iltools-staging")]
    store = TrajectoryStore.open(tmp_path / "store")
    np.testing.assert_array_equal(store.gather(np.arange(N))["observation"], expected)


@pytest.mark.usefixtures("staged")
def test_rows_that_begin_nothing_are_warned_of_in_the_callers_thread(tmp_path: Path) -> None:
    given = {"observations": torch.zeros(N, OBS), "actions": torch.ones(N, ACT)}
    recording = ExpertTrajectoryCollector(OBS, ACT, max_trajectories=N)
    recording.add_step(**given)
    recording.mark_trajectory_end(N)
    recording.add_step(**given)
    with pytest.warns(UserWarning, match=f"{N} trajectories are recorded; running ones are finished") as said:
        recording.add_step(**given)
    assert [Path(one.filename) for one in said] == [Path(__file__)]
    recording.add_step(**given)
    assert recording.num_steps == N
    recording.close()
