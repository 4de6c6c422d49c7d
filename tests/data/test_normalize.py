"""Statistics against numpy's own, and values in units of them there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import LENGTHS, TOTAL, Numbered, expected, make_store
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from iltools_datasets.data import (
    NormStats,
    StoreDataset,
    Transition,
    compute_norm_stats,
    load_norm_stats,
    quantile_normalize,
    quantile_unnormalize,
    save_norm_stats,
    z_score_normalize,
    z_score_unnormalize,
)
from iltools_datasets.errors import ArgumentError, MissingKeyError, SchemaError, SourceError, SourceNotFoundError


class Rows:
    """A data set whose observations are the rows of an array."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Transition:
        row = self.rows[index]
        return Transition(row, row, np.float32(0), row, False)


def of(values: np.ndarray) -> NormStats:
    """What numpy says of rows `[N, D]` or numbers `[N]`."""
    wide = values.reshape(-1, values.shape[-1]).astype(np.float64) if values.ndim > 1 else values.astype(np.float64)
    return NormStats(
        wide.mean(axis=0), wide.std(axis=0), np.quantile(wide, 0.01, axis=0), np.quantile(wide, 0.99, axis=0)
    )


def assert_close(found: NormStats, wanted: NormStats) -> None:
    for name in ("mean", "std", "q01", "q99"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one.dtype, one.shape) == (np.float32, other.shape)
        np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=name)


class TestCompute:
    @given(
        hnp.arrays(
            np.float32,
            st.tuples(st.integers(1, 60), st.integers(1, 4)),
            elements=st.floats(-1e3, 1e3, width=32),
        )
    )
    def test_is_what_numpy_says(self, rows: np.ndarray) -> None:
        found = compute_norm_stats(Rows(rows), ["obs"])
        assert list(found) == ["obs"]
        assert_close(found["obs"], of(rows))

    def test_of_a_store_and_of_the_same_items_one_by_one(self, tmp_path: Path) -> None:
        dataset = StoreDataset(make_store(tmp_path / "store"))
        keys = ["obs", "action", "reward", "next_obs"]
        wanted = expected(np.arange(TOTAL))
        found = compute_norm_stats(dataset, [*keys, "observation"])
        one_by_one = compute_norm_stats([dataset[n] for n in range(TOTAL)], keys)  # type: ignore[arg-type]
        for key in keys:
            assert_close(found[key], of(getattr(wanted, key)))
            assert found[key] == one_by_one[key]
        assert found["observation"] == found["obs"]

    def test_small_deviations_around_a_large_mean(self) -> None:
        """One pass, or float32, would say 0 or nonsense."""
        rows = (1e4 + np.array([[-0.5], [0.5]] * 500)).astype(np.float32)
        found = compute_norm_stats(Rows(rows), "obs")["obs"]
        np.testing.assert_array_equal([found.mean[0], found.std[0]], np.float32([1e4, 0.5]))

    def test_pictures_and_chunks_by_their_last_axis(self) -> None:
        rows = np.random.default_rng(0).integers(0, 255, (7, 5, 4, 3)).astype(np.uint8)
        assert_close(compute_norm_stats(Rows(rows), ["action"])["action"], of(rows))

    def test_a_sample_is_spread_over_the_whole_and_always_the_same(self) -> None:
        rows = np.arange(5000, dtype=np.float32)[:, None]
        one, other = (compute_norm_stats(Rows(rows), ["obs"], max_samples=200)["obs"] for _ in range(2))
        assert one == other
        assert 2000 < one.mean[0] < 3000
        assert one.q01[0] < 200
        assert one.q99[0] > 4800
        assert compute_norm_stats(Rows(rows), ["obs"], 10**9)["obs"] == compute_norm_stats(Rows(rows), ["obs"])["obs"]

    def test_parts_of_an_observation(self) -> None:
        items = [Numbered(4)[n] for n in range(4)]
        items = [item._replace(obs={"a": item.obs, "b": item.action}) for item in items]
        assert_close(compute_norm_stats(items, ["obs/b"])["obs/b"], of(np.arange(4)[:, None] * [0.5, 0.5]))  # type: ignore[arg-type]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_value_that_is_not_finite(self, bad: float) -> None:
        rows = np.zeros((9000, 3), np.float32)
        rows[8123, 1] = bad
        with pytest.raises(SchemaError, match=f"item 8123: obs: expected finite values, found {bad}"):
            compute_norm_stats(Rows(rows), ["obs"])

    def test_what_cannot_be_taken(self, tmp_path: Path) -> None:
        with pytest.raises(SchemaError, match="Numbered has no items to take statistics of"):
            compute_norm_stats(Numbered(0), ["obs"])
        with pytest.raises(ArgumentError, match="max_samples"):
            compute_norm_stats(Numbered(4), ["obs"], max_samples=0)
        for name in ("observation", "obs/a", "nothing"):
            with pytest.raises(MissingKeyError, match=f"no quantity '{name}'; there are"):
                compute_norm_stats(Numbered(4), [name])
        with pytest.raises(MissingKeyError, match="no key 'nothing'"):
            compute_norm_stats(StoreDataset(make_store(tmp_path / "store", LENGTHS)), ["nothing"])


