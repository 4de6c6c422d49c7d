"""The loader: the right rows in the right order, epochs, extras, transforms, and errors in their place."""

from __future__ import annotations

import json
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs the jax extra")
from data_cases import LENGTHS, TOTAL, Numbered, assert_same, expected, make_store, numbers_of  # noqa: E402
from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets.data import Dataset, JaxDataLoader, LambdaTransform, StoreDataset, Transition  # noqa: E402
from iltools_datasets.data.data_loader import _numpy_to_jax, _shard_batch, _transition_collate_fn  # noqa: E402
from iltools_datasets.errors import (  # noqa: E402
    ArgumentError,
    IltoolsError,
    MissingKeyError,
    SchemaError,
    StateError,
    StreamError,
)

pytestmark = pytest.mark.jax


@pytest.fixture(name="store", scope="module")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return make_store(tmp_path_factory.mktemp("store") / "store")


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("iltools-batches")]


def rows_of(batch: Any) -> np.ndarray:
    """Which rows of `make_store` are in a batch."""
    state = np.asarray(batch.obs).reshape(-1, 5)[:, 0].astype(int) // 16
    first_state = np.cumsum([0, *[length + 1 for length in LENGTHS]])[:-1]
    return state - (np.searchsorted(first_state, state, side="right") - 1)


