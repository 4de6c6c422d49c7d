"""Archives and raw files behind S3's protocol: what is written comes back; what the server refuses has its URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the extra cli")

from iltools_datasets import TrajectoryStore, build_store
from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.cli import main
from iltools_datasets.errors import ArchiveCorruptError, ArchiveExistsError, SourceError, StorageError
from iltools_datasets.sources import export, open_sources
from iltools_datasets.windows.dataset import VectorizedTrajectoryDataset
from object_server import ObjectServer, serving
from raw_clips import files_of, write_clips


@pytest.fixture(scope="module")
def running() -> Iterator[ObjectServer]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    running.reset()
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running


@pytest.fixture
def archive(server: ObjectServer, tmp_path: Path) -> str:
    export(open_sources([write_clips(tmp_path / "raw", 5)]), tmp_path / "alone.zarr")
    url = server.upload(tmp_path / "alone.zarr", "a.zarr")
    server.requests.clear()
    return url


def iltools(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("what", ["", "/motion1/clip4.npz"])
def test_raw_files_behind_a_url_become_an_archive_behind_one(
    server: ObjectServer, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_clips(tmp_path / "raw", 5)
    server.upload(root, "raw")
    export(open_sources([f"{root}{what}"]), tmp_path / "alone.zarr")
    assert iltools("export", "auto", server.url(f"raw{what}"), "--out", server.url("b.zarr"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_clips"] == (1 if what else 5)
    server.files().get(f"{server.bucket}/b.zarr", str(tmp_path / "b.zarr"), recursive=True)
    assert files_of(tmp_path / "b.zarr") == files_of(tmp_path / "alone.zarr")
    build_store(server.url("b.zarr"), tmp_path / "store", ["qpos", "qvel"])
    assert TrajectoryStore.open(tmp_path / "store").num_trajectories == (1 if what else 5)


def test_a_raw_file_that_cannot_be_read_is_called_by_its_url(
    server: ObjectServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_clips(tmp_path / "raw", 3)
    (root / "motion1" / "clip1.npz").write_bytes(b"PK\3\4 nothing")
    url = server.upload(root, "raw")
    assert iltools("export", "auto", url, "--out", tmp_path / "a.zarr") == 2
    assert f"{url}/motion1/clip1.npz" in "".join(capsys.readouterr().err.split())
    assert iltools("export", "auto", url, "--out", tmp_path / "a.zarr", "--keep-going", "--json") == 1
    assert json.loads(capsys.readouterr().out)["failures"][0]["path"] == f"{url}/motion1/clip1.npz"
    assert iltools("export", "auto", server.url("nowhere"), "--out", tmp_path / "b.zarr") == 2
    assert f"{server.url('nowhere')}: no such file" in " ".join(capsys.readouterr().err.split())


def test_an_archive_is_read_by_clips_and_by_windows(archive: str, tmp_path: Path) -> None:
    with ArchiveReader(archive) as reader, ArchiveReader(tmp_path / "alone.zarr") as local:
        assert [clip.path for clip in reader.trajectories] == [clip.path for clip in local.trajectories]
        for clip, other in zip(reader.trajectories, local.trajectories, strict=True):
            for key, rows in local.read(other).items():
                np.testing.assert_array_equal(reader.read(clip, [key])[key], rows)
    with (
        VectorizedTrajectoryDataset(archive, 2) as dataset,
        VectorizedTrajectoryDataset(tmp_path / "alone.zarr", 2) as local_dataset,
    ):
        window = dataset.fetch_window([0, 1], "qpos", 4)
        np.testing.assert_array_equal(window, local_dataset.fetch_window([0, 1], "qpos", 4))


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        ("403 Forbidden", "AccessDenied", "access is refused"),
        ("503 Service Unavailable", "ServiceUnavailable", "cannot be read"),
    ],
)
def test_an_answer_that_is_none_is_an_error_with_the_url_of_the_file(
    archive: str, server: ObjectServer, status: str, code: str, message: str
) -> None:
    reader = ArchiveReader(archive)
    server.fault = lambda method, key: (status, code) if "qpos/c." in key else None
    with pytest.raises(StorageError, match=f"{archive}/.*/qpos/c.0.*: {message}"):
        reader.read(reader.trajectories[0])
    server.fault = lambda method, key: (status, code) if method == "GET" else None
    with pytest.raises(StorageError, match=f"{archive}/zarr.json: {message}"):
        ArchiveReader(archive)
    server.fault = lambda method, key: (status, code) if method == "PUT" else None
    with (
        pytest.raises(StorageError, match=f"{server.url('new.zarr')}/.*: {message}"),
        ArchiveWriter(server.url("new.zarr")) as writer,
    ):
        writer.add("lab", "walk", "t0", {"qpos": np.ones((3, 2))})
    server.fault = lambda method, key: None
    with pytest.raises(SourceError, match="not a Zarr group"):
        ArchiveReader(server.url("new.zarr"))
    reader.read(reader.trajectories[0])


def test_half_a_chunk_and_no_chunk_are_damage(archive: str, server: ObjectServer) -> None:
    files = server.files()
    [place] = [place for place in files.find(f"{server.bucket}/a.zarr") if "motion0/traj0/qpos/c." in place]
    content = files.cat_file(place)
    for damage in (content[: len(content) // 2], None):
        if damage is None:
            files.rm(place)
        else:
            files.pipe_file(place, damage)
        reader = ArchiveReader(archive)
        with pytest.raises(ArchiveCorruptError, match=f"{archive}.*motion0/traj0/qpos"):
            reader.read(reader.trajectories[0])


def test_half_an_answer_is_no_chunk(archive: str, server: ObjectServer) -> None:
    reader = ArchiveReader(archive)
    server.cut = lambda method, key: "motion0/traj0/qpos/c." in key
    with pytest.raises(StorageError, match=f"{archive}/.*motion0/traj0/qpos/c."):
        reader.read(reader.trajectories[0])


def test_an_archive_that_is_there_is_not_written_over(archive: str, server: ObjectServer, tmp_path: Path) -> None:
    before: Any = server.files().find(f"{server.bucket}/a.zarr")
    with pytest.raises(ArchiveExistsError, match=r"a\.zarr"):
        export(open_sources([tmp_path / "raw"]), archive)
    assert server.files().find(f"{server.bucket}/a.zarr") == before
