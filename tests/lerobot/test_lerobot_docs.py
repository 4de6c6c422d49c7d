"""The code of docs/lerobot.md runs, in its order, on the real set or on one of its size made here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sets import LeRobotSet, arrow_column, encode, make_set

DOCS = Path(__file__).parents[2] / "docs" / "lerobot.md"
CAMERA = "observation.images.cam_high"


@pytest.fixture
def like_the_real_one(tmp_path: Path) -> LeRobotSet:
    """A small set with the features that the page names."""
    import numpy as np
    import pyarrow.parquet as pq

    made = make_set(tmp_path / "set", "v2.1", (20, 18, 20), fps=30, cameras={CAMERA: "video"})

    def widen(info):  # type: ignore[no-untyped-def]
        for key in ("observation.state", "action"):
            info["features"][key]["shape"] = [26]
        info["features"][CAMERA]["shape"] = [480, 640, 3]

    made.edit_info(widen)
    stated = []
    for episode in made.episodes:
        path = made.data_file(episode)
        table = pq.read_table(path)
        stats: dict[str, dict[str, list[float]]] = {}
        for key in ("observation.state", "action"):
            rows = np.random.default_rng(episode).standard_normal((len(table), 26), dtype=np.float32)
            numbers = {name: getattr(rows, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
            stats[key] = {**numbers, "count": [len(table)]}
            table = table.set_column(table.column_names.index(key), key, arrow_column(rows))
        pq.write_table(table, path)
        stated.append(json.dumps({"episode_index": episode, "stats": stats}))
        grey = np.full((480, 640, 3), 40 * episode, np.uint8)
        encode(made.video_file(episode, CAMERA), [grey] * len(table), 30)
    (made.root / "meta" / "episodes_stats.jsonl").write_text("\n".join(stated) + "\n")
    return made


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


def test_every_block_runs_in_order(like_the_real_one: LeRobotSet) -> None:
    pytest.importorskip("torchrl", reason="needs the torch extra")
    names = {"root": like_the_real_one.root}
    found = blocks()
    assert len(found) == 3
    for block in found:
        exec(compile(block, str(DOCS), "exec"), names)
    batch, steps = names["batch"], names["steps"]
    assert batch["observation.state"].shape == (8, 26)
    assert batch["action"].shape == (8, 16, 26)
    assert batch[CAMERA].shape == (8, 3, 480, 640)
    assert len(batch["task"]) == 8
    assert steps.shape == (3, 3, 26)
    assert names["pictures"].read(names["rows"]).shape == (3, 120, 160, 3)
    assert len(names["buffer"].sample()) == 64


def test_the_commands_of_the_page_are_verbs() -> None:
    pytest.importorskip("typer", reason="the command line needs the extra cli")
    from iltools_datasets.cli.app import VERBS

    named = set(re.findall(r"^iltools (\w+) ", DOCS.read_text(), flags=re.MULTILINE))
    assert named == {"info", "view", "doctor", "verify", "build", "export"}
    assert named <= set(VERBS)
