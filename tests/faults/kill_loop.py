"""Kill builds, at every call that changes the disk and at random moments, and look at what is there afterwards.

`make kill-loop`, or `python tests/faults/kill_loop.py --kills 1000`. Each round has a store of known content, a child
that replaces it and is killed with SIGKILL, and then: the old store or the new one, bit for bit; nothing for `verify`
to find; and after the next build, or after `repair`, nothing but one build in the directory.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fault_tools import Mode, arm, compile_failing_calls
from iltools_datasets import StoreBuilder, TrajectoryStore, repair_store, verify_store
from iltools_datasets.errors import StoreNotFoundError

_KILLS = (Mode.KILL_BEFORE, Mode.KILL_AFTER, Mode.KILL_TORN)


def clip(generation: int, number: int) -> dict[str, np.ndarray]:
    """Return arrays that tell the builds apart; sizes differ, so that old bytes under new lengths would be seen."""
    states = 20 + (generation * 7 + number * 3) % 50
    rng = np.random.default_rng([generation, number])
    return {
        "observation": rng.standard_normal((states, 5), dtype=np.float32),
        "action": rng.standard_normal((states - 1, 2), dtype=np.float32),
        "done": rng.random((states - 1, 1)) < 0.1,
    }


def build(path: Path, generation: int, *, overwrite: bool, adopted: bool = False) -> None:
    """Build the store of a generation, in its place or in a spool that is adopted."""
    with StoreBuilder(path, overwrite=overwrite, attributes={"generation": generation}) as target:
        builder = StoreBuilder(path / f"data-{uuid.uuid4()}") if adopted else target
        for number in range(4):
            arrays = clip(generation, number)
            builder.add(
                0,
                number,
                {"observation": arrays["observation"]},
                {"action": arrays["action"], ("next", "done"): arrays["done"]},
            )
        if adopted:
            builder.publish()
            target.adopt(builder.path)


def generation_of(path: Path) -> int | None:
    """Return which generation is there, None for no store; AssertionError for anything else."""
    try:
        store = TrajectoryStore.open(path)
    except StoreNotFoundError:
        return None
    generation = int(store.attributes["generation"])
    clips = [clip(generation, number) for number in range(4)]
    rows = store.gather(np.arange(len(store)))
    expected = {
        "observation": np.concatenate([arrays["observation"][:-1] for arrays in clips]),
        ("next", "observation"): np.concatenate([arrays["observation"][1:] for arrays in clips]),
        "action": np.concatenate([arrays["action"] for arrays in clips]),
        ("next", "done"): np.concatenate([arrays["done"] for arrays in clips]),
    }
    assert rows.keys() == expected.keys()
    for key, column in expected.items():
        np.testing.assert_array_equal(rows[key], column)
    assert verify_store(path) == []
    return generation


def assert_one_build(path: Path) -> None:
    """Check that a store directory holds one build and nothing besides."""
    store = TrajectoryStore.open(path)
    assert {entry.name for entry in path.iterdir()} == {"manifest.json", ".lock", store.data_dir.name}


def killed_at(path: Path, generation: int, at: int, mode: Mode, **kind: bool) -> str | None:
    """Build in a child that is killed at its `at`-th call; return the call's name, None if there is none so far on."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        arm(path, at, mode, report_fd=write_end)
        build(path, generation, **kind)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as report:
        name = report.read().strip()
    status = os.waitpid(child, 0)[1]
    assert status == (signal.SIGKILL if name else 0), f"child ended with {status} at {name}"
    return re.sub(r"data-[0-9a-f-]{36}", "data-*", name) if name else None


def killed_after(path: Path, generation: int, seconds: float, **kind: bool) -> str:
    """Build in a child that is killed at a moment of its own."""
    child = os.fork()
    if child == 0:
        build(path, generation, **kind)
        os._exit(0)
    handle = os.pidfd_open(child)
    finished = select.select([handle], [], [], seconds)[0]
    os.close(handle)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "random: after the build" if finished else "random: during the build"


def run(
    kills: int, seed: int, directory: Path, *, adopted: bool = False, modes: Sequence[Mode] = _KILLS
) -> Counter[tuple[str, str]]:
    """Kill that many builds; return how often each point left the old store, the new one, or none.

    First those of one kind (`adopted` or not) over an older store, then where there is none, then the other kind.
    """
    chooser = random.Random(seed)
    found: Counter[tuple[str, str]] = Counter()
    path = directory / "store"
    for _ in range(2):  # the first one also pays for what is loaded on first use
        begin = time.monotonic()
        build(path, 0, overwrite=True)
        usual_seconds = time.monotonic() - begin
    generation, at, mode, overwrite = 0, 1, 0, True
    while found.total() < kills:
        is_random = found.total() % 4 == 3
        old = generation if overwrite or is_random else None
        if old is None:
            shutil.rmtree(path)
        if is_random:
            moment = chooser.random() * 1.2 * usual_seconds
            name = killed_after(path, generation + 1, moment, overwrite=True, adopted=adopted)
        else:
            name = killed_at(path, generation + 1, at, modes[mode], overwrite=overwrite, adopted=adopted)
            kind = "first " * (not overwrite) + "adopted " * adopted
            name = name and kind + name
            mode = (mode + 1) % len(modes)
            at += mode == 0
            if name is None:
                # That build had no more calls and went through: again from the first, with the other kind of build.
                at, mode, overwrite = 1, 0, not overwrite
                adopted = adopted != overwrite
        there = generation_of(path)
        assert there in (old, generation + 1), f"{name}: found {there}, expected {old} or {generation + 1}"
        if name is not None:
            found[name, "none" if there is None else "new" if there == generation + 1 else "old"] += 1
        if found.total() % 2 and there is not None:
            repair_store(path)
            assert_one_build(path)
            assert generation_of(path) == there
        generation += 2
        build(path, generation, overwrite=there is not None)
        assert generation_of(path) == generation
        assert_one_build(path)
    return found


def main() -> None:
    """Kill builds and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if "failing_calls" not in os.environ.get("LD_PRELOAD", ""):
        with tempfile.TemporaryDirectory() as directory:
            os.environ["LD_PRELOAD"] = str(compile_failing_calls(Path(directory)))
            child = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, *sys.argv])
        sys.exit(child)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        found = run(arguments.kills, arguments.seed, Path(directory) / "place")
    names = dict.fromkeys(name for name, _ in found)
    print(f"{'killed at':70} {'old':>5} {'new':>5} {'none':>5}")
    for name in names:
        print(f"{name:70} {found[name, 'old']:5} {found[name, 'new']:5} {found[name, 'none']:5}")
    total = sum(found.values())
    seconds = time.monotonic() - begin
    print(f"{total} kills, {len(names)} points, {seconds:.0f} s: never anything but the old or the new store")


if __name__ == "__main__":
    main()
