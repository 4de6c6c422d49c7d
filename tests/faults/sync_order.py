"""What would be on disk if the machine lost power: the calls of a writer, replayed over a model of files and names.

A file's bytes are on disk once it is synced after its last write, its name once its directory is. What is published, by
a rename, has to be on disk whole before that, and at last the rename, too, and the directories it lies in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from fault_tools import Mode, arm
from iltools_datasets._base import files

LOCKS = (".lock", ".checkpoint.lock")
"""What holds locks only is never synced: its content is for the living."""


class Disk:
    """Which bytes and names are only in memory; `found` is what was published before it was on disk."""

    def __init__(self, published: str) -> None:
        self.published = re.compile(published)
        self.bytes: set[str] = set()
        self.names: set[str] = set()
        self.synced: set[str] = set()
        self.found: list[str] = []
        self.renames = 0

    def replay(self, calls: Iterable[str]) -> None:
        """Take the calls in order."""
        for line in calls:
            call, _, path = line.rstrip("\n").partition(" ")
            if not path.endswith(LOCKS):
                getattr(self, call)(path)

    def create(self, path: str) -> None:
        self.names.add(path)
        self.bytes.add(path)

    def mkdir(self, path: str) -> None:
        self.names.add(path)

    def write(self, path: str) -> None:
        self.bytes.add(path)

    chmod = truncate = write

    def unlink(self, path: str) -> None:
        self.bytes.discard(path)
        self.names.discard(path)

    rmdir = unlink

    def fsync(self, path: str) -> None:
        self.bytes.discard(path)
        self.names = {name for name in self.names if str(PurePosixPath(name).parent) != (path or "/")}
        self.synced.add(path)

    def sync(self, _: str) -> None:
        self.bytes.clear()
        self.names.clear()
        self.synced.add("*")

    def rename(self, text: str) -> None:
        to, arrow, origin = re.split(r" (<->|<-) ", text)
        if self.published.fullmatch(to):
            self.renames += 1
            # The name that is about to vanish need not be on disk, nor, so far, those of the directories above.
            above = {origin, *map(str, PurePosixPath(to).parents)}
            self.found += sorted(
                {f"bytes of {path}" for path in self.bytes} | {f"name {path}" for path in self.names - above}
            )

        def moved(paths: set[str]) -> set[str]:
            return {to + path[len(origin) :] if (path + "/").startswith(origin + "/") else path for path in paths}

        self.bytes, self.names, self.synced = moved(self.bytes), moved(self.names), moved(self.synced)
        self.names |= {to, origin} if arrow == "<->" else {to}
        self.names -= {origin} if arrow == "<-" else set()


# What is published.


def rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((9, 2), dtype=np.float32)


def store(path: Path) -> None:
    from kill_loop import build

    build(path / "deep" / "store", 0, overwrite=True)


def adopted(path: Path) -> None:
    from kill_loop import build

    build(path / "deep" / "store", 0, overwrite=True, adopted=True)


def replay(path: Path) -> None:
    from killed_spool import build

    build(path / "store", [4, 2, 6], "same layout")


def replay_laid_out_anew(path: Path) -> None:
    from killed_spool import build

    build(path / "store", [4, 2, 6], "new layout")


def archive(path: Path, clips: int = 3) -> None:
    from iltools_datasets.archive import ArchiveWriter

    with ArchiveWriter(path / "a.zarr", overwrite=True) as writer:
        for number in range(clips):
            writer.add("lab", "walk", f"t{number}", {"x": rows(number)})


def json_file(path: Path) -> None:
    from iltools_datasets._base.files import write_json

    write_json(path / "new" / "deep" / "state.json", {"a": 1})


def description(path: Path) -> None:
    from iltools_datasets.trajopt.loader import TrajoptLoader

    motions = path.with_name("motions")
    motions.mkdir(exist_ok=True)
    np.savez(motions / "clip.npz", qpos=np.ones((9, 36)), qvel=np.ones((9, 35)), time=np.arange(9.0))
    TrajoptLoader(motions).save(path, overwrite=True)


def checkpoint(path: Path) -> None:
    from killed_checkpoint import buffer_over
    from stores import build_store, make_clips

    buffer_over(build_store(path.with_name("store"), make_clips([40]), overwrite=True)).dumps(path / "checkpoint")


def frames(path: Path) -> None:
    from iltools_datasets.lerobot.frame_cache import DiskFrames

    # Of another set each time, or the file that is there would be taken as it is.
    DiskFrames(path / "frames", 4, (2, 2, 3), uuid.uuid4().hex).close()


def images(path: Path) -> None:
    from iltools_datasets.lerobot import LeRobotReader
    from sets import make_set

    camera = "observation.images.top"
    root = path.with_name("set")
    shutil.rmtree(root, ignore_errors=True)
    make_set(root, lengths=(2, 3), cameras={camera: "image"}, seed=uuid.uuid4().int % 1000)
    LeRobotReader(root, cache=path / "cache").pictures(np.array([0]), camera)


def staged_store(path: Path) -> None:
    import fsspec
    from iltools_datasets import TrajectoryStore
    from kill_loop import build

    origin = path.with_name("origin")
    build(origin, 0, overwrite=True)
    bucket = fsspec.filesystem("memory")
    if bucket.exists("/bucket"):
        bucket.rm("/bucket", recursive=True)
    bucket.put(str(origin), "/bucket", recursive=True)
    TrajectoryStore.open("memory://bucket", cache=path / "cache")


WRITERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "store": (store, r".*/manifest\.json"),
    "adopted spool": (adopted, r"/deep/store/manifest\.json"),
    "replay builder": (replay, r"/store/manifest\.json"),
    "replay builder, laid out anew": (replay_laid_out_anew, r"/store/manifest\.json"),
    "archive": (archive, r"/a\.zarr"),
    "archive of many files": (lambda path: archive(path, 150), r"/a\.zarr"),
    "staged store": (staged_store, r"/cache/stores/bucket-\w+"),
    "JSON file": (json_file, r".*/state\.json"),
    "description of an archive": (description, r"/(meta\.json|trajectories\.zarr)"),
    "pictures of a camera": (frames, r"/frames/frames\.json"),
    "images of a camera": (images, r"/cache/.*/images\.json"),
    "checkpoint of a buffer": (checkpoint, r"/checkpoint/checkpoint\.json"),
}


def sync_here(command: list[str]) -> int:
    """Do what the process `sync` does where it is seen, and begin one that does nothing."""
    assert command == ["sync"]
    os.sync()
    return os.posix_spawnp("true", ["true"], os.environ)


def results_of(writer: str, path: Path) -> list[dict[str, object]]:
    """Write twice, to an empty place and over what is there then; return what was published too early."""
    write, published = WRITERS[writer]
    path.mkdir(parents=True)
    results = []
    for _ in range(2):
        with (path.with_name("calls")).open("w+") as calls:
            arm(path, 0, Mode.COUNT, report_fd=calls.fileno())
            write(path)
            arm(Path("/nowhere"), 0, Mode.COUNT)
            calls.seek(0)
            disk = Disk(published)
            disk.replay(calls)
        there = {
            str(file)[len(str(path)) :] for file in path.rglob("*") if file.is_file() and not file.name.endswith(LOCKS)
        }
        unsynced = [] if "*" in disk.synced else sorted(there - disk.synced)
        left = sorted(disk.bytes | disk.names)
        results.append({"renames": disk.renames, "early": disk.found, "never synced": unsynced, "not on disk": left})
    return results


def main() -> None:
    """Print what came of each writer, as JSON: `python sync_order.py DIRECTORY WRITER...`."""
    place, *writers = sys.argv[1:]
    files._begin = sync_here
    print(json.dumps({name: results_of(name, Path(place) / name / "place") for name in writers}))


if __name__ == "__main__":
    os.umask(0o022)
    main()
