"""`iltools view`: a picture of what an archive or a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from iltools_datasets._base.extras import missing_extra
from iltools_datasets.cli.curves import Curve, draw_with_scale, value_range
from iltools_datasets.cli.looked_at import Opened
from iltools_datasets.cli.opened import find_clip, open_path
from iltools_datasets.cli.opened_lerobot import OpenedLeRobot
from iltools_datasets.cli.output import AsJson, err, heading, out, print_json
from iltools_datasets.cli.overlay import chosen_clips, draw_overlay, scenes_of
from iltools_datasets.cli.scene import Scene, scene_of

_CURVE_HEIGHT = 3
_BAR_WIDTH = 32
_FEW_CLIPS = 5
_OF_A_CLIP = ("clip", "num_states", "columns")


def view(
    path: Annotated[str, typer.Argument(help="An archive, a store or a LeRobot set.")],
    picture: Annotated[
        Path | None, typer.Option("--out", help="Write a picture there (png, svg, pdf) instead of drawing here.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="The clip: <task>/<name>, a name, or a number. By default the longest.")
    ] = None,
    clips: Annotated[
        str | None,
        typer.Option(help="Several clips on common axes, with commas between them.", metavar="CLIP,CLIP,..."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The array whose columns are drawn. By default the positions.")
    ] = None,
    coverage: Annotated[
        Path | None,
        typer.Option(help="A motion sampler's saved state: draw what it saw of the store, by clip and bin, instead."),
    ] = None,
    in_space: Annotated[
        Path | None,
        typer.Option(
            "--3d", help="Write the bodies of the clip, moving, there: a page (html) or a recording of rerun (rrd)."
        ),
    ] = None,
    mjcf: Annotated[
        Path | None,
        typer.Option(
            help="With --3d: the robot's MuJoCo model. It says what hangs together, and makes bodies of joints."
        ),
    ] = None,
    most: Annotated[
        int, typer.Option(min=0, help="Columns (or clips, of a coverage) to draw in the terminal; 0 draws all.")
    ] = 6,
    as_json: AsJson = False,
) -> None:
    """Draw a clip's curves and root path, what its cameras saw, how long all clips are; or its bodies in space."""
    _refuse_what_does_not_go_together(picture, clip, clips, key, coverage, in_space, mjcf)
    if in_space is not None:
        from iltools_datasets.cli.in_space import checked_place, show_in_space

        in_space = checked_place(in_space)
        opened = open_path(path)
        show_in_space(opened, _positions(opened, clip, clips), in_space, mjcf, as_json)
        return
    if picture is not None:
        try:
            from iltools_datasets.cli.picture import save_overlay, save_picture
            from iltools_datasets.cli.picture_path import checked_picture
        except ModuleNotFoundError as error:
            raise missing_extra("view", "a picture") from error
        picture = checked_picture(picture)
    if coverage is not None:
        _coverage(path, coverage, picture, most, as_json)
        return
    opened = open_path(path)
    if clips is not None:
        scenes = scenes_of(opened, chosen_clips(opened, clips), key)
        if picture is not None:
            save_overlay(scenes, picture)
        if as_json:
            documents = [_document(scene, picture) for scene in scenes]
            print_json(
                {
                    **{name: told for name, told in documents[0].items() if name not in _OF_A_CLIP},
                    "clips": [{name: one[name] for name in _OF_A_CLIP} for one in documents],
                }
            )
        elif picture is not None:
            out().print(heading(picture, f"{len(scenes)} clips, {scenes[0].key}"), soft_wrap=True)
        else:
            draw_overlay(scenes, out(), most)
        return
    scene = scene_of(opened, _positions(opened, clip, None)[0], key, with_pictures=picture is not None)
    if picture is not None:
        save_picture(scene, picture)
        for note in scene.notes:
            err().print(Text(note, style="warn"), soft_wrap=True)
    if as_json:
        print_json(_document(scene, picture))
    elif picture is not None:
        out().print(heading(picture, f"{scene.clip.path}, {scene.key}"), soft_wrap=True)
    else:
        _draw(scene, out(), most)


