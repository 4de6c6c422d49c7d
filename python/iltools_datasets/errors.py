"""The exceptions this package raises on purpose: one family, so `except IltoolsError` catches them all.

Each also derives from the built-in exception a caller would expect (`IndexError` for an index, `KeyError` for a key),
so code written against plain Python or TorchRL keeps working.
"""


class IltoolsError(Exception):
    """Base of every error raised on purpose by this package."""

    # KeyError shows its argument's repr; messages here are sentences, so they are shown as they are.
    def __str__(self) -> str:
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class StoreError(IltoolsError):
    """Something is wrong with a store directory."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at the path."""


class StoreExistsError(StoreError, FileExistsError):
    """A store is there already and `overwrite=True` was not given."""


class StoreCorruptError(StoreError):
    """A file of the store is missing, has the wrong length or does not match its checksum."""


class StoreVersionError(StoreError):
    """The store was written in a format version this release does not read."""


class StoreBusyError(StoreError, BlockingIOError):
    """Another process is building a store at the path."""


class StoreChangedError(StoreError):
    """A pickled handle or a saved state belongs to another build of the store."""


class ReadOnlyError(StoreError, RuntimeError):
    """Something tried to write into a store, which never changes once it is published."""


class SchemaError(IltoolsError, ValueError):
    """Trajectories disagree in keys, dtypes, lengths or trailing shapes, or a key cannot be stored."""


class SourceError(IltoolsError, ValueError):
    """A raw file or a Zarr archive cannot be read as what it claims to be."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is no raw file or archive at the path."""


class ArchiveExistsError(IltoolsError, FileExistsError):
    """An archive is there already and `overwrite=True` was not given."""


class ArchiveCorruptError(SourceError):
    """A chunk of a Zarr archive is missing, cut or does not match its checksum."""


class ArchiveChangedError(SourceError):
    """An archive was replaced while it was open; what is read of it belongs together again once it is opened anew."""


class StorageError(IltoolsError, OSError):
    """Object storage refuses a request, or failed it as often as its client tries; the message has the URL."""


class MissingKeyError(IltoolsError, KeyError):
    """A required key is not there."""


class UnknownSegmentError(IltoolsError, KeyError):
    """No segment has this (task_id, traj_id)."""


class DuplicateTrajectoryError(IltoolsError, ValueError):
    """The same (task_id, traj_id) was given twice."""


class OutOfRangeError(IltoolsError, IndexError):
    """An index, step or env lies outside what exists."""


class StateError(IltoolsError, ValueError):
    """A saved state is damaged, impossible, or of another data set; nothing was changed."""


class ArgumentError(IltoolsError, ValueError):
    """An argument of a call is not what the call needs; nothing was changed."""


class NotAnIntegerError(ArgumentError, TypeError):
    """An integer is needed, and something else was given: a float, a bool, a name."""


class MissingExtraError(IltoolsError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class StreamError(IltoolsError, RuntimeError):
    """A stream of windows is asked for what it cannot give: it is not running, or its source is still blocked."""


class StreamEndedError(StreamError):
    """The source of a stream has no more windows."""


class StreamTimeoutError(StreamError, TimeoutError):
    """The source of a stream did not come up with a window in time."""


class BudgetError(IltoolsError, MemoryError):
    """What was asked for needs more memory than its budget; nothing was allocated."""
