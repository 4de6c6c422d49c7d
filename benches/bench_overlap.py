"""How much of the host's work for a window a jitted step hides, and what the way from the gather to the device costs.

`python benches/bench_overlap.py` prints a table and JSON. Under pytest it runs itself in a process of its own, in which
XLA has one core to itself: with a compute that takes both, there would be nothing left to overlap with.

E = (h + c - t) / (h + c - max(h, c)), with h the host's time for a window, c the step's, and t the time per step of the
loop: 1 is ideal, 0 is serial. h and c are measured alone, each in turn with the loops. Every window's rows are checked
in the same run.

Where another program keeps a core busy, the scheduler leaves threads that wake each other on one core, and nothing can
overlap.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ENVS, WINDOW = 1024, 32
WIDTHS = {"qpos": 61, "qvel": 54}
CLIP = 1000
RATIOS = (0.5, 1.0, 2.0)
VARIANTS = ("serial", "asynchronous", "threaded")


def build(path: Path, num_clips: int) -> Any:
    """A store whose `qpos[..., 0]` is the number of the row."""
    from iltools_datasets import StoreBuilder, TrajectoryStore

    if not (path / "manifest.json").exists():
        rng = np.random.default_rng(0)
        with StoreBuilder(path) as builder:
            for k in range(num_clips):
                states = {key: rng.standard_normal((CLIP + 1, width), np.float32) for key, width in WIDTHS.items()}
                states["qpos"][:, 0] = np.arange(k * CLIP, (k + 1) * CLIP + 1)
                builder.add(0, k, states=states)
    return TrajectoryStore.open(path)


class Envs:
    """Where the envs begin, and which rows they should see in window n."""

    def __init__(self, store: Any) -> None:
        rng = np.random.default_rng(1)
        self.traj = rng.integers(0, store.num_trajectories, ENVS)
        self.step = rng.integers(0, CLIP, ENVS)
        self.store = store

    def source(self, num_threads: int | None = None) -> Any:
        from iltools_datasets.windows.source import WindowSource

        return WindowSource(self.store, list(WIDTHS), WINDOW, self.traj, self.step, num_threads=num_threads)

    def rows(self, n: int) -> np.ndarray:
        return self.traj[:, None] * CLIP + (self.step[:, None] + n * WINDOW + np.arange(WINDOW)) % CLIP


class Loop:
    """One way of getting windows to a step, with the row numbers that its steps have seen."""

    def __init__(
        self,
        envs: Envs,
        step: Callable[[Any], Any],
        next_window: Callable[[], Any],
        blocks: bool,
    ) -> None:
        self.envs, self.step, self.next_window, self.blocks = envs, step, next_window, blocks
        self.count = 0

    def run(self, num_steps: int) -> tuple[float, float]:
        """Seconds per step, and those of them spent on getting the window.

        An asynchronous loop waits for the step before the one that it has just begun.
        """
        import jax

        seen, before, getting = [], None, 0.0
        began = time.perf_counter()
        for _ in range(num_steps):
            asked = time.perf_counter()
            window = self.next_window()
            getting += time.perf_counter() - asked
            out = self.step(window)
            del window
            jax.block_until_ready(out if self.blocks else before)
            before = out
            seen.append(out[1])
        jax.block_until_ready(before)
        spent = (time.perf_counter() - began) / num_steps
        for n, rows in enumerate(seen, self.count):
            if not np.array_equal(rows, self.envs.rows(n)):
                raise AssertionError(f"window {n} is wrong")
        self.count += num_steps
        return spent, getting / num_steps


def overlap(envs: Envs, rounds: int, num_steps: int) -> list[dict[str, Any]]:
    import jax
    import jax.numpy as jnp
    from iltools_datasets.jax_stream import DoubleBufferStreamer

    @jax.jit
    def step(window: dict[str, Any], turns: Any) -> tuple[Any, Any]:
        product = jax.lax.fori_loop(0, turns, lambda _, product: product @ matrix, matrix)
        return product, window["qpos"][:, :, 0]

    def alone(call: Callable[[], Any], count: int, num_kept: int = 0) -> float:
        kept: deque[Any] = deque(maxlen=num_kept)
        began = time.perf_counter()
        for _ in range(count):
            kept.append(jax.block_until_ready(call()))
        return (time.perf_counter() - began) / count

    def fetcher(blocks: bool) -> Callable[[], Any]:
        source = envs.source(num_threads=1)

        def fetch() -> Any:
            window = jax.device_put(source())
            return jax.block_until_ready(window) if blocks else window

        return fetch

    fetch = fetcher(blocks=True)
    matrix = jnp.eye(48) * 0.99
    # Several, so that the step alone finds its window in no nearer a cache than in the loop.
    windows = itertools.cycle([fetch() for _ in range(8)])
    alone(fetch, 20)
    alone(lambda: step(next(windows), 100), 5)
    results = []
    for ratio in RATIOS:
        host = statistics.median(alone(fetch, num_steps) for _ in range(5))
        base, slope = (
            statistics.median(alone(lambda n=n: step(next(windows), n), 20) for _ in range(5)) for n in (0, 500)
        )
        turns = max(1, round((host / ratio - base) / ((slope - base) / 500)))
        taken = lambda window, turns=turns: step(window, turns)  # noqa: E731
        with DoubleBufferStreamer(envs.source(num_threads=1)) as streamer:
            loops = {
                "serial": Loop(envs, taken, fetcher(blocks=True), True),
                "asynchronous": Loop(envs, taken, fetcher(blocks=False), False),
                "threaded": Loop(envs, taken, streamer.next_window, False),
            }
            times: dict[str, list[float]] = {name: [] for name in VARIANTS}
            hosts, computes, waits = [], [], []
            for _ in range(rounds):
                hosts.append(alone(fetch, num_steps))
                # What the steps return is kept, as the loops do: that takes fresh memory.
                computes.append(alone(lambda turns=turns: step(next(windows), turns), num_steps, num_kept=num_steps))
                for name in VARIANTS:
                    loops[name].run(4)  # past what had been made ahead in the meantime
                    spent, getting = loops[name].run(num_steps)
                    times[name].append(spent)
                    if name == "threaded":
                        waits.append(getting / spent)
        for name in VARIANTS:
            efficiency = [(h + c - t) / min(h, c) for h, c, t in zip(hosts, computes, times[name], strict=True)]
            results.append(
                {
                    "h/c": ratio,
                    "variant": name,
                    "h_ms": spread(hosts, 1e3),
                    "c_ms": spread(computes, 1e3),
                    "t_ms": spread(times[name], 1e3),
                    "E": spread(efficiency),
                    "wait_share": spread(waits) if name == "threaded" else None,
                }
            )
    return results


def to_the_device(envs: Envs, rounds: int, num_steps: int, num_threads: int | None) -> dict[str, Any]:
    """Time of a window through source and put, as the streamer's thread does it, over the native gather alone.

    With several threads the gather alone finds its helper still spinning; after a put, it has gone to sleep.
    """
    import jax
    from iltools_datasets.jax.placement import Placement

    store, placement = envs.store, Placement()
    fields = store.field_ids(list(WIDTHS))
    rows = [envs.rows(n).reshape(-1) for n in range(num_steps)]
    ratios, gathers, windows = [], [], []
    for turn in range(rounds + 1):
        source = envs.source(num_threads)
        alone, whole = [], []
        for index in rows:
            began = time.perf_counter()
            store.core.gather(fields, index, None, num_threads)
            alone.append(time.perf_counter() - began)
        for _ in rows:
            began = time.perf_counter()
            window = source()
            on_device = jax.block_until_ready(placement.put(list(window), list(window.values()), leased=True))
            whole.append(time.perf_counter() - began)
        if not np.array_equal(np.asarray(on_device[0][:, :, 0]).reshape(-1), rows[-1]):
            raise AssertionError("wrong window")
        if turn:
            gathers.append(statistics.median(alone))
            windows.append(statistics.median(whole))
            ratios.append(windows[-1] / gathers[-1])
    return {"ratio": spread(ratios), "gather_ms": spread(gathers, 1e3), "window_ms": spread(windows, 1e3)}


def spread(values: list[float], scale: float = 1.0) -> list[float]:
    """Median, least, greatest."""
    return [round(scale * value, 4) for value in (statistics.median(values), min(values), max(values))]


def show(found: dict[str, Any]) -> str:
    lines = [f"{'h/c':>4} {'variant':<13} {'h ms':>16} {'c ms':>16} {'t ms':>16} {'E':>18} {'wait / step':>18}"]
    for row in found["overlap"]:
        cells = [ranged(row[key]) for key in ("h_ms", "c_ms", "t_ms", "E", "wait_share")]
        lines.append(f"{row['h/c']:>4} {row['variant']:<13} {cells[0]:>16} {cells[1]:>16} {cells[2]:>16} "
                     f"{cells[3]:>18} {cells[4]:>18}")  # fmt: skip
    for threads, put in found["to_the_device"].items():
        lines.append(
            f"\n{ENVS} x {WINDOW} x {sum(WIDTHS.values())} f32, {threads}: "
            f"source and put {ranged(put['window_ms'])} ms, "
            f"gather alone {ranged(put['gather_ms'])} ms: ratio {ranged(put['ratio'])}"
        )
    return "\n".join(lines)


def ranged(values: list[float] | None) -> str:
    return "" if values is None else f"{values[0]:.2f} ({values[1]:.2f}-{values[2]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(".benchmarks/data/full"))
    parser.add_argument("--clips", type=int, default=400, help=f"clips of {CLIP} transitions")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60, help="steps per round")
    parser.add_argument("--json", action="store_true", help="JSON alone")
    arguments = parser.parse_args()
    os.environ["NPROC"] = "1"  # read by XLA once: threads of its CPU backend
    import jax

    envs = Envs(build(arguments.data / "windows", arguments.clips))
    found: dict[str, Any] = {
        "to_the_device": {
            name: to_the_device(envs, arguments.rounds, 31, num_threads)
            for name, num_threads in (("one thread", 1), ("all threads", None))
        },
        "overlap": overlap(envs, arguments.rounds, arguments.steps),
        "load": os.getloadavg()[0],
        "jax": jax.__version__,
    }
    if not arguments.json:
        print(show(found), end="\n\n")
    print(json.dumps(found))


def test_overlap(record: Any, quick: bool, data_dir: Path) -> None:
    import pytest
    from race import Row

    pytest.importorskip("jax", reason="needs the jax extra")
    command = [sys.executable, __file__, "--json", "--data", str(data_dir), *(["--clips", "100"] if quick else [])]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for row in found["overlap"]:
        if row["variant"] == "threaded":
            peer = next(r for r in found["overlap"] if r["h/c"] == row["h/c"] and r["variant"] == "asynchronous")
            ours, theirs = (f"{r['t_ms'][0]:.3g} ms" for r in (row, peer))
            name = "JAX: overlap E, threaded; peer: asynchronous"
            # Not gated: it needs a core each for the step and the host, which a shared machine does not promise.
            record(Row(name, f"h/c {row['h/c']}", ours, theirs, *row["E"], 0.9, ""), gated=False)
    for threads, put in found["to_the_device"].items():
        ours, theirs = (f"{put[key][0]:.3g} ms" for key in ("window_ms", "gather_ms"))
        name = f"JAX: {ENVS} x {WINDOW} x 115 f32 to the device / the gather alone"
        record(Row(name, threads, ours, theirs, *put["ratio"], 1.25, "", False), gated=False)


if __name__ == "__main__":
    main()
