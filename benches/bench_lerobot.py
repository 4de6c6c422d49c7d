"""Reading LeRobot sets: against pyarrow, numpy and PyAV doing the same, and against lerobot where it is installed.

Ratios are of CPU time of the process, since lerobot and torch spend several cores; wall time stands beside it. The set
is the real one at ../shared/data; without it these rows are left out.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from race import Row, show

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CAMERA = "observation.images.cam_high"
STATE, ACTION = "observation.state", "action"
BATCH, STEPS = 256, 16
RECORDED = (0, 1, 2)
"""Episodes of the v3.0 form with recorded pictures."""

HAS_LEROBOT = importlib.util.find_spec("lerobot") is not None
needs_lerobot = pytest.mark.skipif(not HAS_LEROBOT, reason="needs lerobot 0.4.4")

Call = Callable[[], Any]


@pytest.fixture(scope="module")
def root() -> Path:
    pytest.importorskip("pyarrow", reason="needs the extra data")
    pytest.importorskip("av", reason="needs the extra data")
    if not (SHARED / "lerobot_g1_v30").is_dir():
        pytest.skip(f"no real LeRobot set at {SHARED}")
    return SHARED


@pytest.fixture(scope="module")
def cache(data_dir: Path) -> Path:
    return data_dir / "lerobot-cache"


@pytest.fixture(scope="module")
def reader(root: Path, cache: Path) -> Any:
    from iltools_datasets.lerobot import LeRobotReader

    return LeRobotReader(root / "lerobot_g1_v30", cache=cache)


@pytest.fixture(scope="module")
def peer(root: Path, data_dir: Path) -> Callable[..., Any]:
    """Makes lerobot's data set, without the network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_HOME", str((data_dir / "hf").absolute()))
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return lambda **options: LeRobotDataset("some/name", root=root / "lerobot_g1_v30", **options)


