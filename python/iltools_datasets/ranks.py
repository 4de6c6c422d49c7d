"""Which rank of how many this process is, and one seed for all of them.

Samplers take `rank` and `world_size` as numbers; these functions ask a framework for them:
`SamplerWithoutReplacement(seed=shared_seed(), **torch_rank())`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

from iltools_datasets._base.extras import missing_extra
from iltools_datasets._base.integers import checked_integer
from iltools_datasets.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.distributed import ProcessGroup


class Rank(TypedDict):
    """Keyword arguments of whatever is shared by ranks."""

    rank: int
    world_size: int


ONLY_RANK = Rank(rank=0, world_size=1)


def checked_rank(rank: int, world_size: int) -> Rank:
    """Return both; `ArgumentError` unless they are integers with 0 <= rank < world_size < 2^32."""
    try:
        size = checked_integer("world_size", world_size, low=1, high=2**32 - 1)
        return Rank(rank=checked_integer("rank", rank, low=0, high=size - 1), world_size=size)
    except ArgumentError as error:
        found = f"rank {rank!r} of world_size {world_size!r}"
        raise type(error)(f"{found}: integers with 0 <= rank < world_size are needed") from error


def torch_rank(group: ProcessGroup | None = None) -> Rank:
    """Return this process's rank in torch's process group; `RuntimeError` if there is none yet."""
    distributed = _torch_distributed("torch_rank()")
    return Rank(rank=distributed.get_rank(group), world_size=distributed.get_world_size(group))


def jax_rank() -> Rank:
    """Return this process's index among JAX's processes; 0 of 1 where `jax.distributed` was not initialised."""
    try:
        import jax
    except ImportError as error:
        raise missing_extra("jax", "jax_rank()") from error
    return Rank(rank=jax.process_index(), world_size=jax.process_count())


def shared_seed(seed: int | None = None, group: ProcessGroup | None = None) -> int:
    """Return rank 0's seed on every rank of torch's process group, which all have to call this.

    Args:
        seed: within 0..2^63-1, rank 0's counts; None takes one from torch's global generator there.
        group: the ranks; None means all.

    Raises:
        RuntimeError: there is no process group yet.
    """
    distributed = _torch_distributed("shared_seed()")
    import torch

    on = "cuda" if distributed.get_backend(group) == "nccl" else "cpu"
    value = torch.empty((), dtype=torch.int64).random_() if seed is None else torch.tensor(seed, dtype=torch.int64)
    value = value.to(on)
    distributed.broadcast(value, group_src=0, group=group)
    return int(value)


def torch_sum(group: ProcessGroup | None = None) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Return a function that sums int64 `[n]` over torch's process group, which all of its ranks have to call."""
    distributed = _torch_distributed("torch_sum()")
    import torch

    def total(counts: NDArray[np.int64]) -> NDArray[np.int64]:
        on = "cuda" if distributed.get_backend(group) == "nccl" else "cpu"
        tensor = torch.from_numpy(counts).to(on, copy=True)
        distributed.all_reduce(tensor, group=group)
        return tensor.cpu().numpy()

    return total


def jax_sum() -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Return a function that sums int64 `[n]` over JAX's processes, which all have to call it.

    Without `jax_enable_x64` JAX knows no int64, so the numbers travel as halves of 32 bits and are put together again.
    """
    try:
        from jax.experimental import multihost_utils
    except ImportError as error:
        raise missing_extra("jax", "jax_sum()") from error
    import numpy as np

    def total(counts: NDArray[np.int64]) -> NDArray[np.int64]:
        halves = multihost_utils.process_allgather(np.ascontiguousarray(counts).view(np.uint32))
        whole = np.ascontiguousarray(np.asarray(halves).reshape(-1, 2 * len(counts))).view(np.int64)
        return np.asarray(whole.sum(axis=0), dtype=np.int64)

    return total


def _torch_distributed(feature: str):  # type: ignore[no-untyped-def]
    try:
        import torch.distributed as distributed
    except ImportError as error:
        raise missing_extra("torch", feature) from error
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError(f"{feature}: call torch.distributed.init_process_group() first, or give the rank")
    return distributed