class TestBatches:
    @pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
    @pytest.mark.parametrize("shuffle", [True, False])
    def test_hold_what_the_store_holds(self, store: TrajectoryStore, num_workers: int, shuffle: bool) -> None:
        with JaxDataLoader(store, 16, num_workers, shuffle, drop_last=False, seed=1) as loader:
            for _ in range(3):
                seen = []
                for batch in loader:
                    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(batch))
                    assert_same(batch, expected(rows_of(batch)))
                    seen.append(rows_of(batch))
                assert [len(rows) for rows in seen] == [16] * 12 + [1]
                assert len(seen) == len(loader) == 13
                np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(TOTAL))

    def test_are_the_same_on_any_number_of_workers_and_on_the_torch_side(self, store: TrajectoryStore) -> None:
        pytest.importorskip("torchrl", reason="needs the torch extra")
        from iltools_datasets.torchrl import SamplerWithoutReplacement, TrajectoryStorage
        from torchrl.data import TensorDictReplayBuffer
        from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

        buffer = TensorDictReplayBuffer(
            storage=TrajectoryStorage(store),
            sampler=SamplerWithoutReplacement(drop_last=True, seed=5),
            writer=ImmutableDatasetWriter(),
            batch_size=10,
        )
        loaders = [JaxDataLoader(store, 10, num_workers, seed=5) for num_workers in (0, 1, 3)]
        for _ in range(3):
            for batches in zip(*loaders, strict=True):
                wanted = buffer.sample()
                for batch in batches:
                    np.testing.assert_array_equal(batch.obs, wanted["observation"].numpy())
                    np.testing.assert_array_equal(batch.next_obs, wanted["next", "observation"].numpy())
                    np.testing.assert_array_equal(batch.action, wanted["action"].numpy())
        for loader in loaders:
            loader.close()

    def test_of_a_data_set_that_somebody_wrote(self) -> None:
        dataset = Numbered(21)
        assert isinstance(dataset, Dataset)
        loader = JaxDataLoader(dataset, 4, shuffle=False, drop_last=False)
        batches = list(loader)
        assert [numbers_of(batch) for batch in batches] == [list(range(n, min(n + 4, 21))) for n in range(0, 21, 4)]
        assert_same(
            batches[-1],
            Transition(
                np.full((1, 4), 20, np.float32),
                np.full((1, 2), 10, np.float32),
                np.array([20], np.float32),
                np.full((1, 4), 21, np.float32),
                np.array([True]),
            ),
        )

    def test_of_items_that_are_jax_arrays_and_dicts(self) -> None:
        class Pictures(Numbered):
            def __getitem__(self, index: int) -> Transition:
                item = super().__getitem__(index)
                obs = {"state": jax.numpy.asarray(item.obs), "top": np.full((3, 2, 3), index, np.uint8)}
                return item._replace(obs=obs, next_obs=obs)

        batch = next(iter(JaxDataLoader(Pictures(9), 4, shuffle=False)))
        assert batch.obs["top"].shape == (4, 3, 2, 3)
        assert batch.obs["top"].dtype == np.uint8
        np.testing.assert_array_equal(batch.obs["state"][:, 0], [0, 1, 2, 3])

    def test_are_put_without_a_copy(self, store: TrajectoryStore) -> None:
        addresses = []

        class Watched(StoreDataset):
            def batch(self, index: Any, *, extra: Any = ()) -> Any:
                batch = super().batch(index, extra=extra)
                addresses.append(batch.obs.ctypes.data)
                return batch

        batches = list(JaxDataLoader(Watched(store), 16))
        assert [batch.obs.unsafe_buffer_pointer() for batch in batches] == addresses

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_that_are_kept_do_not_change(self, store: TrajectoryStore, num_workers: int) -> None:
        with JaxDataLoader(store, 16, num_workers, seed=2) as loader:
            kept = [batch for _ in range(20) for batch in loader]
        for batch in kept:
            assert_same(batch, expected(rows_of(batch)))

    def test_may_be_donated(self, store: TrajectoryStore) -> None:
        negated = jax.jit(
            lambda batch: jax.tree.map(lambda leaf: ~leaf if leaf.dtype == bool else -leaf, batch), donate_argnums=0
        )
        loader = JaxDataLoader(store, 16, shuffle=False, extra=["observation", "action"])
        for number, (batch, _) in enumerate([negated(batch) for batch in loader]):
            wanted = expected(np.arange(16 * number, 16 * number + 16))
            np.testing.assert_array_equal(batch.obs, -wanted.obs)
            np.testing.assert_array_equal(batch.next_obs, -wanted.next_obs)

    def test_hold_what_jax_can_hold(self) -> None:
        class Wide(Numbered):
            def __getitem__(self, index: int) -> Transition:
                item = super().__getitem__(index)
                return item._replace(obs=item.obs.astype(np.float64), action=np.array([2**40 * (index == 5)]))

        loader = JaxDataLoader(Wide(6), 3, shuffle=False)
        iterator = iter(loader)
        batch = next(iterator)
        assert (batch.obs.dtype, batch.action.dtype) == (np.float32, np.int32)
        with pytest.raises(SchemaError, match="action: 1099511627776 does not fit int32"):
            next(iterator)
        with jax.enable_x64(True):
            assert next(iter(loader)).obs.dtype == np.float64

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_are_made_under_the_settings_of_whoever_iterates(self, store: TrajectoryStore, num_workers: int) -> None:
        with JaxDataLoader(store, 16, num_workers, extra=["index"]) as loader:
            assert next(iter(loader))[1]["index"].dtype == np.int32
            with jax.enable_x64(True):
                assert next(iter(loader))[1]["index"].dtype == np.int64
            assert next(iter(loader))[1]["index"].dtype == np.int32


class TestEpochs:
    def test_follow_one_another_and_differ(self, store: TrajectoryStore) -> None:
        loader = JaxDataLoader(store, 32, seed=3)
        first, second = ([rows_of(batch).tolist() for batch in loader] for _ in range(2))
        assert first != second
        assert loader.epoch == 2
        loader.set_epoch(0)
        assert [rows_of(batch).tolist() for batch in loader] == first
        loader.set_epoch(1)
        assert [rows_of(batch).tolist() for batch in loader] == second

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_new_iterator_ends_the_one_before(self, num_workers: int) -> None:
        from_store = num_workers > 0
        dataset: Any = StoreDatasetOf(Numbered(40)) if from_store else Numbered(40)
        with JaxDataLoader(dataset, 4, num_workers, shuffle=False) as loader:
            old = iter(loader)
            assert numbers_of(next(old)) == [0, 1, 2, 3]
            new = iter(loader)
            assert list(old) == []
            assert numbers_of(next(new)) == [0, 1, 2, 3]
            assert loader.epoch == 1
            assert len(list(new)) == 9

    def test_without_a_seed_are_drawn_once(self, store: TrajectoryStore) -> None:
        one, other = JaxDataLoader(store, 193), JaxDataLoader(store, 193)
        assert one.seed != other.seed
        again = JaxDataLoader(store, 193, seed=one.seed)
        np.testing.assert_array_equal(next(iter(one)).obs, next(iter(again)).obs)

    def test_set_epoch_wants_a_number(self, store: TrajectoryStore) -> None:
        with pytest.raises(ArgumentError, match="epoch"):
            JaxDataLoader(store, 16).set_epoch(-1)


