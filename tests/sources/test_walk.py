"""The files below a directory: each once, in natural order, in any case, and nothing dropped unsaid."""

import os
import sys

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError
from iltools_datasets.sources import export, open_source, open_sources, recognise
from iltools_datasets.sources.formats.unitree_csv import UnitreeCsvSource
from iltools_datasets.sources.walk import below, has_ending, without_ending
from motions import robot_rows, tracking_arrays, walk, write_rows


def write_csv(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_rows(path, robot_rows(walk(20, **options)))


def save_trajopt(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, qpos=np.zeros((9, 8)), qvel=np.zeros((9, 7)), action=np.zeros((9, 3)))


def exported(tmp_path, place, **options):
    report = export(open_sources([place], **options), tmp_path / "out.zarr", overwrite=True)
    return sorted(trajectory.path for trajectory in ArchiveReader(tmp_path / "out.zarr").trajectories), report.notes


def names_below(root, **options):
    return [path.relative_to(root).as_posix() for path in below(root, **options)]


@pytest.mark.faults
@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_links_that_lead_up_end(tmp_path, target):
    data = tmp_path / "data"
    write_csv(data / "a_30hz.csv")
    save_trajopt(data / "sub" / "t.npz")
    (data / "sub" / "loop").symlink_to(target)
    clips, notes = exported(tmp_path, data)
    assert clips == ["trajopt/sub/traj0", "unitree_csv/a_30hz/traj0"]
    assert any("loop: a link to a directory that is looked through anyway, or lies above" in note for note in notes)
    assert len(open_source(data, "unitree-csv").files()) == 1


def test_a_directory_is_entered_once_and_files_that_are_links_are_read(tmp_path):
    data = tmp_path / "data"
    write_csv(data / "b" / "walk_30hz.csv")
    (data / "a").symlink_to("b")  # sorts before it; the directory itself counts
    (tmp_path / "elsewhere").mkdir()
    write_csv(tmp_path / "elsewhere" / "run_30hz.csv")
    (data / "c").symlink_to(tmp_path / "elsewhere")
    (data / "copy_30hz.csv").symlink_to(data / "b" / "walk_30hz.csv")
    notes = []
    assert names_below(data, note=notes.append) == ["b/walk_30hz.csv", "c/run_30hz.csv", "copy_30hz.csv"]
    assert [note.rpartition("/")[2].partition(":")[0] for note in notes] == ["a"]


def test_links_between_directories_end(tmp_path):
    for name in "abc":
        (tmp_path / "data" / name).mkdir(parents=True)
        for other in "abc":
            (tmp_path / "data" / name / f"to_{other}").symlink_to(f"../{other}")
    write_csv(tmp_path / "data" / "b" / "walk_30hz.csv")
    assert names_below(tmp_path / "data") == ["b/walk_30hz.csv"]


def test_what_cannot_be_listed_or_is_not_there_is_said(tmp_path):
    data = tmp_path / "data"
    write_csv(data / "walk_30hz.csv")
    (data / "gone_30hz.csv").symlink_to("nowhere")
    (data / "self").symlink_to("self")
    (data / "closed").mkdir()
    (data / "closed").chmod(0)
    try:
        clips, notes = exported(tmp_path, data)
    finally:
        (data / "closed").chmod(0o755)
    assert clips == ["unitree_csv/walk_30hz/traj0"]
    text = "\n".join(notes)
    assert "gone_30hz.csv: a link to nothing" in text
    assert "self: a link to nothing" in text
    if os.getuid():
        assert "closed: cannot be listed: Permission denied" in text


@pytest.mark.parametrize("ending", [".CSV", ".Csv", ".csv"])
def test_endings_in_any_case(tmp_path, ending):
    write_csv(tmp_path / "data" / "a_30hz.csv")
    write_csv(tmp_path / "data" / f"b_30hz{ending}", seed=1)
    assert exported(tmp_path, tmp_path / "data")[0] == ["unitree_csv/a_30hz/traj0", "unitree_csv/b_30hz/traj0"]
    (tmp_path / "data" / "a_30hz.csv").unlink()
    assert recognise(tmp_path / "data") is UnitreeCsvSource
    assert exported(tmp_path, tmp_path / "data")[0] == ["unitree_csv/b_30hz/traj0"]
    assert [file.motion for file in open_source(tmp_path / "data", "unitree-csv").files()] == ["b_30hz"]


def test_npz_and_zarr_in_any_case(tmp_path):
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "a.npz", **tracking_arrays(walk()))
    (tmp_path / "data" / "a.npz").rename(tmp_path / "data" / "DANCE.NPZ")
    save_trajopt(tmp_path / "data" / "run" / "t.npz")
    (tmp_path / "data" / "run" / "t.npz").rename(tmp_path / "data" / "run" / "T.Npz")
    assert exported(tmp_path, tmp_path / "data")[0] == ["motion_npz/DANCE/traj0", "trajopt/run/traj0"]
    assert without_ending(tmp_path / "A.ZARR.Zip", (".zarr", ".zarr.zip")) == "A"
    assert not has_ending(tmp_path / "csv", (".csv",))


