"""A consumer that races the producer: takes windows, holds some of them for long, looks into all of them late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MOST_HELD = 12


@jax.jit
def slow_sum(window: dict[str, jax.Array]) -> jax.Array:
    """A step that reads its window, for some time, after it has been dispatched."""
    matrix = jnp.ones((48, 48)) / 48
    matrix = jax.lax.fori_loop(0, 8, lambda _, product: product @ matrix, matrix)
    return sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(window)) * jnp.trace(matrix)


def count_wrong(
    next_window: Callable[[], dict[str, Any]],
    expected: Callable[[int], dict[str, np.ndarray]],
    num_windows: int,
    seed: int = 0,
) -> int:
    """Return how many of the windows do not hold what they should when they are looked at.

    Window n is looked at between 0 and `MOST_HELD` windows later, after a step that was started on it right away.
    """
    rng = np.random.default_rng(seed)
    held: list[tuple[int, dict[str, Any], jax.Array]] = []
    wrong = 0

    def look(n: int, window: dict[str, Any], total: jax.Array) -> int:
        want = expected(n)
        same = all(np.array_equal(np.asarray(window[key]), value) for key, value in want.items())
        want_total = float(sum(value.sum(dtype=np.float64) for value in want.values()))
        return int(not (same and np.isclose(float(total), want_total, rtol=1e-4)))

    for n in range(num_windows):
        window = next_window()
        held.append((n, window, slow_sum(window)))
        while held and (len(held) > MOST_HELD or rng.random() < 0.3):
            wrong += look(*held.pop(int(rng.integers(len(held)))))
    return wrong + sum(look(*entry) for entry in held)
