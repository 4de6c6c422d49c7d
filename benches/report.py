"""From the JSON of `make bench` to the table and the picture of docs/performance.md and the README.

python benches/report.py benches/results/bench.json docs/performance.md README.md --picture docs/performance.png
        --again "again" benches/results/second.json --again "a core busy" benches/results/busy.json

replaces what stands between `<!-- table of: mgr.buffer, *; slices * -->` and `<!-- end of table -->` in each file with
the rows whose workload is one of these, but for those after a rest or a torch op; `<!-- table -->` gets all that no
other table of its file has asked for, and beside each ratio what other runs found, with a mark where that differs by
more than a fifth. A table of which nothing was measured stays.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

Rows = list[dict[str, Any]]


def is_tight(row: dict[str, Any]) -> bool:
    return not row["situation"].startswith("after a ")


def asked_for(rows: Rows, patterns: str) -> Rows:
    return [row for row in rows if any(fnmatchcase(row["workload"], pattern) for pattern in patterns.split("; "))]


class OtherRun(NamedTuple):
    """What was found at another time, or in another state of the machine."""

    name: str
    ratios: dict[tuple[str, str], float]

    @classmethod
    def read(cls, name: str, path: str) -> OtherRun:
        rows = json.loads(Path(path).read_text())["rows"]
        return cls(name, {(row["workload"], row["situation"]): row["ratio"] for row in rows})

    def cell(self, row: dict[str, Any]) -> str:
        ratio = self.ratios.get((row["workload"], row["situation"]))
        if ratio is None:
            return ""
        repeats = max(ratio, row["ratio"]) <= 1.2 * min(ratio, row["ratio"])
        return f"{ratio:.3g}{'' if repeats else ' ≠'}"


def markdown(document: dict[str, Any], rows: Rows, others: Sequence[OtherRun] = ()) -> str:
    titles = ["workload", "situation", "ours", "peer", "ratio (range)", *(run.name for run in others), "target", "met"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        unit = "x" if row["unit"] == "x" else f" {row['unit']}".rstrip()
        bound = "" if row["higher_is_better"] else "≤ "
        figure = f"**{row['ratio']:.3g}{unit}** ({row['low']:.3g} to {row['high']:.3g})"
        found = [
            row["workload"],
            row["situation"],
            row["ours"],
            row["peer"],
            figure,
            *(run.cell(row) for run in others),
        ]
        cells = [*found, f"{bound}{row['target']:g}", "yes" if row["met"] else "**no**"]
        lines.append(f"| {' | '.join(cells)} |")
    machine = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    return "\n".join([*lines, "", f"{machine}."])


def label(row: dict[str, Any]) -> str:
    usual = row["situation"] in ("tight loop", "two threads") or row["situation"].startswith("cold")
    return str(row["workload"]) if usual else f"{row['workload']} ({row['situation']})"


def picture(document: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    rows = [row for row in document["rows"] if row["unit"] == "x" and row["higher_is_better"] and is_tight(row)]
    figure = Figure(figsize=(11, 0.34 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        axes.barh(y, row["ratio"], color="#2a6f97" if row["met"] else "#c1121f", height=0.6, left=0.0)
        axes.plot([row["low"], row["high"]], [y, y], color="black", linewidth=1)
        axes.plot([row["target"]] * 2, [y - 0.4, y + 0.4], color="#f4a261", linewidth=2.5)
        axes.text(row["high"] * 1.08, y, f"{row['ratio']:.3g}x", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xlim(0.5, max(row["high"] for row in rows) * 2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    figure.suptitle("times faster than the peer, tight loop (line: range over the rounds; orange: target)", fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("documents", type=Path, nargs="*")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--again", nargs=2, action="append", default=[], metavar=("NAME", "FILE"))
    options = parser.parse_args()
    others = [OtherRun.read(*again) for again in options.again]
    document = json.loads(options.results.read_text())
    for path in options.documents:
        text = path.read_text()
        rest: Rows = document["rows"]
        for patterns in re.findall(r"<!-- table of: (.*?) -->", text):
            claimed = asked_for(document["rows"], patterns)
            rest = [row for row in rest if row not in claimed]

        def filled(found: re.Match[str], rest: Rows = rest) -> str:
            if found[2]:
                shown = markdown(document, [row for row in asked_for(document["rows"], found[2]) if is_tight(row)])
            else:
                shown = markdown(document, rest, others)
            is_empty = shown.count("\n") == 3
            return found[0] if is_empty else f"{found[1]}\n{shown}\n<!-- end of table -->"

        text, count = re.subn(r"(<!-- table(?: of: (.*?))? -->).*?<!-- end of table -->", filled, text, flags=re.DOTALL)
        if not count:
            parser.error(f"{path}: no '<!-- table -->' ... '<!-- end of table -->'")
        path.write_text(text)
    if options.picture:
        picture(document, options.picture)


if __name__ == "__main__":
    main()
