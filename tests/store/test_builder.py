"""What a builder refuses before anything has changed, and what it keeps to the bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets import StoreBuilder, TrajectoryStore, errors


def q(*shape: int) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


# Parts of a concatenation.


@pytest.mark.faults("parts cut otherwise")
@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"q": q(4, 3), "v": q(4, 2)}, r"task 0, trajectory 1 \(walk\): key \"q\": expected shape \[2\], found \[3\]"),
        ({"q": q(4, 1, 2), "v": q(4, 3)}, r"key \"q\": expected shape \[2\], found \[1, 2\]"),
        ({"q": q(4, 2), "v": q(4, 3, 1)}, r"key \"v\": expected shape \[3\], found \[3, 1\]"),
        ({"q": q(4, 5), "v": q(4, 0)}, r"key \"q\": expected shape \[2\], found \[5\]"),
        ({"q": q(4, 2), "v": q(4, 4)}, r"key \"v\": expected shape \[3\], found \[4\]"),
        ({"q": q(4, 2).astype(float), "v": q(4, 3).astype(float)}, r"\"obs\".*float32.*float64"),
    ],
)
def test_parts_are_compared_one_by_one(tmp_path: Path, second: dict[str, np.ndarray], words: str) -> None:
    first = {"q": q(4, 2), "v": q(4, 3) + 100}
    with StoreBuilder(tmp_path / "store", concat={"obs": ["q", "v"]}, alias={"copy": "v"}) as builder:
        builder.add(0, 0, first)
        with pytest.raises(errors.SchemaError, match=words):
            builder.add(0, 1, second, name="walk")
        builder.add(0, 1, {key: array + 7 for key, array in first.items()})
    rows = TrajectoryStore.open(tmp_path / "store").gather([0, 1, 2, 3, 4, 5])
    for key in first:
        np.testing.assert_array_equal(rows[key], np.concatenate([first[key][:-1], first[key][:-1] + 7]))
    np.testing.assert_array_equal(rows["next", "copy"], rows["next", "v"])


@given(cuts=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=5))
def test_only_the_same_cut_is_taken(cuts: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cuts") / "store"
    taken = []
    with StoreBuilder(path, concat={"obs": ["q", "v"]}) as builder:
        for number, (left, right) in enumerate(cuts):
            arrays = {"q": q(3, left) + number, "v": -q(3, right) - number}
            if (left, right) == cuts[0]:
                builder.add(0, number, arrays)
                taken.append(arrays)
            else:
                with pytest.raises(errors.SchemaError, match=f"trajectory {number}"):
                    builder.add(0, number, arrays)
    rows = TrajectoryStore.open(path).gather(np.arange(2 * len(taken)))
    for key in ("q", "v"):
        np.testing.assert_array_equal(rows[key], np.concatenate([arrays[key][:-1] for arrays in taken]))


@pytest.mark.faults("first trajectory refused")
@pytest.mark.parametrize(
    "refused",
    [
        {"q": q(4, 9), "v": q(4, 1), "..": q(4, 1)},
        {"q": q(1, 9), "v": q(1, 1)},
        {"q": q(4, 9), "v": q(5, 1)},
        {"q": q(4, 9), "v": q(4, 1), "v2": q(3, 1)},
        {"q": q(4, 9)},
    ],
)
def test_nothing_stays_of_a_first_trajectory_that_is_refused(tmp_path: Path, refused: dict[str, np.ndarray]) -> None:
    with StoreBuilder(tmp_path / "store", concat={"obs": ["q", "v"]}) as builder:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(errors.SchemaError, match="task 5, trajectory 7"):
            builder.add(5, 7, refused, task_name="refused")
        assert sorted(tmp_path.rglob("*")) == before
        builder.add(5, 7, {"q": q(4, 2), "v": q(4, 3)})
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.shape("q") == (2,)
    assert store.task_names == {}
    np.testing.assert_array_equal(store.gather([2])["v"], q(4, 3)[2:3])


@pytest.mark.faults("first trajectory refused")
@pytest.mark.torch
def test_a_refused_first_trajectory_does_not_choose_the_layout(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    pytest.importorskip("torchrl", reason="needs the torch extra")
    from iltools_datasets.replay_memmap import ExpertMemmapBuilder, build_trajectory_td

    states = torch.arange(8.0)[:, None]
    good = build_trajectory_td(states[:-1], states[:-1], states[1:])
    with ExpertMemmapBuilder(tmp_path / "store", 100) as builder:
        with pytest.raises(errors.SchemaError, match="trajectory 0"):
            builder.add_trajectory(0, 0, good.clone().set("bad name", states[:-1]))
        assert builder.size == 0
        assert builder.segments == []
        builder.add_trajectory(0, 0, build_trajectory_td(states[:-1], states[:-1], states[:-1]))
        builder.add_trajectory(0, 1, good)
    store = TrajectoryStore.open(tmp_path / "store")
    np.testing.assert_array_equal(store.gather([6])["next", "observation"], [[6]])
    np.testing.assert_array_equal(store.gather([13])["next", "observation"], [[7]])


def test_a_part_of_one_key_and_an_alias_of_a_part(tmp_path: Path) -> None:
    alias = {"x": "b", ("deep", "y"): "x", "z": "obs", "w": "c"}
    with StoreBuilder(tmp_path / "store", concat={"obs": ["a", "b"]}, alias=alias) as builder:
        builder.add(0, 0, {"a": q(4, 1), "b": q(4, 2, 2), "c": q(4)})
    rows = TrajectoryStore.open(tmp_path / "store").gather([1, 2])
    for key in ("x", ("deep", "y")):
        np.testing.assert_array_equal(rows[key], q(4, 2, 2)[1:3])
        np.testing.assert_array_equal(rows[("next", *([key] if isinstance(key, str) else key))], q(4, 2, 2)[2:4])
    np.testing.assert_array_equal(rows["z"], rows["obs"])
    np.testing.assert_array_equal(rows["w"], q(4)[1:3])


@pytest.mark.parametrize(
    ("concat", "words"),
    [
        ({"o": ["a", "a"]}, "'a' is a part of 'o' and again of 'o'"),
        ({"o": ["a", "b"], "p": ["c", "a"]}, "'a' is a part of 'o' and again of 'p'"),
        ({"o": []}, "'o' is made of no keys"),
    ],
)
def test_a_part_has_one_place(tmp_path: Path, concat: dict[str, list[str]], words: str) -> None:
    with pytest.raises(errors.SchemaError, match=words):
        StoreBuilder(tmp_path / "store", concat=concat)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ({"a": q(4, 1), "b": q(4, 1), "o": q(4, 2)}, "'o' is given, and is what"),
        ({"a": q(0, 1), "b": q(0, 1)}, "at least 2 states, found 0"),
        ({"a": q(0, 0), "b": q(0, 3)}, "at least 2 states, found 0"),
        ({"b": q(4, 1)}, "'a' is missing"),
    ],
)
def test_refusals_of_a_concatenation(tmp_path: Path, states: dict[str, np.ndarray], words: str) -> None:
    builder = StoreBuilder(tmp_path / "store", concat={"o": ["a", "b"]})
    with pytest.raises(errors.SchemaError, match=f"task 0, trajectory 0.*{words}"):
        builder.add(0, 0, states)
    builder.abort()
    with pytest.raises(ValueError, match="this build is over"):
        builder.add(0, 0, states={"a": q(4, 1), "b": q(4, 1)})


def test_parts_of_no_width(tmp_path: Path) -> None:
    with StoreBuilder(tmp_path / "store", concat={"o": ["a", "b"]}) as builder:
        builder.add(0, 0, {"a": q(4, 0), "b": q(4, 2)})
    rows = TrajectoryStore.open(tmp_path / "store").gather([0, 2])
    assert rows["a"].shape == (2, 0)
    np.testing.assert_array_equal(rows["o"], q(4, 2)[[0, 2]])


# Keys that cannot nest.

MEETING: dict[str, Callable[[], dict[str, Any]]] = {
    "state and transition": lambda: {"states": {"a": q(4)}, "transitions": {("a", "b"): q(3)}},
    "transition and state": lambda: {"states": {("a", "b"): q(4)}, "transitions": {"a": q(3)}},
    "next as a value": lambda: {"states": {"a": q(4)}, "transitions": {"next": q(3)}},
    "next of a state": lambda: {"states": {"a": q(4)}, "transitions": {("next", "a"): q(3)}},
    "below the next of a state": lambda: {"states": {"a": q(4)}, "transitions": {("next", "a", "b"): q(3)}},
    "alias below its source": lambda: {"states": {"a": q(4)}, "alias": {("a", "b"): "a"}},
    "alias that is there": lambda: {"states": {"a": q(4)}, "transitions": {"b": q(3)}, "alias": {"b": "a"}},
    "alias as next of a state": lambda: {"states": {"a": q(4)}, "alias": {("next", "b"): "a"}},
    "part below the whole": lambda: {
        "states": {"o": q(4), "p": q(4)},
        "alias": {("w", "x"): "o"},
        "concat": {"w": ["o", "p"]},
    },
    "part below a transition": lambda: {
        "states": {"o": q(4), "p": q(4)},
        "transitions": {("o", "x"): q(3)},
        "concat": {"w": ["o", "p"]},
    },
}


@pytest.mark.faults("keys that cannot nest")
@pytest.mark.parametrize("case", MEETING)
def test_keys_that_meet_are_refused_when_added(tmp_path: Path, case: str) -> None:
    arguments = MEETING[case]()
    path = tmp_path / "store"
    with StoreBuilder(path) as builder:
        builder.add(0, 0, {"a": q(4)})
    uuid = TrajectoryStore.open(path).uuid
    options = {name: arguments.pop(name) for name in ("alias", "concat") if name in arguments}
    builder = StoreBuilder(path, overwrite=True, **options)
    with pytest.raises(errors.SchemaError, match="task 0, trajectory 0: key"):
        builder.add(0, 0, **arguments)
    builder.abort()
    assert TrajectoryStore.open(path).uuid == uuid


# Attributes.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def bits(value: Any) -> Any:
    """Return a value in which floats are told apart by their bits."""
    if isinstance(value, dict):
        return {key: bits(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [bits(entry) for entry in value]
    return ("float", value.hex()) if isinstance(value, float) else (type(value), value)


@pytest.mark.faults("attributes")
@given(attributes=st.dictionaries(st.text(), JSON, max_size=5))
def test_attributes_come_back_to_the_bit(attributes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("attributes") / "store"
    with StoreBuilder(path, attributes=attributes) as builder:
        builder.add(0, 0, {"a": q(2)})
    assert bits(TrajectoryStore.open(path).attributes) == bits(attributes)


@pytest.mark.faults("attributes")
def test_fractions_and_big_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    attributes = {
        "fractions": (rng.integers(1, 10**6, 2000) / rng.integers(1, 10**6, 2000)).tolist(),
        "integers": [2**64 + 1, -(2**200), 10**400, 2**53 + 1],
        "extremes": [5e-324, 1.7976931348623157e308, -0.0],
        "text": '\U0001f44b "quoted" [[[{ \\',
    }
    with StoreBuilder(tmp_path / "store", attributes=attributes) as builder:
        builder.add(0, 0, {"a": q(2)})
    assert bits(TrajectoryStore.open(tmp_path / "store").attributes) == bits(attributes)
    # Any reader of JSON finds them in the manifest.
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())["manifest"]
    assert bits(manifest["attributes"]) == bits(attributes)


@pytest.mark.faults("attributes")
@pytest.mark.parametrize(
    ("attributes", "place", "error"),
    [
        ({"fps": math.nan}, r"attributes\['fps'\]: nan", errors.SchemaError),
        ({"a": {"dt": [1.0, math.inf]}}, r"attributes\['a'\]\['dt'\]\[1\]: inf", errors.SchemaError),
        ({"a": [{"b": (1, -math.inf)}]}, r"attributes\['a'\]\[0\]\['b'\]\[1\]: -inf", errors.SchemaError),
        ({"a": {"b": np.zeros(2)}}, r"attributes\['a'\]\['b'\]: array", TypeError),
        ({"a": {"b": {3}}}, r"attributes\['a'\]\['b'\]: \{3\}", TypeError),
        ({"a": {(1, 2): 3}}, r"attributes\['a'\]: \{\(1, 2\): 3\}", TypeError),
    ],
)
def test_what_json_cannot_hold_is_named_at_once(
    tmp_path: Path, attributes: dict[str, Any], place: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=place):
        StoreBuilder(tmp_path / "store", attributes=attributes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults("attributes")
def test_an_endless_attribute(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(errors.SchemaError, match=r"attributes.*Circular"):
        StoreBuilder(tmp_path / "store", attributes={"a": endless})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults("attributes")
def test_attributes_that_are_added_later_are_checked_when_published(tmp_path: Path) -> None:
    builder = StoreBuilder(tmp_path / "store")
    builder.add(0, 0, {"a": q(2)})
    builder.attributes["late"] = math.nan
    with pytest.raises(errors.SchemaError, match=r"attributes\['late'\]"):
        builder.publish()
    builder.attributes["late"] = 0.1
    builder.publish()
    assert TrajectoryStore.open(tmp_path / "store").attributes == {"late": 0.1}


@pytest.mark.faults("attributes")
def test_a_nan_in_an_archives_description_is_named_before_the_build(tmp_path: Path) -> None:
    from iltools_datasets.ingest.from_archive import build_store

    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", attributes={"dt": math.nan})
    root.create_array("lab/walk/t/qpos", data=np.ones((9, 3)))
    with pytest.raises(errors.SchemaError, match=r"a\.zarr: attributes\['archive'\]\['dt'\]: nan"):
        build_store(tmp_path / "a.zarr", tmp_path / "store", ["qpos"])
    assert not (tmp_path / "store").exists()