def both(call: Call, count: int) -> tuple[float, float]:
    """CPU and wall seconds of one call, over `count` in a row."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count


def race_cpu(
    workload: str,
    peer_name: str,
    ours: Call,
    theirs: Call,
    target: float,
    rounds: int,
    counts: tuple[int, int],
    share: bool = False,
) -> Row:
    """Time both in turn. The ratio is theirs by ours; with `share`, ours by theirs, and must stay below the target."""
    for call in (ours, theirs):
        call()
    pairs = [(both(ours, counts[0]), both(theirs, counts[1])) for _ in range(rounds)]
    ratios = [mine[0] / other[0] if share else other[0] / mine[0] for mine, other in pairs]
    shown = []
    for side in zip(*pairs, strict=True):
        cpu, wall = (show(statistics.median(times)) for times in zip(*side, strict=True))
        shown.append(f"{cpu} ({wall} wall)")
    return Row(
        workload,
        f"CPU time, against {peer_name}",
        *shown,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        target,
        higher_is_better=not share,
    )


def fresh(code: str, **environment: str) -> Any:
    """What a fresh interpreter prints, as JSON."""
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout.splitlines()[-1])


SPENT = "import json, time; t = time.process_time(); {code}; print(json.dumps(time.process_time() - t))"


def import_seconds(code: str, rounds: int) -> list[float]:
    return [fresh(SPENT.format(code=code)) for _ in range(rounds)]


@needs_lerobot
@pytest.mark.parametrize("with_jax", [False, True])
def test_import(record: Any, root: Path, quick: bool, with_jax: bool) -> None:
    rounds = 2 if quick else 5
    jax = "import jax; jax.devices(); " if with_jax else ""
    ours = import_seconds(
        jax + "from iltools_datasets.lerobot import LeRobotReader; import pyarrow.parquet, av", rounds
    )
    theirs = import_seconds("from lerobot.datasets.lerobot_dataset import LeRobotDataset", rounds)
    ratios = [other / mine for mine, other in zip(ours, theirs, strict=True)]
    name = "import, with JAX started" if with_jax else "import, pyarrow and PyAV included"
    shown = (show(statistics.median(ours)), show(statistics.median(theirs)))
    record(Row(name, "CPU time, against lerobot", *shown, statistics.median(ratios), min(ratios), max(ratios), 6))


def columns_by_pyarrow(root: Path) -> dict[str, np.ndarray]:
    """All columns of a set, as anybody would read them: file by file, into numpy."""
    import pyarrow.parquet as pq

    parts: dict[str, list[np.ndarray]] = {}
    for path in sorted(root.glob("data/*/*.parquet")):
        table = pq.read_table(path)
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            flat = column.flatten() if hasattr(column, "flatten") else column
            parts.setdefault(name, []).append(flat.to_numpy(zero_copy_only=False).reshape(len(table), -1))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


@pytest.mark.parametrize("name", ["lerobot_g1", "lerobot_g1_v30"])
def test_first_open(record: Any, root: Path, name: str, quick: bool, tmp_path: Path) -> None:
    """Reading, checking and writing the store, against reading all columns."""
    from iltools_datasets.lerobot import LeRobotReader

    opened: list[Any] = []

    def ours() -> None:
        opened.append(LeRobotReader(root / name, cache=tmp_path / f"cache{len(opened)}"))

    files = len(list((root / name).glob("data/*/*.parquet")))
    rounds = 3 if quick else 9
    what = f"first open, {files} files"
    record(
        lambda: race_cpu(
            what, "pyarrow", ours, lambda: columns_by_pyarrow(root / name), 1.5, rounds, (1, 1), share=True
        ),
        # Of few files it is what a file system takes for a new directory that is synced.
        gated=files > 10,
    )
    expected = columns_by_pyarrow(root / name)
    rows = opened[-1].gather(np.arange(opened[-1].num_frames), list(expected))
    for key, values in expected.items():
        assert np.array_equal(rows[key], values), key


@pytest.mark.parametrize(("name", "target"), [("lerobot_g1", 20), ("lerobot_g1_v30", 8)])
def test_open_again(record: Any, root: Path, cache: Path, name: str, target: float, quick: bool) -> None:
    from iltools_datasets.lerobot import LeRobotReader

    def ours() -> None:
        LeRobotReader(root / name, cache=cache)

    def theirs() -> None:
        columns_by_pyarrow(root / name)

    what = f"open a set opened before, {len(list((root / name).glob('data/*/*.parquet')))} files"
    rounds = 3 if quick else 9
    record(lambda: race_cpu(what, "pyarrow reading it", ours, theirs, target, rounds, (10, 1)))


@needs_lerobot
def test_open_again_against_lerobot(record: Any, root: Path, cache: Path, peer: Any, quick: bool) -> None:
    from iltools_datasets.lerobot import LeRobotReader

    def ours() -> None:
        LeRobotReader(root / "lerobot_g1_v30", cache=cache)

    record(lambda: race_cpu("open a set opened before", "lerobot", ours, peer, 20, 3 if quick else 9, (10, 1)))


MEMORY = """
import gc, json, sys
import numpy as np, pyarrow.parquet, av
from iltools_datasets.lerobot import LeRobotReader
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
before = resident()
reader = LeRobotReader(sys.argv[1] if len(sys.argv) > 1 else {root!r}, cache={cache!r})
opened = resident()
rng = np.random.default_rng(0)
for _ in range(200):
    index = rng.integers(0, reader.num_frames, 256)
    reader.gather(index, ["observation.state", "action", ("next", "observation.state")])
    reader.windows(index, "action", np.arange(16))
