"""`iltools demo`: everything this package does, on a terminal, in under a minute."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.cli.curves import Curve, draw_curves, draw_with_scale
from iltools_datasets.cli.output import EXIT_FOUND, AsJson, facts, human_bytes, human_count, out, print_json

if TYPE_CHECKING:
    from iltools_datasets.demo.events import Built, Collected, Event, Recorded, Sampled, Tracked, Trained

_CHART_WIDTH, _CHART_HEIGHT = 64, 7


def demo(
    zarr: Annotated[
        Path | None, typer.Option(help="Do it with this archive instead of a simulated expert, without the roll-out.")
    ] = None,
    obs_keys: Annotated[
        list[str] | None, typer.Option(help="With --zarr: what to observe; repeat it for several keys.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Leave the archive and the store in this new or empty directory.")
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Collect an expert into a store while another process trains on it.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the starts, the pushes, the data order and the network.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate an expert, archive it, build a store, sample it, clone it, compare.

    Exits with 1 if the cloned policy does not stay close to its expert, or something that was collected is lost.
    """
    try:
        from iltools_datasets.demo import run
    except ModuleNotFoundError as error:
        raise missing_extra("torch", "iltools demo") from error
    if obs_keys and zarr is None:
        raise typer.BadParameter("--obs-keys goes with --zarr: the simulated expert has its own")
    if collect and zarr is not None:
        raise typer.BadParameter("--collect simulates its own expert: leave --zarr out")
    with _workplace(keep) as workdir:
        if collect:
            from iltools_datasets.demo.collecting import demo_collecting

            events = demo_collecting(workdir, seed)
        elif zarr is None:
            events = run.demo_on_cartpole(workdir, seed)
        else:
            events = run.demo_on_archive(zarr, workdir, obs_keys, seed)
        passed = _collect(events) if as_json else _present(events, out(), zarr, keep)
    if not passed:
        raise typer.Exit(EXIT_FOUND)


@contextmanager
def _workplace(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="iltools-demo-") as directory:
            yield Path(directory)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise typer.BadParameter(f"{keep} is not empty", param_hint="--keep")
    yield keep


def _collect(events: Iterator[Event]) -> bool:
    from iltools_datasets.demo.events import Begun, Collected, Tracked, TrainingStep

    document: dict[str, Any] = {}
    passed = True
    for event in events:
        if isinstance(event, Begun | TrainingStep):
            continue
        document[type(event).__name__.lower()] = _plain(asdict(event))
        if isinstance(event, Collected | Tracked):
            passed = document["passed"] = passed and event.passed
    print_json(document)
    return passed


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _present(events: Iterator[Event], console: Console, zarr: Path | None, keep: Path | None) -> bool:
    from iltools_datasets.demo.events import Begun, Built, Collected, Recorded, Sampled, Tracked, Trained, TrainingStep

    started = time.perf_counter()
    subject = "a cart-pole expert" if zarr is None else str(zarr)
    console.print(Text.assemble(("iltools demo", "head"), ("  from ", "dim"), subject, (" to a cloned policy", "dim")))
    console.print()
    passed = True
    with console.status("starting", spinner="dots") as status:
        for event in events:
            match event:
                case Begun():
                    status.update(event.title)
                case TrainingStep():
                    status.update(f"cloning: step {event.step:,} of {event.total:,}, loss {event.loss:.2g}")
                case Recorded():
                    _stage(console, "recorded", event.seconds, _recorded(event))
                case Built():
                    _stage(console, "built", event.report.seconds, _built(event))
                case Sampled():
                    _stage(console, "sampled", None, _rates(event))
                case Trained():
                    _stage(console, "cloned", event.seconds, _trained(event, _chart_width(console)))
                case Collected():
                    passed = event.passed
                    _stage(console, "collected", None, _collected(event), passed)
                case Tracked():
                    passed = passed and event.passed
                    _stage(console, "compared", None, _tracked(event, _chart_width(console)), event.passed)
    if keep is not None:
        console.print(Text.assemble(("kept in ", "dim"), str(keep)), soft_wrap=True)
    console.print(Text(f"{time.perf_counter() - started:.0f} s altogether", style="dim"))
    return passed


