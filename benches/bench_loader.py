"""Batches of a LeRobot set on the device, against pyarrow and numpy doing the same, and lerobot where it is installed.

The set has the size of the recordings of a Unitree G1 that the targets were set for: 100 episodes, 36,000 frames, state
and action of 26 values. It runs in a process of its own, in which JAX has computed before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

EPISODES, FRAMES, WIDTH, FPS = 100, 360, 26, 30
BATCH, STEPS = 256, 16
STATE, ACTION = "observation.state", "action"


def write_set(root: Path) -> None:
    """Write the set as v3.0, one data file, without lerobot."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (root / "meta/info.json").exists():
        return
    rng = np.random.default_rng(0)
    total = EPISODES * FRAMES
    frame = np.tile(np.arange(FRAMES), EPISODES)

    def wide() -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(total * WIDTH, np.float32)), WIDTH)

    columns = {
        STATE: wide(),
        ACTION: wide(),
        "timestamp": pa.array((frame / FPS).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(np.repeat(np.arange(EPISODES), FRAMES)),
        "index": pa.array(np.arange(total)),
        "task_index": pa.array(np.zeros(total, np.int64)),
    }
    shapes = dict.fromkeys(columns, ("int64", [1])) | dict.fromkeys((STATE, ACTION), ("float32", [WIDTH]))
    shapes["timestamp"] = ("float32", [1])
    info = {
        "codebase_version": "v3.0",
        "robot_type": "made up",
        "total_episodes": EPISODES,
        "total_frames": total,
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{EPISODES}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": {key: {"dtype": dtype, "shape": shape, "names": None} for key, (dtype, shape) in shapes.items()},
    }
    first = np.arange(EPISODES) * FRAMES
    episodes = {
        "episode_index": np.arange(EPISODES),
        "tasks": [["walk"]] * EPISODES,
        "length": np.full(EPISODES, FRAMES),
        "data/chunk_index": np.zeros(EPISODES, np.int64),
        "data/file_index": np.zeros(EPISODES, np.int64),
        "dataset_from_index": first,
        "dataset_to_index": first + FRAMES,
        "meta/episodes/chunk_index": np.zeros(EPISODES, np.int64),
        "meta/episodes/file_index": np.zeros(EPISODES, np.int64),
    }
    for folder in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), root / "data/chunk-000/file-000.parquet", row_group_size=FRAMES)
    pq.write_table(pa.table(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["walk"]}), root / "meta/tasks.parquet")
    (root / "meta/stats.json").write_text("{}")
    (root / "meta/info.json").write_text(json.dumps(info))


