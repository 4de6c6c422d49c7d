"""From data files to a store: every episode's rows once, in order, whatever file they lie in."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.errors import SchemaError, SourceError
from iltools_datasets.lerobot.arrange import Episode, OutOfOrderError, check_rows, rows_as_they_lie, rows_sorted
from iltools_datasets.lerobot.episodes import EpisodeTable, listed, read_episodes
from iltools_datasets.lerobot.info import Feature, LeRobotInfo, read_info
from iltools_datasets.lerobot.tables import DataFile, DataFileReader, data_files, episodes_of_files
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.keys import Key
from iltools_datasets.store.trajectory_store import TrajectoryStore

ALIAS: Mapping[Key, Key] = {"terminated": ("next", "done"), ("next", "terminated"): ("next", "done")}
"""Second names that the builder given to `build_store` has to know."""

_PLAIN_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,100}")
_TAKEN = {"shape", "device", "_type", "next", "done", "terminated"}
_MOST_NAN_LISTED = 10_000


def store_names(features: Mapping[str, Feature]) -> dict[str, str]:
    """Return the store's key of each numeric feature: its own name, or `feature<n>` where no file can be named so."""
    names: dict[str, str] = {}
    used: set[str] = set(_TAKEN)
    for number, (key, feature) in enumerate(features.items()):
        if feature.kind != "numbers":
            continue
        plain = _PLAIN_NAME.fullmatch(key) and not key.lower().endswith((".json", ".memmap"))
        name = key if plain and key.lower() not in used else f"feature{number}"
        used.add(name.lower())
        names[key] = name
    return names


def build_lerobot(
    root: str | Path,
    out: str | Path,
    *,
    obs_keys: Sequence[str] = (),
    act_key: str | None = None,
    exclude_keys: Sequence[str] = (),
    on_nan: Literal["error", "keep"] = "error",
    overwrite: bool = False,
) -> TrajectoryStore:
    """Build a store of a LeRobot set at a place of the caller's, and return it open.

    It is what `LeRobotReader` keeps in its cache, and does not change with the set.

    Args:
        root: the set.
        out: directory of the store.
        obs_keys: features that are stored side by side, flattened, as `observation`; each can still be read.
        act_key: a feature that can also be read as `action`.
        exclude_keys: features that are left out.
        on_nan: what happens to NaN.
        overwrite: replace a store that is there.

    Raises:
        SourceError, SourceNotFoundError: the set is wrong. Nothing has changed.
        MissingKeyError: there is no such feature.
        SchemaError: a feature takes part in the observation and is left out, or the parts differ in dtype.
        StoreExistsError: there is a store and `overwrite` is False.
    """
    root = Path(root)
    info = read_info(root)
    names = store_names(info.features)
    for key in (*obs_keys, *([act_key] if act_key else []), *exclude_keys):
        info.feature(key, root)
    clash = [key for key in exclude_keys if key in obs_keys or key == act_key]
    if clash:
        raise SchemaError(f"{root}: {', '.join(clash)} cannot be wanted and left out")
    alias: dict[Key, Key] = dict(ALIAS)
    if act_key is not None and act_key != "action":
        alias["action"] = names[act_key]

    def begin() -> StoreBuilder:
        return StoreBuilder(
            out,
            overwrite,
            concat={"observation": [names[key] for key in obs_keys]} if obs_keys else None,
            alias=alias,
            attributes={"lerobot": {"root": str(root.resolve()), "fps": str(info.fps)}},
        )

    build_store(root, info, read_episodes(root, info), begin, set(exclude_keys), on_nan)
    return TrajectoryStore.open(out)