def _coverage(path: str, state: Path, picture: Path | None, most: int, as_json: bool) -> None:
    from iltools_datasets.cli.coverage import coverage_document, draw_clips, print_facts, read_coverage

    seen = read_coverage(path, state)
    if picture is not None:
        from iltools_datasets.cli.coverage_picture import save_coverage_picture

        save_coverage_picture(seen, f"coverage of {Path(path).name}  ({state.name})", picture)
    if as_json:
        print_json({**coverage_document(path, state, seen), "picture": None if picture is None else str(picture)})
    elif picture is not None:
        out().print(heading(picture, f"coverage of {state.name}"), soft_wrap=True)
    else:
        print_facts(path, state, seen, out())
        draw_clips(seen, out(), most)


def _positions(opened: Opened, clip: str | None, clips: str | None) -> list[int]:
    """Return the positions of the clips that are wanted; by default the longest, of a LeRobot set one with pictures."""
    if clips is not None:
        return chosen_clips(opened, clips)
    if clip is None and isinstance(opened, OpenedLeRobot):
        return [opened.longest_with_pictures()]
    return [find_clip(opened, clip)]


def _refuse_what_does_not_go_together(
    picture: Path | None,
    clip: str | None,
    clips: str | None,
    key: str | None,
    coverage: Path | None,
    in_space: Path | None,
    mjcf: Path | None,
) -> None:
    if mjcf is not None and in_space is None:
        raise typer.BadParameter("it goes with --3d", param_hint="--mjcf")
    others = {"--out": picture, "--key": key, "--coverage": coverage}
    if in_space is not None and (given := [name for name, value in others.items() if value is not None]):
        raise typer.BadParameter(f"it does not go with {given[0]}", param_hint="--3d")
    if clips is not None and (clip is not None or coverage is not None):
        raise typer.BadParameter(
            f"it does not go with {'--coverage' if clip is None else '--clip'}", param_hint="--clips"
        )


def _document(scene: Scene, picture: Path | None) -> dict[str, Any]:
    return {
        "path": str(scene.path),
        "clip": scene.clip.path,
        "num_states": scene.clip.num_states,
        "key": scene.key,
        "columns": [
            dict(zip(("name", "least", "greatest"), (name, *value_range([column])), strict=True))
            for name, column in zip(scene.names, scene.values.T, strict=True)
        ],
        "clip_lengths": scene.lengths.tolist(),
        "picture": None if picture is None else str(picture),
    }


def _draw(scene: Scene, console: Console, most: int) -> None:
    clip = scene.clip
    duration = f", {clip.num_states / clip.fps:.1f} s" if clip.fps else ""
    console.print(heading(scene.path, f"{clip.path}, {clip.num_states} states{duration}"), soft_wrap=True)
    width = max(20, min(78, console.width - 2))
    shown = most or len(scene.names)
    for name, column in list(zip(scene.names, scene.values.T, strict=True))[:shown]:
        console.print(Text(name, style="number"), soft_wrap=True)
        for line in draw_with_scale([Curve(column, "head")], width, _CURVE_HEIGHT):
            console.print(line, soft_wrap=True)
    if len(scene.names) > shown:
        console.print(Text(f"and {len(scene.names) - shown} columns more; --most 0 draws them", style="dim"))
    if scene.root is not None:
        way = np.linalg.norm(np.diff(scene.root.astype(np.float64), axis=0), axis=1).sum()
        apart = np.linalg.norm(scene.root[-1].astype(np.float64) - scene.root[0])
        console.print(Text(f"root: walks {way:.2f} m, ends {apart:.2f} m from its start", style="dim"))
    if len(scene.lengths) >= _FEW_CLIPS:
        _draw_lengths(scene.lengths, console)


def _draw_lengths(lengths: NDArray[np.int64], console: Console) -> None:
    counts, edges = np.histogram(lengths, bins=min(8, len(np.unique(lengths))))
    console.print(Text(f"clip lengths, {len(lengths):,} clips", style="number"))
    digits = len(f"{edges[-1]:.0f}")
    for count, first, last in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "█" * round(_BAR_WIDTH * count / counts.max()) or ("▏" if count else "")
        console.print(
            Text.assemble((f"{first:>{digits}.0f} to {last:>{digits}.0f}  ", "dim"), (bar, "number"), f" {count:,}")
        )
