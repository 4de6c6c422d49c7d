"""The page that `iltools report` writes: one file, no script, nothing that is loaded from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from iltools_datasets.cli.charts import curves, heat, histogram, way_from_above
from iltools_datasets.cli.html_page import Node, element, html_page
from iltools_datasets.cli.looked_at import Opened
from iltools_datasets.cli.output import human_bytes
from iltools_datasets.cli.overlay import moving_most
from iltools_datasets.cli.scene import Scene
from iltools_datasets.doctor.examine import evenly_spread

if TYPE_CHECKING:
    from iltools_datasets.doctor import Diagnosis
    from iltools_datasets.tracking.coverage import Coverage

_MOST_ROWS = 40
_MOST_OF_A_KIND = 10
_MOST_CURVES = 6
_MOST_NAMES = 60


def page_of(
    opened: Opened,
    document: Mapping[str, Any],
    diagnosis: Diagnosis | None,
    coverage: Coverage | None,
    scenes: Sequence[Scene],
) -> bytes:
    """Return the page as HTML in UTF-8.

    Args:
        opened: an archive, a store or a LeRobot set.
        document: what `info` says of it.
        diagnosis: what the doctor found; None leaves that out.
        coverage: what a motion sampler saw of it; None leaves that out.
        scenes: clips to show a thumbnail of.
    """
    title = PurePath(str(opened.path)).name or str(opened.path)
    body = [element("h1", str(opened.path)), _facts(_said(opened, document))]
    body += [element("p", note, class_="bad") for note in opened.notes[:_MOST_ROWS]]
    if opened.clips:
        body += _lengths(opened)
    body += _tasks(opened)
    body += _keys(document)
    body += [] if diagnosis is None else _findings(diagnosis)
    body += [] if coverage is None else _coverage(coverage)
    body += _thumbnails(scenes, len(opened.clips))
    return html_page(title, *body)


def _said(opened: Opened, document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "what", opened.kind + (", which grows" if document.get("growing") else "")
    yield "clips", f"{document['num_clips']:,}"
    if document["num_states"] > document["num_transitions"]:
        yield "states", f"{document['num_states']:,}, so {document['num_transitions']:,} transitions"
    else:
        yield "transitions", f"{document['num_transitions']:,}, of which the next state is not known"
    if (seconds := document["seconds"]) is not None:
        yield "motion", f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
    rates = Counter(clip.fps for clip in opened.clips)
    if rates:
        named = [
            f"{'none declared' if rate is None else f'{rate:g} Hz'}: {count:,} clips"
            for rate, count in rates.most_common(8)
        ]
        yield "rates", "; ".join(named) + (f"; {len(rates) - 8} more" if len(rates) > 8 else "")
    if document["bytes_on_disk"] is not None:
        yield "on disk", human_bytes(document["bytes_on_disk"])
    if document.get("returns"):
        yield "return", "{min:g} to {max:g}, {mean:g} on average".format_map(document["returns"])
    for name, label in (("joint_names", "joints"), ("body_names", "bodies")):
        names = document["attributes"].get(name)
        if isinstance(names, list):
            more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            yield label, f"{len(names)}: {', '.join(map(str, names[:_MOST_NAMES]))}{more}"
    if "quaternion_order" in document["attributes"]:
        yield "quaternions", str(document["attributes"]["quaternion_order"])


def _lengths(opened: Opened) -> list[Node]:
    rates = [clip.fps for clip in opened.clips]
    states = np.array([clip.num_states for clip in opened.clips])
    in_seconds = None not in rates
    values = states / np.array(rates, dtype=np.float64) if in_seconds else states
    unit, digits = ("s", ".1f") if in_seconds else ("states", ",.0f")
    low, middle, high = (format(float(np.quantile(values, share)), digits) for share in (0, 0.5, 1))
    caption = f"{len(states):,} clips of {low} to {high} {unit}, half of them up to {middle} {unit}"
    return [element("h2", "Lengths"), element("figure", histogram(values, unit), element("figcaption", caption))]


def _tasks(opened: Opened) -> list[Node]:
    clips = Counter(clip.task for clip in opened.clips)
    states: Counter[str] = Counter()
    for clip in opened.clips:
        states[clip.task] += clip.num_states
    rows = [(task, f"{count:,}", f"{states[task]:,}") for task, count in list(clips.items())[:_MOST_ROWS]]
    return [element("h2", "Tasks"), _table(("task", "clips", "states"), rows), *_more(len(clips) - len(rows), "tasks")]


def _keys(document: Mapping[str, Any]) -> list[Node]:
    rows = []
    for key, entry in document["keys"].items():
        kinds = [(entry["dtype"], entry["shape"]), *entry.get("others", ())]
        shapes = ", or ".join(dict.fromkeys(" x ".join(map(str, shape)) or "scalar" for _, shape in kinds))
        dtypes = ", or ".join(dict.fromkeys(dtype for dtype, _ in kinds))
        rows.append((key, shapes, dtypes, f"{entry['num_clips']:,}"))
    return [element("h2", "Keys"), _table(("key", "row", "dtype", "clips"), rows)]


def _findings(diagnosis: Diagnosis) -> list[Node]:
    of_kind: dict[str, list[Any]] = {}
    for finding in diagnosis.findings:
        of_kind.setdefault(finding.check, []).append(finding)
    said = f"{diagnosis.num_clips:,} clips of {diagnosis.path} were looked at: "
    said += f"findings: {len(diagnosis.findings):,}" if diagnosis.findings else "nothing found"
    nodes = [element("h2", "What the doctor found"), element("p", said)]
    for check, findings in of_kind.items():
        rows = []
        for finding in findings[:_MOST_OF_A_KIND]:
            frame = "" if finding.frame is None else f"{finding.frame:,}"
            rows.append((finding.clip, finding.key or "", frame, finding.message))
        nodes.append(element("h3", f"{check}: {len(findings):,}", class_="bad"))
        nodes.append(_table(("clip", "key", "frame", "what"), rows))
        nodes += _more(len(findings) - len(rows), "of this kind")
    return [*nodes, element("ul", *(element("li", note, class_="dim") for note in diagnosis.notes[:_MOST_ROWS]))]


def _coverage(coverage: Coverage) -> list[Node]:
    shown = list(dict.fromkeys(coverage.bin_clip.tolist()))
    chosen = [shown[place] for place in evenly_spread(len(shown), _MOST_ROWS)]
    rows = []
    for clip in chosen:
        own = np.flatnonzero(coverage.bin_clip == clip)
        parts = np.array_split(own, min(len(own), 80))
        begins, ends = (
            np.array([edge[part[at]] for part in parts])
            for edge, at in ((coverage.bin_begin, 0), (coverage.bin_end, -1))
        )
        passes = np.array([coverage.passes[part].mean() for part in parts])
        rows.append((coverage.clip_names[clip], begins, ends, passes))
    failures, visits = coverage.of_clips(coverage.failures), coverage.of_clips(coverage.visits)
    worst = [
        clip
        for clip in np.argsort(-failures / np.maximum(visits, 1), kind="stable")[:_MOST_OF_A_KIND]
        if failures[clip]
    ]
    per_minute = failures / np.maximum(visits * coverage.control_dt / 60, 1e-9)
    nodes = [element("h2", "What a motion sampler saw"), _facts(coverage.facts())]
    nodes.append(
        element(
            "figure",
            heat(rows, "passes of each bin"),
            element(
                "figcaption", "how many times over each bin was gone through, over the clip's seconds; hollow: never"
            ),
        )
    )
    nodes += _more(len(shown) - len(chosen), "clips, between those")
    if worst:
        failed = [(coverage.clip_names[clip], f"{failures[clip]:,}", f"{per_minute[clip]:.3g}") for clip in worst]
        nodes += [element("h3", "Where it fails most"), _table(("clip", "failures", "per minute"), failed)]
    return nodes


def _thumbnails(scenes: Sequence[Scene], count: int) -> list[Node]:
    if not scenes:
        return []
    grid = element("div", class_="clips")
    for scene in scenes:
        clip = scene.clip
        last, unit = ((len(scene.values) - 1) / clip.fps, "s") if clip.fps else (len(scene.values) - 1, "states")
        most = moving_most([scene], _MOST_CURVES)
        names = [element("span", scene.names[column], class_=f"c{place}") for place, column in enumerate(most)]
        figure = element("figure", curves(scene.values[:, most], float(last), unit))
        if scene.root is not None:
            figure.append(way_from_above(scene.root))
        length = f"{clip.num_states:,} states" + (f", {clip.num_states / clip.fps:.1f} s" if clip.fps else "")
        figure.append(element("figcaption", element("strong", clip.path), f" {length}. {scene.key}:"))
        for name in names:
            name.tail = " "
        figure[-1].extend(names)
        grid.append(figure)
    caption = "the columns that move most, each in its own range, and the root's path from above"
    which = f"{len(scenes):,} of {count:,}, evenly spread: " if len(scenes) < count else ""
    return [element("h2", "Clips"), element("p", which + caption, class_="dim"), grid]


def _facts(rows: Iterable[tuple[str, str]]) -> Node:
    return element("table", *(element("tr", element("th", name), element("td", said)) for name, said in rows))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Node:
    table = element("table", element("tr", *(element("th", name) for name in header)))
    table.extend(element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return table


def _more(count: int, what: str) -> list[Node]:
    return [element("p", f"and {count:,} more {what}", class_="dim")] if count > 0 else []
