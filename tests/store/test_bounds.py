"""The smallest and largest value of each key: of every state, kept, and never those of another build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets import StoreBuilder, TrajectoryStore
from iltools_datasets.store import bounds

KEPT = bounds.KEPT


def build(path: Path, clips: list[dict[str, Any]], **options: Any) -> TrajectoryStore:
    with StoreBuilder(path, **options) as builder:
        for number, clip in enumerate(clips):
            rows = {"action": clip["q"][:-1] * 2, ("next", "done"): np.arange(len(clip["q"]) - 1)[:, None] < 0}
            builder.add(0, number, states={"q": clip["q"]}, transitions=rows)
    return TrajectoryStore.open(path)


def clips(rng: np.random.Generator, lengths: list[int], dtype: Any = np.float32) -> list[dict[str, Any]]:
    return [{"q": (rng.normal(size=(length, 3)) * 50).astype(dtype)} for length in lengths]


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5),
    dtype=st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.float16]),
    block=st.sampled_from([1, 30, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_they_are_those_of_all_states(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], dtype: Any, block: int, seed: int
) -> None:
    made = clips(np.random.default_rng(seed), lengths, dtype)
    store = build(tmp_path_factory.mktemp("bounds") / "store", made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "_BLOCK_BYTES", block)
        measured = store.bounds()
    states = np.concatenate([clip["q"] for clip in made])
    actions = np.concatenate([clip["q"][:-1] * 2 for clip in made])
    wanted = {"q": states, ("next", "q"): states, "action": actions}
    for found in (measured, TrajectoryStore.open(store.path).bounds()):
        assert set(found) == {*wanted, ("next", "done")}
        for key, rows in wanted.items():
            np.testing.assert_array_equal(found[key], (rows.min(axis=0), rows.max(axis=0)), strict=True)
        assert [bound.tolist() for bound in found["next", "done"]] == [[False], [False]]


@pytest.fixture(name="store")
def store_fixture(tmp_path: Path) -> TrajectoryStore:
    return build(tmp_path / "store", clips(np.random.default_rng(0), [5, 9]))


def test_the_second_call_reads_what_was_kept(store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.bounds()
    monkeypatch.setattr(bounds, "_measured", lambda _: pytest.fail("the store was read again"))
    second = TrajectoryStore.open(store.path).bounds()
    assert first.keys() == second.keys()
    for key, pair in first.items():
        np.testing.assert_array_equal(second[key], pair, strict=True)
    assert store.verify() == []


def test_those_of_another_build_are_not_taken(store: TrajectoryStore) -> None:
    store.bounds()
    other = build(store.path, clips(np.random.default_rng(1), [4]), overwrite=True)
    np.testing.assert_array_equal(other.bounds()["q"][1], other.trajectory(0)["q"].max(axis=0))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"[]",
        b"null",
        b'{"bounds": 3}',
        {"bounds": [[["q"], [1.0], [2.0]]]},
        {"bounds": [[["nothing"], [1.0], [2.0]]]},
        {"bounds": [[["q"], ["x", "y", "z"], [1, 2, 3]]]},
        {"bounds": [["q"]]},
        {"bounds": [[["q"], [1e999, 1, 1], [1, 1]]]},
        {"bounds": {"q": 1}},
        {"num_transitions": 11},
        {"version": 2},
    ],
)
def test_what_is_damaged_is_measured_anew(store: TrajectoryStore, content: Any) -> None:
    wanted = store.bounds()
    kept = store.path / KEPT
    if isinstance(content, dict):
        content = json.dumps(json.loads(kept.read_text()) | content).encode()
    kept.write_bytes(content)
    found = store.bounds()
    assert found.keys() == wanted.keys()
    np.testing.assert_array_equal(found["q"], wanted["q"])
    assert json.loads(kept.read_text())["uuid"] == store.uuid


def test_a_directory_that_is_not_ours_to_write_to(store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(bounds, "write_json", refused)
    assert store.bounds().keys() == set(store.keys)
    assert not (store.path / KEPT).exists()


def test_numbers_that_are_not_finite_have_none(tmp_path: Path) -> None:
    made = clips(np.random.default_rng(0), [5, 9])
    made[1]["q"][3, 1] = np.nan
    assert set(build(tmp_path / "nan", made).bounds()) == {("next", "done")}
    made[1]["q"][3, 1] = -np.inf
    assert set(build(tmp_path / "inf", made).bounds()) == {("next", "done")}


def test_bfloat16_is_what_it_stands_for(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs the jax extra")
    rows = np.random.default_rng(0).normal(size=(7, 2)).astype(ml_dtypes.bfloat16)
    with StoreBuilder(tmp_path / "store") as builder:
        builder.add(0, 0, states={"q": rows})
    store = TrajectoryStore.open(tmp_path / "store")
    for found in (store.bounds()["q"], store.bounds()["q"]):
        np.testing.assert_array_equal(
            found, (rows.astype("f4").min(axis=0), rows.astype("f4").max(axis=0)), strict=True
        )


def test_a_directory_of_others_is_measured_each_time(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    tensordict = pytest.importorskip("tensordict", reason="needs the torch extra")
    rows = {"a": torch.arange(6.0).reshape(6, 1), "done": torch.arange(6) == 5}
    tensordict.TensorDict(rows, batch_size=[6]).memmap(str(tmp_path / "theirs"))
    store = TrajectoryStore.from_tensordict_memmap(tmp_path / "theirs", end_key="done")
    assert [bound.tolist() for bound in store.bounds()["a"]] == [[0.0], [5.0]]
    assert not (tmp_path / "theirs" / KEPT).exists()