print(json.dumps([opened - before, resident() - before]))
"""


def test_memory(record: Any, root: Path, cache: Path, quick: bool) -> None:
    """Resident memory above the imports, of a set opened before; pages of the store that were read are counted, too."""
    from iltools_datasets.lerobot import LeRobotReader

    LeRobotReader(root / "lerobot_g1", cache=cache)
    code = MEMORY.format(root=str(root / "lerobot_g1"), cache=str(cache.absolute()))
    runs = [fresh(code) for _ in range(2 if quick else 5)]
    for what, values in zip(("after opening", "after 200 batches with windows"), zip(*runs, strict=True), strict=True):
        middle = statistics.median(values)
        shown = f"{middle:.3g} MB"
        spread = (middle, min(values), max(values))
        record(Row(f"memory {what}", "above the imports", shown, "", *spread, 12, "MB", higher_is_better=False))


@pytest.mark.parametrize("windows", [False, True])
def test_gather(record: Any, root: Path, cache: Path, windows: bool, quick: bool) -> None:
    """A batch from the store against numpy's fancy indexing over arrays in memory that hold the same."""
    from iltools_datasets.lerobot import LeRobotReader

    reader = LeRobotReader(root / "lerobot_g1", cache=cache)
    keys = [STATE, ACTION, ("next", STATE)]
    whole = reader.gather(np.arange(reader.num_frames), keys)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, reader.num_frames, BATCH) for _ in range(256)]
    if windows:
        batches = [reader.window_rows(index, np.arange(STEPS))[0].reshape(-1) for index in batches]
        keys = [ACTION]
    out = {key: np.empty((len(batches[0]), 26), np.float32) for key in keys}
    # Other rows each time, as in an epoch: rows that were just read lie in the cache.
    mine, other = itertools.cycle(batches), itertools.cycle(batches)

    def ours() -> Any:
        return reader.store.gather(next(mine), keys, out)

    def theirs() -> Any:
        index = next(other)
        return [whole[key][index] for key in keys]

    assert all(np.array_equal(found, expected) for found, expected in zip(ours().values(), theirs(), strict=True))
    name = f"gather of {BATCH}" + (f" with {STEPS} action steps" if windows else ": state, action, next state")
    record(lambda: race_cpu(name, "numpy, in memory", ours, theirs, 0.7, 5 if quick else 15, (300, 300), share=True))


@needs_lerobot
@pytest.mark.parametrize("windows", [False, True])
def test_batches_for_torch(record: Any, root: Path, cache: Path, peer: Any, windows: bool, quick: bool) -> None:
    """`LeRobotDataset` by `batch`, against what a DataLoader does with lerobot's; the camera is left out of both."""
    import torch
    from iltools_datasets.lerobot import LeRobotDataset

    deltas = {ACTION: [step / 30 for step in range(STEPS)]} if windows else None
    ours = LeRobotDataset("some/name", root=root / "lerobot_g1_v30", delta_timestamps=deltas, cache=cache)
    theirs = peer(delta_timestamps=deltas)
    ours._cameras = {}
    theirs.meta.info["features"] = {key: entry for key, entry in theirs.meta.features.items() if key != CAMERA}
    places = np.random.default_rng(0).integers(0, len(ours), BATCH).tolist()

    def collated() -> Any:
        return torch.utils.data.default_collate([theirs[place] for place in places])

    expected, found = collated(), ours.batch(places)
    for key, values in expected.items():
        assert found[key] == values if key == "task" else torch.equal(found[key], values), key
    name = f"batch of {BATCH} for torch" + (f", {STEPS} action steps and mask" if windows else "")
    target = 100 if windows else 50
    record(lambda: race_cpu(name, "lerobot", lambda: ours.batch(places), collated, target, 3 if quick else 5, (50, 1)))


@needs_lerobot
def test_items_for_torch(record: Any, root: Path, cache: Path, peer: Any, quick: bool) -> None:
    from iltools_datasets.lerobot import LeRobotDataset

    ours, theirs = LeRobotDataset("some/name", root=root / "lerobot_g1_v30", cache=cache), peer()
    ours._cameras = {}
    theirs.meta.info["features"] = {key: entry for key, entry in theirs.meta.features.items() if key != CAMERA}
    record(lambda: race_cpu("one item for torch", "lerobot", lambda: ours[100], lambda: theirs[100], 1, 5, (300, 300)))


class PlainVideo:
    """Pictures by PyAV alone: the file kept open, a seek to the keyframe before, frames until the right one."""

    def __init__(self, path: Path) -> None:
        import av

        self._container = av.open(str(path))
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "NONE"
        self._per_picture = round(1 / (30 * self._stream.time_base))
        self._frames: Iterator[Any] = iter(())

    def at(self, number: int) -> np.ndarray:
        time = number * self._per_picture
        self._container.seek(time, stream=self._stream)
        for frame in self._container.decode(self._stream):
            if frame.pts >= time:
                return frame.to_ndarray(format="rgb24")
        raise AssertionError(number)

    def start(self) -> None:
        self._container.seek(0)
        self._frames = self._container.decode(self._stream)

    def next(self) -> np.ndarray:
        frame = next(self._frames, None)
        if frame is None:
            self.start()
            frame = next(self._frames)
        return frame.to_ndarray(format="rgb24")


