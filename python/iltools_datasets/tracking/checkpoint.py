"""The state of a sampler: plain arrays with a digest each, refused as a whole where anything in it cannot be."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from iltools_datasets import _core
from iltools_datasets._base.files import replaced_file
from iltools_datasets.errors import StateError

KIND, VERSION = "MotionSampler", 1
ABOUT = "about"
"""Key of everything that is no array: JSON behind a digest of itself."""
_SMALL = (np.uint8, np.uint16, np.uint32)

_OF_FILES = (OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error)
_UNREADABLE = (*_OF_FILES, ValueError, TypeError, LookupError, AttributeError, MemoryError, RuntimeError)
"""What numpy and zipfile raise over a file that is damaged or something else."""

Arrays = Mapping[str, NDArray[Any]]
State = dict[str, Any]


def sealed(arrays: Arrays, about: Mapping[str, Any]) -> State:
    """Return a state: the arrays, integers as small as they fit, and under "about" the rest with all digests."""
    packed = {name: _packed(array) for name, array in arrays.items()}
    digests = {name: _digest(array) for name, array in packed.items()}
    text = json.dumps({**about, "kind": KIND, "version": VERSION, "digests": digests}, sort_keys=True)
    return {**packed, ABOUT: f"{google_crc32c.value(text.encode()):08x}{text}"}


def opened(state: Any) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return arrays, integers as int64, and the rest of a state.

    Raises:
        StateError: it is not one of these, of another version, or not as it was sealed.
    """
    if not isinstance(state, Mapping):
        raise StateError(f"state of {KIND}: expected a mapping, found {type(state).__name__}")
    about = _about(state.get(ABOUT))
    digests = about["digests"]
    if set(digests) != set(state) - {ABOUT}:
        raise StateError(f"state of {KIND}: expected arrays {sorted(digests)}, found {sorted(set(state) - {ABOUT})}")
    arrays = {}
    for name, digest in digests.items():
        array = state[name]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif" or array.ndim != 1:
            raise StateError(f"state of {KIND}: {name}: expected an array of one dimension, found {array!r:.80}")
        if _digest(array) != digest:
            raise StateError(f"state of {KIND}: {name}: is not what was saved (its digest differs)")
        arrays[name] = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    return arrays, about


def _about(text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or len(text) < 8:
        raise StateError(f"state of {KIND}: expected a text under {ABOUT!r}, found {text!r:.80}")
    if text[:8] != f"{google_crc32c.value(text[8:].encode(errors='replace')):08x}":
        raise StateError(f"state of {KIND}: {ABOUT}: is not what was saved (its digest differs)")
    about: dict[str, Any] = json.loads(text[8:])
    if (about.get("kind"), about.get("version")) != (KIND, VERSION):
        found = f"{about.get('kind')!r}, {about.get('version')!r}"
        raise StateError(f"state of {KIND}: expected kind and version {KIND!r}, {VERSION}, found {found}")
    return about


def _packed(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind in "iu" and array.size and array.min() >= 0:
        most = int(array.max())
        return array.astype(next((kind for kind in _SMALL if most <= np.iinfo(kind).max), np.int64))
    return array.copy()


def _digest(array: NDArray[Any]) -> int:
    head = google_crc32c.value(f"{array.dtype.str}{array.shape}".encode())
    return int(google_crc32c.extend(head, np.ascontiguousarray(array).tobytes()))


def write_state(path: str | Path, state: State) -> None:
    """Write a state so that a kill leaves the old file or the new one; a plain `.npz`."""
    about = np.frombuffer(state[ABOUT].encode(), dtype=np.uint8)
    with replaced_file(Path(path)) as file:
        np.savez(file, **{**state, ABOUT: about})  # numpy before 2.1 takes allow_pickle= for an array


def read_state(path: str | Path) -> State:
    """Return what `write_state` wrote; StateError if there is nothing, or something else."""
    try:
        content = Path(path).read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            state: State = {name: file[name] for name in file.files}
        return {**state, ABOUT: state[ABOUT].tobytes().decode()}
    except FileNotFoundError as error:
        raise StateError(f"{path}: there is no saved state") from error
    except _UNREADABLE as error:
        raise StateError(f"{path}: is no saved state of a {KIND}: {error}") from error


def new_tracker(config: Mapping[str, Any], bins: _core.MotionBins, masses: NDArray[np.float64]) -> _core.Tracker:
    """Return a tracker in which nothing has happened."""
    scheme = config["adaptive"]
    half_life, (count, factor) = scheme["half_life"], scheme["look_back"]
    return _core.Tracker(
        bins,
        masses,
        config["num_envs"],
        scheme["uniform"],
        scheme["cap"],
        scheme["prior"],
        None if half_life is None else (half_life[0], half_life[1]),
        (count, factor),
        scheme["statistic"] == "count",
        config["start"] == "time",
        config["seed"],
        config["rank"],
        config["world_size"],
    )


def save(tracker: _core.Tracker) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return a tracker's arrays, and its numbers with the digest of its table."""
    arrays = tracker.save()
    drawn, syncs = arrays.pop("drawn"), arrays.pop("syncs")
    return arrays, {"drawn": drawn.tolist(), "syncs": int(syncs[0]), "table": _digest(tracker.probabilities())}


def restored(
    config: Mapping[str, Any], bins: _core.MotionBins, arrays: Arrays, numbers: Mapping[str, Any]
) -> _core.Tracker:
    """Return a new tracker that stands where something was saved.

    Raises:
        StateError: what was saved cannot be, or makes another table than it made.
    """
    wanted = ("clip", "start", "steps", "passes", "failures", "since", "totals", "masses", "next_masses")
    if missing := [name for name in (*wanted, "scores") if name not in arrays]:
        raise StateError(f"state of {KIND}: there is no {missing[0]}")
    try:
        tracker = new_tracker(config, bins, arrays["masses"])
        first, second = numbers["drawn"]
        values = {name: arrays[name] for name in wanted}
        scores = arrays["scores"] if len(arrays["scores"]) else None
        tracker.restore(**values, drawn=(first, second), syncs=numbers["syncs"], scores=scores)
    except StateError as error:
        raise StateError(f"state of {KIND}: {error}") from None
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise StateError(f"state of {KIND}: cannot be: {error}") from error
    if _digest(tracker.probabilities()) != numbers["table"]:
        raise StateError(f"state of {KIND}: its table is not the one that its statistics make here")
    return tracker


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as it comes back out of JSON."""
    found: dict[str, Any] = json.loads(json.dumps(config))
    return found
