"""Public address of `iltools_datasets.jax.stream`."""

from iltools_datasets.jax.stream import DoubleBufferStreamer, StreamStats

__all__ = ["DoubleBufferStreamer", "StreamStats"]