class StoreDatasetOf(StoreDataset):
    """Somebody else's items behind the interface for batches, to be read by threads."""

    def __init__(self, dataset: Any) -> None:
        self.items = dataset

    def __len__(self) -> int:
        return len(self.items)

    @property
    def identity(self) -> str:
        return "numbered"

    def check_extra(self, extra: Any) -> None:
        assert not extra

    def batch(self, index: Any, *, extra: Any = ()) -> Any:
        return _transition_collate_fn([self.items[int(number)] for number in index])


class TestErrors:
    @pytest.mark.parametrize("num_workers", [0, 1, 3])
    def test_arrive_in_their_place(self, num_workers: int) -> None:
        """Also from a thread that made several batches since; and whoever goes on gets the others."""
        dataset: Any = StoreDatasetOf(Numbered(40, bad=(13, 29))) if num_workers else Numbered(40, bad=(13, 29))
        with JaxDataLoader(dataset, 4, num_workers, shuffle=False) as loader:
            iterator = iter(loader)
            for first in range(0, 40, 4):
                if first in (12, 28):
                    with pytest.raises(LookupError, match=f"nothing at {first + 1}") as caught:
                        next(iterator)
                    assert f"in the batch at item {first} of epoch 0" in caught.value.__notes__
                    if not num_workers:
                        assert f"at item {first + 1} of Numbered" in caught.value.__notes__
                    assert loader.state_dict()["position"] == first
                else:
                    assert numbers_of(next(iterator))[0] == first
            with pytest.raises(StopIteration):
                next(iterator)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"obs": np.zeros(3, np.float32)},
                r"item 2: obs: expected float32 \[4\] as in item 0, found float32 \[3\]",
            ),
            ({"obs": np.zeros(4, np.int16)}, r"item 2: obs: expected float32 \[4\] as in item 0, found int16 \[4\]"),
            ({"obs": {"a": 1}}, r"item 2: obs: expected float32 \[4\] as in item 0, found object \[\]"),
            ({"action": "left"}, r"item 2: action: expected float32 \[2\] as in item 0, found <U4 \[\]"),
        ],
    )
    def test_items_that_differ_are_named(self, change: dict[str, Any], message: str) -> None:
        class Odd(Numbered):
            def __getitem__(self, index: int) -> Transition:
                item = super().__getitem__(index)
                return item._replace(**change) if index == 2 else item

        with pytest.raises(SchemaError, match=message):
            next(iter(JaxDataLoader(Odd(8), 4, shuffle=False)))

    def test_what_is_no_transition(self) -> None:
        rows = [(1, 2), (3, 4)]
        with pytest.raises(SchemaError, match="item 0: expected a Transition, found tuple without 'obs'"):
            next(iter(JaxDataLoader(rows, 2, shuffle=False)))
        with pytest.raises(SchemaError, match="item 0: obs: expected numbers, found dtype <U1"):
            next(iter(JaxDataLoader([Transition("a", 1, 0, "b", False)], 1)))

    def test_no_data_set(self) -> None:
        for wrong in (7, iter([]), {1, 2}):
            with pytest.raises(TypeError, match="no data set: it needs __len__ and __getitem__"):
                JaxDataLoader(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="transform: expected something to call, found int"):
            JaxDataLoader(Numbered(4), 2, transform=3)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_size": 0}, "batch_size"),
            ({"batch_size": -2}, "batch_size"),
            ({"batch_size": 2.0}, "batch_size"),
            ({"batch_size": True}, "batch_size"),
            ({"num_workers": -1}, "num_workers"),
            ({"prefetch_factor": 0}, "prefetch_factor"),
            ({"seed": -1}, "seed"),
            ({"seed": 2**64}, "seed"),
            ({"rank": 1, "seed": 0}, "rank 1 of world_size 1"),
            ({"world_size": 2}, "seed is None with world_size 2"),
            ({"world_size": 0, "seed": 0}, "world_size"),
            ({"devices": []}, "devices is empty"),
            ({"devices": ["cpu:0"]}, "expected JAX devices, found 'cpu:0'"),
            ({"layout": "rows"}, "layout is 'rows'"),
            ({"layout": "pmap"}, "name them with devices="),
            ({"batch_size": 256}, "^10 items make no batch of 256; drop_last=False keeps the short one.$"),
            ({"batch_size": 6, "world_size": 2, "seed": 0}, "10 items make no batch of 6 on each of 2 ranks"),
            ({"batch_size": 1, "world_size": 11, "seed": 0}, "10 items are too few for 11 ranks"),
            ({"extra": ["task"]}, "extra: Numbered gives transitions and nothing besides"),
        ],
    )
    def test_impossible_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            JaxDataLoader(Numbered(10), **{"batch_size": 2, **arguments})
        assert isinstance(caught.value, IltoolsError)

    def test_a_device_twice_and_an_empty_data_set(self) -> None:
        device = jax.devices()[0]
        with pytest.raises(ValueError, match="is there twice"):
            JaxDataLoader(Numbered(10), 2, devices=[device, device])
        for drop_last in (True, False):
            with pytest.raises(ValueError, match="The data set is empty"):
                JaxDataLoader(Numbered(0), 2, drop_last=drop_last)

    def test_a_short_batch_is_kept_on_request(self) -> None:
        (batch,) = JaxDataLoader(Numbered(10), 256, drop_last=False, shuffle=False)
        assert numbers_of(batch) == list(range(10))


