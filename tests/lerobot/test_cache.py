"""The cache: built once by whoever comes first, found by the others, never half a store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from iltools_datasets.errors import SourceError, StoreChangedError
from iltools_datasets.lerobot import LeRobotReader, cache
from sets import make_set

OPEN = """
import sys
from iltools_datasets.lerobot import LeRobotReader
print(LeRobotReader(sys.argv[1]).store.uuid)
"""


def test_ranks_that_come_at_once_get_one_build(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", [40] * 60)
    ranks = [
        subprocess.Popen([sys.executable, "-c", OPEN, str(made.root)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({rank.communicate()[0] for rank in ranks}) == 1
    assert [rank.returncode for rank in ranks] == [0] * 4
    (store,) = Path(os.environ["ILTOOLS_CACHE"]).glob("lerobot/*/store")
    assert len(list(store.glob("data-*"))) == 1


def test_whoever_finds_a_build_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder that holds the lock and is killed leaves the next one to build."""
    made = make_set(tmp_path / "set", "v2.1", (3, 2))
    place = Path(os.environ["ILTOOLS_CACHE"]) / "lerobot" / cache.set_name(made.root) / "store"
    code = f"""
import sys, time
from iltools_datasets import StoreBuilder
builder = StoreBuilder({str(place)!r}, overwrite=True)
print("holding", flush=True)
time.sleep(60)
"""
    place.parent.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        looks = []

        def look(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                holder.kill()
                holder.wait()

        monkeypatch.setattr(cache, "time", type("Clock", (), {"sleep": staticmethod(look)}))
        assert LeRobotReader(made.root).num_frames == 5
        assert len(looks) >= 3
    finally:
        holder.kill()
        holder.communicate()


def test_another_builder_that_was_first_is_not_overtaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look into the cache and the lock somebody else may publish: handles of theirs stay good."""
    made = make_set(tmp_path / "set", "v2.1", (3, 2))
    look, first = cache._current, []

    def look_late(path: Path, wanted: str):  # type: ignore[no-untyped-def]
        if not first:
            first.append(None)
            first[0] = LeRobotReader(made.root).store.uuid
            return None
        return look(path, wanted)

    monkeypatch.setattr(cache, "_current", look_late)
    assert LeRobotReader(made.root).store.uuid == first[0]


def test_a_damaged_cache_is_built_anew(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", (3, 2))
    store = LeRobotReader(made.root).store
    (store.path / "manifest.json").write_text("{}")
    again = LeRobotReader(made.root)
    assert np.array_equal(again.gather(np.arange(5), ["action"])["action"], made.all("action"))


def test_files_that_change_are_noticed(tmp_path: Path) -> None:
    import pickle

    made = make_set(tmp_path / "set", "v2.1", (3, 2))
    reader = LeRobotReader(made.root)
    content = pickle.dumps(reader)
    made.edit_episodes(lambda rows: [{**row, "length": row["length"] - 1} for row in rows])
    with pytest.raises(StoreChangedError, match="changed since it was opened"):
        _ = reader.episodes
    with pytest.raises(SourceError):
        pickle.loads(content)
    made.edit_episodes(lambda rows: [{**row, "length": row["length"] + 1, "tasks": ["new"]} for row in rows])
    time.sleep(0.01)
    with pytest.raises(StoreChangedError, match="changed since the reader was pickled"):
        pickle.loads(content)


def test_files_that_change_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_set(tmp_path / "set", "v2.1", (3, 2))
    build = cache.build_store

    def build_and_touch(*arguments):  # type: ignore[no-untyped-def]
        build(*arguments)
        made.edit_episodes(lambda rows: [{**row, "tasks": ["another"]} for row in rows])

    monkeypatch.setattr(cache, "build_store", build_and_touch)
    with pytest.raises(SourceError, match="changed while they were read"):
        LeRobotReader(made.root)
    monkeypatch.undo()


def test_the_cache_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_set(tmp_path / "set", "v2.1", (3, 2))
    store = LeRobotReader(made.root, cache=tmp_path / "mine").store
    assert store.path.is_relative_to(tmp_path / "mine")
    monkeypatch.delenv("ILTOOLS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert LeRobotReader(made.root).store.path.is_relative_to(tmp_path / "xdg" / "iltools_datasets")
