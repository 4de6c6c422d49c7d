"""Where a set is looked for, and that the network is asked only for what is not there."""

from __future__ import annotations

import fnmatch
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from iltools_datasets.errors import SourceNotFoundError
from iltools_datasets.lerobot import LeRobotReader, find
from sets import VERSIONS, make_set

NAME = "owner/name"
TOP = "observation.images.top"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of all caches, and a hub that must not be asked."""
    for name in ("HF_LEROBOT_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=refuse))
    return tmp_path / "hf"


def refuse(*args: Any, **options: Any) -> str:
    raise AssertionError("the network was asked")


class Hub:
    """Stands for huggingface_hub: a directory that plays the remote repository; notes what was asked for."""

    def __init__(self, remote: Path, revision: str) -> None:
        self.remote, self.revision, self.asked = remote, revision, []

    def snapshot_download(
        self, repo_id: str, *, repo_type: str, revision: str, allow_patterns: list[str], **to: Any
    ) -> str:
        self.asked.append((revision, allow_patterns))
        assert (repo_id, repo_type) == (NAME, "dataset")
        if revision != self.revision:
            raise RuntimeError(f"404: no revision {revision}")
        place = (
            Path(to["local_dir"]) if "local_dir" in to else Path(to.get("cache_dir", hub_cache())) / snapshot(revision)
        )
        for path in self.remote.rglob("*"):
            relative = path.relative_to(self.remote)
            if path.is_file() and any(fnmatch.fnmatch(relative.as_posix(), pattern) for pattern in allow_patterns):
                (place / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, place / relative)
        return str(place)


def hub_cache() -> Path:
    import os

    return Path(os.environ["HF_HOME"]) / "hub"


def snapshot(commit: str) -> str:
    return f"datasets--owner--name/snapshots/{commit}"


def test_in_every_place_on_this_machine(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_set(tmp_path / "set", "v3.0").root
    assert find(NAME, made) == made
    assert find(str(made)) == made
    shutil.copytree(made, tmp_path / "sets" / NAME)
    assert find(NAME, tmp_path / "sets") == tmp_path / "sets" / NAME
    shutil.copytree(made, home / "lerobot" / NAME)
    assert find(NAME) == home / "lerobot" / NAME
    shutil.move(home / "lerobot" / NAME, tmp_path / "elsewhere" / NAME)
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "elsewhere"))
    assert find(NAME) == tmp_path / "elsewhere" / NAME


@pytest.mark.parametrize("below", ["hub", "lerobot/hub"])
def test_among_the_snapshots_of_either_hub_cache(below: str, tmp_path: Path, home: Path) -> None:
    """Snapshots link to blobs beside them, which is no way out of the set."""
    made = make_set(tmp_path / "set", "v2.1")
    repository = home / below / "datasets--owner--name"
    for commit, reference in (("aaa", "main"), ("bbb", "v2.1")):
        for path in (path for path in made.root.rglob("*") if path.is_file()):
            blob = repository / "blobs" / f"{commit}-{path.name}"
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, blob)
            link = repository / "snapshots" / commit / path.relative_to(made.root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / reference).write_text(commit)
    assert find(NAME).name == "bbb"
    assert find(NAME, revision="main").name == "aaa"
    assert find(NAME, revision="aaa").name == "aaa"
    assert LeRobotReader.find(NAME).num_frames == 15
    with pytest.raises(SourceNotFoundError, match="no LeRobot data set"):
        find(NAME, revision="v9", download=False)


@pytest.mark.parametrize("version", VERSIONS)
def test_downloaded_with_the_videos_that_are_needed(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_set(tmp_path / "remote", version, (3, 2, 4, 3, 2, 2), cameras={TOP: "video"})
    hub = Hub(made.root, version)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    place = find(NAME, tmp_path / "local", episodes=[1])
    assert hub.asked[0][0] == "v3.0"
    there = {path.relative_to(place).as_posix() for path in place.rglob("*.mp4")}
    assert there == {made.video_file(1, TOP).relative_to(made.root).as_posix()}
    reader = LeRobotReader(place)
    assert reader.num_frames == 16
    reader.camera(TOP, episodes=reader.choice([1])).read(reader.choice([1]).rows([0]))
    # What is there is not asked for again.
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=refuse))
    assert find(NAME, tmp_path / "local", episodes=[5]) == place


def test_a_snapshot_that_lacks_videos_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_set(tmp_path / "remote", "v2.1", (3, 2, 4), cameras={TOP: "video"})
    hub = Hub(made.root, "main")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    place = find(NAME, episodes=[1])
    assert place == hub_cache() / snapshot("main")
    hub.asked.clear()
    assert find(NAME, episodes=[1]) == place
    assert find(NAME, cameras=[]) == place
    assert hub.asked == []
    assert find(NAME) == place
    assert len(list(place.rglob("*.mp4"))) == 3
    (place / "videos/chunk-000" / TOP / "episode_000002.mp4").unlink()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert find(NAME) == place


def test_what_is_nowhere_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceNotFoundError, match=r"looked for meta/info.json in .*lerobot/owner/name"):
        find(NAME, download=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SourceNotFoundError, match="pip install huggingface_hub"):
        find(NAME)
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(tmp_path, "nothing"))
    with pytest.raises(SourceNotFoundError, match=r"on the hub: owner/name at v3.0: 404.*at main: 404"):
        find(NAME)
    with pytest.raises(SourceNotFoundError, match="no directory, and no owner/name"):
        find("../../etc")
