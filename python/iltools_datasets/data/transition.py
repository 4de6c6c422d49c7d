"""One step of an expert, or a batch of them."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Transition"]


class Transition(NamedTuple):
    """What was seen, what was done, and what came of it. A named tuple, hence a pytree for JAX.

    Of one step the shapes are as below; a batch has an axis `[B]` before them.
    """

    obs: Any
    """Observation: an array, or `{key: array}`."""
    action: Any
    """Action `[A]`, or a chunk of them `[H, A]`."""
    reward: Any
    """float32 `[]`: what followed the action."""
    next_obs: Any
    """Observation of the next step, as `obs`; of the last one, `obs` itself."""
    done: Any
    """bool `[]`: whether this was the last step of its episode."""
