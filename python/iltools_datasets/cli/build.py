"""`iltools build`: from an archive to a store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from iltools_datasets.cli.opened import is_lerobot, open_archive
from iltools_datasets.cli.output import AsJson, err, facts, heading, human_bytes, out, print_json
from iltools_datasets.ingest.add_clips import add_clips
from iltools_datasets.ingest.choice import Choice
from iltools_datasets.ingest.from_archive import build_store


def build(
    archives: Annotated[
        list[str],
        typer.Argument(
            help="The Zarr archive (a path, or a URL of an object store), several of them, or a LeRobot set.",
            metavar="ARCHIVE...",
        ),
    ],
    store: Annotated[Path, typer.Option("--out", help="Directory of the store.")],
    obs_keys: Annotated[
        list[str] | None,
        typer.Option(help="What makes up the observation; repeat it. By default qpos and qvel, else every float key."),
    ] = None,
    act_key: Annotated[str | None, typer.Option(help="The action. By default action or actions.")] = None,
    exclude_keys: Annotated[list[str] | None, typer.Option(help="Leave this key out; repeat it.")] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            help="Take the clips that are called so, such as 'lafan/walk*'; with ! in front leave them out; repeat it.",
            metavar="GLOB",
        ),
    ] = None,
    min_states: Annotated[int, typer.Option(min=1, help="Leave out shorter clips.", metavar="N")] = 1,
    max_states: Annotated[int | None, typer.Option(min=1, help="Leave out longer clips.", metavar="N")] = None,
    healthy: Annotated[
        bool, typer.Option("--healthy", help="Leave out clips in which iltools doctor finds something.")
    ] = False,
    float_dtype: Annotated[str, typer.Option(help="What wider floats become; 'keep' leaves them alone.")] = "float32",
    strict: Annotated[bool, typer.Option(help="Whether a clip without a required key is an error or left out.")] = True,
    keep_nan: Annotated[bool, typer.Option("--keep-nan", help="Store NaN instead of refusing it.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that is there.")] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Add the clips to the store that is there, by the options it was built by.")
    ] = False,
    skip_present: Annotated[
        bool, typer.Option("--skip-present", help="With --add, leave out clips of names that the store has.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build a store from an archive: what training samples from."""
    choice = Choice(tuple(select or ()), min_states, max_states, healthy)
    own = {"--obs-keys": obs_keys, "--act-key": act_key, "--exclude-keys": exclude_keys, "--keep-nan": keep_nan}
    own |= {"--overwrite": overwrite, "--no-strict": not strict, "--float-dtype": float_dtype != "float32"}
    if add and (given := [name for name, value in own.items() if value]):
        raise typer.BadParameter(f"--add goes by what the store was built by; leave out {', '.join(given)}")
    if skip_present and not add:
        raise typer.BadParameter("--skip-present goes with --add")
    if any(is_lerobot(archive) for archive in archives):
        if len(archives) > 1 or choice != Choice() or add:
            raise typer.BadParameter("a LeRobot set is built alone, whole and at once", param_hint="ARCHIVE")
        _of_lerobot(archives[0], store, obs_keys, act_key, exclude_keys, float_dtype, keep_nan, overwrite, as_json)
        return
    for archive in archives:
        open_archive(archive).close()  # or the message says what else it is
    progress = False if as_json else None
    if add:
        path, report = add_clips(archives, store, select=choice, skip_present=skip_present, progress=progress)
    else:
        path, report = build_store(
            archives,
            store,
            obs_keys,
            act_key=act_key,
            strict=strict,
            float_dtype=None if float_dtype == "keep" else float_dtype,
            on_nan="keep" if keep_nan else "error",
            exclude_keys=exclude_keys or (),
            overwrite=overwrite,
            progress=progress,
            select=choice,
        )
    if as_json:
        print_json(report.as_dict())
        return
    console = out()
    console.print(heading(path, f"store, {'added to' if add else 'built'} in {report.seconds:.1f} s"), soft_wrap=True)
    console.print(
        facts(
            ("clips", f"{report.num_trajectories:,} of {report.num_tasks:,} tasks"),
            ("transitions", f"{report.num_transitions:,}"),
            ("on disk", human_bytes(report.bytes_on_disk)),
            ("observation", ", ".join(report.obs_keys)),
            ("keys", ", ".join(report.keys)),
        )
    )
    for line in report.remarks():
        err().print(Text(line, style="warn"))


def _of_lerobot(
    path: str,
    place: Path,
    obs_keys: list[str] | None,
    act_key: str | None,
    exclude_keys: list[str] | None,
    float_dtype: str,
    keep_nan: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    from iltools_datasets.lerobot.build import build_lerobot

    if float_dtype != "float32":
        raise typer.BadParameter("a LeRobot set is stored as float32", param_hint="--float-dtype")
    begin = time.perf_counter()
    store = build_lerobot(
        path,
        place,
        obs_keys=obs_keys or (),
        act_key=act_key,
        exclude_keys=exclude_keys or (),
        on_nan="keep" if keep_nan else "error",
        overwrite=overwrite,
    )
    seconds = time.perf_counter() - begin
    keys = [key for key in store.keys if isinstance(key, str)]
    notes = store.attributes["lerobot"]["notes"]
    if as_json:
        print_json(
            {
                "path": str(place),
                "num_trajectories": store.num_trajectories,
                "num_transitions": len(store),
                "bytes_on_disk": store.bytes_on_disk,
                "seconds": seconds,
                "keys": keys,
                "notes": notes,
            }
        )
        return
    console = out()
    console.print(heading(place, f"store, built in {seconds:.1f} s"), soft_wrap=True)
    console.print(
        facts(
            ("episodes", f"{store.num_trajectories:,}"),
            ("transitions", f"{len(store):,}, one for each frame"),
            ("on disk", human_bytes(store.bytes_on_disk)),
            ("keys", ", ".join(keys)),
        )
    )
    for note in notes:
        err().print(Text(note, style="warn"))
