"""Our buffer beside TorchRL's: the same batches; and what is made ahead never differs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as peer  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import EnvAssignment, TrajectoryStore, _core  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from stores import Clips, build_store, expected_columns, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter  # noqa: E402

LENGTHS = [40, 7, 90, 33, 2, 61]


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips(LENGTHS)


@pytest.fixture(scope="module")
def store(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return TrajectoryStore.open(build_store(tmp_path_factory.mktemp("buffer") / "store", clips))


@pytest.fixture(scope="module")
def columns(clips: Clips) -> dict[Any, np.ndarray]:
    return expected_columns(clips)


SAMPLERS: dict[str, Callable[[TrajectoryStore], Any]] = {
    "without": lambda store: ours.SamplerWithoutReplacement(seed=1),
    "without, drop_last": lambda store: ours.SamplerWithoutReplacement(seed=1, drop_last=True),
    "in order": lambda store: ours.SamplerWithoutReplacement(seed=1, shuffle=False),
    "with": lambda store: ours.RandomSampler(seed=1),
    "epochs": lambda store: ours.EpochUniformSampler(segments=store.segments, seed=1),
    "assigned": lambda store: ours.AssignedUniformSampler(
        segments=store.segments, assignment=[EnvAssignment(0, 0, 3), EnvAssignment(1, 2)], seed=1
    ),
    "slices": lambda store: ours.SliceSampler(slice_len=2, seed=1),
    "ragged slices": lambda store: ours.SliceSampler(slice_len=6, seed=1, strict_length=False),
    "slices without": lambda store: ours.SliceSamplerWithoutReplacement(num_slices=2, seed=1, strict_length=False),
    "every window": lambda store: ours.EveryWindowSampler(4, seed=1),
    "sequential": lambda store: ours.SequentialPerEnvSampler(
        segments=store.segments, assignment=[EnvAssignment(0, k % 3, 5 * k) for k in range(12)]
    ),
}


def make(kind: Any, store: TrajectoryStore, sampler: Any, **options: Any) -> Any:
    options.setdefault("batch_size", 12)
    return kind(storage=ours.TrajectoryStorage(store), sampler=sampler, writer=ImmutableDatasetWriter(), **options)


def rows(index: Any) -> torch.Tensor:
    """The vector of a one-dimensional storage's index: slices come as a tuple of one, or as a column."""
    return (index[0] if isinstance(index, tuple) else index).reshape(-1)


def assert_same(a: TensorDict, b: TensorDict) -> None:
    assert set(a.keys(True, True)) == set(b.keys(True, True))
    assert (a.batch_size, a.device, a.is_locked) == (b.batch_size, b.device, b.is_locked)
    for key in a.keys(True, True):
        assert a[key].dtype == b[key].dtype
        assert torch.equal(a[key], b[key]), key


def let_it_run_ahead(rb: Any, store: TrajectoryStore) -> None:
    """Wait until as many batches are ready as may be."""
    stream, end = rb.sampler.index_stream, time.monotonic() + 30
    while stream.num_ready() < stream.depth_ahead(store.core):
        assert time.monotonic() < end


@pytest.mark.parametrize("prefetch", [None, 1, 3])
@pytest.mark.parametrize("name", SAMPLERS)
def test_same_batches_as_torchrl(
    store: TrajectoryStore, columns: dict[Any, np.ndarray], name: str, prefetch: int | None
) -> None:
    expected = make(peer.TensorDictReplayBuffer, store, SAMPLERS[name](store))
    found = make(ours.TensorDictReplayBuffer, store, SAMPLERS[name](store), prefetch=prefetch)
    for step in range(60):
        # Taken from what was made ahead in some steps, and drawn at once where nothing is ready yet in others.
        if prefetch and step >= 2 and step % 5 < 3:
            let_it_run_ahead(found, store)
        batch, info = found.sample(return_info=True)
        expected_batch, expected_info = expected.sample(return_info=True)
        assert_same(batch, expected_batch)
        assert set(info) == set(expected_info)
        assert type(info["index"]) is type(expected_info["index"])
        assert torch.equal(rows(info["index"]), rows(expected_info["index"]))
        assert found._sampler.ran_out == expected._sampler.ran_out
        np.testing.assert_array_equal(
            batch["next", "qvel"].numpy(), columns["next", "qvel"][rows(batch["index"]).numpy()]
        )


