"""The walks of docs/architecture.md: the files they name are the files that run, in that order, each once."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import iltools_datasets
import pytest
from iltools_datasets import TrajectoryStore, WindowSource
from stores import build_store, make_clips

ROOT = Path(__file__).parent.parent
PACKAGE = Path(iltools_datasets.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def named(section: str, ending: str) -> list[str]:
    """Files that a section of the page names, in its order."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"`([\w/]+\.{ending})`", text)


@contextmanager
def traced() -> Iterator[list[str]]:
    """Files of the package in the order in which a function of theirs is entered first, on whichever thread."""
    files: list[str] = []

    def enter(frame: FrameType, event: str, _argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and (name := str(path.relative_to(PACKAGE))) not in files:
            files.append(name)

    threading.setprofile(enter)
    sys.setprofile(enter)
    try:
        yield files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.fixture(scope="module", name="store")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return TrajectoryStore.open(build_store(tmp_path_factory.mktemp("walks") / "store", make_clips([40, 30, 90])))


@pytest.mark.torch
def test_a_batch(store: TrajectoryStore) -> None:
    pytest.importorskip("torchrl", reason="needs the torch extra")
    from iltools_datasets.replay_manager import ExpertReplayManager

    manager = ExpertReplayManager.from_store(store, sample_batch_size=16)
    manager.buffer.sample()
    with traced() as files:
        manager.buffer.sample()
    assert files == named("The walk of a batch", "py")


@pytest.mark.jax
def test_a_window(store: TrajectoryStore) -> None:
    pytest.importorskip("jax", reason="needs the jax extra")
    from iltools_datasets.jax_stream import DoubleBufferStreamer

    with DoubleBufferStreamer(WindowSource(store, ["qpos"], 4, [0, 1])) as warm:
        warm.next_window()
    streamer = DoubleBufferStreamer(WindowSource(store, ["qpos"], 4, [0, 1]))
    with traced() as files:
        streamer.start()
        streamer.next_window()
    streamer.stop()
    assert files == named("The walk of a window", "py")


@pytest.mark.torch
def test_a_checkpoint(store: TrajectoryStore, tmp_path: Path) -> None:
    pytest.importorskip("torchrl", reason="needs the torch extra")
    from iltools_datasets.replay_manager import ExpertReplayManager

    manager = ExpertReplayManager.from_store(store, sample_batch_size=16)
    manager.buffer.sample()
    with traced() as files:
        manager.buffer.dumps(tmp_path / "run")
        manager.buffer.loads(tmp_path / "run")
    assert files == named("The walk of a checkpoint", "py")


@pytest.mark.parametrize("walk", ["batch", "window", "checkpoint"])
def test_native_files_are_there_and_each_is_named_once(walk: str) -> None:
    native = named(f"The walk of a {walk}", "rs")
    assert native or walk == "checkpoint"
    for name in native:
        assert (ROOT / "rust" / name).is_file(), name
    every = [*native, *named(f"The walk of a {walk}", "py")]
    assert len(every) == len(set(every)) > 5


def test_every_room_and_every_file_of_the_core_is_on_the_page() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    core = {path.name for path in (ROOT / "rust" / "core" / "src").glob("*.rs")} - {"lib.rs"}
    assert {room for room in rooms if f"`{room}/`" not in PAGE} == set()
    assert {name for name in core if f"`{name}`" not in PAGE} == set()


def test_unsafe_rust_is_where_the_page_says() -> None:
    """A file of a crate that allows it must be named in the section on it, and nothing else may be."""
    sources = [path for crate in ("core", "py") for path in (ROOT / "rust" / crate / "src").rglob("*.rs")]
    allowing = {path for path in sources if "allow(unsafe_code)" in path.read_text()}
    section = PAGE.split("## Where `unsafe` is\n")[1].split("\n## ")[0]
    said = {ROOT / "rust" / name for name in re.findall(r"`((?:core|py)/src/[\w/]+\.rs)`", section)}
    assert said == allowing
