"""Transforms: each against plain numpy; nothing given is changed, and keys that are not there are passed over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from iltools_datasets.data import (
    LambdaTransform,
    Normalize,
    NormStats,
    Pad,
    Resize,
    Tokenize,
    Transform,
    TransformGroup,
    quantile_normalize,
    z_score_normalize,
)
from iltools_datasets.errors import ArgumentError, SchemaError

STATS = NormStats(mean=[1, -2], std=[2, 4], q01=[0, -3], q99=[4, 3])


def words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


ALL = [
    Resize(3, 2, "picture"),
    Normalize({"state": STATS}),
    Tokenize(words, 4),
    Pad(5, ["state"]),
    LambdaTransform(lambda value: value + 1, ["state"]),
    LambdaTransform(lambda data: {**data, "more": 1}),
    TransformGroup([Normalize({"state": STATS}), Pad(5, ["state"])]),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_what_is_given_stays_as_it_is(transform: Transform) -> None:
    data = {"picture": np.arange(60).reshape(5, 4, 3), "state": np.ones((6, 2), np.float32), "task": "pick it up"}
    kept = {key: np.array(value) for key, value in data.items()}
    result = transform(data)
    assert result is not data
    assert result != {} or not data
    for key, value in data.items():
        np.testing.assert_array_equal(value, kept[key])
    other = {"other": np.zeros(3)}
    assert transform(other)["other"] is other["other"]
    assert transform({}).get("more", 1) == 1


class TestResize:
    @pytest.mark.parametrize("size", [(3, 2), (5, 4), (10, 8), (1, 1), (7, 9)])
    def test_takes_the_nearest_pixel(self, size: tuple[int, int]) -> None:
        picture = np.random.default_rng(0).integers(0, 255, (2, 5, 4, 3)).astype(np.uint8)
        found = Resize(*size, keys=["obs"])({"obs": picture})["obs"]
        assert (found.shape, found.dtype) == ((2, *size, 3), np.uint8)
        for row in range(size[0]):
            for column in range(size[1]):
                nearest = int((row + 0.5) * 5 / size[0]), int((column + 0.5) * 4 / size[1])
                np.testing.assert_array_equal(found[:, row, column], picture[:, nearest[0], nearest[1]])

    def test_is_what_pillow_does(self) -> None:
        image = pytest.importorskip("PIL.Image", reason="needs Pillow")
        picture = np.random.default_rng(1).integers(0, 255, (48, 64, 3)).astype(np.uint8)
        for height, width in ((32, 64), (64, 128), (32, 192)):  # where no centre lies between two pixels
            wanted = image.fromarray(picture).resize((width, height), image.Resampling.NEAREST)
            np.testing.assert_array_equal(Resize(height, width, "obs")({"obs": picture})["obs"], np.asarray(wanted))

    def test_what_is_no_picture(self) -> None:
        with pytest.raises(SchemaError, match=r"Resize: obs: expected pictures \[..., H, W, C\], found shape \[4\]"):
            Resize(2, 2)({"obs": np.zeros(4)})
        with pytest.raises(ArgumentError, match="height"):
            Resize(0, 2)


class TestNormalize:
    def test_modes(self) -> None:
        values = np.float32([[3, 2], [1, 1]])
        for mode, function in (("z_score", z_score_normalize), ("quantile", quantile_normalize)):
            found = Normalize({"action": STATS, "obs": STATS}, mode)({"action": values})  # type: ignore[arg-type]
            assert list(found) == ["action"]
            np.testing.assert_array_equal(found["action"], function(values, STATS))

    def test_no_such_mode(self) -> None:
        with pytest.raises(ArgumentError, match="mode is 'minmax'"):
            Normalize({}, "minmax")  # type: ignore[arg-type]


class TestTokenize:
    def test_fills_up_and_cuts(self) -> None:
        found = Tokenize(words, 4, fill=-1)({"task": "pick up it", "x": 1})
        assert found.keys() == {"x", "task_tokens", "task_mask"}
        np.testing.assert_array_equal(found["task_tokens"], np.int32([4, 2, 2, -1]))
        np.testing.assert_array_equal(found["task_mask"], [True, True, True, False])
        cut = Tokenize(words, 2)({"task": "pick up it"})
        np.testing.assert_array_equal(cut["task_tokens"], [4, 2])

    @pytest.mark.parametrize("kind", [list, np.array])
    def test_several_texts(self, kind: Any) -> None:
        found = Tokenize(words, 3)({"task": kind(["a bc", "def"])})
        np.testing.assert_array_equal(found["task_tokens"], [[1, 2, 0], [3, 0, 0]])
        np.testing.assert_array_equal(found["task_mask"], [[True, True, False], [True, False, False]])

    def test_what_is_no_text(self) -> None:
        with pytest.raises(SchemaError, match="Tokenize: task: expected text, found int"):
            Tokenize(words, 3)({"task": 7})


class TestPad:
    def test_the_last_axis(self) -> None:
        found = Pad(5, value=9)({"obs": np.zeros((2, 3), np.int16), "action": np.ones(5)})
        assert found["obs"].dtype == np.int16
        np.testing.assert_array_equal(found["obs"], [[0, 0, 0, 9, 9]] * 2)
        np.testing.assert_array_equal(found["action"], np.ones(5))

    @pytest.mark.parametrize("value", [np.zeros(6), np.float32(1)])
    def test_what_does_not_fit(self, value: np.ndarray) -> None:
        with pytest.raises(SchemaError, match="Pad: obs: expected up to 5 values in the last axis"):
            Pad(5)({"obs": value})


def test_a_group_goes_in_order() -> None:
    group = TransformGroup([Pad(3, ["a"]), LambdaTransform(lambda value: value + 1, ["a"]), Pad(4, ["a"])])
    np.testing.assert_array_equal(group({"a": np.zeros(2)})["a"], [1, 1, 1, 0])