@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_iteration_is_one_epoch(store: TrajectoryStore, prefetch: int | None, drop_last: bool) -> None:
    rb = make(ours.TensorDictReplayBuffer, store, ours.SamplerWithoutReplacement(drop_last), prefetch=prefetch)
    for _ in range(3):
        sizes = [len(batch["index"]) for batch in rb]
        seen = torch.cat([batch["index"] for batch in rb])
        full, rest = divmod(len(store), 12)
        assert sizes == [12] * full + ([] if drop_last or not rest else [rest])
        assert len(seen.unique()) == len(seen)


@pytest.mark.parametrize("prefetch", [None, 2])
def test_transforms_see_what_torchrl_shows_them(store: TrajectoryStore, prefetch: int | None) -> None:
    from torchrl.envs.transforms import DoubleToFloat, RenameTransform

    def build(kind: Any, prefetch: int | None) -> Any:
        rb = make(kind, store, ours.SamplerWithoutReplacement(seed=4), prefetch=prefetch)
        rb.append_transform(RenameTransform(["action"], ["control"]))
        rb.append_transform(DoubleToFloat())
        rb.append_transform(lambda data: data.set("twice", data["control"] * 2))
        return rb

    expected, found = build(peer.TensorDictReplayBuffer, None), build(ours.TensorDictReplayBuffer, prefetch)
    for _ in range(20):
        assert_same(found.sample(), expected.sample())


@pytest.mark.parametrize("prefetch", [None, 2])
def test_transforms_see_flags_as_they_are_stored(store: TrajectoryStore, prefetch: int | None) -> None:
    """What a slice sampler tells comes afterwards, whatever a transform did to its own."""

    def see(data: Any) -> Any:
        data.set("seen", data["next", "done"].clone())
        data["next", "done"].fill_(True)
        return data

    def build(kind: Any, prefetch: int | None) -> Any:
        rb = make(kind, store, ours.SliceSampler(slice_len=4, seed=4), prefetch=prefetch)
        rb.append_transform(see)
        return rb

    expected, found = build(peer.TensorDictReplayBuffer, None), build(ours.TensorDictReplayBuffer, prefetch)
    for _ in range(20):
        assert_same(found.sample(), expected.sample())


def test_an_index_of_any_shape_is_the_samplers_own(store: TrajectoryStore) -> None:
    class Pairs(ours.SamplerWithoutReplacement):
        def sample(self, storage: Any, batch_size: int) -> Any:
            index, info = super().sample(storage, batch_size)
            return index.reshape(-1, 2), info

    class Listed(ours.SamplerWithoutReplacement):
        def sample(self, storage: Any, batch_size: int) -> Any:
            index, info = super().sample(storage, batch_size)
            return index.tolist(), info

    for kind in (Pairs, Listed):
        expected, found = (
            make(buffer, store, kind(seed=3)) for buffer in (peer.TensorDictReplayBuffer, ours.TensorDictReplayBuffer)
        )
        for _ in range(3):
            ((batch, info), (mine, told)) = (rb.sample(return_info=True) for rb in (expected, found))
            assert mine.batch_size == batch.batch_size
            assert_same(mine, batch)
            assert type(told["index"]) is type(info["index"])


@settings(max_examples=30)
@given(
    name=st.sampled_from(sorted(SAMPLERS)),
    before=st.integers(0, 40),
    prefetch=st.sampled_from([None, 1, 4]),
    on_disk=st.booleans(),
)
def test_a_checkpoint_holds_what_was_returned(
    store: TrajectoryStore,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    before: int,
    prefetch: int | None,
    on_disk: bool,
) -> None:
    rb = make(ours.TensorDictReplayBuffer, store, SAMPLERS[name](store), prefetch=prefetch)
    for _ in range(before):
        rb.sample()
    if prefetch and before >= 2:
        let_it_run_ahead(rb, store)
    again = make(ours.TensorDictReplayBuffer, store, SAMPLERS[name](store), prefetch=prefetch)
    again.sample()
    if on_disk:
        path = tmp_path_factory.mktemp("checkpoint")
        rb.dumps(path)
        again.loads(path)
        assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 64_000
    else:
        again.load_state_dict(rb.state_dict())
    for _ in range(12):
        assert_same(again.sample(), rb.sample())