@pytest.fixture(scope="module")
def frames(reader: Any) -> np.ndarray:
    """The frames of the first recorded episode, which begin at picture 0 of their file."""
    return reader.choice([RECORDED[0]]).rows(np.arange(len(reader.choice([RECORDED[0]]))))


@pytest.fixture(scope="module")
def plain(root: Path) -> PlainVideo:
    return PlainVideo(root / f"lerobot_g1_v30/videos/{CAMERA}/chunk-000/file-000.mp4")


def in_turn(values: np.ndarray) -> Callable[[], int]:
    """One of the values after the other, over and over."""
    place = [0]

    def following() -> int:
        place[0] += 1
        return int(values[(place[0] - 1) % len(values)])

    return following


def test_pictures(record: Any, reader: Any, frames: np.ndarray, plain: PlainVideo, quick: bool) -> None:
    camera = reader.camera(CAMERA)
    out = np.empty((1, *camera.shape), np.uint8)
    shuffled = np.random.default_rng(1).permutation(frames)
    for frame in shuffled[:5].tolist():
        assert np.array_equal(camera.read([frame], out)[0], plain.at(frame - int(frames[0])))
    rounds, count = (3, 40) if quick else (7, 120)
    mine, other = in_turn(shuffled), in_turn(shuffled - frames[0])
    record(
        lambda: race_cpu(
            "random picture", "PyAV alone", lambda: camera.read([mine()], out), lambda: plain.at(other()), 1.1, rounds,
            (count, count), share=True,
        )
    )  # fmt: skip
    ordered = in_turn(frames)
    plain.start()
    record(
        lambda: race_cpu(
            "pictures in order", "PyAV alone", lambda: camera.read([ordered()], out), plain.next, 1.1, rounds,
            (count, count), share=True,
        )
    )  # fmt: skip
    kept = reader.camera(CAMERA, frame_cache=1 << 30)
    some = shuffled[:count]
    kept.read(some)
    again, decoded = in_turn(some), in_turn(some - frames[0])
    record(
        lambda: race_cpu(
            "picture in the frame cache", "PyAV alone", lambda: kept.read([again()], out),
            lambda: plain.at(decoded()), 20, rounds, (count, count),
        )
    )  # fmt: skip


@needs_lerobot
def test_pictures_against_lerobot(record: Any, reader: Any, frames: np.ndarray, peer: Any, quick: bool) -> None:
    """lerobot's item, of which the picture is nearly all, against ours as float32 (C, H, W) in [0, 1]."""
    from iltools_datasets.lerobot import LeRobotDataset

    ours, theirs = LeRobotDataset("some/name", root=reader.root, cache=reader._cache), peer()
    shuffled = np.random.default_rng(1).permutation(frames)
    rounds, count = (3, 30) if quick else (5, 100)
    camera = reader.camera(CAMERA)
    out = np.empty((1, *camera.shape), np.uint8)
    for name, values, target in (("random picture", shuffled, 0.6), ("pictures in order", frames, 0.45)):
        raw, mine, other = in_turn(values), in_turn(values), in_turn(values)
        record(
            lambda name=name, raw=raw, other=other, target=target: race_cpu(
                f"{name}, uint8", "lerobot", lambda: camera.read([raw()], out), lambda: theirs[other()], target, rounds,
                (count, count), share=True,
            )
        )  # fmt: skip
        record(
            lambda name=name, mine=mine, other=other, target=target: race_cpu(
                f"{name}, whole item", "lerobot", lambda: ours[mine()], lambda: theirs[other()], target, rounds,
                (count, count), share=True,
            )
        )  # fmt: skip
    kept = reader.camera(CAMERA, frame_cache=1 << 30)
    some = shuffled[:count]
    kept.read(some)
    again, other = in_turn(some), in_turn(some)
    record(
        lambda: race_cpu(
            "picture in the frame cache", "lerobot", lambda: kept.read([again()], out), lambda: theirs[other()], 20,
            rounds, (count, count),
        )
    )  # fmt: skip
