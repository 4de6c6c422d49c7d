"""`iltools bench`: how fast a store is sampled on this machine."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table

from iltools_datasets import _core
from iltools_datasets._base.extras import missing_extra
from iltools_datasets.cli.output import AsJson, heading, human_bytes, human_count, out, print_json
from iltools_datasets.store.trajectory_store import TrajectoryStore

if TYPE_CHECKING:
    from iltools_datasets.replay.throughput import Throughput

_BATCH_SIZES = (256, 4096, 32768)


def bench(
    store: Annotated[
        Path | None, typer.Argument(help="A store. Without one, a synthetic one of 200 clips is made and removed.")
    ] = None,
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", min=1, help="Transitions (or envs) per batch; repeat it.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="How long to measure each line.")] = 1.0,
    plot: Annotated[Path | None, typer.Option(help="Also draw a picture there (png, svg, pdf).")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure every way of sampling a store, on this machine, now: medians, 99th percentiles, samples per second."""
    try:
        from iltools_datasets.replay.throughput import measure, synthetic_store
    except ImportError as error:
        raise missing_extra("torch", "iltools bench") from error
    if plot is not None:
        try:
            from iltools_datasets.cli.bench_picture import save_picture
            from iltools_datasets.cli.picture_path import checked_picture
        except ModuleNotFoundError as error:
            raise missing_extra("view", "a picture") from error
        plot = checked_picture(plot)

    if seconds != seconds:
        raise typer.BadParameter("nan is no time", param_hint="--seconds")
    sizes = batch_sizes or list(_BATCH_SIZES)
    found: list[Throughput] = []
    with tempfile.TemporaryDirectory(prefix="iltools-bench-") as scratch:
        opened = synthetic_store(Path(scratch) / "store") if store is None else TrajectoryStore.open(store)
        about = (
            f"{human_count(len(opened))} transitions, {human_count(opened.num_trajectories)} trajectories, "
            f"{human_bytes(opened.bytes_on_disk)}, {_core.num_threads()} threads"
        )
        console = out()
        if as_json:
            found.extend(measure(opened, sizes, seconds))
        else:
            console.print(heading(store or "a synthetic store", about), soft_wrap=True)
            with Live(_table(found), console=console, auto_refresh=False) as live:
                for line in measure(opened, sizes, seconds):
                    found.append(line)
                    live.update(_table(found), refresh=True)
    if plot is not None:
        save_picture(found, about, plot)
    if as_json:
        rows = [{**asdict(line), "rows_per_second": line.rows_per_second} for line in found]
        print_json({"store": None if store is None else str(store), "threads": _core.num_threads(), "rows": rows})


def _table(found: list[Throughput]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("mode")
    for name in ("batch", "wait p50", "p99", "transitions/s", "bytes/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in found:
        table.add_row(
            line.mode,
            f"{line.batch_size:,}",
            _micros(line.p50),
            _micros(line.p99),
            "" if line.rows_per_second is None else human_count(line.rows_per_second),
            "" if line.rows_per_second is None else human_bytes(line.bytes_per_batch / line.p50),
        )
    return table


def _micros(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs"