class TestStores:
    def test_other_keys_and_flags(self, tmp_path: Path) -> None:
        from stores import build_store, expected_columns, make_clips

        clips = make_clips([9, 5, 12])
        store = TrajectoryStore.open(build_store(tmp_path / "store", clips))
        wanted = expected_columns(clips)
        batch = StoreDataset(store, obs_keys=["qvel", "qpos"]).batch(range(len(store)))
        np.testing.assert_array_equal(batch.obs, np.hstack([wanted["qvel"], wanted["qpos"]]))
        np.testing.assert_array_equal(batch.next_obs, np.hstack([wanted["next", "qvel"], wanted["next", "qpos"]]))
        np.testing.assert_array_equal(batch.done, wanted["next", "done"][:, 0])
        usual = StoreDataset(store)
        np.testing.assert_array_equal(usual.batch([3]).obs, wanted["observation"][[3]])
        assert usual[3].obs.shape == (13,)
        with pytest.raises(MissingKeyError, match=r"no key 'acts'; there are .*StoreDataset\(store, obs_keys="):
            StoreDataset(store, action_key="acts")

    def test_rewards(self, tmp_path: Path) -> None:
        from iltools_datasets import StoreBuilder

        rng = np.random.default_rng(0)
        state, action, reward = rng.standard_normal((6, 2)), rng.standard_normal((5, 1)), rng.standard_normal((5, 1))
        with StoreBuilder(tmp_path / "store") as builder:
            builder.add(
                0, 0, {"observation": state}, {"action": action, ("next", "reward"): reward, "mine": reward[:, 0]}
            )
        store = TrajectoryStore.open(tmp_path / "store")
        for dataset in (StoreDataset(store), StoreDataset(store, reward_key="mine")):
            np.testing.assert_array_equal(dataset.batch(range(5)).reward, reward[:, 0].astype(np.float32))


class TestExtras:
    def test_columns_of_a_store(self, store: TrajectoryStore) -> None:
        for transition, extras in JaxDataLoader(store, 16, extra=["index", ("next", "observation")], seed=0):
            rows = rows_of(transition)
            np.testing.assert_array_equal(extras["index"], rows)
            np.testing.assert_array_equal(extras["next/observation"], expected(rows).next_obs)

    def test_that_are_not_there(self, store: TrajectoryStore) -> None:
        with pytest.raises(MissingKeyError, match="extra: no key 'task_index'"):
            JaxDataLoader(store, 16, extra=["task_index"])