def _stage(console: Console, title: str, seconds: float | None, content: RenderableType, good: bool = True) -> None:
    heading = Text.assemble(("✓ ", "good") if good else ("✗ ", "bad"), (title, "head"))
    if seconds is not None:
        heading.append(f"  {seconds:.1f} s", style="dim")
    console.print(heading)
    console.print(Padding(content, (0, 0, 1, 2), expand=False))


def _collected(event: Collected) -> Table:
    kept = f"of {event.rows_said:,} rows that were recorded, {min(event.rows_found, event.rows_said):,} are there"
    growth = ", ".join(f"{count:,}" for count in event.growth[:8])
    more = f", ... {event.growth[-1]:,}" if len(event.growth) > 8 else ""
    return facts(
        ("killed", f"{kept}; another collector went on with {event.rows_found:,}"),
        ("trained on", f"{growth}{more} trajectories, as they came"),
        (
            "store",
            f"{event.num_transitions:,} transitions, {event.row_bytes:.0f} bytes each, "
            f"{'finished' if event.is_finished else 'not finished'}, {event.damages or 'nothing'} damaged",
        ),
    )


def _recorded(event: Recorded) -> Table:
    return facts(
        (
            "clips",
            f"{event.num_clips} of {event.shortest} to {event.longest} states, {event.motion_seconds / 60:.1f} min",
        ),
        ("archive", f"{human_bytes(event.archive_bytes)} of Zarr for {human_bytes(event.array_bytes)} of arrays"),
    )


def _built(event: Built) -> Table:
    report = event.report
    stored, raw = human_bytes(report.bytes_on_disk), human_bytes(event.array_bytes)
    rows: list[tuple[str, RenderableType]] = [
        (
            "store",
            f"{report.num_transitions:,} transitions of {report.num_trajectories:,} clips, "
            f"{report.num_tasks} task{'s' if report.num_tasks > 1 else ''}",
        ),
        ("on disk", f"{stored} for {raw} of arrays: no state is stored twice"),
    ]
    if report.skipped:
        rows.append(
            (
                "left out",
                f"{len(report.skipped)} clips, the first: {report.skipped[0].name}: {report.skipped[0].reason}",
            )
        )
    return facts(*rows)


def _rates(event: Sampled) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("mode", overflow="fold")
    table.add_column("batch", justify="right")
    table.add_column("transitions/s", justify="right", style="number")
    for rate in event.rates:
        table.add_row(rate.mode, " x ".join(map(str, rate.batch_shape)), human_count(rate.transitions_per_second))
    return table


def _trained(event: Trained, width: int) -> Group:
    text = f"predicts {event.target} from observation; {human_count(event.num_transitions)} transitions seen"
    curve = Curve(np.log10(np.asarray(event.curve)), "number")
    return Group(
        facts(
            ("network", text),
            ("loss", f"{event.first_loss:.2g} → {event.last_loss:.2g} of the variance left unexplained"),
        ),
        *draw_curves([curve], width, 3),
        Text(f"loss over {len(event.curve)} stretches, logarithmic", style="dim"),
    )


def _tracked(event: Tracked, width: int) -> Group:
    tracking = event.tracking
    verdict = facts(
        ("starts", f"{tracking.num_starts} unseen ones, pole at any angle, {tracking.seconds:.0f} s each"),
        (
            "pole angle",
            f"RMS error {tracking.median_degrees:.2f}° in the median start, {tracking.p95_degrees:.2f}° in the 95th "
            f"percentile (bound {event.limit_degrees:g}°), {tracking.worst_degrees:.1f}° in the worst",
        ),
        (
            "upright",
            f"{tracking.upright_share:.0%} within 10° for the whole last second "
            f"(bound {event.limit_upright_share:.0%})",
        ),
    )
    expert = Curve(tracking.expert_degrees, "number", dotted=True)
    policy = Curve(tracking.policy_degrees, "warn")
    legend = Text.assemble(("⠿⠿ ", "warn"), ("policy  ", "dim"), ("⠇⠇ ", "number"), ("expert", "dim"))
    legend.append("  pole angle over time, median hanging start", style="dim")
    return Group(verdict, *draw_with_scale([policy, expert], width, _CHART_HEIGHT, "°"), legend)


def _chart_width(console: Console) -> int:
    return max(16, min(_CHART_WIDTH, console.width - 4))
