"""Packed archives: few files whatever the motions are, the same clips as nested, packs that somebody damaged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from archives import write_archive
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets import TrajectoryStore, build_store
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.archive.combine import combine_archives
from iltools_datasets.doctor.fix import fix_archive
from iltools_datasets.errors import DuplicateTrajectoryError, SchemaError, SourceError
from iltools_datasets.sources import export
from iltools_datasets.sources.registry import open_sources

Clips = dict[str, dict[str, np.ndarray]]


def write(path: Path, clips: Clips, layout: str, **options: Any) -> Path:
    with ArchiveWriter(path, layout=layout, **options) as writer:  # type: ignore[arg-type]
        for number, (name, arrays) in enumerate(clips.items()):
            writer.add(*name.split("/"), arrays, {"fps": 50.0, "number": number})
    return path


def files(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def told(path: Path) -> list[tuple[Any, ...]]:
    """Return all that an archive says and holds, values as bytes."""
    with ArchiveReader(path) as reader:
        return [
            (clip.task_id, clip.traj_id, clip.path, clip.num_states, dict(clip.attributes), clip.misfit,
             {key: (array.dtype.str, array.shape, array.tobytes()) for key, array in sorted(arrays.items())})
            for clip, arrays in reader.stream()
        ]  # fmt: skip


SCHEMAS: list[Callable[[np.random.Generator, int], dict[str, np.ndarray]]] = [
    lambda rng, rows: {"qpos": rng.standard_normal((rows, 3)), "action": rng.standard_normal((rows - 1, 2))},
    lambda rng, rows: {"action": rng.standard_normal((rows - 1, 2)), "qpos": rng.standard_normal((rows, 3))},
    lambda rng, rows: {"qpos": rng.standard_normal((rows, 3)), "action": rng.standard_normal((rows, 2))},
    lambda rng, rows: {"qpos": rng.standard_normal((rows, 3)).astype(np.float32)},
    lambda rng, rows: {"qpos": rng.standard_normal((rows, 4)), "image": rng.integers(0, 9, (rows, 2, 0, 3), np.uint8)},
]
"""The first two are one."""


@settings(max_examples=40, deadline=None)
@given(
    drawn=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 4), st.integers(1, 40)), min_size=1, max_size=14
    ),
    pending=st.sampled_from([0, 500, 1 << 26]),
)
def test_any_clips_are_those_of_a_nested_archive(
    drawn: list[tuple[int, int, int, int]], pending: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(0)
    place = tmp_path_factory.mktemp("packs")
    clips = {
        f"s{source}/m{motion}/t{number}": SCHEMAS[schema](rng, rows)
        for number, (source, motion, schema, rows) in enumerate(drawn)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iltools_datasets.archive.layouts._PENDING_BYTES", pending)
        packed = write(place / "p.zarr", clips, "packed")
    assert told(packed) == told(write(place / "n.zarr", clips, "nested"))
    packs = {(source, max(1, schema)) for source, _, schema, _ in drawn}
    found = [file for file in files(packed) if file.endswith("start/zarr.json")]
    assert len(found) == len(packs)


@pytest.mark.parametrize("jobs", [1, 2])
def test_files_do_not_grow_with_what_is_exported(tmp_path: Path, jobs: int) -> None:
    rng = np.random.default_rng(1)
    for count in (3, 60):
        (tmp_path / f"raw{count}").mkdir()
        for number in range(count):
            qpos = rng.standard_normal((int(rng.integers(2, 30)), 9))
            arrays = {"qpos": qpos, "qvel": qpos[:, :8], "action": qpos[:-1, :2]}
            np.savez(tmp_path / f"raw{count}" / f"plan{number}.npz", **arrays)
        sources = open_sources([tmp_path / f"raw{count}"], "auto")
        report = export(sources, tmp_path / f"{count}.zarr", layout="packed", jobs=jobs)
        assert report.num_trajectories == count
    few, many = files(tmp_path / "3.zarr"), files(tmp_path / "60.zarr")
    assert few == many
    # Metadata of the root, the source and the pack; of each of three keys, starts and lengths, with one chunk each.
    assert len(many) == 3 + 5 * 2
    export(open_sources([tmp_path / "raw60"], "auto"), tmp_path / "nested.zarr")
    assert told(tmp_path / "60.zarr") == told(tmp_path / "nested.zarr")
    assert len(files(tmp_path / "nested.zarr")) > 7 * 60


def test_a_store_of_it_is_that_of_a_nested_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    clips = {f"lab/m{number % 11}/t{number}": SCHEMAS[0](rng, 2 + number) for number in range(30)}
    stores = []
    for layout in ("nested", "packed"):
        build_store(write(tmp_path / layout, clips, layout), tmp_path / f"{layout}-store", ["qpos"], progress=False)
        stores.append(TrajectoryStore.open(tmp_path / f"{layout}-store"))
    assert len(stores[0]) == sum(1 + number for number in range(30))
    batches = [store.gather(np.arange(len(store))) for store in stores]
    assert batches[0].keys() == batches[1].keys()
    for key, values in batches[0].items():
        assert values.tobytes() == batches[1][key].tobytes(), key
    assert stores[0].trajectory_names == stores[1].trajectory_names


def test_packs_of_format_1_hold_one_motion_each(tmp_path: Path) -> None:
    """As the first release wrote them: the group is the motion."""
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", attributes={"iltools": {"format": 1, "layout": "packed"}})
    for motion, lengths in (("run", [2, 3]), ("walk", [4])):
        marks = {
            "layout": "packed", "names": [f"c{number}" for number in range(len(lengths))],
            "shared_attributes": {"fps": 30.0}, "transition_keys": ["action"],
        }  # fmt: skip
        group = root.create_group(f"lab/{motion}", attributes={"iltools": marks})
        states = sum(lengths)
        group.create_array("qpos", data=np.arange(states * 2.0).reshape(-1, 2))
        group.create_array("action", data=np.arange(states - len(lengths))[:, None] + 100)
        group.create_array("start", data=np.cumsum(lengths) - lengths)
        group.create_array("length", data=np.array(lengths))
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert [clip.path for clip in reader.trajectories] == ["lab/run/c0", "lab/run/c1", "lab/walk/c0"]
    found = reader.read(reader.trajectories[1])
    np.testing.assert_array_equal(found["qpos"], [[4, 5], [6, 7], [8, 9]])
    np.testing.assert_array_equal(found["action"], [[101], [102]])
    assert reader.trajectories[2].attributes == {"fps": 30.0}
    joined = combine_archives([tmp_path / "a.zarr", write(tmp_path / "b.zarr", {"lab/run/c2": found}, "packed")],
                              tmp_path / "all.zarr")  # fmt: skip
    assert joined.rewritten == ("lab/run", "lab/walk")  # nobody vowed that all chunks of the first are there
    assert len(ArchiveReader(tmp_path / "all.zarr")) == 4


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    root = json.loads((path / "zarr.json").read_text())
    edit(root["consolidated_metadata"]["metadata"]["lab/packed"]["attributes"]["iltools"])
    (path / "zarr.json").write_text(json.dumps(root))
    return path


def four(rng: np.random.Generator) -> Clips:
    return {f"lab/{motion}/{name}": SCHEMAS[0](rng, 5) for motion in ("run", "walk") for name in ("x", "y")}


def test_packs_of_parts_are_shared_whatever_their_motions_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    content: Clips = {}
    parts = []
    for number in range(3):
        part = {f"lab/{motion}/t{number}{name}": SCHEMAS[0](rng, 4) for motion in ("run", "packed") for name in "xy"}
        content |= part
        parts.append(write(tmp_path / f"{number}.zarr", part, "nested" if number == 1 else "packed"))
    # The earliest packs said no motion; the group was called like it.
    one = {f"lab/packed/old{name}": SCHEMAS[0](rng, 3) for name in "xy"}
    content |= one
    old = write(tmp_path / "3.zarr", one, "packed")
    parts.append(change(old, lambda marks: marks.pop("motions")))
    combined = combine_archives(parts, tmp_path / "all.zarr")
    assert combined.rewritten == ()
    chunks = {file.stat().st_ino for part in parts for file in part.rglob("c.*")}
    assert {file.stat().st_ino for file in (tmp_path / "all.zarr").rglob("c.*")} == chunks
    with ArchiveReader(tmp_path / "all.zarr") as reader:
        for clip, arrays in reader.stream():
            for key, values in content.pop(clip.path).items():
                np.testing.assert_array_equal(arrays[key], values)
    assert not content
    members = dict(zarr.open_group(tmp_path / "all.zarr", mode="r").members(max_depth=None))
    assert {"lab/packed2/qpos", "lab/packed3/qpos", "lab/packed4/qpos"} <= members.keys()  # "packed" is a motion
    with pytest.raises(DuplicateTrajectoryError):
        combine_archives([parts[0], tmp_path / "all.zarr"], tmp_path / "twice.zarr")


def test_a_mended_packed_archive_is_packed(tmp_path: Path) -> None:
    clips = {f"lab/m{number}/t": {"qpos": np.ones((9, 3))} for number in range(20)}
    mended = fix_archive(write(tmp_path / "a.zarr", clips, "packed"), tmp_path / "b.zarr", fps=20.0)
    assert mended.num_clips == 20
    assert files(tmp_path / "b.zarr") == files(tmp_path / "a.zarr")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda marks: marks["motions"].pop(), r"4 starts, 4 lengths, 4 names, 3 motions"),
        (lambda marks: marks["names"].append("z"), r"4 starts, 4 lengths, 5 names"),
        (lambda marks: marks["motions"].__setitem__(1, "a/b"), r"lab/packed: .*found 'a/b'"),
        (lambda marks: marks["motions"].__setitem__(1, None), r"lab/packed: .*found None"),
        (lambda marks: marks["motions"].__setitem__(1, ["run"]), r"lab/packed: .*found \['run'\]"),
        (lambda marks: marks["names"].__setitem__(1, 7), r"lab/packed: .*found 7"),
        (lambda marks: marks["names"].__setitem__(1, "x"), r"trajectory lab/run/x: is there twice"),
        (lambda marks: marks.update(motions=["run"] * 4), r"trajectory lab/run/x: is there twice"),
        (lambda marks: marks.update(motions=3), r"a\.zarr"),
    ],
)
def test_marks_that_do_not_fit_are_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = change(write(tmp_path / "a.zarr", four(np.random.default_rng(4)), "packed"), edit)
    with pytest.raises(SourceError, match=message):
        ArchiveReader(path)


def test_a_clip_in_a_pack_and_beside_it_is_there_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", four(np.random.default_rng(5)), "packed")
    nested = write_archive(tmp_path / "b.zarr", {"lab/run/x": {"qpos": np.zeros((5, 3))}})
    (nested / "lab" / "run").rename(path / "lab" / "run")
    root = json.loads((path / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(
        SourceError, match=r"lab/run/x: is there twice, in lab/(packed|run/x) and in lab/(packed|run/x)"
    ):
        ArchiveReader(path)


def test_names_of_the_index_are_no_keys(tmp_path: Path) -> None:
    for key in ("start", "length"):
        with pytest.raises(SchemaError, match=f"lab/walk/x: '{key}' is the name of an index"):
            write(tmp_path / "a.zarr", {"lab/walk/x": {key: np.zeros((3, 1))}}, "packed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
@pytest.mark.parametrize("place", ["a chunk that is set aside", "the last metadata", "the rename"])
def test_a_kill_leaves_the_old_archive_or_the_new_one(tmp_path: Path, place: str) -> None:
    old = write(tmp_path / "a.zarr", four(np.random.default_rng(6)), "packed")
    before = told(old)
    process = subprocess.run([sys.executable, "-c", KILLED, str(old), place], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert told(old) == before
    assert len(list(tmp_path.iterdir())) == 2
    write(old, four(np.random.default_rng(7)), "packed", overwrite=True)
    assert told(old) != before
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


KILLED = """
import os, signal, sys
import numpy as np
from iltools_datasets.archive import ArchiveWriter, layouts, targets
path, place = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if place == "the rename":
    targets.swap = die
if place == "a chunk that is set aside":
    layouts._PENDING_BYTES = 0
put = targets.DirectoryTarget.put
def watched(self, key, data):
    put(self, key, data)
    if place == "a chunk that is set aside" and "/c." in key or place == "the last metadata" and key == "zarr.json":
        die()
targets.DirectoryTarget.put = watched
with ArchiveWriter(path, overwrite=True, layout="packed") as writer:
    for number in range(5):
        writer.add("lab", f"m{number}", "t", {"qpos": np.ones((5, 3))})
"""