def build_store(
    root: Path,
    info: LeRobotInfo,
    table: EpisodeTable,
    begin: Callable[[], StoreBuilder],
    leave_out: Collection[str] = (),
    on_nan: Literal["error", "keep"] = "keep",
) -> None:
    """Build a store of every episode of a set, and publish it.

    An episode of T frames becomes T + 1 states, of which the last repeats, so T transitions; trajectory ids are episode
    numbers, in their order, and the one task is named after the directory. `("next", "done")` [T, 1] is true at the
    last transition. Rows are believed to be what they say (`episode_index`, `frame_index`), wherever they lie.

    The store's attribute `lerobot` gets `notes`, what is unusual, and `nan`: feature -> [[episode, first frame with
    NaN, number of such frames], ...].

    Args:
        begin: starts a build with `ALIAS`; called a second time, after the first was given up, if the rows turn out to
            lie in another order than that of their episodes and frames.
        leave_out: features that are not stored.
        on_nan: whether NaN in a feature that is stored is an error.

    Raises SourceError if the rows are not each listed episode's frames 0 to length - 1, once each.
    """
    names = {key: name for key, name in store_names(info.features).items() if key not in leave_out}
    task_name = root.resolve().name

    files = data_files(root, info)
    holds = episodes_of_files(files, table)
    reader = DataFileReader(info, table.num_frames, holds)
    try:
        with begin() as builder:
            _append(rows_as_they_lie(files, table, reader), names, table, builder, reader, on_nan, task_name)
            return
    except OutOfOrderError:
        check_rows(files, table, holds)
    reader = DataFileReader(info, table.num_frames, holds)
    with begin() as builder:
        _append(
            rows_sorted(files, table, reader, builder.path.parent), names, table, builder, reader, on_nan, task_name
        )


def _append(
    episodes: Iterator[Episode],
    names: Mapping[str, str],
    table: EpisodeTable,
    builder: StoreBuilder,
    reader: DataFileReader,
    on_nan: Literal["error", "keep"],
    task_name: str,
) -> None:
    seen = _Compared(table)
    nan: dict[str, list[tuple[int, int, int]]] = {}
    for episode in episodes:
        number = int(table.index[episode.position])
        done = np.zeros((int(table.length[episode.position]), 1), dtype=np.bool_)
        done[-1] = True
        states: dict[Key, NDArray[Any]] = {
            name: np.concatenate([episode.arrays[key], episode.arrays[key][-1:]]) for key, name in names.items()
        }
        builder.add(0, number, states, {("next", "done"): done}, name=f"episode_{number:06d}", task_name=task_name)
        seen.add(episode)
        for key, frames in episode.nan.items():
            if on_nan == "error" and key in names:
                raise SourceError(
                    f"{episode.files[0].path}: episode {number}, frame {frames.min()}: {key!r} is NaN, in "
                    f"{len(frames)} frames of the episode; pass on_nan='keep' to store it"
                )
            entries = nan.setdefault(key, [])
            if len(entries) < _MOST_NAN_LISTED:
                entries.append((number, int(frames.min()), len(frames)))
    builder.attributes["lerobot"] = {
        **builder.attributes.get("lerobot", {}),
        "notes": [*table.notes, *reader.notes, *seen.notes()],
        "nan": nan,
    }


class _Compared:
    """What a set says beside its rows, which is compared with them and not used."""

    def __init__(self, table: EpisodeTable) -> None:
        self._table = table
        self._starts = np.concatenate([[0], np.cumsum(table.length)])
        self._other_index: list[int] = []
        self._other_file: list[int] = []
        names = ("data/chunk_index", "data/file_index")
        self._places = [table.declared[name] for name in names] if set(names) <= set(table.declared) else None

    def add(self, episode: Episode) -> None:
        """Look at one episode."""
        number = int(self._table.index[episode.position])
        index = episode.arrays["index"].reshape(-1)
        if index[0] != self._starts[episode.position] or index[-1] != index[0] + len(index) - 1:
            self._other_index.append(number)
        if self._places is not None and {_place(file) for file in episode.files} != {
            tuple(int(numbers[episode.position]) for numbers in self._places)
        }:
            self._other_file.append(number)

    def notes(self) -> list[str]:
        """Return a line for each thing that differs."""
        notes, table = [], self._table
        if self._other_file:
            notes.append(
                f"data/file_index is not the file in which the rows of {len(self._other_file)} episodes lie, the rows "
                f"were believed: {listed(np.array(self._other_file))}"
            )
        if self._other_index:
            notes.append(
                f"index does not count the frames of the set through {len(self._other_index)} episodes, it is not "
                f"used: {listed(np.array(self._other_index))}"
            )
        for name, expected in (("dataset_from_index", self._starts[:-1]), ("dataset_to_index", self._starts[1:])):
            if name in table.declared:
                wrong = table.index[table.declared[name] != expected]
                if len(wrong):
                    notes.append(
                        f"{name} is not where the rows of {len(wrong)} episodes are, it is not used: {listed(wrong)}"
                    )
        return notes


def _place(file: DataFile) -> tuple[int, int]:
    return file.numbers.get("chunk_index", 0), file.numbers.get("file_index", 0)
