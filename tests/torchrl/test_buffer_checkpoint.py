"""A buffer's checkpoint: killed at any step it is the old one or the new; damaged or mutated it changes nothing."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as peer  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from iltools_datasets._base.saved_state import Changes  # noqa: E402
from iltools_datasets.errors import StateError, StoreChangedError  # noqa: E402
from iltools_datasets.replay_manager import ExpertReplayManager  # noqa: E402
from iltools_datasets.torchrl.parts import prepare_directory  # noqa: E402
from iltools_datasets.torchrl.tensor_files import load_memmap  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from tensordict import NonTensorData, TensorDict  # noqa: E402
from test_sampler_resume import ENVS, SAMPLERS, rows  # noqa: E402
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter  # noqa: E402


@pytest.fixture(scope="module", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    path = tmp_path_factory.mktemp("checkpoint") / "store"
    return TrajectoryStore.open(build_store(path, make_clips([40, 7, 90, 33, 2, 61])))


def build(store: TrajectoryStore, name: str = "without", **options: Any) -> Any:
    return ours.TensorDictReplayBuffer(
        storage=ours.TrajectoryStorage(store),
        sampler=SAMPLERS[name](store),
        writer=ImmutableDatasetWriter(),
        batch_size=12,
        **options,
    )


def exit_at_step(step: int) -> list[int]:
    """Make the process end without a word at the step-th call that touches the disk; return the count of calls."""
    calls = [0]

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == step:
                os._exit(9)
            return function(*args, **kwargs)

        return call

    os.fsync, os.mkdir, os.rmdir = counted(os.fsync), counted(os.mkdir), counted(os.rmdir)
    os.replace, os.unlink, os.open = counted(os.replace), counted(os.unlink), counted(os.open)
    Path.open, Path.replace, Path.mkdir = counted(Path.open), counted(Path.replace), counted(Path.mkdir)
    return calls


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_at_any_step_it_is_the_old_or_the_new(store: TrajectoryStore, tmp_path: Path) -> None:
    path = tmp_path / "run"
    rb, again = build(store, generator=torch.Generator().manual_seed(3)), build(store)
    rb.dumps(path)
    (path / "policy.pt").write_text("somebody else's")
    old, found = json.dumps(rb.sampler.state_dict()), set()
    rb.sample()
    new = json.dumps(rb.sampler.state_dict())
    for step in range(1, 200):
        child = os.fork()
        if child == 0:
            exit_at_step(step)
            rb.dumps(path)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        again.loads(path)
        state = json.dumps(again.sampler.state_dict())
        assert state in (old, new)
        found.add(state)
        if code == 0:
            break
        if state == new:  # begin with the old one again
            again.sampler.load_state_dict(json.loads(old))
            again.dumps(path)
    assert code == 0
    assert step > 15
    assert found == {old, new}
    kept = sorted(file.name for file in path.iterdir())
    assert kept[:2] == [".checkpoint.lock", "checkpoint.json"]
    assert kept[2] == "policy.pt"
    assert len(kept) == 4, "one save, and nothing that a kill left behind"


def test_every_damaged_file_is_refused(store: TrajectoryStore, tmp_path: Path) -> None:
    rb = build(store, generator=torch.Generator().manual_seed(3))
    rb.sample()
    rb.dumps(tmp_path)
    other = build(store, "without")
    before = json.dumps(other.sampler.state_dict())
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.stat().st_size]
    assert {"checkpoint.json", "sampler.json", "store.json"} <= {file.name for file in files}
    for file in files:
        good = file.read_bytes()
        for bad in (good[: len(good) // 2], b"", good + b"x", good[:9] + bytes([good[9] ^ 4]) + good[10:], None):
            file.unlink() if bad is None else file.write_bytes(bad)
            with pytest.raises(StateError, match=str(tmp_path)):
                other.loads(tmp_path)
            assert json.dumps(other.sampler.state_dict()) == before
        file.write_bytes(good)
    other.loads(tmp_path)
    assert rows(other.sample()["index"]) == rows(rb.sample()["index"])


class Boom:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("/tmp/iltools-was-unpickled",))


def test_no_pickle_is_written_or_read(store: TrajectoryStore, tmp_path: Path) -> None:
    data = TensorDict({"obs": torch.arange(60.0).reshape(30, 2)}, [30])

    def lazy() -> Any:  # goes TorchRL's way, which makes whole batches ahead
        rb = ours.TensorDictReplayBuffer(
            storage=peer.LazyTensorStorage(30), sampler=ours.SamplerWithoutReplacement(seed=1), batch_size=4, prefetch=2
        )
        rb.extend(data)
        return rb

    rb, again = lazy(), lazy()
    rb.sample()
    rb.dumps(tmp_path / "lazy")
    assert not list((tmp_path / "lazy").rglob("*.pkl"))
    again.loads(tmp_path / "lazy")
    for _ in range(2):  # those that had been made ahead
        assert torch.equal(again.sample()["obs"], rb.sample()["obs"])

    theirs = peer.TensorDictReplayBuffer(storage=ours.TrajectoryStorage(store), batch_size=4)
    theirs.dumps(tmp_path / "theirs")
    (tmp_path / "theirs" / "prefetch.pkl").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(StateError, match="TorchRL's own buffer"):
        build(store).loads(tmp_path / "theirs")
    rb = build(store)
    rb.dumps(tmp_path / "ours")
    for place in ("ours", next((tmp_path / "ours").glob("save-*")).relative_to(tmp_path)):
        (tmp_path / place / "prefetch.pkl").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(StateError, match="not part of the checkpoint"):
        rb.loads(tmp_path / "ours")
    # TensorDict keeps what is no tensor and no JSON in a pickle, whose class its meta.json names.
    kept = tmp_path / "kept"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TensorDict({"a": torch.zeros(3), "x": NonTensorData(b"x", batch_size=[3])}, [3]).memmap(kept)
    (pickled,) = kept.rglob("*.pickle")
    pickled.write_bytes(pickle.dumps(Boom()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorDict warns before it runs one
        with pytest.raises(StateError):
            load_memmap(kept)
    for part in (peer.RandomSampler(), peer.LazyTensorStorage(3)):
        with pytest.raises(StateError, match=r"other\.pickle: a pickle, which is not run here"):
            prepare_directory(Changes(), part, kept, of_torchrl=True)
    assert not Path("/tmp/iltools-was-unpickled").exists()


JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=3),
    st.lists(st.integers(-1, 99), max_size=13),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@pytest.mark.filterwarnings("ignore:rank .* gets an empty batch")
@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=60)
@given(data=st.data())
def test_a_mutated_state_is_refused_or_harmless(store: TrajectoryStore, name: str, data: st.DataObject) -> None:
    rb = build(store, name)
    rb.sample()
    good = rb.sampler.state_dict()
    state = {**good, data.draw(st.sampled_from(sorted(good))): data.draw(JSON)}
    try:
        rb.sampler.load_state_dict(state)
    except StateError:
        assert json.dumps(rb.sampler.state_dict()) == json.dumps(good)
        return
    try:
        index = rows(rb.sample()["index"])
    except StateError:
        assert state["store"] != good["store"]
        return
    assert all(0 <= row < len(store) for row in index)


@settings(max_examples=150)
@given(data=st.data())
def test_a_mutated_manager_state_is_refused_or_harmless(store: TrajectoryStore, data: st.DataObject) -> None:
    mgr = ExpertReplayManager.from_store(store)
    mgr.set_assignment(ENVS[:3])
    if data.draw(st.booleans()):
        mgr.set_uniform_sampler(8, respect_assignment=True, seed=1)
    mgr.buffer.sample()
    good = mgr.state_dict()
    state = {**good, data.draw(st.sampled_from(sorted(good))): data.draw(JSON)}
    try:
        mgr.load_state_dict(state)
    except (StateError, StoreChangedError):
        assert json.dumps(mgr.state_dict()) == json.dumps(good)
        return
    if state["batch_size"] < 10**5:
        assert all(0 <= row < len(store) for row in rows(mgr.buffer.sample()["index"]))
    elif state["batch_size"] > 10**12:  # what lies between would only take this machine's memory
        with pytest.raises(MemoryError):
            mgr.buffer.sample()


@settings(max_examples=60)
@given(data=st.data())
def test_a_mutated_buffer_state_is_refused_or_harmless(store: TrajectoryStore, data: st.DataObject) -> None:
    rb = build(store, generator=torch.Generator().manual_seed(1))
    rb.sample()
    good = rb.state_dict()
    before = (json.dumps(rb.sampler.state_dict()), rb.batch_size)
    field = data.draw(st.sampled_from(sorted(good)))
    state = {**good, field: data.draw(JSON)}
    try:
        rb.load_state_dict(state)
    except (StateError, StoreChangedError):
        assert (json.dumps(rb.sampler.state_dict()), rb.batch_size) == before
        return
    assert field not in ("_storage", "_sampler")
