"""A process forks while it builds something, and its child ends as programs end. Run by test_forked_builds.py.

    python forked_builds.py WHAT DIRECTORY

The child leaves the block by `sys.exit`, by an exception, or by going on to its end, one after the other. Whatever it
does, the parent goes on, and what it builds is whole: `ENDING: built` is printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

Fork = Callable[[], None]


def clip(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((20, 3), dtype=np.float32)


def store(path: Path, fork: Fork) -> None:
    from iltools_datasets import StoreBuilder, TrajectoryStore

    with StoreBuilder(path) as builder:
        builder.add(0, 0, {"x": clip(0)})
        fork()
        builder.add(0, 1, {"x": clip(1)})
    np.testing.assert_array_equal(TrajectoryStore.open(path).gather([20])["x"][0], clip(1)[1])


def spool(path: Path, fork: Fork) -> None:
    import torch
    from iltools_datasets.replay_memmap import ExpertMemmapBuilder, build_trajectory_td, load

    rows = [torch.from_numpy(clip(seed)) for seed in range(2)]
    with ExpertMemmapBuilder(path, 100) as builder:
        builder.add_trajectory(0, 0, build_trajectory_td(rows[0][:-1], rows[0][1:], rows[0][1:]))
        fork()
        builder.add_trajectory(0, 1, build_trajectory_td(rows[1][:-1], rows[1][1:], rows[1][1:]))
    assert torch.equal(load(path)[0].get(torch.tensor([20]))["observation"][0], rows[1][1])


def archive(path: Path, fork: Fork, bucket: bool = False) -> None:
    from iltools_datasets.archive import ArchiveReader, ArchiveWriter
    from zarr.storage import LocalStore

    with ArchiveWriter(LocalStore(path) if bucket else path) as writer:
        writer.add("lab", "walk", "t0", {"x": clip(0)})
        fork()
        writer.add("lab", "walk", "t1", {"x": clip(1)})
    reader = ArchiveReader(path)
    np.testing.assert_array_equal(reader.read(reader.trajectories[1])["x"], clip(1))


def checkpoint(path: Path, fork: Fork) -> None:
    from iltools_datasets.torchrl.buffer_checkpoint import current_save, new_save
    from iltools_datasets.torchrl.saved_buffer import checked_settings

    with new_save(path, checked_settings(7, None, None)) as save:
        (save / "first").write_text("1")
        fork()
        (save / "second").write_text("2")
    with current_save(path) as saved:
        assert saved.settings.batch_size == 7
        assert sorted(file.name for file in saved.directory.iterdir()) == ["first", "second"]


def metadata(path: Path, fork: Fork) -> None:
    from iltools_datasets._base.files import read_json, replaced_file

    path.mkdir()
    with replaced_file(path / "meta.json") as file:
        file.write(b"[1")
        file.flush()
        parent = os.getpid()
        fork()
        if os.getpid() == parent:
            file.write(b", 2]")
    assert read_json(path / "meta.json") == [1, 2]
    assert len(list(path.iterdir())) == 1


ENDINGS = ("exit", "raise", "go on")
WHAT: dict[str, Callable[[Path, Fork], None]] = {
    "store": store,
    "spool": spool,
    "archive": archive,
    "bucket": lambda path, fork: archive(path, fork, bucket=True),
    "checkpoint": checkpoint,
    "file": metadata,
}


def build(what: str, ending: str, path: Path) -> None:
    """Build, fork on the way, and look at what is there; the child does not come back from here."""
    parent = os.getpid()

    def fork() -> None:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            assert status == 0, f"the child ended with {status}"
        elif ending == "exit":
            sys.exit(0)
        elif ending == "raise":
            raise RuntimeError("the child's own trouble")

    try:
        WHAT[what](path, fork)
    except (RuntimeError, ValueError) as error:
        if os.getpid() == parent:
            raise
        # The child is told, and ends as any program does, finalisers and all.
        is_told = ending == "raise" or "is over" in str(error) or "copy" in str(error)
        sys.exit(0 if is_told else f"the child got {error!r}")
    assert os.getpid() == parent, "the child has finished what is its parent's"


def main() -> None:
    """Build once for each way in which a child ends."""
    what, place = sys.argv[1], Path(sys.argv[2])
    for ending in ENDINGS:
        directory = place / ending
        directory.mkdir()
        build(what, ending, directory / "made")
        assert len(list(directory.iterdir())) == 1
        print(f"{ending}: built", flush=True)  # or a child would print it, too


if __name__ == "__main__":
    main()
