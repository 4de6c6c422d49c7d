"""What tests with JAX share: several CPU devices, and a store with its contents."""

from __future__ import annotations

from contextlib import suppress

from numbered_store import LENGTHS, clips_fixture, columns_fixture, store_fixture

__all__ = ["LENGTHS", "clips_fixture", "columns_fixture", "store_fixture"]

with suppress(ImportError, RuntimeError):  # no JAX, or some test began to use it before this directory was collected
    import jax

    jax.config.update("jax_num_cpu_devices", 4)
