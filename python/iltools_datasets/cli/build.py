"""`iltools build`: from an archive to a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from iltools_datasets.cli.opened import open_archive
from iltools_datasets.cli.output import AsJson, err, facts, heading, human_bytes, out, print_json
from iltools_datasets.ingest.default_keys import default_obs_keys
from iltools_datasets.ingest.from_archive import build_store


def build(
    archive: Annotated[str, typer.Argument(help="The Zarr archive: a path, or a URL of an object store.")],
    store: Annotated[Path, typer.Option("--out", help="Directory of the store.")],
    obs_keys: Annotated[
        list[str] | None,
        typer.Option(help="What makes up the observation; repeat it. By default qpos and qvel, else every float key."),
    ] = None,
    act_key: Annotated[str | None, typer.Option(help="The action. By default action or actions.")] = None,
    exclude_keys: Annotated[list[str] | None, typer.Option(help="Leave this key out; repeat it.")] = None,
    float_dtype: Annotated[str, typer.Option(help="What wider floats become; 'keep' leaves them alone.")] = "float32",
    strict: Annotated[bool, typer.Option(help="Whether a clip without a required key is an error or left out.")] = True,
    keep_nan: Annotated[bool, typer.Option("--keep-nan", help="Store NaN instead of refusing it.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build a store from an archive: what training samples from."""
    with open_archive(archive) as reader:
        keys = obs_keys or default_obs_keys(reader)
    path, report = build_store(
        archive,
        store,
        keys,
        act_key=act_key,
        strict=strict,
        float_dtype=None if float_dtype == "keep" else float_dtype,
        on_nan="keep" if keep_nan else "error",
        exclude_keys=exclude_keys or (),
        overwrite=overwrite,
        progress=False if as_json else None,
    )
    if as_json:
        print_json(report.as_dict())
        return
    console = out()
    console.print(heading(path, f"store, built in {report.seconds:.1f} s"), soft_wrap=True)
    console.print(
        facts(
            ("clips", f"{report.num_trajectories:,} of {report.num_tasks:,} tasks"),
            ("transitions", f"{report.num_transitions:,}"),
            ("on disk", human_bytes(report.bytes_on_disk)),
            ("observation", ", ".join(keys)),
            ("keys", ", ".join(report.keys)),
        )
    )
    for line in report.remarks():
        err().print(Text(line, style="warn"))