finite = st.floats(-1e6, 1e6, width=32)


def some_stats(width: int) -> st.SearchStrategy[NormStats]:
    row = hnp.arrays(np.float32, width, elements=finite)
    return st.builds(lambda mean, std, low, high: NormStats(mean, abs(std), low, high), row, row, row, row)


class TestNormStats:
    @given(some_stats(3))
    def test_survive_a_dict_and_json_exactly(self, stats: NormStats) -> None:
        assert NormStats.from_dict(json.loads(json.dumps(stats.to_dict()))) == stats

    def test_survive_a_file(self, tmp_path: Path) -> None:
        stats = {"obs": of(np.random.default_rng(0).standard_normal((50, 7))), "reward": of(np.arange(9))}
        save_norm_stats(stats, tmp_path / "new" / "stats.json")
        found = load_norm_stats(str(tmp_path / "new" / "stats.json"))
        assert found == stats
        assert found["reward"].mean.shape == ()

    def test_are_frozen(self) -> None:
        stats = NormStats(1, 2, 0, 4)
        with pytest.raises(AttributeError):
            stats.mean = np.float32(3)  # type: ignore[misc]
        with pytest.raises(ValueError, match="read-only"):
            stats.mean[...] = 3
        assert stats != "stats"
        assert stats != NormStats(1, 2, 0, 5)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (([0, 1], [1], [0, 0], [1, 1]), r"std: expected shape \[2\], found \[1\]"),
            (([0], [-1], [0], [1]), "std: expected finite values"),
            (([np.nan], [1], [0], [1]), "mean: expected finite values"),
        ],
    )
    def test_that_cannot_be(self, fields: Any, message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            NormStats(*fields)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "damaged"),
            ("[]", "expected statistics"),
            ("{}", "norm_stats"),
            ('{"norm_stats": {"obs": {"mean": [1]}}}', r"\['std', 'q01', 'q99'\] are missing"),
            ('{"norm_stats": {"obs": {"mean": ["a"], "std": [1], "q01": [1], "q99": [1]}}}', "could not convert"),
            ('{"norm_stats": {"obs": [1]}}', "missing"),
        ],
    )
    def test_files_that_are_something_else(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "stats.json"
        path.write_text(text)
        with pytest.raises(SourceError, match=message) as caught:
            load_norm_stats(path)
        assert str(path) in str(caught.value)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(SourceNotFoundError, match="there are no statistics"):
            load_norm_stats(tmp_path / "none.json")


class TestUnits:
    STATS = NormStats(mean=[1, -2], std=[2, 0], q01=[0, -3], q99=[4, -3])
    VALUES = np.float32([[1, -2], [5, -2], [-9, 3]])

    def test_z_score(self) -> None:
        found = z_score_normalize(self.VALUES, self.STATS)
        np.testing.assert_allclose(found, [[0, 0], [2, 0], [-5, 5 / 1e-8]])
        np.testing.assert_allclose(z_score_unnormalize(found, self.STATS), self.VALUES)
        assert found.dtype == np.float32
        np.testing.assert_allclose(z_score_normalize(self.VALUES, self.STATS, eps=1)[2], [-5, 5])

    def test_quantiles_are_not_clipped(self) -> None:
        found = quantile_normalize(self.VALUES, self.STATS)
        np.testing.assert_allclose(found[:, 0], [-0.5, 1.5, -5.5])
        np.testing.assert_allclose(quantile_unnormalize(found, self.STATS), self.VALUES, rtol=1e-6)

    def test_within_jit(self) -> None:
        jax = pytest.importorskip("jax", reason="needs the jax extra")
        for function in (z_score_normalize, z_score_unnormalize, quantile_normalize, quantile_unnormalize):
            found = jax.jit(lambda values, function=function: function(values, self.STATS))(self.VALUES)
            np.testing.assert_allclose(found, function(self.VALUES, self.STATS), rtol=1e-5)
