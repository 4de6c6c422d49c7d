"""One check of integers for every door: what is one, which bounds, and what the message says."""

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets._base.integers import checked_env_ids, checked_ids, checked_integer, checked_integers
from iltools_datasets._base.saved_state import SavedState
from iltools_datasets.errors import (
    ArgumentError,
    IltoolsError,
    NotAnIntegerError,
    OutOfRangeError,
    SchemaError,
    StateError,
)

NO_INTEGERS = [True, np.True_, np.array(True), 1.0, np.float32(1), "1", b"1", None, [1], np.array([1, 2]), 1 + 0j]


class _Counted:
    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize("value", [7, np.int8(7), np.uint64(7), np.array(7), _Counted()], ids=repr)
def test_what_has_an_index_is_an_integer_and_comes_out_plain(value: object) -> None:
    assert type(checked_integer("n", value)) is int
    assert checked_integer("n", value, low=7, high=7) == operator.index(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_integer_is_refused_as_type_and_as_value(value: object) -> None:
    for kind in (NotAnIntegerError, TypeError, ValueError, IltoolsError):
        with pytest.raises(kind, match=r"^batch_size: expected an integer of at least 1, found "):
            checked_integer("batch_size", value, low=1)


@given(st.integers(), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_bounds_are_python_s_comparison(value: int, low: int, high: int) -> None:
    if low <= value <= high:
        assert checked_integer("n", value, low, high) == value
    else:
        with pytest.raises(ArgumentError, match=rf"^n: expected an integer within {low}..={high}, found"):
            checked_integer("n", value, low, high)


def test_what_fits_no_int64_is_refused_unless_it_is_allowed() -> None:
    with pytest.raises(ArgumentError, match=r"within 0..=9223372036854775807, found 9223372036854775808"):
        checked_integer("n", 2**63, low=0)
    with pytest.raises(ArgumentError, match="n: expected an integer, found -9223372036854775809"):
        checked_integer("n", -(2**63) - 1)
    assert checked_integer("n", np.uint64(2**64 - 1), low=0, high=2**64 - 1) == 2**64 - 1


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_arrays_lists_and_iterators_give_the_same(numbers: list[int]) -> None:
    expected = np.array(numbers, dtype=np.int64)
    for form in (numbers, tuple(numbers), iter(numbers), dict.fromkeys(numbers, 0).keys(), expected):
        found = checked_integers("n", form)
        assert found.dtype == np.int64
        assert found.tolist() == (list(dict.fromkeys(numbers)) if isinstance(form, type({}.keys())) else numbers)
    assert checked_integers("n", list(map(np.int64, numbers))).tolist() == numbers


def test_an_array_keeps_its_shape_and_stays_the_caller_s() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = checked_integers("n", array)
    found[0, 0] = 9
    assert found.shape == (2, 3)
    assert array[0, 0] == 0


@pytest.mark.parametrize("item", NO_INTEGERS, ids=repr)
def test_one_that_is_no_integer_is_named_with_its_position(item: object) -> None:
    with pytest.raises(NotAnIntegerError, match=r"^env_ids: expected integers of at least 0, found .* at position 2$"):
        checked_integers("env_ids", [0, np.int32(1), item], low=0)


@pytest.mark.parametrize(
    "values", [np.array([True, False]), np.array([1.0]), np.array([], np.float32), "12", 5, None], ids=repr
)
def test_what_holds_no_integers_is_refused_whole(values: object) -> None:
    with pytest.raises(NotAnIntegerError, match=r"^env_ids: expected integers"):
        checked_integers("env_ids", values)


@pytest.mark.parametrize("form", [list, np.array])
def test_one_out_of_bounds_is_refused(form: object) -> None:
    for numbers in ([0, 3, 1], [0, -1, 1]):
        with pytest.raises(SchemaError, match=r"^columns: expected an integer within 0..=2, found (3|-1|np\.int64)"):
            checked_integers("columns", form(numbers), 0, 2, outside=SchemaError)  # type: ignore[operator]
    with pytest.raises(ArgumentError):
        checked_integers("n", np.array([2**63], np.uint64))
    with pytest.raises(ArgumentError):
        checked_integers("n", [2**70])


def test_a_saved_state_takes_numpy_s_integers_and_complains_with_its_own_error() -> None:
    content = {"kind": "k", "version": 1, "seed": np.uint64(3), "steps": np.arange(3), "flag": True, "big": 2**64}
    saved = SavedState(content, "k", 1)
    assert saved.integer("seed") == 3
    assert saved.integers("steps", 3).tolist() == [0, 1, 2]
    for name in ("flag", "big", "absent"):
        with pytest.raises(StateError, match=f"^state of k: {name}: expected an integer within 0..="):
            saved.integer(name)
    for name, count in (("steps", 2), ("seed", 1), ("absent", 1)):
        with pytest.raises(StateError, match=f"^state of k: {name}: expected {count} integers"):
            saved.integers(name, count)


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_envs_are_named_by_ids_or_by_a_mask(mask: list[bool]) -> None:
    expected = np.flatnonzero(mask).tolist()
    for form in (mask, tuple(mask), np.array(mask), expected, np.array(expected, np.int32)):
        found = checked_env_ids(form, len(mask))
        assert (found.dtype, found.tolist()) == (np.int64, expected)
    for longer in ([*mask, True], np.array([*mask, True])):
        with pytest.raises(ArgumentError, match="expected a mask"):
            checked_env_ids(longer, len(mask))


@given(st.integers(-3, 12), st.integers(-3, 12), st.integers(1, 3), st.integers(1, 10))
def test_ids_outside_are_named(start: int, stop: int, step: int, count: int) -> None:
    ids = range(start, stop, step)
    outside = [number for number in ids if not 0 <= number < count]
    for form in (ids, list(ids), np.array(ids, dtype=np.int16)):
        if not outside:
            assert checked_ids("env", form, count).tolist() == list(ids)
            continue
        with pytest.raises(OutOfRangeError, match=rf"^env {outside[0]} is outside \[0, {count}\)$"):
            checked_ids("env", form, count)


@pytest.mark.parametrize("values", [[0, True], {True: 1, False: 2}, [1.9], np.array([0.0]), "0", 0], ids=repr)
def test_what_names_no_env(values: object) -> None:
    with pytest.raises(TypeError):
        checked_ids("env", values, 4)
    with pytest.raises(ArgumentError):
        checked_ids("env", np.zeros((2, 2), dtype=np.int64), 4)
