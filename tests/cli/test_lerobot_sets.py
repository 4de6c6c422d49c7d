"""The command line on LeRobot sets: looked at, examined, read through, exported and built."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the extra cli")
pytest.importorskip("pyarrow", reason="needs the extra data")
pytest.importorskip("av", reason="needs the extra data")

sys.path.insert(0, str(Path(__file__).parents[1] / "lerobot"))

import pyarrow as pa
import pyarrow.parquet as pq
from iltools_datasets import TrajectoryStore
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.cli import main
from iltools_datasets.lerobot.parquet import numpy_name
from sets import TASKS, VERSIONS, LeRobotSet, arrow_column, make_set

LENGTHS = {0: 6, 1: 4, 4: 9}
TOP = "observation.images.top"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILTOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def iltools(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(params=VERSIONS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> LeRobotSet:
    return make_set(tmp_path / "set", request.param, LENGTHS, cameras={TOP: "video"})


def test_info_says_what_is_there_and_builds_nothing(iltools: Any, made: LeRobotSet, tmp_path: Path) -> None:
    code, text, _ = iltools("info", made.root)
    assert code == 0
    for part in (
        "LeRobot set",
        made.version,
        "3 of 4 to 9 frames",
        "10 Hz",
        TASKS[0],
        "observation.matrix",
        "2 x 3",
        "video",
    ):
        assert part in text
    code, text, _ = iltools("info", made.root, "--json")
    document = json.loads(text)
    assert (document["num_clips"], document["num_frames"], document["rates"]) == (3, 19, [10])
    assert document["tasks"] == {TASKS[0]: 2, TASKS[1]: 1}
    assert document["features"][TOP]["kind"] == "video"
    assert document["notes"] == []
    assert not (tmp_path / "cache").exists()
    made.video_file(4, TOP).unlink()
    made.edit_info(lambda info: info.update(total_frames=20))
    notes = json.loads(iltools("info", made.root, "--json")[1])["notes"]
    assert notes[0] == "info.json: total_frames is 20, the episode table has 19"
    assert f"videos of {TOP} are missing" in notes[1]


def height_of(png: Path) -> int:
    return int.from_bytes(png.read_bytes()[20:24])


def test_view_draws_curves_and_pictures(iltools: Any, made: LeRobotSet, tmp_path: Path) -> None:
    code, text, _ = iltools("view", made.root, "--key", "action")
    assert code == 0
    assert "episode_000004, 9 states, 0.9 s" in text
    assert "action[0]" in text
    for clip in ("4", "episode_000004", f"{TASKS[0]}/episode_000004"):
        document = json.loads(iltools("view", made.root, "--clip", clip, "--json")[1])
        assert (document["clip"], document["num_states"]) == (f"{TASKS[0]}/episode_000004", 9)
    code, _, errors = iltools("view", made.root, "--clip", "3")
    assert code == 2
    assert "no clip '3'; there are 3" in errors
    pytest.importorskip("matplotlib", reason="needs the extra view")
    picture = tmp_path / "picture.png"
    assert iltools("view", made.root, "--out", picture)[0] == 0
    with_pictures = height_of(picture)
    made.video_file(4, TOP).unlink()
    code, text, errors = iltools("view", made.root, "--clip", 4, "--out", picture)
    assert code == 0
    assert f"no pictures of {TOP}" in errors
    assert height_of(picture) < with_pictures
    # By default an episode whose pictures are there.
    alone = made.video_file(0, TOP) != made.video_file(4, TOP)
    assert ("episode_000004" in iltools("view", made.root, "--out", picture)[1]) != alone


def test_names_of_elements_are_those_of_the_feature(iltools: Any, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v3.0", LENGTHS)
    for names in ([["a", "b", "c", "d"]], {"motors": ["a", "b", "c", "d"]}, ["a", "b", "c", "d"]):
        made.edit_info(lambda info, names=names: info["features"]["action"].update(names=names))
        document = json.loads(iltools("view", made.root, "--key", "action", "--json")[1])
        assert [column["name"] for column in document["columns"]] == ["a", "b", "c", "d"]


def test_a_sound_set_is_healthy_and_whole(iltools: Any, made: LeRobotSet) -> None:
    code, text, _ = iltools("doctor", made.root)
    assert (code, "nothing found" in text) == (0, True)
    code, text, _ = iltools("verify", made.root)
    assert code == 0
    assert "every row and picture can be read" in text


def findings(iltools: Any, made: LeRobotSet) -> list[dict[str, Any]]:
    code, text, _ = iltools("doctor", made.root, "--json")
    found = json.loads(text)["findings"]
    assert code == (1 if found else 0)
    return found


def of_episode(table: pa.Table, episode: int, key: str, change: Callable[[np.ndarray], np.ndarray]) -> pa.Table:
    """A table with the values of one episode changed."""
    inside = np.array(table.column("episode_index")) == episode
    values = np.array(table.column(key).to_pylist(), dtype=numpy_name(table.schema.field(key).type)
                      if not pa.types.is_nested(table.schema.field(key).type) else np.float32)  # fmt: skip
    values[inside] = change(values[inside])
    return table.set_column(table.column_names.index(key), key, arrow_column(values))


def test_the_doctor_finds_rows_that_do_not_fit_their_length(iltools: Any, made: LeRobotSet) -> None:
    made.edit_data(4, lambda table: table.slice(0, len(table) - 1))
    (found,) = findings(iltools, made)
    assert found["check"] == "rows"
    assert "episode 4: the episode table lists 9 frames, the data files hold 8 rows" in found["message"]


def test_the_doctor_finds_totals_that_do_not_fit(iltools: Any, made: LeRobotSet) -> None:
    made.edit_info(lambda info: info.update(total_frames=20, total_episodes=4))
    assert [found["message"] for found in findings(iltools, made)] == [
        "info.json: total_episodes is 4, there are 3",
        "info.json: total_frames is 20, there are 19",
    ]


def test_the_doctor_finds_nan(iltools: Any, made: LeRobotSet) -> None:
    def spoil(values: np.ndarray) -> np.ndarray:
        values[2:4, 1] = np.nan
        return values

    made.edit_data(4, lambda table: of_episode(table, 4, "action", spoil))
    found = [entry for entry in findings(iltools, made) if entry["check"] == "value"]
    assert [(entry["clip"], entry["key"], entry["frame"], entry["message"]) for entry in found] == [
        ("episode_000004", "action", 2, "NaN in 2 frames")
    ]


@pytest.mark.parametrize(("factor", "message"), [(1.004, "its steps fit 9.96 Hz"), (2.0, "its steps fit 5 Hz")])
def test_the_doctor_finds_times_off_the_rate(iltools: Any, made: LeRobotSet, factor: float, message: str) -> None:
    made.edit_data(1, lambda table: of_episode(table, 1, "timestamp", lambda times: times * np.float32(factor)))
    found = [entry for entry in findings(iltools, made) if entry["check"] == "time"]
    assert [(entry["clip"], entry["frame"]) for entry in found] == [("episode_000001", 3)]
    assert message in found[0]["message"]
    assert "3 of 4 frames are off 10 Hz" in found[0]["message"]


def test_the_doctor_finds_pictures_that_do_not_tile(iltools: Any, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v3.0", LENGTHS, cameras={TOP: "video"})
    rows = pq.read_table(made.root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    key = f"videos/{TOP}/from_timestamp"

    def late(change: float) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
        return lambda rows: [
            {**row, key: start + change * (row["episode_index"] == 1)} for row, start in zip(rows, starts, strict=True)
        ]

    starts = [row[key] for row in rows]
    made.edit_episodes(late(0.1))
    (found,) = findings(iltools, made)
    assert (found["check"], found["key"]) == ("picture", TOP)
    assert "episodes 1 and 4 overlap" in found["message"]
    made.edit_episodes(late(0))
    made.edit_episodes(lambda rows: [row for row in rows if row["episode_index"] != 0])
    for path in made.root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.filter(pa.compute.not_equal(table.column("episode_index"), 0)), path)
    found = [entry for entry in findings(iltools, made) if entry["check"] == "picture"]
    assert len(found) == 1
    assert "6 of 19 pictures belong to no episode, the first is picture 0" in found[0]["message"]


def test_the_doctor_finds_missing_videos(iltools: Any, made: LeRobotSet) -> None:
    made.video_file(1, TOP).unlink()
    (found,) = findings(iltools, made)
    count = 3 if made.version == "v3.0" else 1
    assert found["message"].startswith(f"the videos of {count} of 3 episodes are missing")


def test_the_doctor_finds_statistics_of_other_rows(iltools: Any, made: LeRobotSet) -> None:
    name = "episodes_stats.jsonl" if made.version == "v2.1" else "stats.json"
    path = made.root / "meta" / name
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        stats = line.get("stats", line)
        for entry in ("min", "max", "mean"):
            stats["action"][entry] = (np.array(stats["action"][entry]) + 3).tolist()
        stats["task_index"]["max"] = [9]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    found = [entry for entry in findings(iltools, made) if entry["check"] == "statistics"]
    assert any(entry["key"] == "action" and "mean[0] is stated as" in entry["message"] for entry in found)
    assert any("'task_index'" in entry["message"] and "range from" in entry["message"] for entry in found)


def test_the_doctor_finds_tasks_that_are_not_listed(iltools: Any, made: LeRobotSet) -> None:
    made.edit_data(1, lambda table: of_episode(table, 1, "task_index", lambda numbers: numbers * 0 + 7))
    found = [entry for entry in findings(iltools, made) if entry["check"] == "task"]
    assert [(entry["clip"], entry["frame"]) for entry in found] == [("episode_000001", 0)]
    assert "7 is no task of the list, which has 2; 4 frames have it" in found[0]["message"]


def test_a_set_that_is_none_is_an_error_not_a_finding(iltools: Any, made: LeRobotSet) -> None:
    made.edit_info(lambda info: info.update(fps=0))
    for verb in ("doctor", "info", "view"):
        code, _, errors = iltools(verb, made.root)
        assert code == 2
        assert "fps: expected a positive number" in errors


def test_verify_reads_every_picture_and_the_hubs_checksums(iltools: Any, tmp_path: Path) -> None:
    import hashlib
    import shutil

    made = make_set(tmp_path / "set", "v2.1", LENGTHS, cameras={TOP: "video"})
    repository = tmp_path / "datasets--a--b"
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    for path in (path for path in made.root.rglob("*") if path.is_file()):
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy2(path, blob)
        link = repository / "snapshots/abc" / path.relative_to(made.root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    snapshot = repository / "snapshots/abc"
    code, text, _ = iltools("verify", snapshot)
    assert code == 0
    assert "10 files match the SHA-256" in text
    video = (snapshot / made.video_file(1, TOP).relative_to(made.root)).resolve()
    content = bytearray(video.read_bytes())
    at = content.find(b"mdat") + 200
    content[at : at + 60] = bytes(60)
    video.write_bytes(content)
    code, text, _ = iltools("verify", snapshot, "--json")
    assert code == 1
    assert any("its SHA-256 is" in damage["message"] for damage in json.loads(text)["damages"])


def test_export_makes_trajectories_of_the_numbers(iltools: Any, made: LeRobotSet, tmp_path: Path) -> None:
    archive = tmp_path / "archive.zarr"
    code, text, _ = iltools("export", "auto", made.root, "--out", archive)
    assert code == 0
    assert "lerobot (1 file)" in text
    reader = ArchiveReader(archive)
    assert [entry.path for entry in reader.trajectories] == [f"lerobot/set/traj{n}" for n in range(3)]
    for entry, (episode, length) in zip(reader.trajectories, LENGTHS.items(), strict=True):
        arrays, columns = reader.read(entry), made.columns[episode]
        assert entry.attributes["episode_index"] == episode
        assert entry.attributes["tasks"] == [TASKS[episode % 2]]
        assert entry.attributes["fps"] == 10
        assert np.array_equal(arrays["action"], columns["action"])
        assert np.array_equal(arrays["reward"], columns["next.reward"][:-1])
        assert arrays["done"][:, 0].tolist() == [False] * (length - 2) + [True]
        assert not {"timestamp", "index", "episode_index", "frame_index", "task_index"} & set(arrays)
    store = tmp_path / "store"
    assert iltools("build", archive, "--out", store, "--obs-keys", "observation.state")[0] == 0
    built = TrajectoryStore.open(store)
    assert len(built) == sum(LENGTHS.values()) - len(LENGTHS)
    ends = np.cumsum([length - 1 for length in LENGTHS.values()]) - 1
    assert np.flatnonzero(built.gather(np.arange(len(built)), ["terminated"])["terminated"]).tolist() == ends.tolist()


def test_build_makes_a_store_of_the_set_itself(iltools: Any, made: LeRobotSet, tmp_path: Path) -> None:
    place = tmp_path / "store"
    keys = ("--obs-keys", "observation.state", "--obs-keys", "observation.matrix", "--act-key", "observation.level")
    options = ("--exclude-keys", "action", "--exclude-keys", "index")
    code, text, _ = iltools("build", made.root, "--out", place, *keys, *options)
    assert code == 0
    assert "19, one for each frame" in text
    store = TrajectoryStore.open(place)
    rows = store.gather(np.arange(19))
    parts = [made.all(key).reshape(19, -1) for key in ("observation.state", "observation.matrix")]
    assert np.array_equal(rows["observation"], np.concatenate(parts, axis=1))
    assert np.array_equal(rows["observation.state"], parts[0])
    assert np.array_equal(rows["action"], made.all("observation.level"))
    assert "index" not in rows
    assert store.task_names == {0: "set"}
    assert iltools("build", made.root, "--out", place)[0] == 2
    assert json.loads(iltools("build", made.root, "--out", place, "--overwrite", "--json")[1])["num_transitions"] == 19
    code, _, errors = iltools("build", made.root, "--out", tmp_path / "other", "--obs-keys", "nonsense")
    assert (code, "no feature 'nonsense'" in errors) == (2, True)


def test_build_refuses_nan_unless_it_is_kept(iltools: Any, made: LeRobotSet, tmp_path: Path) -> None:
    made.edit_data(4, lambda table: of_episode(table, 4, "action", lambda values: values * np.nan))
    code, _, errors = iltools("build", made.root, "--out", tmp_path / "store")
    assert code == 2
    assert "episode 4, frame 0: 'action' is NaN, in 9 frames" in errors
    assert not (tmp_path / "store").exists()
    assert iltools("build", made.root, "--out", tmp_path / "store", "--exclude-keys", "action")[0] == 0
    assert iltools("build", made.root, "--out", tmp_path / "kept", "--keep-nan")[0] == 0


@pytest.mark.shared_data
def test_the_real_sets_as_a_user_would(iltools: Any, shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra view")
    for name, episodes, frames in (("lerobot_g1", 100, 35_965), ("lerobot_g1_v30", 20, 7_844)):
        document = json.loads(iltools("info", shared_data / name, "--json")[1])
        assert (document["num_clips"], document["num_frames"]) == (episodes, frames)
        assert document["features"]["action"]["names"][0] == "kLeftShoulderPitch"
        picture = tmp_path / f"{name}.png"
        assert iltools("view", shared_data / name, "--out", picture)[0] == 0
        assert picture.stat().st_size > 50_000
    found = json.loads(iltools("doctor", shared_data / "lerobot_g1", "--json")[1])["findings"]
    assert [entry["message"].partition(" are missing")[0] for entry in found] == ["the videos of 97 of 100 episodes"]
    assert iltools("doctor", shared_data / "lerobot_g1_v30")[0] == 0


def test_the_command_line_needs_neither_pyarrow_nor_av_for_a_v21_sets_info(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS)
    code = f"""
import sys
from iltools_datasets.cli import main
try:
    main(["info", {str(made.root)!r}])
except SystemExit as ended:
    assert not ended.code
assert not {{"pyarrow", "av", "torch", "jax"}} & set(sys.modules)
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