class Peer:
    """The same batches as a careful user makes them: columns read once by pyarrow, then indexed by numpy."""

    def __init__(self, root: Path, offsets: np.ndarray | None) -> None:
        import pyarrow.parquet as pq

        self.table = pq.read_table(root / "data/chunk-000/file-000.parquet", columns=[STATE, ACTION]).combine_chunks()
        self.state, self.action = (self._values(self.table[key]) for key in (STATE, ACTION))
        self.offsets = offsets
        self.rng = np.random.default_rng(0)
        self.order = self.rng.permutation(len(self.state))
        self.at = 0

    @staticmethod
    def _values(column: Any) -> np.ndarray:
        array = column.combine_chunks()
        array = array.chunk(0) if hasattr(array, "chunk") else array
        return array.flatten().to_numpy().reshape(-1, WIDTH)

    def rows(self) -> np.ndarray:
        if self.at + BATCH > len(self.order):
            self.order, self.at = self.rng.permutation(len(self.order)), 0
        self.at += BATCH
        return self.order[self.at - BATCH : self.at]

    def indices(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the next state, rows [B, H] or [B] of the actions, and what of them is padding."""
        frame = rows % FRAMES
        following = rows + (frame < FRAMES - 1)
        if self.offsets is None:
            return following, rows, np.zeros(0, bool)
        wanted = frame[:, None] + self.offsets
        inside = np.clip(wanted, 0, FRAMES - 1)
        return following, (rows - frame)[:, None] + inside, inside != wanted

    def batch(self, take: Callable[[str, np.ndarray], np.ndarray], rows: np.ndarray) -> tuple[Any, ...]:
        following, actions, is_pad = self.indices(rows)
        reward, done = np.zeros(len(rows), np.float32), following == rows
        batch = (take(STATE, rows), take(ACTION, actions), reward, take(STATE, following), done)
        return batch if self.offsets is None else (*batch, is_pad)

    def by_numpy(self, key: str, rows: np.ndarray) -> np.ndarray:
        return (self.state if key == STATE else self.action)[rows]

    def by_pyarrow(self, key: str, rows: np.ndarray) -> np.ndarray:
        found = self._values(self.table[key].take(rows.reshape(-1)))
        return found.reshape(*rows.shape, WIDTH)


class LeRobot:
    """lerobot's own data set behind torch's collate. It is spared the next state, for which it needs another window."""

    def __init__(self, root: Path, times: dict[str, list[float]] | None) -> None:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        self.dataset = LeRobotDataset("me/bench", root=root, delta_timestamps=times)

    def batch(self, rows: np.ndarray) -> list[np.ndarray]:
        from torch.utils.data import default_collate

        item = default_collate([self.dataset[int(row)] for row in rows])
        keys = [key for key in (STATE, ACTION, f"{ACTION}_is_pad") if key in item]
        return [item[key].numpy() for key in keys]


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def cpu_time(call: Callable[[], Any], count: int = 100) -> float:
    """Seconds of the process, all its threads, per call."""
    began = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - began) / count


def measured(root: Path, rounds: int) -> list[dict[str, Any]]:
    import jax
    from iltools_datasets.data import JaxDataLoader, LeRobotDatasetAdapter, LeRobotDatasetConfig

    jax.block_until_ready(jax.jit(lambda x: x @ x)(np.ones((64, 64), np.float32)))
    found = []
    for steps, name in ((None, "state, action, next"), (STEPS, f"state, next, {STEPS} action steps, mask")):
        offsets = None if steps is None else np.arange(steps)
        times = None if offsets is None else {ACTION: (offsets / FPS).tolist()}
        dataset = LeRobotDatasetAdapter(LeRobotDatasetConfig(str(root), delta_timestamps=times))
        peer, extra = Peer(root, offsets), [] if times is None else [f"{ACTION}_is_pad"]
        check(dataset, peer, extra)
        found.append(gathers(dataset, peer, name, rounds))
        found += batches(JaxDataLoader(dataset, BATCH, extra=extra, seed=0), peer, name, rounds)
        found += against_lerobot(root, dataset, times, extra, name, rounds)
    return [row.as_json() for row in (*found, first_batch(root, rounds))]


def check(dataset: Any, peer: Peer, extra: list[str]) -> None:
    """Ours, numpy's and pyarrow's batches hold the same."""
    rows = peer.rows()
    batch = dataset.batch(rows, extra=extra)
    mine = batch if not extra else (*batch[0], *batch[1].values())
    for take in (peer.by_numpy, peer.by_pyarrow):
        for array, wanted in zip(mine, peer.batch(take, rows), strict=True):
            np.testing.assert_array_equal(array, wanted)


def gathers(dataset: Any, peer: Peer, name: str, rounds: int) -> Any:
    """The native gathers of a batch against numpy's indexing, rows known."""
    store, steps = dataset.store, None if peer.offsets is None else len(peer.offsets)
    index = [peer.rows() for _ in range(64)]
    places = [(rows, store.segments.locate(rows), *peer.indices(rows)[:2]) for rows in index]
    numbers = itertools.cycle(places)
    states, actions = store.field_ids([STATE, ("next", STATE)]), store.field_ids([ACTION])

    def ours() -> Any:
        rows, (segment, step), _, _ = next(numbers)
        if steps is None:
            return store.core.gather(states + actions, rows, None, store.num_threads)
        window = store.core.windows(actions, segment, step, steps, "mask", store.num_threads)
        return store.core.gather(states, rows, None, store.num_threads), window

    def theirs() -> Any:
        rows, _, following, wanted = next(numbers)
        return peer.state[rows], peer.state[following], peer.action[wanted]

    return row_of(f"LeRobot, gather of {BATCH}: {name} / numpy's indexing", ours, theirs, 1 / 0.7, rounds)


def batches(loader: Any, peer: Peer, name: str, rounds: int) -> list[Any]:
    """Batches on the device against the same by pyarrow, and by numpy, where the way to the device is most of it."""
    import jax

    ours = endless(loader)
    return [
        row_of(
            f"LeRobot, {BATCH} to JAX: {name} / {with_what}",
            lambda: next(ours),
            lambda take=take: jax.device_put(peer.batch(take, peer.rows())),
            target,
            rounds,
        )
        for take, with_what, target in ((peer.by_pyarrow, "pyarrow", 1.2), (peer.by_numpy, "numpy", 0.9))
    ]


def against_lerobot(root: Path, dataset: Any, times: Any, extra: list[str], name: str, rounds: int) -> list[Any]:
    """The same batches by lerobot, where it is installed: nothing where it is not."""
    try:
        import lerobot  # noqa: F401
    except ImportError:
        return []
    import jax
    from iltools_datasets.data import JaxDataLoader

    peer, rows = LeRobot(root, times), np.random.default_rng(0).integers(0, len(dataset), (64, BATCH))
    numbers = itertools.cycle(rows)
    target = 80 if times is None else 500
    with JaxDataLoader(dataset, BATCH, extra=extra, seed=0) as loader:
        ours = endless(loader)
        theirs = lambda: jax.device_put(peer.batch(next(numbers)))  # noqa: E731
        return [
            row_of(f"LeRobot, {BATCH} to JAX: {name} / lerobot", lambda: next(ours), theirs, target, rounds, count=5)
        ]


def row_of(
    workload: str, ours: Callable[[], Any], theirs: Callable[[], Any], target: float, rounds: int, count: int = 100
) -> Any:
    """Race both, and say the CPU time of the process beside the wall time."""
    from dataclasses import replace

    from race import race, show

    row = race(workload, "tight loop", ours, theirs, target, rounds)
    return replace(
        row, ours=f"{row.ours}, CPU {show(cpu_time(ours))}", peer=f"{row.peer}, CPU {show(cpu_time(theirs, count))}"
    )


def first_batch(root: Path, rounds: int) -> Any:
    """Seconds from a new loader with two workers to its first batch, in a process where JAX has computed."""
    from iltools_datasets.data import JaxDataLoader, LeRobotDatasetAdapter
    from race import figure

    dataset, values = LeRobotDatasetAdapter(str(root)), []
    for _ in range(rounds):
        began = time.perf_counter()
        with JaxDataLoader(dataset, BATCH, 2) as loader:
            next(iter(loader))
            values.append(time.perf_counter() - began)
    return figure("LeRobot, first batch of 2 workers after JAX has computed", "tight loop", values, 1.0, "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(".benchmarks/data/full"))
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    root = arguments.data / "lerobot"
    write_set(root)
    os.environ["ILTOOLS_CACHE"] = str(arguments.data / "lerobot_cache")
    sys.path.append(str(Path(__file__).parent))
    print(json.dumps(measured(root, arguments.rounds)))


def test_batches_of_transitions(record: Any, quick: bool, data_dir: Path) -> None:
    import pytest
    from race import Row

    pytest.importorskip("jax", reason="needs the jax extra")
    pytest.importorskip("pyarrow", reason="needs the extra data")
    command = [sys.executable, __file__, "--data", str(data_dir), *(["--rounds", "5"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for row in json.loads(done.stdout.splitlines()[-1]):
        row.pop("met")
        # How long the first batch takes says more about the machine's scheduler than about our code.
        record(Row(**row), gated=row["unit"] == "x")


if __name__ == "__main__":
    main()
