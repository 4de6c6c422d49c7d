"""Archives joined into one: the clips of all, chunks that are not copied, and parts that do not belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from archives import write_archive
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.archive.combine import combine_archives
from iltools_datasets.errors import (
    ArchiveCorruptError,
    ArchiveExistsError,
    ArgumentError,
    DuplicateTrajectoryError,
    SchemaError,
    SourceError,
    SourceNotFoundError,
)

Clips = dict[str, dict[str, np.ndarray]]
Layout = Literal["nested", "packed"]


def clips(names: list[str], seed: int = 0, width: int = 3) -> Clips:
    rng = np.random.default_rng(seed)
    return {
        name: {"qpos": rng.standard_normal((3 + number, width)), "action": rng.standard_normal((2 + number, 1))}
        for number, name in enumerate(names)
    }


def write(path: Path, content: Clips, layout: Layout = "nested", **attributes: Any) -> Path:
    with ArchiveWriter(path, layout=layout, metadata={"name": path.stem}) as writer:
        for name, arrays in content.items():
            writer.add(*name.split("/"), arrays, {"fps": 50.0, "origin": name, **attributes})
    return path


def assert_holds(path: Path, content: Clips, *, attributes: bool = True) -> None:
    reader = ArchiveReader(path)
    assert sorted(clip.path for clip in reader.trajectories) == sorted(content)
    assert reader.all_chunks_written
    for clip, arrays in reader.stream():
        assert arrays.keys() == content[clip.path].keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, content[clip.path][key])
            assert array.dtype == content[clip.path][key].dtype
        if attributes:
            assert clip.attributes["origin"] == clip.path


@given(seed=st.integers(0, 10_000))
@settings(max_examples=6, deadline=None)
def test_any_parts_of_any_layout_are_one_archive(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    place = tmp_path_factory.mktemp("parts")
    names = [f"s{number % 2}/m{number % 3}/c{number}" for number in range(int(rng.integers(2, 12)))]
    content = clips(names, seed)
    count = int(rng.integers(2, 4))
    parts: list[Clips] = [{} for _ in range(count)]
    for position, name in enumerate(names):
        parts[position if position < count else int(rng.integers(count))][name] = content[name]
    parts = [part for part in parts if part]
    layouts: list[Layout] = ["nested", "packed"]
    places = [write(place / f"{number}.zarr", part, layouts[int(rng.integers(2))]) for number, part in enumerate(parts)]
    if len(places) < 2:
        return
    combined = combine_archives(places, place / "whole.zarr")
    assert combined.num_clips == len(names)
    assert_holds(place / "whole.zarr", content)


def chunks(path: Path) -> dict[str, Path]:
    return {str(file.relative_to(path)): file for file in path.rglob("c.*")}


def test_chunks_are_shared_and_each_archive_goes_by_itself(tmp_path: Path) -> None:
    one, two = clips(["a/walk/x", "a/walk/y"], 1), clips(["a/walk/z", "b/run/x"], 2)
    first, second = write(tmp_path / "one.zarr", one), write(tmp_path / "two.zarr", two, "packed")
    third = write(tmp_path / "three.zarr", clips(["c/sit/x"], 3))
    combined = combine_archives([first, third], tmp_path / "nested.zarr")
    found = chunks(tmp_path / "nested.zarr")
    sources = {**chunks(first), **chunks(third)}
    assert found.keys() == sources.keys()
    assert all(found[name].samefile(file) for name, file in sources.items())
    assert combined.shared_bytes == sum(file.stat().st_size for file in sources.values())
    assert combined.rewritten == ()
    both = combine_archives([first, second], tmp_path / "both.zarr")
    assert both.rewritten == ()  # clips of one motion, in a part that is nested and in one that is packed
    assert chunks(tmp_path / "both.zarr")["b/packed/qpos/c.0.0"].samefile(chunks(second)["b/packed/qpos/c.0.0"])
    # Replaced and removed, they leave the whole as it is.
    write_over = ArchiveWriter(first, overwrite=True)
    with write_over as writer:
        writer.add("a", "walk", "x", {"qpos": np.zeros((9, 3)), "action": np.zeros((9, 1))})
    assert_holds(tmp_path / "both.zarr", {**one, **two})
    assert ArchiveReader(tmp_path / "both.zarr").metadata == {
        "parts": [{"path": str(path), "metadata": {"name": path.stem}} for path in (first, second)]
    }
    with pytest.raises(ArchiveExistsError):
        combine_archives([first, second], tmp_path / "both.zarr")


def test_archives_that_others_may_write_to_are_written_again(tmp_path: Path) -> None:
    ours, theirs = clips(["a/walk/x"], 1), clips(["a/run/y"], 2)
    parts = [write(tmp_path / "one.zarr", ours), write_archive(tmp_path / "two.zarr", theirs)]
    combined = combine_archives(parts, tmp_path / "whole.zarr")
    assert combined.rewritten == ("a/run",)
    assert_holds(tmp_path / "whole.zarr", {**ours, **theirs}, attributes=False)


def test_parts_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    first = write(tmp_path / "one.zarr", clips(["a/walk/x", "a/walk/y"]), joint_names=["hip", "knee"])
    whole = tmp_path / "whole.zarr"
    cases: list[tuple[list[Path], type[Exception], str]] = [
        ([first], ArgumentError, "at least two"),
        ([first, tmp_path / "missing.zarr"], SourceNotFoundError, "missing.zarr"),
        ([first, tmp_path / "." / "one.zarr"], DuplicateTrajectoryError, "given twice"),
        ([first, write(tmp_path / "twin.zarr", clips(["a/walk/y"]))], DuplicateTrajectoryError, "a/walk/y: is in"),
        ([first, write(tmp_path / "case.zarr", clips(["a/walk/Y"]))], DuplicateTrajectoryError, "a/walk/Y: is in"),
        (
            [first, write(tmp_path / "wide.zarr", clips(["a/run/w"], width=5))],
            SchemaError,
            "wide.zarr.*a/run/w.*'qpos'",
        ),
        (
            [first, write(tmp_path / "named.zarr", clips(["a/run/n"]), joint_names=["knee", "hip"])],
            SchemaError,
            "named.zarr.*joint_names",
        ),
    ]
    more = clips(["a/run/k"])
    more["a/run/k"]["qvel"] = np.zeros((3, 2))
    cases.append(([first, write(tmp_path / "keys.zarr", more)], SchemaError, r"keys.zarr.*a/run/k.*qvel"))
    (tmp_path / "none.zarr").mkdir()
    cases.append(([first, tmp_path / "none.zarr"], SourceError, "none.zarr"))
    before = sorted(tmp_path.iterdir())
    for parts, error, words in cases:
        with pytest.raises(error, match=words):
            combine_archives(parts, whole)
    assert sorted(tmp_path.iterdir()) == before


def test_a_link_among_the_chunks_is_no_chunk(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{name}.zarr", clips([f"a/walk/{name}"])) for name in "xy"]
    chunk = chunks(parts[1])["a/walk/y/qpos/c.0.0"]
    chunk.rename(tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveCorruptError, match=r"c\.0\.0: is no plain file"):
        combine_archives(parts, tmp_path / "whole.zarr")
    assert not (tmp_path / "whole.zarr").exists()


def test_where_nothing_can_be_linked_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    content = clips(["a/walk/x", "b/walk/y"])
    parts = [write(tmp_path / f"{name[0]}.zarr", {name: arrays}) for name, arrays in content.items()]
    assert combine_archives(parts, tmp_path / "whole.zarr").shared_bytes == 0
    assert_holds(tmp_path / "whole.zarr", content)
