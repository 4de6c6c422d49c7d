"""Stores joined into one: the first, longer, whose files are not copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from iltools_datasets import StoreBuilder, TrajectoryStore, verify_store
from iltools_datasets.errors import (
    ArgumentError,
    DuplicateTrajectoryError,
    SchemaError,
    StoreExistsError,
    StoreNotFoundError,
)
from iltools_datasets.ingest.combine_stores import combine_stores


def build(path: Path, names: list[str], seed: int = 0, width: int = 3, joints: list[str] | None = None) -> Path:
    rng = np.random.default_rng(seed)
    attributes = {"motion": {"fps": 30.0 + seed, "kinds": {}, "joint_names": joints, "body_names": None}}
    with StoreBuilder(
        path, concat={"observation": ["a", "b"]}, alias={"act": "action"}, attributes=attributes
    ) as store:
        for number, name in enumerate(names):
            task, clip = name.split(":")
            states = 4 + number
            store.add(
                sorted({entry.split(":")[0] for entry in names}).index(task),
                number,
                {"a": rng.standard_normal((states, width)), "b": rng.standard_normal((states, 2))},
                {"action": rng.standard_normal((states - 1, 2), dtype=np.float32)},
                name=clip,
                task_name=task,
            )
    return path


def test_rows_are_those_of_the_parts_and_files_of_the_first_are_shared(tmp_path: Path) -> None:
    parts = [
        build(tmp_path / "one", ["walk:x", "run:y"], 1),
        build(tmp_path / "two", ["walk:z", "sit:x"], 2),
        build(tmp_path / "three", ["sit:w"], 3),
    ]
    combined = combine_stores(parts, tmp_path / "whole")
    stores = [TrajectoryStore.open(part) for part in parts]
    whole = TrajectoryStore.open(tmp_path / "whole")
    assert (whole.uuid, whole.num_trajectories, combined.num_clips) == (stores[0].uuid, 5, 5)
    assert whole.trajectory_paths == ["walk/x", "run/y", "walk/z", "sit/x", "sit/w"]
    assert [(s.task_id, s.traj_id) for s in whole.segments] == [(1, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
    expected = {
        key: np.concatenate([store.gather(np.arange(len(store)))[key] for store in stores]) for key in whole.keys
    }
    for key, rows in whole.gather(np.arange(len(whole))).items():
        np.testing.assert_array_equal(rows, expected[key])
    for file in (path for path in stores[0].data_dir.rglob("*") if path.is_file()):
        assert (tmp_path / "whole" / file.relative_to(parts[0])).samefile(file)
    assert combined.shared_bytes > 0
    assert whole.attributes["motion"]["fps"] == [31.0, 31.0, 32.0, 32.0, 33.0]
    assert verify_store(tmp_path / "whole") == []
    # Rebuilt and removed, the parts leave the whole as it is.
    for part in parts:
        StoreBuilder(part, overwrite=True).abort()
        build_over = StoreBuilder(part, overwrite=True)
        build_over.add(0, 0, {"q": np.zeros((3, 1))})
        build_over.publish()
    assert verify_store(tmp_path / "whole") == []


def test_parts_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    first = build(tmp_path / "one", ["walk:x"], 1, joints=["hip", "knee"])
    copied = tmp_path / "copy"
    shutil.copytree(first, copied)
    for parts, error, words in [
        ([first], ArgumentError, "at least two"),
        ([first, tmp_path / "none"], StoreNotFoundError, "none"),
        ([first, first], DuplicateTrajectoryError, "one: is the same store as"),
        ([first, copied], DuplicateTrajectoryError, "copy: is the same store as"),
        (
            [first, build(tmp_path / "twin", ["walk:x"], 2)],
            DuplicateTrajectoryError,
            r"walk/x: is in .*one and in .*twin",
        ),
        (
            [first, build(tmp_path / "wide", ["walk:w"], 2, width=5)],
            SchemaError,
            r"wide: key 'observation'.*\[5\].*\[7\]",
        ),
        ([first, build(tmp_path / "named", ["walk:n"], 2, joints=["knee", "hip"])], SchemaError, "named: joint_names"),
    ]:
        with pytest.raises(error, match=words):
            combine_stores(parts, tmp_path / "whole")
        assert not [path for path in tmp_path.iterdir() if "whole" in path.name]
    with pytest.raises(StoreExistsError):
        combine_stores([first, tmp_path / "wide"], tmp_path / "twin")
