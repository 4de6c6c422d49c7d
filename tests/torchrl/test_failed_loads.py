"""A load that fails leaves every part of a buffer, and of a manager, as it was: whatever the part, whoever wrote it."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as peer  # noqa: E402
from iltools_datasets import EnvAssignment, TrajectoryStore  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from iltools_datasets._base.saved_state import Changes  # noqa: E402
from iltools_datasets.errors import StateError, StoreChangedError  # noqa: E402
from iltools_datasets.replay_manager import ExpertReplayManager  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from tensordict import TensorDict, TensorDictBase  # noqa: E402
from torchrl.envs.transforms import Transform  # noqa: E402

ROWS = 60
SAMPLERS: dict[str, Callable[[], Any]] = {
    "ours": lambda: ours.SamplerWithoutReplacement(seed=3),
    "TorchRL's": peer.SamplerWithoutReplacement,
    "ours, slices": lambda: ours.SliceSamplerWithoutReplacement(num_slices=2, traj_key="traj", seed=3),
}
STORAGES: dict[str, Callable[[], Any]] = {
    "ours": lambda: ours.LazyTensorStorage(ROWS),
    "TorchRL's": lambda: peer.LazyTensorStorage(ROWS),
    "memmap": lambda: ours.LazyMemmapStorage(ROWS),
}
WRONG = {
    "_storage": [
        {"garbage": 1},
        {"_storage": {}, "initialized": True, "_len": ROWS},
        {"_storage": {"obs": torch.zeros(ROWS, 3), "traj": torch.zeros(ROWS)}, "initialized": True, "_len": ROWS},
        {"_storage": {"obs": torch.zeros(ROWS, 2)}, "initialized": True, "_len": ROWS},
        {"_storage": None, "initialized": True, "_len": ROWS},
    ],
    "_sampler": [{"garbage": 1}, [], None],
    "_writer": [{"garbage": 1}, None],
    "_transforms": [{"garbage": torch.zeros(1)}, 5],
}


class Shift(Transform):  # type: ignore[misc]
    """A transform with a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("by", torch.zeros(1))

    def forward(self, data: TensorDictBase) -> TensorDictBase:
        return data.set("obs", data["obs"] + self.by)


