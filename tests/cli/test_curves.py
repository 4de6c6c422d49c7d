"""Curves drawn in braille: every value lands where it belongs."""

import numpy as np
import pytest

pytest.importorskip("rich", reason="the command line needs the extra cli")

from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.cli.curves import Curve, draw_curves, draw_with_scale, value_range


def dots(lines: list[str]) -> np.ndarray:
    """Decode lines of braille into a bool array [4 * height, 2 * width]."""
    bits = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
    codes = np.array([[ord(character) - 0x2800 for character in line] for line in lines])
    grid = (codes[:, None, :, None] & bits[None, :, None, :]) > 0
    return grid.reshape(4 * codes.shape[0], 2 * codes.shape[1])


def drawn(*curves: Curve, width: int = 12, height: int = 3) -> np.ndarray:
    return dots([line.plain for line in draw_curves(curves, width, height)])


def test_a_rising_line_goes_from_corner_to_corner() -> None:
    picture = drawn(Curve(np.arange(24.0)))
    assert picture[-1, 0]
    assert picture[0, -1]
    assert (np.diff(picture.argmax(axis=0)) <= 0).all()


def test_a_flat_line_is_in_the_middle() -> None:
    picture = drawn(Curve(np.full(7, 3.0)))
    assert set(np.flatnonzero(picture.any(axis=1))) <= {5, 6}
    assert picture.any(axis=0).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 30), st.integers(1, 6))
def test_every_column_has_a_dot_and_the_extremes_are_reached(values: list[float], width: int, height: int) -> None:
    picture = drawn(Curve(np.array(values)), width=width, height=height)
    assert picture.any(axis=0).all()
    if max(values) - min(values) > 1e-6 * max(map(abs, values)):
        assert picture[0].any() or len(values) == 1
        assert picture[-1].any() or len(values) == 1


def test_gaps_where_values_are_not_finite() -> None:
    values = np.arange(24.0)
    values[10:14] = np.nan
    picture = drawn(Curve(values))
    assert not picture[:, 10:14].any()
    assert picture[:, :10].any(axis=0).all()


def test_nothing_to_draw() -> None:
    assert not drawn(Curve(np.full(5, np.nan)), Curve(np.empty(0))).any()
    assert value_range([np.array([np.inf, np.nan])]) == (0.0, 0.0)


def test_the_first_curve_lies_on_top_and_dots_tell_the_second_apart() -> None:
    up, down = np.arange(24.0), np.arange(24.0)[::-1]
    lines = draw_curves([Curve(up, "red"), Curve(down, "blue", dotted=True)], 12, 3)
    styles = {str(span.style) for line in lines for span in line.spans}
    assert styles - {""} == {"red", "blue"}
    assert drawn(Curve(down, dotted=True)).sum() < drawn(Curve(down)).sum()


def test_the_scale_gives_both_ends() -> None:
    lines = [line.plain for line in draw_with_scale([Curve(np.array([-1.5, 20.0]))], 20, 3, "°")]
    assert lines[0].startswith("  20° ")
    assert lines[-1].startswith("-1.5° ")
    assert {len(line) for line in lines} == {20}