class TestTransform:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_function_gets_the_numpy_batch(self, store: TrajectoryStore, num_workers: int) -> None:
        def halved(batch: Transition) -> Transition:
            assert isinstance(batch.obs, np.ndarray)
            return batch._replace(obs=batch.obs / 2)

        with JaxDataLoader(store, 16, num_workers, shuffle=False, transform=halved) as loader:
            batch = next(iter(loader))
        np.testing.assert_array_equal(batch.obs, expected(np.arange(16)).obs / 2)

    def test_a_transform_gets_a_dict_of_all(self, store: TrajectoryStore) -> None:
        keys = []

        def change(data: dict[str, Any]) -> dict[str, Any]:
            keys.append(sorted(data))
            return {**data, "action": data["action"] * 2, "row": data["index"] % 7}

        loader = JaxDataLoader(store, 16, extra=["index"], transform=LambdaTransform(change))
        transition, extras = next(iter(loader))
        rows = rows_of(transition)
        assert keys == [["action", "done", "index", "next_obs", "obs", "reward"]]
        np.testing.assert_array_equal(transition.action, expected(rows).action * 2)
        np.testing.assert_array_equal(extras["row"], rows % 7)

    def test_sees_the_keys_of_an_observation_one_by_one(self) -> None:
        class Dicts(Numbered):
            def __getitem__(self, index: int) -> Transition:
                item = super().__getitem__(index)
                return item._replace(obs={"a": item.obs}, next_obs={"a": item.next_obs})

        double = LambdaTransform(lambda value: value * 2, ["obs/a"])
        batch = next(iter(JaxDataLoader(Dicts(4), 4, shuffle=False, transform=double)))
        np.testing.assert_array_equal(batch.obs["a"][:, 0], [0, 2, 4, 6])
        np.testing.assert_array_equal(batch.next_obs["a"][:, 0], [1, 2, 3, 4])

    def test_one_that_uses_its_array_again(self, store: TrajectoryStore) -> None:
        mine = np.zeros((16, 5), np.float32)

        def into_mine(batch: Transition) -> Transition:
            mine[:] = batch.obs
            return batch._replace(obs=mine)

        for batch in list(JaxDataLoader(store, 16, transform=into_mine)):
            np.testing.assert_array_equal(batch.obs[:, 1] - 1, 16 * (batch.action[:, 0] / 8))

    def test_one_that_loses_a_field(self, store: TrajectoryStore) -> None:
        lossy = LambdaTransform(lambda data: {"obs": data["obs"]})
        with pytest.raises(SchemaError, match="LambdaTransform returned a dict without"):
            next(iter(JaxDataLoader(store, 16, transform=lossy)))

    def test_an_extra_of_the_name_of_a_field(self, store: TrajectoryStore) -> None:
        with pytest.raises(ArgumentError, match=r"extra: \['action'\] are fields of a transition"):
            JaxDataLoader(store, 16, transform=LambdaTransform(dict), extra=["action"])


class TestEnd:
    def test_close_ends_the_threads(self, store: TrajectoryStore) -> None:
        with JaxDataLoader(store, 16, 3) as loader:
            iterator = iter(loader)
            next(iterator)
            assert len(loader_threads()) == 3
        assert loader_threads() == []
        with pytest.raises(StreamError, match="the loader was closed; iterate over it again"):
            next(iterator)
        loader.close()
        assert len(list(loader)) == 12
        loader.close()

    def test_threads_stay_between_epochs(self, store: TrajectoryStore) -> None:
        with JaxDataLoader(store, 16, 2) as loader:
            list(loader)
            before = set(loader_threads())
            list(loader)
            next(iter(loader))
            list(loader)
            assert set(loader_threads()) == before

    def test_a_forgotten_loader_ends_its_threads(self, store: TrajectoryStore) -> None:
        loader = JaxDataLoader(store, 16, 2)
        iterator = iter(loader)
        next(iterator)
        threads = loader_threads()
        gone = weakref.ref(loader)
        del loader, iterator
        assert gone() is None
        for thread in threads:
            thread.join(10)
        assert loader_threads() == []

    def test_what_an_epoch_that_was_left_had_ahead_makes_room(self) -> None:
        made: list[int] = []
        enough = threading.Event()

        class Counting(StoreDatasetOf):
            def batch(self, index: Any, *, extra: Any = ()) -> Any:
                made.append(len(index))
                if len(made) == wanted:
                    enough.set()
                return super().batch(index, extra=extra)

        wanted = 6
        with JaxDataLoader(Counting(Numbered(400)), 2, 2, prefetch_factor=3) as loader:
            iter(loader)
            assert enough.wait(20)
            enough.clear()
            wanted = 10  # one of the first six may still be in the making
            iter(loader)
            assert enough.wait(20)

    def test_no_more_is_made_ahead_than_said(self) -> None:
        made = []

        class Counting(StoreDatasetOf):
            def batch(self, index: Any, *, extra: Any = ()) -> Any:
                made.append(len(index))
                if len(made) >= 6:
                    full.set()
                return super().batch(index, extra=extra)

        full = threading.Event()
        with JaxDataLoader(Counting(Numbered(400)), 2, 2, prefetch_factor=3) as loader:
            iterator = iter(loader)
            assert full.wait(20)
            for taken in range(1, 50):
                next(iterator)
                assert len(made) <= 6 + taken


