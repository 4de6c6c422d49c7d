"""A picture of how fast a store is sampled; needs the extra `view`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from iltools_datasets.cli.output import human_count
from iltools_datasets.replay.throughput import MODES, Throughput


def save_picture(found: list[Throughput], about: str, path: Path) -> None:
    """Write waiting time and transitions per second over the batch size, a line per mode; the suffix picks the format.

    Raises OSError where the file cannot be written.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(about, fontsize=10)
    wait, rate = figure.subplots(1, 2)
    for mode in MODES:
        lines = [line for line in found if line.mode == mode]
        sizes = [line.batch_size for line in lines]
        (curve,) = wait.plot(sizes, [line.p50 * 1e6 for line in lines], "o-", label=mode)
        wait.fill_between(
            sizes,
            [line.p50 * 1e6 for line in lines],
            [line.p99 * 1e6 for line in lines],
            color=curve.get_color(),
            alpha=0.15,
            linewidth=0,
        )
        rates = [line.rows_per_second for line in lines]
        rate.plot(sizes, [float("nan") if value is None else value for value in rates], "o-", label=mode)
    wait.set_title("what a loop waits per batch: median to 99th percentile (µs)", fontsize=10)
    rate.set_title("transitions per second", fontsize=10)
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human_count(value)))
    for axes in (wait, rate):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("batch size (transitions, or envs)")
        axes.set_xticks(sorted({line.batch_size for line in found}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    wait.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=140)
