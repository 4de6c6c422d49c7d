"""The verbs of `iltools`, from raw files to a picture: output, JSON, exit codes, and nothing left after an error."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the extra cli")

from iltools_datasets.archive import ArchiveReader, ArchiveWriter
from iltools_datasets.cli.app import VERBS
from iltools_datasets.cli.opened import OpenedStore
from iltools_datasets.errors import ArgumentError
from iltools_datasets.store.builder import StoreBuilder
from iltools_datasets.store.maintenance import verify_store
from iltools_datasets.store.trajectory_store import TrajectoryStore

JOINTS = 3


def write_csv(path: Path, num_states: int, seed: int = 0) -> Path:
    """A robot that walks along x: root xyz, quaternion xyzw, joints on sines; 60 Hz."""
    time = np.arange(num_states) / 60
    root = np.stack([time, np.zeros_like(time), np.ones_like(time)], axis=1)
    quaternion = np.tile([0.0, 0.0, 0.0, 1.0], (num_states, 1))
    joints = np.sin(np.outer(time, np.arange(1, JOINTS + 1)) + seed)
    np.savetxt(path, np.concatenate([root, quaternion, joints], axis=1), delimiter=",", fmt="%.9f")
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    directory = tmp_path / "raw"
    directory.mkdir()
    for number, num_states in enumerate((40, 25, 31)):
        write_csv(directory / f"walk{number}_60hz.csv", num_states, number)
    return directory


@pytest.fixture
def archive(iltools: Any, raw: Path, tmp_path: Path) -> Path:
    assert iltools("export", "auto", raw, "--out", tmp_path / "motion.zarr").code == 0
    return tmp_path / "motion.zarr"


@pytest.fixture
def store(iltools: Any, archive: Path, tmp_path: Path) -> Path:
    assert iltools("build", archive, "--out", tmp_path / "store").code == 0
    return tmp_path / "store"


def test_from_raw_files_to_a_store(iltools: Any, raw: Path, store: Path) -> None:
    opened = TrajectoryStore.open(store)
    assert len(opened) == 39 + 24 + 30
    np.testing.assert_allclose(
        opened.gather([0])["qpos"][0, 7:], np.loadtxt(raw / "walk0_60hz.csv", delimiter=",")[0, 7:]
    )


def test_clips_are_added_to_a_store(iltools: Any, raw: Path, store: Path, tmp_path: Path) -> None:
    more = write_csv(tmp_path / "run_60hz.csv", 22, 9)
    assert iltools("export", "auto", more, "--out", tmp_path / "more.zarr").code == 0
    document = iltools("build", tmp_path / "more.zarr", "--out", store, "--add", "--json").json
    assert (document["num_trajectories"], document["num_in_store"]) == (1, 4)
    again = iltools("build", tmp_path / "more.zarr", "--out", store, "--add")
    assert again.code == 2
    assert "pass --skip-present" in again.err
    refused = iltools("build", tmp_path / "more.zarr", "--out", store, "--add", "--obs-keys", "qpos")
    assert refused.code == 2
    assert "--obs-keys" in refused.err
    assert iltools("build", tmp_path / "more.zarr", "--out", store, "--skip-present").code == 2
    info = iltools("info", store, "--json").json
    assert info["num_clips"] == 4
    assert iltools("verify", store).code == 0


def test_the_doctor_mends_what_can_be_computed(iltools: Any, tmp_path: Path) -> None:
    time = np.arange(60) / 50
    joints = np.sin(np.outer(time, [1.0, 2.0, 3.0]))
    speeds = np.array([1.0, 2.0, 3.0]) * np.cos(np.outer(time, [1.0, 2.0, 3.0]))
    speeds[:, 1] *= -1
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        writer.add("lab", "walk", "x", {"joint_pos": joints, "joint_vel": speeds}, {"fps": 50.0})
    assert iltools("doctor", tmp_path / "a.zarr").code == 1
    outcome = iltools("doctor", tmp_path / "a.zarr", "--fix", tmp_path / "b.zarr")
    assert outcome.code == 0
    assert "changed lab/walk/x joint_vel" in outcome.out
    assert "nothing found" in outcome.out
    assert iltools("doctor", tmp_path / "b.zarr").code == 0
    document = iltools("doctor", tmp_path / "a.zarr", "--fix", tmp_path / "b.zarr", "--overwrite", "--json").json
    assert [change["key"] for change in document["changes"]] == ["joint_vel"]
    assert document["healthy"]
    assert iltools("doctor", tmp_path / "a.zarr", "--overwrite").code == 2


def test_a_store_says_its_rate_and_names(iltools: Any, tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        for number, fps in enumerate((30.0, 50.0)):
            arrays = {"joint_pos": np.zeros((6, 2)), "joint_vel": np.zeros((6, 2))}
            writer.add("lab", "walk", f"c{number}", arrays, {"fps": fps, "joint_names": ["hip", "knee"]})
    assert iltools("build", tmp_path / "a.zarr", "--out", tmp_path / "store").code == 0
    said = iltools("info", tmp_path / "store").out
    assert "30 Hz, 50 Hz" in said
    assert "2: hip, knee" in said
    document = iltools("info", tmp_path / "store", "--json").json
    assert (document["rates"], document["attributes"]["joint_names"]) == ([30.0, 50.0], ["hip", "knee"])
    columns = iltools("view", tmp_path / "store", "--key", "joint_pos", "--json").json["columns"]
    assert [column["name"] for column in columns] == ["hip", "knee"]


def test_several_processes_export_the_same(iltools: Any, raw: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        arguments = ("export", "auto", raw, "--out", tmp_path / f"{jobs}.zarr", "--jobs", jobs)
        assert iltools(*arguments).code == 0
    one, two = (
        {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        for path in (tmp_path / "1.zarr", tmp_path / "2.zarr")
    )
    assert one == two
    assert iltools("export", "auto", raw, "--out", tmp_path / "0.zarr", "--jobs", 0).code == 2


def test_parts_are_joined(iltools: Any, raw: Path, archive: Path, store: Path, tmp_path: Path) -> None:
    more = write_csv(tmp_path / "run_60hz.csv", 22, 9)
    assert iltools("export", "auto", more, "--out", tmp_path / "more.zarr").code == 0
    document = iltools("combine", archive, tmp_path / "more.zarr", "--out", tmp_path / "all.zarr", "--json").json
    assert (document["num_clips"], document["num_states"]) == (4, 96 + 22)
    assert iltools("verify", tmp_path / "all.zarr").code == 0
    again = iltools("combine", archive, tmp_path / "more.zarr", "--out", tmp_path / "all.zarr")
    assert again.code == 2
    assert "pass --overwrite" in again.err
    assert iltools("build", tmp_path / "more.zarr", "--out", tmp_path / "other").code == 0
    outcome = iltools("combine", store, tmp_path / "other", "--out", tmp_path / "both")
    assert outcome.code == 0
    assert "store of 2 parts" in outcome.out
    assert len(TrajectoryStore.open(tmp_path / "both")) == 39 + 24 + 30 + 21
    mixed = iltools("combine", store, archive, "--out", tmp_path / "mixed")
    assert mixed.code == 2
    assert "is none" in mixed.err


def test_export_says_what_it_took_the_files_for(iltools: Any, raw: Path, tmp_path: Path) -> None:
    outcome = iltools("export", "auto", raw, "--out", tmp_path / "a.zarr")
    assert "unitree-csv (3 files)" in outcome.out
    document = iltools("export", "unitree-csv", raw, "--out", tmp_path / "b.zarr", "--motion", "walk", "--json").json
    assert document == {
        "archive": str(tmp_path / "b.zarr"),
        "formats": {"unitree-csv": 3},
        "num_clips": 3,
        "num_states": 96,
        "failures": [],
        "notes": [],
    }
    assert [task.name for task in ArchiveReader(tmp_path / "b.zarr").tasks] == ["unitree_csv/walk"]


def test_export_options_and_resampling(iltools: Any, raw: Path, tmp_path: Path) -> None:
    archive = tmp_path / "half.zarr"
    assert iltools("export", "auto", raw, "--out", archive, "-o", "fps=30", "--fps", "15", "--source", "lab").code == 0
    reader = ArchiveReader(archive)
    assert [trajectory.num_states for trajectory in reader.trajectories] == [20, 13, 16]
    assert reader.trajectories[0].attributes["fps"] == 15
    assert reader.tasks[0].dataset_source == "lab"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "fps"), "NAME=VALUE"),
        (("-o", "colour=red"), "colour"),
        (("--layout", "heap"), "heap"),
    ],
)
def test_export_refuses_options_it_does_not_know(
    iltools: Any, raw: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    outcome = iltools("export", "auto", raw, "--out", tmp_path / "a.zarr", *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert not (tmp_path / "a.zarr").exists()


def test_export_of_a_damaged_file(iltools: Any, raw: Path, tmp_path: Path) -> None:
    (raw / "broken_60hz.csv").write_text("0,0,0,0,0,0,1,0.5\n1,2,three,4,5,6,7,8\n")
    stopped = iltools("export", "auto", raw, "--out", tmp_path / "a.zarr")
    assert stopped.code == 2
    assert "broken_60hz.csv" in stopped.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]
    went_on = iltools("export", "auto", raw, "--out", tmp_path / "a.zarr", "--keep-going")
    assert went_on.code == 1
    assert "broken_60hz.csv" in went_on.err
    assert len(ArchiveReader(tmp_path / "a.zarr")) == 3


def test_an_archive_is_not_replaced_unless_asked(iltools: Any, raw: Path, archive: Path) -> None:
    assert iltools("export", "auto", raw, "--out", archive).code == 2
    assert iltools("export", "auto", raw, "--out", archive, "--overwrite").code == 0


def test_build_reports_and_refuses(iltools: Any, archive: Path, store: Path) -> None:
    assert iltools("build", archive, "--out", store).code == 2
    document = iltools("build", archive, "--out", store, "--overwrite", "--obs-keys", "qpos", "--json").json
    assert document["num_transitions"] == 93
    assert document["zero_action"] is True
    missing = iltools("build", archive, "--out", store.with_name("other"), "--obs-keys", "nothing")
    assert missing.code == 2
    assert "nothing" in missing.err
    assert not store.with_name("other").exists()


def test_info_of_everything(iltools: Any, raw: Path, archive: Path, store: Path) -> None:
    assert iltools("info", raw / "walk0_60hz.csv", "--json").json["format"] == "unitree-csv"
    of_archive = iltools("info", archive, "--json").json
    assert (of_archive["kind"], of_archive["num_clips"], of_archive["num_states"]) == ("archive", 3, 96)
    assert of_archive["rates"] == [60]
    assert of_archive["keys"]["qpos"] == {"dtype": "float64", "shape": [10], "num_clips": 3}
    of_store = iltools("info", store, "--json").json
    assert (of_store["kind"], of_store["num_transitions"]) == ("store", 93)
    assert of_store["tasks"] == of_archive["tasks"]
    for path in (archive, store, raw):
        assert iltools("info", path).out.startswith(str(path))


def test_a_store_reads_back_whole_clips(archive: Path, store: Path) -> None:
    reader, opened = ArchiveReader(archive), OpenedStore(str(store))
    for position, trajectory in enumerate(reader.trajectories):
        source = reader.read(trajectory, ["qpos"])["qpos"].astype(np.float32)
        np.testing.assert_array_equal(opened.read(position, ["qpos"])["qpos"], source)
        assert opened.read(position, ["action"])["action"].shape == (trajectory.num_states - 1, 1)
        assert opened.clips[position].path == trajectory.path


def test_verify_finds_a_flipped_bit(iltools: Any, archive: Path, store: Path) -> None:
    assert iltools("verify", store).code == 0
    assert iltools("verify", archive, "--json").json["damages"] == []
    column = max(store.rglob("*.memmap"), key=lambda file: file.stat().st_size)
    flip(column)
    damaged = iltools("verify", store, "--json")
    assert damaged.code == 1
    assert damaged.json["damages"][0]["key"] == "observation"
    chunk = max(archive.rglob("c.*"), key=lambda file: file.stat().st_size)
    flip(chunk)
    damaged = iltools("verify", archive)
    assert damaged.code == 1
    assert "unitree_csv" in damaged.out


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_doctor_exit_codes(iltools: Any, archive: Path, tmp_path: Path) -> None:
    healthy = iltools("doctor", archive, "--json")
    assert healthy.code == 0
    assert healthy.json["healthy"] is True
    with ArchiveWriter(tmp_path / "sick.zarr") as writer:
        values = np.zeros((20, 2))
        values[7, 1] = np.nan
        for number in range(3):
            writer.add("lab", "walk", f"traj{number}", {"joint_pos": values})
    sick = iltools("doctor", tmp_path / "sick.zarr", "--most", "2")
    assert sick.code == 1
    assert "value lab/walk/traj0 frame 7 joint_pos" in sick.out
    assert "value: 1 more" in sick.out
    assert iltools("doctor", tmp_path / "sick.zarr", "--json").json["findings"][0]["frame"] == 7


def test_view_in_the_terminal(iltools: Any, archive: Path, store: Path) -> None:
    outcome = iltools("view", archive, "--clip", "1", "--most", "2")
    assert outcome.code == 0
    assert "walk1_60hz/traj0, 25 states" in outcome.out
    assert "qpos[1]" in outcome.out
    assert "8 columns more" in outcome.out
    assert "root: walks 0.40 m" in outcome.out
    document = iltools("view", store, "--key", "action", "--json").json
    assert document["num_states"] == 40
    assert document["columns"] == [{"name": "action[0]", "least": 0.0, "greatest": 0.0}]
    unknown = iltools("view", archive, "--clip", "nobody")
    assert unknown.code == 2
    assert "no clip 'nobody'" in unknown.err


@pytest.mark.parametrize("key", ["qpos", "qvel"])
def test_view_writes_a_picture(iltools: Any, archive: Path, tmp_path: Path, key: str) -> None:
    pytest.importorskip("matplotlib", reason="a picture needs the extra view")
    picture = tmp_path / "motion.png"
    assert iltools("view", archive, "--out", picture, "--key", key).code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bench_of_a_store(iltools: Any, store: Path) -> None:
    pytest.importorskip("torchrl", reason="bench samples with the extra torch")
    document = iltools("bench", store, "--batch-size", "16", "--seconds", "0.01", "--json").json
    assert {row["mode"] for row in document["rows"]} > {"uniform", "windows per env"}
    assert all(row["p50"] <= row["p99"] for row in document["rows"])
    assert "windows per env" in iltools("bench", store, "--batch-size", "16", "--seconds", "0.01").out


def test_repair_of_a_sound_store(iltools: Any, store: Path) -> None:
    assert iltools("repair", store, "--json").json["removed"] == []
    assert iltools("verify", store).code == 0


def test_paths_that_are_not_there_or_something_else(iltools: Any, raw: Path, tmp_path: Path) -> None:
    for verb in ("info", "verify", "view", "doctor"):
        outcome = iltools(verb, tmp_path / "nowhere")
        assert outcome.code == 2
        assert "nowhere" in outcome.err
    not_yet = iltools("verify", raw)
    assert not_yet.code == 2
    assert "iltools export auto" in not_yet.err
    as_json = iltools("info", tmp_path / "nowhere", "--json")
    assert as_json.json["error"]["type"] == "SourceNotFoundError"


def test_archives_behind_a_url(iltools: Any, raw: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="object stores need fsspec")
    url = f"file://{tmp_path}/remote.zarr"
    assert iltools("export", "auto", raw, "--out", url).code == 0
    assert iltools("info", url, "--json").json["num_clips"] == 3
    assert "3 of 25 to 40 states" in iltools("info", url).out
    assert iltools("doctor", url).code == 0
    assert iltools("verify", url).code == 0
    assert iltools("view", url).code == 0
    assert iltools("build", url, "--out", tmp_path / "remote.store").code == 0
    assert len(TrajectoryStore.open(tmp_path / "remote.store")) == 93


def test_help_version_and_completion(iltools: Any) -> None:
    from iltools_datasets import __version__

    assert iltools("--version").out.strip() == f"iltools-datasets {__version__}"
    help_text = iltools("--help").out
    for verb in ("demo", "export", "doctor", "build", "info", "view", "verify", "repair", "bench"):
        assert verb in help_text
        assert iltools(verb, "--help").code == 0
    assert "trajopt" in iltools("export", "--help").out


def test_several_archives_and_chosen_clips(iltools: Any, raw: Path, archive: Path, tmp_path: Path) -> None:
    assert iltools("export", "auto", raw / "walk1_60hz.csv", "--source", "b", "--out", tmp_path / "b.zarr").code == 0
    built = iltools("build", archive, tmp_path / "b.zarr", "--out", tmp_path / "both", "--json")
    assert built.json["num_trajectories"] == 4
    options = ("--select", "*walk*", "--select", "!b/*", "--min-states", 30, "--healthy")
    chosen = iltools("build", archive, tmp_path / "b.zarr", "--out", tmp_path / "some", *options, "--json")
    assert chosen.json["num_transitions"] == 39 + 30
    wrong = iltools("build", archive, "--out", tmp_path / "none", "--select", "run*")
    assert wrong.code == 2
    assert "no clip is called like 'run*'" in " ".join(wrong.err.split())


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], [], ["no-such-verb"]])
def test_what_no_verb_is_asked_for_loads_no_numbers(arguments: list[str]) -> None:
    code = (
        "import sys; from iltools_datasets.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: print([name for name in ('numpy', 'zarr') if name in sys.modules])"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.splitlines()[-1] == "[]"


def test_the_list_of_verbs_says_what_each_says_of_itself() -> None:
    for verb, summary in VERBS.items():
        callback = getattr(import_module(f"iltools_datasets.cli.{verb}"), verb)
        assert summary == " ".join(callback.__doc__.partition("\n\n")[0].split())


def test_the_package_is_the_command_line_too(store: Path) -> None:
    command = [sys.executable, "-m", "iltools_datasets", "info", str(store), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["num_clips"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "--json", "--bogus", "x"], "No such option"),
        (["build", "x", "--json"], "Missing option '--out'."),
        (["infos", "--json"], "No such command 'infos'."),
        (["export", "auto", "x", "--out", "y", "-o", "rate", "--json"], "expected NAME=VALUE, got 'rate'"),
    ],
)
def test_wrong_usage_is_json_where_that_is_asked_for(iltools: Any, arguments: list[str], message: str) -> None:
    outcome = iltools(*arguments)
    assert outcome.code == 2
    assert outcome.json["error"]["type"] == "UsageError"
    assert message in outcome.json["error"]["message"]
    assert message in outcome.err


URL = "s3://bucket/motion"


@pytest.mark.parametrize("url", [URL, "s3:/bucket/motion", "gs://bucket/motion"])
def test_a_url_where_none_is_served_makes_no_folder_of_that_name(
    iltools: Any, archive: Path, store: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    commands = (["build", archive, "--out", url], ["view", store, "--out", url + ".png"], ["repair", url])
    for command in commands:
        outcome = iltools(*command)
        assert outcome.code == 2
        assert "expected a directory or file of this machine, found a URL of" in " ".join(outcome.err.split())
    for call in (StoreBuilder, TrajectoryStore.open, TrajectoryStore.from_tensordict_memmap, verify_store):
        with pytest.raises(ArgumentError, match="found a URL of"):
            call(url)
    assert list(Path().iterdir()) == []


def test_a_file_url_is_a_path(store: Path) -> None:
    assert TrajectoryStore.open(f"file://{store.absolute()}").path == store.absolute()


def test_a_protocol_that_nobody_knows_is_named(iltools: Any, raw: Path) -> None:
    outcome = iltools("export", "auto", raw, "--out", "ftpx://bucket/motion.zarr")
    assert outcome.code == 2
    assert "ftpx://bucket/motion.zarr: expected a path or the URL of an object store" in " ".join(outcome.err.split())


def test_starting_loads_neither_torch_nor_jax() -> None:
    code = (
        "import sys; from importlib import import_module; from iltools_datasets.cli.app import VERBS\n"
        "for verb in VERBS: import_module(f'iltools_datasets.cli.{verb}')\n"
        "print([name for name in ('torch', 'jax', 'tensordict', 'matplotlib') if name in sys.modules])"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"


def test_a_store_is_looked_at_without_what_only_archives_need(store: Path) -> None:
    """Starting is most of the time that `info` takes; zarr would double it."""
    code = (
        "import sys; from iltools_datasets.cli import main\n"
        f"try: main(['info', {str(store)!r}])\n"
        "except SystemExit: print([name for name in ('zarr', 'torch', 'jax') if name in sys.modules])"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "clips" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "[]"


def test_a_terminal_without_unicode_and_a_closed_pipe(store: Path) -> None:
    command = [sys.executable, "-c", "from iltools_datasets.cli import main; main()", "verify", str(store)]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    outcome = subprocess.run(command, capture_output=True, text=True, env=ascii_only, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "all as it was written" in outcome.stdout
