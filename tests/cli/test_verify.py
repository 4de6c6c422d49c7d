"""`iltools verify` of archives: what was compared with a checksum, and what could not be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the extra cli")

import zarr
import zarr.codecs
from iltools_datasets.archive import ArchiveWriter

CHECKED = {"crc32c": zarr.codecs.Crc32cCodec(), "gzip": zarr.codecs.GzipCodec()}
UNCHECKED = {"none": None, "blosc": zarr.codecs.BloscCodec(), "zstd": zarr.codecs.ZstdCodec()}


def foreign(path: Path, codec: Any, shards: tuple[int, int] | None = None) -> Path:
    """An archive that somebody else wrote, with noise in it."""
    root = zarr.open_group(path, mode="w", zarr_format=3)
    for key in ("qpos", "qvel"):
        array = root.create_array(
            f"lab/walk/t0/{key}",
            shape=(40, 3),
            chunks=(10, 3),
            shards=shards,
            dtype="f4",
            filters=None,
            compressors=codec,
        )
        array[:] = np.random.default_rng(0).uniform(1, 2, (40, 3))
    return path


def chunks(path: Path, key: str = "qpos") -> list[Path]:
    return sorted(file for file in (path / "lab/walk/t0" / key / "c").rglob("*") if file.is_file())


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-7] ^= 0x40
    file.write_bytes(content)


@pytest.mark.parametrize("name", UNCHECKED)
def test_what_has_no_checksums_is_not_called_as_it_was_written(iltools: Any, tmp_path: Path, name: str) -> None:
    archive = foreign(tmp_path / "a.zarr", UNCHECKED[name])
    if name == "none":
        flip(chunks(archive)[1])
    outcome = iltools("verify", archive)
    assert outcome.code == 0
    assert "as it was written" not in outcome.out
    assert "readable, but values could not be checked: 2 arrays have no checksums (lab/walk/t0/qpos" in outcome.out
    assert iltools("verify", archive, "--json").json["unchecked"] == ["lab/walk/t0/qpos", "lab/walk/t0/qvel"]


@pytest.mark.parametrize("shards", [None, (20, 3)])
@pytest.mark.parametrize("name", CHECKED)
def test_what_has_them_is_compared(iltools: Any, tmp_path: Path, name: str, shards: Any) -> None:
    archive = foreign(tmp_path / "a.zarr", CHECKED[name], shards)
    outcome = iltools("verify", archive)
    assert outcome.code == 0
    assert "every chunk that is there matches its checksum" in outcome.out
    flip(chunks(archive)[0])
    damaged = iltools("verify", archive, "--json")
    assert damaged.code == 1
    assert [entry["key"] for entry in damaged.json["damages"]] == ["qpos"]


def test_missing_chunks_are_printed(iltools: Any, tmp_path: Path) -> None:
    archive = foreign(tmp_path / "a.zarr", CHECKED["crc32c"])
    for file in chunks(archive)[1:3]:
        file.unlink()
    outcome = iltools("verify", archive)
    assert outcome.code == 0
    assert "lab/walk/t0/qpos: 2 chunks are not there; they read as the fill value" in outcome.err
    assert "as it was written" not in outcome.out
    assert iltools("verify", archive, "--json").json["missing_chunks"] == {"lab/walk/t0/qpos": 2}


def test_an_archive_of_ours(iltools: Any, tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add("lab", "walk", "t0", {"qpos": np.ones((5, 2))})
    outcome = iltools("verify", tmp_path / "a.zarr")
    assert (outcome.code, outcome.err.strip()) == (0, "")
    assert "all as it was written" in outcome.out


def test_what_was_not_looked_at_is_said(iltools: Any, tmp_path: Path) -> None:
    archive = foreign(tmp_path / "a.zarr", CHECKED["crc32c"])
    root = zarr.open_group(archive, mode="r+")
    root.create_array("extra", data=np.ones(3))
    root["lab/walk/t0"].create_array("short", data=np.ones((7, 2)))
    outcome = iltools("verify", archive)
    assert "left out: extra" in outcome.err
    assert "does not fit together: lab/walk/t0: 'short' has 7 rows" in outcome.err