@pytest.mark.parametrize(
    "hidden", ["._walk_30hz.csv", ".DS_Store", "__MACOSX/._walk_30hz.csv", ".git/x.csv", "._a.npz"]
)
def test_hidden_files_are_passed_over(tmp_path, hidden):
    data = tmp_path / "data"
    write_csv(data / "walk_30hz.csv")
    (data / hidden).parent.mkdir(exist_ok=True)
    (data / hidden).write_bytes(b"\x00\x05\x16\x07" + bytes(80))
    assert exported(tmp_path, data) == (["unitree_csv/walk_30hz/traj0"], [])
    assert [file.path.name for file in open_source(data, "unitree-csv").files()] == ["walk_30hz.csv"]


def test_a_hidden_file_that_is_named_is_looked_at(tmp_path):
    write_csv(tmp_path / ".walk_30hz.csv")
    assert recognise(tmp_path / ".walk_30hz.csv") is UnitreeCsvSource


@pytest.mark.parametrize("with_csv", [False, True], ids=["alone", "among others"])
def test_trajopt_files_at_any_depth_belong_to_their_folder(tmp_path, with_csv):
    data = tmp_path / "data"
    for name in ("here.npz", "run1/walk/a.npz", "run2/b.npz", "run10/b.npz", "run2/deep/er/c.npz"):
        save_trajopt(data / name)
    expected = ["default", "er", "run10", "run2", "walk"]
    if with_csv:
        write_csv(data / "a_30hz.csv")
    clips, notes = exported(tmp_path, data)
    assert [clip.split("/")[1] for clip in clips if clip.startswith("trajopt")] == expected
    assert not [note for note in notes if "passed over" in note]


def test_trajopt_with_a_motion_says_what_it_passes_over(tmp_path):
    for name in ("here.npz", "run1/walk/a.npz", "run1/b.npz", "run2/c.npz"):
        save_trajopt(tmp_path / "data" / name)
    source = open_source(tmp_path / "data", motion="run1")
    assert [file.path.name for file in source.files()] == ["b.npz", "a.npz"]
    source = open_source(tmp_path / "data", motion="all")
    assert [file.path.name for file in source.files()] == ["here.npz"]
    assert "run1" in source.notes[0]
    assert "passed over: motion=all names the files directly in" in source.notes[0]


def test_nothing_at_all(tmp_path):
    (tmp_path / "data" / ".hidden").mkdir(parents=True)
    with pytest.raises(SourceError, match="nothing of a known format: it holds no files"):
        open_sources([tmp_path / "data"])


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_names_that_are_no_text(tmp_path):
    (tmp_path / "data").mkdir()
    write_csv(tmp_path / "data" / "a_30hz.csv")
    (tmp_path / "data" / os.fsdecode(b"\xff\xfe.txt")).write_text("x")
    clips, notes = exported(tmp_path, tmp_path / "data")
    assert clips == ["unitree_csv/a_30hz/traj0"]
    assert "passed over 1 file" in notes[0]
