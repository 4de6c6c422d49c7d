"""Options that cannot be: never a traceback, exit code 2, one line that says what to type, and nothing left behind."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the extra cli")

from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.cli import app as command_line
from iltools_datasets.cli.words import in_words_of_the_command_line
from motions import robot_rows, tracking_arrays, walk, write_rows


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        qpos, qvel = np.random.default_rng(0).uniform(size=(2, 20, 9))
        writer.add("lab", "walk", "t", {"qpos": qpos, "qvel": qvel[:, :8]}, {"fps": 50.0})
    return tmp_path / "a.zarr"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "walk_30hz.csv", robot_rows(walk()))


def refused(outcome: Any, *words: str) -> None:
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err
    assert "unforeseen" not in outcome.err
    assert outcome.out.strip() == ""
    for word in words:
        assert word in " ".join(outcome.err.split()), outcome.err


@pytest.mark.faults
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--float-dtype", "foo"), ("--float-dtype", "'float32'", "or be 'keep'", "'foo'")),
        (("--float-dtype", "int32"), ("--float-dtype", "'int32'")),
        (("--float-dtype", "O"), ("--float-dtype",)),
        (("--float-dtype", ""), ("--float-dtype",)),
        (("--obs-keys", "qpos", "--obs-keys", "qpos"), ("--obs-keys", "twice")),
        (("--obs-keys", "qpos", "--exclude-keys", "qpos"), ("--exclude-keys", "--obs-keys", "qpos")),
        (("--obs-keys", "nothing"), ("nothing", "qpos")),
        (("--act-key", "nothing"), ("nothing",)),
    ],
)
def test_build(iltools: Any, archive: Path, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(iltools("build", archive, "--out", tmp_path / "store", *options), *words)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("fps", ["0", "-5", "nan", "inf", "-inf", "fast"])
def test_rates(iltools: Any, archive: Path, table: Path, tmp_path: Path, fps: str) -> None:
    refused(iltools("doctor", archive, "--fps", fps), "--fps")
    refused(iltools("export", "auto", table, "--out", tmp_path / "b.zarr", "--fps", fps), "--fps")
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("fps=abc", "-o fps: expected a positive number, found 'abc'"),
        ("fps=0", "-o fps: expected a positive number, found 0"),
        ("fps=-30", "-o fps: expected a positive number"),
        ("fps=NaN", "-o fps: expected a positive number"),
        ("fps=1e999", "-o fps: expected a positive number"),
        ("fps=true", "-o fps: expected a positive number"),
        ("fps=[30]", "-o fps: expected a positive number"),
        ("fps=", "-o fps: expected a positive number, found ''"),
        ("quaternion_order=zyxw", "-o quaternion_order: expected 'wxyz' (scalar first), 'xyzw' or 'auto'"),
        ("joint_names=1", "-o joint_names: expected names"),
        ("joint_names=a,b", "5 joints, but 2 joint names were given"),
        ('joint_names={"a": 1}', "-o joint_names: expected names"),
        ("skip=3", "-o skip: expected names"),
        ("lengths=inch", "-o lengths: expected one of m, cm, mm"),
        ("motion=x", "motion is said by --motion"),
        ("path=x", "path is said by PATHS"),
        ("format=x", "format is said by FORMAT"),
        ("colour=red", "no option 'colour'"),
        ("=3", "NAME=VALUE"),
        ("fps", "NAME=VALUE"),
    ],
)
def test_options_of_a_format(iltools: Any, table: Path, tmp_path: Path, option: str, words: str) -> None:
    refused(iltools("export", "auto", table, "--out", tmp_path / "b.zarr", "-o", option), words)
    refused(iltools("export", "unitree-csv", table, "--out", tmp_path / "b.zarr", "-o", option), words)
    assert not (tmp_path / "b.zarr").exists()


def test_an_option_said_twice(iltools: Any, table: Path, tmp_path: Path) -> None:
    refused(iltools("export", "auto", table, "--out", tmp_path / "b.zarr", "-o", "fps=3", "-o", "fps=4"), "said twice")


def test_options_of_trajopt(iltools: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", qpos=np.zeros((9, 8)), qvel=np.zeros((9, 7)))
    for option, words in (
        ("quaternions=abc", "-o quaternions: expected"),
        ("quaternions=[-1]", "-o quaternions: expected"),
        ("quaternions=[1.5]", "-o quaternions: expected"),
        ("quaternion_order=auto", "-o quaternion_order: must be 'wxyz' or 'xyzw'"),
        ("action=3", "-o action: expected names"),
        ("action=nothing", "no member 'nothing'"),
    ):
        refused(iltools("export", "auto", tmp_path / "t.npz", "--out", tmp_path / "b.zarr", "-o", option), words)


@pytest.mark.parametrize("name", ["x.xyz", "x.csv", "x.PNGG", "x.tar.gz"])
def test_pictures_of_no_kind(iltools: Any, archive: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib", reason="a picture needs the extra view")
    refused(iltools("view", archive, "--out", tmp_path / name), name, "no picture ends in", "png", "svg", "pdf")
    refused(iltools("bench", "--plot", tmp_path / name), name, "no picture ends in")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("name", "written"), [("x", "x.png"), ("x.", "x.png"), ("x.SVG", "x.SVG"), ("a.b/x", "a.b/x.png")]
)
def test_the_picture_that_was_written_is_named(
    iltools: Any, archive: Path, tmp_path: Path, name: str, written: str
) -> None:
    pytest.importorskip("matplotlib", reason="a picture needs the extra view")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    outcome = iltools("view", archive, "--out", tmp_path / name)
    assert outcome.code == 0
    assert str(tmp_path / written) in outcome.out
    assert (tmp_path / written).is_file()
    assert iltools("view", archive, "--out", tmp_path / name, "--json").json["picture"] == str(tmp_path / written)


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor", "ARCHIVE", "--most", "-1"),
        ("view", "ARCHIVE", "--most", "-1"),
        ("view", "ARCHIVE", "--clip", "nobody"),
        ("view", "ARCHIVE", "--clip", "99"),
        ("view", "ARCHIVE", "--key", "nothing"),
        ("bench", "--batch-size", "0"),
        ("bench", "--seconds", "0"),
        ("bench", "--seconds", "nan"),
        ("bench", "--seconds", "inf"),
        ("demo", "--seed", "-1"),
        ("demo", "--obs-keys", "qpos"),
        ("export", "bvh", "ARCHIVE", "--out", "x.zarr"),
        ("export", "auto", "ARCHIVE", "--out", "x.zarr"),
        ("build", "ARCHIVE"),
        ("info",),
        ("nothing",),
    ],
)
def test_other_verbs(iltools: Any, archive: Path, arguments: tuple[str, ...]) -> None:
    refused(iltools(*(archive if argument == "ARCHIVE" else argument for argument in arguments)))


def test_errors_in_json_use_the_same_words(iltools: Any, archive: Path, table: Path, tmp_path: Path) -> None:
    outcome = iltools("doctor", archive, "--fps", "0", "--json")
    assert outcome.code == 2
    assert outcome.json["error"] == {
        "type": "ArgumentError",
        "message": "--fps: expected a positive number, found 0",
    }
    nan = tmp_path / "nan.zarr"
    with ArchiveWriter(nan) as writer:
        writer.add("lab", "walk", "t", {"qpos": np.full((4, 2), np.nan), "qvel": np.zeros((4, 2))})
    outcome = iltools("build", nan, "--out", tmp_path / "s", "--json")
    assert "pass --keep-nan to store it" in outcome.json["error"]["message"]
    assert iltools("build", nan, "--out", tmp_path / "s", "--keep-nan").code == 0
    again = iltools("build", nan, "--out", tmp_path / "s", "--keep-nan")
    assert "pass --overwrite to replace it" in again.err


def test_what_to_say_about_a_file(iltools: Any, tmp_path: Path) -> None:
    plain = write_rows(tmp_path / "walk.csv", robot_rows(walk()))
    for extra in ((), ("--fps", "30")):
        outcome = iltools("export", "auto", plain, "--out", tmp_path / "b.zarr", *extra)
        refused(outcome, "pass -o fps=30 (--fps is another thing: the rate to resample to), or whatever it is")
    turned = write_rows(tmp_path / "walk_30hz.csv", robot_rows(walk(), "wxyz"))
    outcome = iltools("export", "auto", turned, "--out", tmp_path / "b.zarr")
    refused(outcome, "pass -o quaternion_order=wxyz, or -o quaternion_order=xyzw if it is right as it is")
    outcome = iltools("export", "auto", turned, "--out", tmp_path / "b.zarr", "-o", "quaternion_order=wxyz")
    assert outcome.code == 0
    assert "wxyz in 1 clip of the files; wxyz in the archive" in " ".join(outcome.out.split())
    outcome = iltools("export", "auto", tmp_path, "--out", tmp_path / "c.zarr", "--keep-going", "-o", "fps=30")
    assert outcome.code == 1
    assert "left out" in outcome.err
    assert "pass -o quaternion_order=wxyz" in " ".join(outcome.err.split())


def test_notes_speak_the_same_language(iltools: Any, tmp_path: Path) -> None:
    rows = robot_rows(walk())
    write_rows(tmp_path / "walk_30hz.csv", np.concatenate([rows, np.tile(rows[:, 7:8], (1, 24))], axis=1))
    outcome = iltools("export", "auto", tmp_path / "walk_30hz.csv", "--out", tmp_path / "b.zarr")
    assert "if it is one: pass -o joint_names=g1" in " ".join(outcome.err.split())


def test_an_unforeseen_error_is_one_line_too(iltools: Any, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(command_line, "app_of", lambda _: fails)
    outcome = iltools("info", archive)
    assert outcome.code == 2
    assert "error: unforeseen ZeroDivisionError: division by zero (ILTOOLS_TRACEBACK=1 shows where" in outcome.err
    assert "Traceback" not in outcome.err
    assert json.loads(iltools("info", archive, "--json").out)["error"]["type"] == "ZeroDivisionError"
    monkeypatch.setenv("ILTOOLS_TRACEBACK", "1")
    assert "Traceback" in iltools("info", archive).err


@pytest.mark.parametrize(
    ("library", "typed"),
    [
        (
            "a: pass fps=30, or whatever it is",
            "a: pass -o fps=30 (--fps is another thing: the rate to resample to), or whatever it is",
        ),
        ("pass action=ctrl, or skip=ctrl to", "pass -o action=ctrl, or -o skip=ctrl to"),
        (
            "x: is there already; pass overwrite=True to replace it",
            "x: is there already; pass --overwrite to replace it",
        ),
        ("row 3: nan; pass on_nan='keep' to store it", "row 3: nan; pass --keep-nan to store it"),
        ("say which with act_key=", "say which with --act-key"),
        ("nothing to change in a=b or passing", "nothing to change in a=b or passing"),
    ],
)
def test_words(library: str, typed: str) -> None:
    assert in_words_of_the_command_line(library) == typed


def test_no_advice_is_left_in_the_words_of_python() -> None:
    """Whatever a message of the library says to pass is an option of the command line in what is printed."""
    package = Path(command_line.__file__).parent.parent
    rooms = [package / room for room in ("archive", "collection", "doctor", "ingest", "lerobot", "sources", "store")]
    texts = [file.read_text() for room in rooms for file in room.rglob("*.py")]
    advice = {found for text in texts for found in re.findall(r"\bpass [a-z_]+=(?:True|False|'[a-z]+')", text)}
    assert {"pass overwrite=True", "pass on_nan='keep'"} <= advice
    for said in advice:
        assert "pass --" in in_words_of_the_command_line(f"a: is there; {said} to go on"), said


def test_what_is_shown_of_other_files(iltools: Any, tmp_path: Path) -> None:
    (tmp_path / "gmr.pkl").write_bytes(b"\x80\x04}\x94.")
    (tmp_path / "notes.txt").write_text("hello")
    for name, words in (("gmr.pkl", "is a pickle"), ("notes.txt", "no known format")):
        for verb in ("info", "doctor", "view", "verify"):
            outcome = iltools(verb, tmp_path / name)
            refused(outcome, name, words)
            assert "not a Zarr group" not in outcome.err
        refused(iltools("build", tmp_path / name, "--out", tmp_path / "s"), name, words)


def test_all_widths_are_shown(iltools: Any, tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        for number, width in enumerate((36, 26, 34, 26)):
            writer.add("lab", "dance", f"t{number}", {"qpos": np.zeros((5, width)), "phase": np.zeros((5, 1))})
    assert "36, or 26, or 34" in iltools("info", tmp_path / "a.zarr").out
    keys = iltools("info", tmp_path / "a.zarr", "--json").json["keys"]
    assert keys["qpos"]["shape"] == [36]
    assert keys["qpos"]["others"] == [["float64", [26]], ["float64", [34]]]
    assert "others" not in keys["phase"]
    outcome = iltools("doctor", tmp_path / "a.zarr")
    assert outcome.code == 1
    assert "width lab/dance/t1 qpos" in outcome.out
    assert "a row is [26], but [36] in lab/dance/t0; so it is in 2 clips" in outcome.out


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("root", [True, False])
def test_the_path_that_is_drawn_is_the_roots(iltools: Any, tmp_path: Path, names: bool, root: bool) -> None:
    moved = walk()
    changes: dict[str, Any] = {} if names else {"body_names": None}
    if root:
        pose = np.concatenate([moved["position"], moved["rotation"], moved["joints"]], axis=1)
        changes |= {"joint_pos": pose, "joint_vel": np.zeros((80, 11))}
    np.savez(tmp_path / "a.npz", **tracking_arrays(moved, **changes))
    assert iltools("export", "auto", tmp_path / "a.npz", "--out", tmp_path / "a.zarr").code == 0
    way = np.linalg.norm(np.diff(moved["position"][:, :2], axis=0), axis=1).sum()
    assert f"root: walks {way:.2f} m" in iltools("view", tmp_path / "a.zarr").out
