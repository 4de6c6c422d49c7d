"""Raw files in parts, each an archive, come together as the archive that one process writes, to the byte."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fsspec", reason="needs fsspec")

from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import ArchiveExistsError, MissingExtraError, SourceError, SourceNotFoundError
from iltools_datasets.sources import export, open_sources
from iltools_datasets.sources.cluster import ingest
from iltools_datasets.sources.fetched import files_at
from iltools_datasets.sources.shards import Shard, joined, plan_shards, write_shard
from raw_clips import files_of, write_clips, write_mixture


def planned(root: Path, parts: Path, units: int, **how: Any) -> list[Shard]:
    remote, files, _ = files_at(str(root))
    return plan_shards(remote.url, files, str(parts), units, **how)


@pytest.mark.parametrize("layout", ["nested", "packed"])
@pytest.mark.parametrize("units", [1, 3, 100])
def test_parts_of_a_mixture_are_the_archive_of_one_process(tmp_path: Path, layout: Any, units: int) -> None:
    root = write_mixture(tmp_path / "raw")
    alone = export(open_sources([root]), tmp_path / "alone.zarr", layout=layout)
    shards = planned(root, tmp_path / "parts", units)
    assert [write_shard(shard) for shard in reversed(shards)] == [True] * len(shards)
    sources = joined(str(root), shards)
    report = export(sources, tmp_path / "parted.zarr", layout=layout)
    assert files_of(tmp_path / "parted.zarr") == files_of(tmp_path / "alone.zarr")
    assert report.formats == alone.formats
    assert len(alone.formats) == 3
    assert report.failures == []
    assert any("README.md" in note for note in report.notes)


def test_what_belongs_together_is_in_one_part(tmp_path: Path) -> None:
    root = write_mixture(tmp_path / "raw")
    for shard in planned(root, tmp_path / "parts", 1):
        directories = {name.partition("/")[0] for name in shard.files}
        if directories & {"b_arrays", "c_replay.zarr"}:
            [whole] = directories
            inside = [file for file in (root / whole).rglob("*") if file.is_file()]
            assert sorted(shard.files) == sorted(str(file.relative_to(root)) for file in inside)


def test_a_part_that_is_there_is_not_made_again_and_another_option_makes_another(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "raw", 6)
    shards = planned(root, tmp_path / "parts", 4)
    assert [write_shard(shard) for shard in shards] == [True, True]
    before = {place: place.stat().st_ino for place in (tmp_path / "parts").iterdir()}
    assert [write_shard(shard) for shard in planned(root, tmp_path / "parts", 4)] == [False, False]
    assert {place: place.stat().st_ino for place in (tmp_path / "parts").iterdir()} == before
    resampled = planned(root, tmp_path / "parts", 4, fps=25.0)
    assert {shard.archive for shard in resampled}.isdisjoint(shard.archive for shard in shards)
    (root / "motion0" / "clip0.npz").write_bytes((root / "motion1" / "clip4.npz").read_bytes())
    changed = [shard.archive for shard in planned(root, tmp_path / "parts", 4)]
    assert [old.archive == new for old, new in zip(shards, changed, strict=True)] == [False, True]


def test_a_file_that_cannot_be_read_is_named_where_it_lies(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "raw", 6)
    bad = root / "motion0" / "clip3.npz"
    bad.write_bytes(bad.read_bytes()[:200])
    for units in (1, 100):
        with pytest.raises(SourceError, match=str(bad)):
            [write_shard(shard) for shard in planned(root, tmp_path / f"parts{units}", units)]
        shards = planned(root, tmp_path / f"parts{units}", units, keep_going=True)
        [write_shard(shard) for shard in shards]
        report = export(joined(str(root), shards), tmp_path / f"parted{units}.zarr", keep_going=True)
        [failure] = report.failures
        assert str(bad) in failure.reason
        assert str(failure.path) == "motion0/clip3.npz"
        assert report.formats == {"trajopt": 5}
    alone = export(open_sources([root]), tmp_path / "alone.zarr", keep_going=True)
    assert len(alone.failures) == 1
    assert files_of(tmp_path / "parted1.zarr") == files_of(tmp_path / "parted100.zarr")
    assert files_of(tmp_path / "parted1.zarr") == files_of(tmp_path / "alone.zarr")


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="nowhere: no such file"):
        files_at(str(tmp_path / "nowhere"))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "README.md").write_text("none")
    shards = planned(tmp_path / "raw", tmp_path / "parts", 10)
    [write_shard(shard) for shard in shards]
    with pytest.raises(SourceError, match="nothing to export"):
        joined(str(tmp_path / "raw"), shards)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"iltools-datasets\[ray\]"):
        ingest(str(write_clips(tmp_path / "raw", 1)), str(tmp_path / "a.zarr"))


def test_an_archive_that_is_there_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the ray extra")
    root = write_clips(tmp_path / "raw", 1)
    export(open_sources([root]), tmp_path / "a.zarr")
    with pytest.raises(ArchiveExistsError, match="is there already"):
        ingest(str(root), str(tmp_path / "a.zarr"))
    assert len(ArchiveReader(tmp_path / "a.zarr").trajectories) == 1
    assert not (tmp_path / "a.zarr.parts").exists()