class TestState:
    def test_is_small_json(self, store: TrajectoryStore) -> None:
        loader = JaxDataLoader(store, 16, seed=2**64 - 1)
        loader.set_epoch(2**63)
        next(iter(loader))
        state = loader.state_dict()
        assert len(json.dumps(state)) < 1024
        again = JaxDataLoader(store, 16)
        again.load_state_dict(json.loads(json.dumps(state)))
        assert again.state_dict() == state
        assert again.seed == 2**64 - 1

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_stands_at_the_last_batch_taken(self, store: TrajectoryStore, num_workers: int) -> None:
        with JaxDataLoader(store, 16, num_workers, seed=0) as loader:
            batches = []
            states = []
            for _ in range(2):
                for batch in loader:
                    batches.append(rows_of(batch).tolist())
                    states.append(loader.state_dict())
        for count, state in enumerate(states):
            with JaxDataLoader(store, 16, 1 - num_workers // 2) as again:
                again.load_state_dict(state)
                assert again.state_dict() == state
                rest = [rows_of(batch).tolist() for _ in range(2 - again.epoch) for batch in again]
                assert batches[count + 1 :] == rest

    def test_set_epoch_keeps_the_place_in_the_epoch_that_was_loaded(self, store: TrajectoryStore) -> None:
        loader = JaxDataLoader(store, 16, seed=0)
        loader.set_epoch(4)
        iterator = iter(loader)
        for _ in range(5):
            next(iterator)
        again = JaxDataLoader(store, 16)
        again.load_state_dict(loader.state_dict())
        again.set_epoch(4)
        assert len(list(again)) == 7
        again.load_state_dict(loader.state_dict())
        again.set_epoch(5)
        assert len(list(again)) == 12

    def test_leaving_an_epoch_goes_on_in_the_next_and_a_state_of_it_in_it(self, store: TrajectoryStore) -> None:
        loader = JaxDataLoader(store, 16, seed=0)
        for _ in zip(range(3), loader, strict=False):
            pass
        state = loader.state_dict()
        assert (state["epoch"], state["position"]) == (0, 48)
        assert len(list(loader)) == 12
        assert loader.state_dict()["epoch"] == 2

    def test_of_another_data_set_is_refused(self, store: TrajectoryStore, tmp_path: Path) -> None:
        loader = JaxDataLoader(store, 16, seed=0)
        next(iter(loader))
        before = loader.state_dict()
        others = [make_store(tmp_path / "other"), make_store(tmp_path / "shorter", [5, 40]), Numbered(TOTAL)]
        for other in others:
            with pytest.raises(StateError, match="state of JaxDataLoader: dataset: expected"):
                loader.load_state_dict(JaxDataLoader(other, 4).state_dict())
        with pytest.raises(StateError, match="dataset"):
            JaxDataLoader(Numbered(7), 2).load_state_dict(JaxDataLoader(Numbered(8), 2).state_dict())
        assert loader.state_dict() == before

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"kind": "Sampler"}, "expected kind 'JaxDataLoader', found 'Sampler'"),
            ({"version": 2}, "expected version 1, found 2"),
            ({"position": TOTAL}, "position: expected an integer"),
            ({"position": -1}, "position: expected an integer"),
            ({"epoch": 0.5}, "epoch: expected an integer"),
            ({"seed": None}, "seed: expected an integer"),
            ({"shuffle": False}, "shuffle: expected True"),
            ({"items": 3}, "items: expected 193"),
        ],
    )
    def test_that_is_damaged_is_refused(self, store: TrajectoryStore, change: dict[str, Any], message: str) -> None:
        loader = JaxDataLoader(store, 16, seed=0)
        next(iter(loader))
        before = loader.state_dict()
        with pytest.raises(StateError, match=message):
            loader.load_state_dict({**before, **change})
        with pytest.raises(StateError, match="expected a mapping, found list"):
            loader.load_state_dict([])  # type: ignore[arg-type]
        assert loader.state_dict() == before

    def test_a_thousand_points_of_an_epoch(self, store: TrajectoryStore) -> None:
        """What one job took and another takes, of another batch size, and number of workers and ranks, is the epoch."""
        rng = np.random.default_rng(0)

        def ranks(state: dict[str, Any] | None, seed: int) -> list[JaxDataLoader]:
            left = TOTAL if state is None else TOTAL - state["position"]
            size, world = int(rng.integers(1, 50)), int(rng.integers(1, min(3, left) + 1))
            workers = int(rng.integers(0, 3))
            options = {"num_workers": workers, "drop_last": False, "world_size": world, "seed": seed}
            loaders = [JaxDataLoader(store, size, rank=rank, **options) for rank in range(world)]
            if state is not None:
                for loader in loaders:
                    loader.load_state_dict(state)
            return loaders

        points = 0
        while points < 1000:
            state: dict[str, Any] | None = None
            seen: list[np.ndarray] = []
            seed = int(rng.integers(2**32))
            while state is None or state["epoch"] == 0:
                loaders = ranks(state, seed)
                count = int(rng.integers(1, 5))
                states = []
                for loader in loaders:
                    with loader:
                        for taken, batch in enumerate(loader, start=1):
                            seen.append(rows_of(batch))
                            if taken == count:
                                break
                        states.append(loader.state_dict())
                assert all(found == states[0] for found in states)
                state = json.loads(json.dumps(states[0]))
                points += 1
            np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(TOTAL))

    def test_a_rank_for_which_nothing_is_left_is_told(self) -> None:
        loaders = [JaxDataLoader(Numbered(10), 4, rank=r, world_size=3, drop_last=False, seed=0) for r in range(3)]
        state = {**loaders[0].state_dict(), "position": 8}
        for loader in loaders:
            loader.load_state_dict(state)
        assert [len(list(loader)) for loader in loaders[:2]] == [1, 1]
        with pytest.warns(RuntimeWarning, match="rank 2 of 3 gets no batch of an epoch of which 2 items are left"):
            assert list(loaders[2]) == []
        assert {loader.epoch for loader in loaders} == {1}


class TestHelpers:
    def test_collate(self) -> None:
        batch = _transition_collate_fn([Numbered(9)[n] for n in (3, 5)])
        assert isinstance(batch.obs, np.ndarray)
        assert numbers_of(batch) == [3, 5]
        assert all(field.ctypes.data % 64 == 0 for field in batch)
        np.testing.assert_array_equal(batch.reward, [3, 5])
        with pytest.raises(SchemaError):
            _transition_collate_fn([Numbered(9)[0], (1, 2)])

    def test_numpy_to_jax_copies(self) -> None:
        batch = _transition_collate_fn([Numbered(9)[n] for n in (3, 5)])
        on_device = _numpy_to_jax(batch)
        batch.obs[:] = 0
        assert numbers_of(on_device) == [3, 5]

    def test_shard_batch(self) -> None:
        batch = _transition_collate_fn([Numbered(9)[n] for n in (3, 5, 6)])
        found = _shard_batch(_numpy_to_jax(batch), jax.devices()[:1])
        assert found.obs.shape == (1, 3, 4)
        assert numbers_of(found) == [3, 5, 6]