def rows_of(first: float) -> Any:
    obs = torch.arange(2.0 * ROWS).reshape(ROWS, 2) + first
    return TensorDict({"obs": obs, "traj": torch.arange(ROWS) // 10}, [ROWS])


def build(sampler: str, storage: str, first: float = 0.0) -> Any:
    rb = ours.TensorDictReplayBuffer(storage=STORAGES[storage](), sampler=SAMPLERS[sampler](), batch_size=6)
    rb.append_transform(Shift())
    rb.extend(rows_of(first))
    return rb


def facts(rb: Any) -> dict[str, Any]:
    """All that a load could change, compared by value."""
    state = dict(rb.sampler.state_dict())
    listed = {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
    return {
        "sampler": listed,
        "rows": rb.storage.get(slice(0, ROWS))["obs"].tolist(),
        "len": len(rb),
        "writer": dict(rb.writer.state_dict()),
        "transforms": {key: value.tolist() for key, value in rb.transform.state_dict().items()},
        "batch_size": rb.batch_size,
    }


def moved_on(rb: Any) -> Any:
    """A buffer whose every part differs from the state that will be loaded."""
    for _ in range(3):
        rb.sample()
    rb.transform[0].by += 1.0
    rb.storage._storage["obs"].add_(100.0)
    rb.writer._cursor = 7
    return rb


@pytest.mark.faults("load that fails")
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_wrong_part_changes_none(sampler: str, storage: str) -> None:
    rb = build(sampler, storage)
    rb.sample()
    good = copy.deepcopy(rb.state_dict())
    moved_on(rb)
    before = facts(rb)
    for part, values in WRONG.items():
        for value in values:
            with pytest.raises((StateError, StoreChangedError)):
                rb.load_state_dict({**good, part: value})
            assert facts(rb) == before, (part, value)
    half = {**{key: value + 9 for key, value in good["_transforms"].items()}, "garbage": torch.zeros(1)}
    with pytest.raises(StateError):  # torch takes what it knows over before it misses the rest
        rb.load_state_dict({**good, "_transforms": half})
    assert facts(rb) == before
    rb.load_state_dict(good)
    assert facts(rb) != before
    assert rb.storage.get(0)["obs"].tolist() == [0.0, 1.0]
    assert rb.transform[0].by.tolist() == [0.0]


@pytest.mark.faults("load that fails")
def test_a_list_is_put_back() -> None:
    """TorchRL's list storage forgets what it holds before it looks at what it is given."""
    rb = ours.TensorDictReplayBuffer(
        storage=peer.ListStorage(ROWS), sampler=ours.SamplerWithoutReplacement(seed=1), batch_size=6
    )
    rb.append_transform(Shift())
    rb.extend(rows_of(0.0))
    good = rb.state_dict()
    rb.sample()
    rb.transform[0].by += 1.0
    before = (dict(rb.sampler.state_dict()), len(rb), rb.transform[0].by.tolist())
    for part, value in (("_storage", {"_storage": [torch.zeros(2), 5]}), ("_storage", {}), ("_writer", {})):
        with pytest.raises(StateError):
            rb.load_state_dict({**good, part: value})
        assert (dict(rb.sampler.state_dict()), len(rb), rb.transform[0].by.tolist()) == before
        assert rb.storage.get(3)["obs"].tolist() == [6.0, 7.0]


@pytest.mark.faults("load that fails")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_checkpoint_of_other_data_changes_nothing(sampler: str, tmp_path: Path) -> None:
    """The files are whole; it is the buffer that they do not fit."""
    other = ours.TensorDictReplayBuffer(storage=ours.LazyTensorStorage(ROWS), sampler=SAMPLERS[sampler](), batch_size=6)
    other.append_transform(Shift())
    other.extend(TensorDict({"obs": torch.zeros(ROWS, 3), "traj": torch.arange(ROWS) // 10}, [ROWS]))
    other.sample()
    other.dumps(tmp_path / "shape")
    stranger = ours.TensorDictReplayBuffer(
        storage=ours.LazyTensorStorage(ROWS), sampler=ours.RandomSampler(seed=1), batch_size=6
    )
    stranger.append_transform(Shift())
    stranger.extend(rows_of(5.0))
    stranger.dumps(tmp_path / "sampler")
    rb = moved_on(build(sampler, "ours"))
    before = facts(rb)
    with pytest.raises(StateError, match=r"'obs' \[60, 2\].*'obs' \[60, 3\]"):
        rb.loads(tmp_path / "shape")
    assert facts(rb) == before
    with pytest.raises(StateError):
        rb.loads(tmp_path / "sampler")
    assert facts(rb) == before


def test_changes_are_undone_backwards_and_certain_ones_come_last() -> None:
    log: list[str] = []

    def stuck() -> None:
        log.append("begun")
        raise ValueError("half-way")

    changes = Changes()
    changes.add(lambda: log.append("certain"))
    changes.add(lambda: log.append("a"), lambda: log.append("undo a"))
    changes.add(stuck, lambda: log.append("undo stuck"))
    with pytest.raises(ValueError, match="half-way"):
        changes.make()
    assert log == ["a", "begun", "undo stuck", "undo a"]


# The manager.


@pytest.fixture(scope="module", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    path = tmp_path_factory.mktemp("loads") / "store"
    return TrajectoryStore.open(build_store(path, make_clips([40, 7, 90, 33])))


def marching(store: TrajectoryStore) -> ExpertReplayManager:
    mgr = ExpertReplayManager.from_store(store)
    mgr.set_assignment([EnvAssignment(0, 0, 6), EnvAssignment(0, 2, 8)])
    return mgr


@pytest.mark.faults("state that contradicts itself")
@pytest.mark.parametrize("respects", [False, True], ids=["marching", "assigned"])
@pytest.mark.parametrize(
    ("field", "value"), [("step", [30, 60]), ("segment", [2, 0]), ("step", [6]), ("step", []), ("step", "68")]
)
def test_a_manager_and_its_sampler_that_disagree_are_refused(
    store: TrajectoryStore, respects: bool, field: str, value: Any
) -> None:
    mgr = marching(store)
    if respects:
        mgr.set_uniform_sampler(4, respect_assignment=True, seed=1)
    good = json.loads(json.dumps(mgr.state_dict()))
    mgr.buffer.sample()
    before = mgr.state_dict()
    for state in ({**good, field: value}, {**good, "sampler": {**good["sampler"], field: value}}):
        with pytest.raises(StateError, match=r"elsewhere|expected"):
            mgr.load_state_dict(state)
        assert mgr.state_dict() == before
    mgr.load_state_dict(good)
    assert mgr.state_dict() == good


@pytest.mark.faults("state that contradicts itself")
def test_a_sampler_of_another_store_is_refused_at_once(store: TrajectoryStore) -> None:
    mgr = ExpertReplayManager.from_store(store, seed=1)
    mgr.buffer.sample()
    good = mgr.state_dict()
    with pytest.raises(StateError, match=store.uuid):
        mgr.load_state_dict({**good, "sampler": {**good["sampler"], "store": "another"}})
    assert mgr.state_dict() == good


@pytest.mark.faults("load that fails")
def test_a_custom_sampler_that_gets_stuck_is_put_back(store: TrajectoryStore) -> None:
    mgr = ExpertReplayManager.from_store(store)
    mgr.set_custom_sampler(peer.SamplerWithoutReplacement(), 5)
    mgr.buffer.sample()
    good = mgr.state_dict()
    mgr.buffer.sample()
    mgr.buffer.sample()
    left = mgr.buffer.sampler._sample_list.tolist()
    # TorchRL's takes the length and the list over before it misses the flag.
    broken = {**good["sampler"]}
    del broken["_ran_out"]
    with pytest.raises((StateError, KeyError)):
        mgr.load_state_dict({**good, "sampler": broken})
    assert mgr.buffer.sampler._sample_list.tolist() == left


# Saving beside loading.


@pytest.mark.faults("saved while it is read")
def test_nobody_replaces_a_save_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    rb, reader = build("ours", "ours"), build("ours", "ours", 50.0)
    rb.sample()
    rb.dumps(path)
    saved = rb.sampler.state_dict()
    rb.sample()
    saving = threading.Thread(target=rb.dumps, args=(path,))
    read = ours.SamplerWithoutReplacement.saved_at

    def slowly(sampler: Any, place: Path) -> Any:
        saving.start()
        saving.join(1.0)  # without the lock it would be done, and the save that is being read gone
        return read(sampler, place)

    monkeypatch.setattr(ours.SamplerWithoutReplacement, "saved_at", slowly)
    reader.loads(path)
    saving.join()
    assert reader.sampler.state_dict() == saved
    assert reader.storage.get(0)["obs"].tolist() == [0.0, 1.0]
    monkeypatch.undo()
    reader.loads(path)
    assert reader.sampler.state_dict() == rb.sampler.state_dict()


@pytest.mark.faults("saved while it is read")
def test_one_buffer_saves_and_loads_in_two_threads(tmp_path: Path) -> None:
    """The buffer's own locks come before the file's, in both: the other way round they would wait for each other."""
    rb = build("ours", "ours")
    rb.dumps(tmp_path)
    failures: list[BaseException] = []

    def often(act: Callable[[Path], None]) -> None:
        try:
            for _ in range(15):
                act(tmp_path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=often, args=(act,), daemon=True) for act in (rb.dumps, rb.loads, rb.loads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


def test_reading_leaves_no_file_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    rb = build("ours", "ours")
    (tmp_path / "notes.txt").write_text("somebody's")
    with pytest.raises(StateError, match="no saved state"):
        rb.loads(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
