"""Formats by name, by the look of a file, and from third parties."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.sources import (
    Recording,
    Source,
    export,
    open_source,
    recognise,
    registry,
    source_class,
    source_formats,
)


class CountingSource(Source):
    """A third party's format: a text file with a number of states."""

    format = "counting"
    summary = "numbers of states"
    suffixes = (".count",)

    @classmethod
    def recognises(cls, path):
        return path.suffix == ".count"

    def read(self, file):
        for states in map(int, file.path.read_text().split()):
            yield Recording({"qpos": np.arange(states, dtype=np.float32)[:, None]}, fps=10)


@pytest.fixture
def third_party(monkeypatch):
    points = {
        "counting": EntryPoint("counting", f"{__name__}:CountingSource", registry.ENTRY_POINT_GROUP),
        "broken": EntryPoint("broken", "builtins:dict", registry.ENTRY_POINT_GROUP),
    }
    monkeypatch.setattr(registry, "_third_party", lambda: points)
    return points


def test_every_built_in_format_has_its_name():
    for name in source_formats():
        found = source_class(name)
        assert found.format == name
        assert found.summary


def test_unknown_formats_and_files(tmp_path):
    with pytest.raises(SourceError, match="no source format 'bvh'; there are flat-zarr, unitree-csv"):
        source_class("bvh")
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        recognise(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(SourceError, match="no known format"):
            recognise(path)


def test_third_parties_add_formats(tmp_path, third_party):
    (tmp_path / "raw.count").write_text("3 5")
    assert source_formats()[-2:] == ["broken", "counting"]
    with pytest.raises(SourceError, match="not a subclass"):
        source_class("broken")
    del third_party["broken"]
    assert recognise(tmp_path) is CountingSource
    export([open_source(tmp_path), open_source(tmp_path / "raw.count", motion="more")], tmp_path / "a.zarr")
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert [(t.path, t.num_states) for t in reader.trajectories] == [
        ("counting/more/traj0", 3),
        ("counting/more/traj1", 5),
        ("counting/raw/traj0", 3),
        ("counting/raw/traj1", 5),
    ]
    assert reader.metadata["trajectory_lengths"] == [3, 5, 3, 5]
    export(open_source(tmp_path), tmp_path / "b.zarr", max_trajectories_per_motion=1, metadata={"version": "2"})
    assert len(ArchiveReader(tmp_path / "b.zarr")) == 1
    assert ArchiveReader(tmp_path / "b.zarr").metadata["version"] == "2"