def test_an_assignment_takes_effect_with_the_next_sample(store: TrajectoryStore) -> None:
    sampler = SAMPLERS["sequential"](store)
    plain = SAMPLERS["sequential"](store)
    rb = make(ours.TensorDictReplayBuffer, store, sampler, prefetch=4)
    for round_ in range(40):
        if round_ % 7 == 6:
            change = {round_ % 12: (1, 0, round_)}
            let_it_run_ahead(rb, store)
            sampler.update_assignments(change)
            plain.update_assignments(change)
        expected, _ = plain.sample(None)
        batch = rb.sample()
        assert torch.equal(batch["index"], expected)
        assert sampler.assignment == plain.assignment


def test_another_sampler_takes_effect_with_the_next_sample(store: TrajectoryStore) -> None:
    rb = make(ours.TensorDictReplayBuffer, store, SAMPLERS["without"](store), prefetch=3)
    for name in ("with", "in order", "sequential", "without"):
        rb.sample()
        rb.set_sampler(SAMPLERS[name](store))
        expected = make(peer.TensorDictReplayBuffer, store, SAMPLERS[name](store))
        for _ in range(5):
            assert_same(rb.sample(), expected.sample())


@pytest.mark.parametrize("name", SAMPLERS)
def test_batches_really_are_made_ahead(store: TrajectoryStore, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rb = make(ours.TensorDictReplayBuffer, store, SAMPLERS[name](store), prefetch=2)
    rb.sample()
    rb.sample()
    drawn = []
    draw = rb.sampler.sample_rows
    monkeypatch.setattr(rb.sampler, "sample_rows", lambda *asked: drawn.append(draw(*asked)) or drawn[-1])
    for _ in range(5):
        let_it_run_ahead(rb, store)
        batch = rb.sample()
        assert drawn[-1].were_ready
        assert batch["qpos"].data_ptr() == drawn[-1].leaves[store.keys.index("qpos")].data_ptr()
    previous = rb.set_sampler(ours.RandomSampler())
    assert previous.index_stream.depth_ahead(store.core) == 0


def test_rows_that_were_made_ahead_of_another_store_are_not_taken(clips: Clips, tmp_path: Path) -> None:
    """One sampler serves two stores of one length in turn: what is ready of the one must not come as the other's."""
    others = make_clips(LENGTHS, seed=5)
    stores = [TrajectoryStore.open(build_store(tmp_path / name, data)) for name, data in (("a", clips), ("b", others))]
    sampler = ours.EpochUniformSampler(segments=stores[0].segments, seed=1)
    buffers = [make(ours.TensorDictReplayBuffer, store, sampler, prefetch=2) for store in stores]
    columns = [expected_columns(data) for data in (clips, others)]
    for turn in (0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0):
        for _ in range(3):
            batch = buffers[turn].sample()
            np.testing.assert_array_equal(batch["qpos"].numpy(), columns[turn]["qpos"][batch["index"].numpy()])
        let_it_run_ahead(buffers[turn], stores[turn])
    buffers[0].sample()
    buffers[0].set_storage(ours.TrajectoryStorage(stores[1]))
    for _ in range(4):
        batch = buffers[0].sample()
        np.testing.assert_array_equal(batch["qpos"].numpy(), columns[1]["qpos"][batch["index"].numpy()])


SETTINGS: list[tuple[str, str, Any]] = [
    ("ragged slices", "truncated_key", None),
    ("ragged slices", "truncated_key", "cut"),
    ("ragged slices", "init_key", None),
    ("slices", "span", (True, 1)),
    ("ragged slices", "strict_length", True),
    ("ragged slices", "pad_output", True),
    ("ragged slices", "slice_len", 3),
    ("slices without", "num_slices", 3),
    ("slices without", "strict_length", True),
    ("slices without", "drop_last", True),
    ("every window", "slice_len", 2),
    ("every window", "stride", 3),
    ("every window", "drop_last", True),
    ("without", "drop_last", True),
]


@pytest.mark.parametrize(("name", "setting", "value"), SETTINGS)
def test_settings_of_a_live_sampler_hold_at_once(store: TrajectoryStore, name: str, setting: str, value: Any) -> None:
    rb = make(ours.TensorDictReplayBuffer, store, SAMPLERS[name](store), prefetch=2)
    plain = make(peer.TensorDictReplayBuffer, store, SAMPLERS[name](store))
    before = getattr(rb.sampler, setting)
    for change in (None, value, before, value):
        if change is not None or setting.endswith("key"):
            setattr(rb.sampler, setting, change)
            setattr(plain.sampler, setting, change)
        for _ in range(3):
            assert_same(rb.sample(), plain.sample())
        let_it_run_ahead(rb, store)


class Edited(ours.EpochUniformSampler):
    """A curriculum: what is drawn is edited before it is used."""

    def __init__(self, store: TrajectoryStore, how: str) -> None:
        super().__init__(segments=store.segments, seed=1)
        self.how = how

    def sample(self, storage: Any = None, batch_size: int | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
        index, info = super().sample(storage, batch_size)
        if self.how == "in place":
            index %= 50
        elif self.how == "behind torch's back":
            index.numpy()[...] //= 2
        elif self.how == "one row":
            index[-1] = 0
        elif self.how == "beginning":
            index = index[: len(index) // 2]
        elif self.how == "end":
            index = index[1:]
        elif self.how == "every other":
            index = index[::2]
        elif self.how == "reversed":
            index = index.flip(0)
        elif self.how == "foreign":
            index = torch.arange(len(index))
        elif self.how == "longer":
            index = torch.cat([index, index])
        elif self.how == "copy":
            index = index.clone()
        return index, info


@pytest.mark.parametrize(
    "how",
    [
        "in place",
        "behind torch's back",
        "one row",
        "beginning",
        "end",
        "every other",
        "reversed",
        "foreign",
        "longer",
        "copy",
    ],
)
def test_an_edited_index_gets_its_own_rows(store: TrajectoryStore, columns: dict[Any, np.ndarray], how: str) -> None:
    rb = make(ours.TensorDictReplayBuffer, store, Edited(store, how), prefetch=2)
    plain = make(ours.TensorDictReplayBuffer, store, Edited(store, how))
    for step in range(12):
        batch = rb.sample()
        assert_same(batch, plain.sample())
        np.testing.assert_array_equal(batch["qpos"].numpy(), columns["qpos"][batch["index"].numpy()])
        if step:
            let_it_run_ahead(rb, store)


def test_rows_are_drawn_unless_a_subclass_has_the_last_word(store: TrajectoryStore) -> None:
    assert all(make_sampler(store).draws_rows for make_sampler in SAMPLERS.values())
    assert not Edited.draws_rows

    class Renamed(ours.SamplerWithoutReplacement):
        pass

    class Heir(Edited):
        pass

    assert Renamed.draws_rows
    assert not Heir.draws_rows
    storage = ours.TrajectoryStorage(store)
    for make_sampler in SAMPLERS.values():
        drawing, plain = make_sampler(store), make_sampler(store)
        for _ in range(20):
            drawn, (index, info) = drawing.sample_rows(storage, 12), plain.sample(storage, 12)
            assert torch.equal(drawn.rows.reshape(-1), rows(index))
            assert drawn.rows.ndim == 1 + isinstance(index, tuple)
            assert drawn.info.keys() == info.keys()
            assert all(torch.equal(drawn.info[key], info[key]) for key in info)
            expected = storage.get(rows(index))
            # Flags that the store has come as the sampler tells them.
            expected.update({key: info[key] for key in info if key in expected.keys(True, True)})
            assert_same(storage.assemble(drawn.leaves, rows(index).shape), expected)
            assert not drawn.were_ready


def test_an_edited_index_of_slices_gets_its_own_rows(store: TrajectoryStore, columns: dict[Any, np.ndarray]) -> None:
    class Mirrored(ours.SliceSampler):
        def sample(self, storage: Any, batch_size: int) -> Any:
            (index,), info = super().sample(storage, batch_size)
            index.copy_(len(storage) - 1 - index)
            return (index,), info

    rb = make(ours.TensorDictReplayBuffer, store, Mirrored(slice_len=3, seed=1), prefetch=2)
    for step in range(6):
        batch = rb.sample()
        np.testing.assert_array_equal(batch["qpos"].numpy(), columns["qpos"][rows(batch["index"]).numpy()])
        if step:
            let_it_run_ahead(rb, store)


def test_the_rows_of_an_index_are_found_by_what_is_in_it(store: TrajectoryStore) -> None:
    core, fields = store.core, store.field_ids(["qpos"])
    stream = _core.EpochShuffle(len(store), 3)
    stream.look_ahead(core, fields, 2)
    first = stream.next(8)
    while stream.num_ready() < 2:
        time.sleep(0)
    index = stream.next(8)
    assert stream.rows_of(core, first) is None
    for other in (index[:7], index[1:], index + 1, np.concatenate([index, index]), index[:0]):
        assert stream.rows_of(core, np.ascontiguousarray(other)) is None
    (rows_,) = stream.rows_of(core, index.copy())
    np.testing.assert_array_equal(rows_, store.gather(index, ["qpos"])["qpos"])
    assert stream.rows_of(core, index) is None  # they are the caller's now


def test_a_batch_is_the_callers_own(store: TrajectoryStore, columns: dict[Any, np.ndarray]) -> None:
    rb = make(ours.TensorDictReplayBuffer, store, ours.SamplerWithoutReplacement(seed=0), prefetch=2)
    kept = []
    for _ in range(50):
        batch = rb.sample()
        kept.append((batch["index"].clone(), batch["observation"], batch["observation"].clone()))
        batch["action"].fill_(float("nan"))
    for index, mine, copy in kept:
        assert torch.equal(mine, copy)
        np.testing.assert_array_equal(mine.numpy(), columns["observation"][index.numpy()])


def test_what_is_out_of_the_ordinary_goes_torchrls_way(store: TrajectoryStore) -> None:
    data = TensorDict({"obs": torch.arange(24.0).reshape(12, 2)}, [12])
    for storage in (peer.LazyTensorStorage(12), peer.LazyMemmapStorage(12), peer.ListStorage(12)):
        rb = ours.TensorDictReplayBuffer(storage=storage, batch_size=4)
        rb.extend(data)
        batch = rb.sample()
        assert torch.equal(batch["obs"], data["obs"][batch["index"]])
    rb = ours.TensorDictReplayBuffer(
        storage=ours.TrajectoryStorage(store), collate_fn=lambda batch: batch.select("action"), batch_size=4
    )
    assert set(rb.sample().keys()) == {"action", "index"}
    rb = ours.TensorDictReplayBuffer(storage=ours.TrajectoryStorage(store), batch_size=4, prefetch=2)
    assert len(rb.sample()) == 4
    with pytest.warns(UserWarning, match="conflicting batch_sizes"):
        assert len(rb.sample(5)) in (4, 5)  # TorchRL's sampler: four were made ahead
    with pytest.raises(RuntimeError, match="batch_size not specified"):
        ours.TensorDictReplayBuffer(storage=ours.TrajectoryStorage(store)).sample()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_pinning_without_a_device_says_so(store: TrajectoryStore) -> None:
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        make(ours.TensorDictReplayBuffer, store, ours.SamplerWithoutReplacement(), pin_memory=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("prefetch", [None, 2])
def test_pinned_batches(store: TrajectoryStore, prefetch: int | None) -> None:
    found = make(
        ours.TensorDictReplayBuffer, store, ours.SamplerWithoutReplacement(seed=1), pin_memory=True, prefetch=prefetch
    )
    expected = make(peer.TensorDictReplayBuffer, store, ours.SamplerWithoutReplacement(seed=1))
    for _ in range(10):
        batch = found.sample()
        assert batch["observation"].is_pinned()
        assert_same(batch, expected.sample())
