"""The order of the batches: every item once per epoch, on any ranks and batch sizes, and the one of the torch side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.data.order import Order, Place
from iltools_datasets.errors import ArgumentError
from iltools_datasets.ranks import Rank

totals = st.integers(1, 400)
sizes = st.integers(1, 60)
worlds = st.integers(1, 5)
seeds = st.integers(0, 2**64 - 1)


def order(total: int, size: int, seed: int = 0, rank: int = 0, world: int = 1, **options: Any) -> Order:
    options = {"shuffle": True, "drop_last": False, **options}
    return Order(total, size, seed, rank=Rank(rank=rank, world_size=world), **options)


@given(totals, sizes, seeds, st.integers(0, 2**40), st.booleans())
def test_an_epoch_holds_every_item_once(total: int, size: int, seed: int, epoch: int, shuffle: bool) -> None:
    batches = [batch.items() for batch in order(total, size, seed, shuffle=shuffle).epoch(Place(epoch))]
    assert [len(items) for items in batches[:-1]] == [size] * (len(batches) - 1)
    together = np.concatenate(batches)
    if not shuffle:
        np.testing.assert_array_equal(together, np.arange(total))
    np.testing.assert_array_equal(np.sort(together), np.arange(total))


@given(totals, sizes, seeds, worlds)
def test_ranks_share_an_epoch(total: int, size: int, seed: int, world: int) -> None:
    if total < world:
        with pytest.raises(ArgumentError, match=f"{total} items are too few for {world} ranks"):
            order(total, size, world=world).check()
        return
    epochs = [order(total, size, seed, rank, world).epoch(Place()) for rank in range(world)]
    assert len({len(epoch) for epoch in epochs}) == 1
    for epoch in epochs:
        assert [batch.size for batch in epoch] == [len(batch.items()) for batch in epoch]
    for batches in zip(*epochs, strict=True):
        assert {batch.size for batch in batches} <= {*batches[0].epoch.last, size}
    together = np.concatenate([batch.items() for epoch in epochs for batch in epoch])
    np.testing.assert_array_equal(np.sort(together), np.arange(total))


@given(totals, sizes, seeds, worlds)
def test_full_batches_alone(total: int, size: int, seed: int, world: int) -> None:
    ranks = [order(total, size, seed, rank, world, drop_last=True) for rank in range(world)]
    if total < size * world:
        with pytest.raises(ArgumentError, match=f"{total} items (make no batch of {size}|are too few)"):
            ranks[0].check()
        return
    epochs = [rank.epoch(Place()) for rank in ranks]
    items = [batch.items() for epoch in epochs for batch in epoch]
    assert {len(found) for found in items} == {size}
    assert len(items) == total // (size * world) * world
    assert len(np.unique(np.concatenate(items))) == len(items) * size


@given(totals, st.data())
def test_an_epoch_goes_on_with_other_batches_and_ranks(total: int, data: st.DataObject) -> None:
    place, seen, seed = Place(3), [], data.draw(seeds)
    while place.epoch == 3:
        world = data.draw(st.integers(1, min(5, total - place.position)))
        size, count = data.draw(sizes), data.draw(st.integers(1, 4))
        epochs = [order(total, size, seed, rank, world).epoch(place) for rank in range(world)]
        seen += [batch.items() for epoch in epochs for batch in list(epoch)[:count]]
        places = {epoch.place_after(min(count, len(epoch))) for epoch in epochs}
        assert len(places) == 1
        (place,) = places
    assert place == Place(4, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(total))


def test_a_rank_for_which_nothing_is_left() -> None:
    late = order(10, 4, 0, rank=2, world=3)
    assert len(late.epoch(Place(0, 8))) == 0
    assert len(order(10, 4, 0, rank=1, world=3).epoch(Place(0, 8))) == 1


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("size", "world"), [(7, 1), (64, 1), (10, 3), (193, 1)])
def test_it_is_the_order_of_the_torch_side(tmp_path: Path, drop_last: bool, size: int, world: int) -> None:
    pytest.importorskip("torchrl", reason="needs the torch extra")
    from data_cases import TOTAL, make_store
    from iltools_datasets.torchrl import SamplerWithoutReplacement, TrajectoryStorage

    storage = TrajectoryStorage(make_store(tmp_path / "store"))
    for rank in range(world):
        sampler = SamplerWithoutReplacement(drop_last=drop_last, seed=11, rank=rank, world_size=world)
        mine = order(TOTAL, size, 11, rank, world, drop_last=drop_last)
        for epoch in range(3):
            for batch in mine.epoch(Place(epoch)):
                index, _ = sampler.sample(storage, size)
                np.testing.assert_array_equal(batch.items(), index.numpy())
            assert sampler.ran_out
