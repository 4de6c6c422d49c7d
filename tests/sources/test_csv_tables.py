"""Robot tables as people export them: separators, headers, counters, units; and what is wrong, in our own words."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.errors import SourceError
from iltools_datasets.sources import open_source, open_sources, recognise
from iltools_datasets.sources.formats.csv_table import read_table
from iltools_datasets.sources.formats.unitree_csv import G1_JOINTS, UnitreeCsvSource
from motions import robot_rows, same_rotations, walk

MOVED = walk(30, fps=30)
ROWS = robot_rows(MOVED)
TIME = np.arange(30) / 30
HEADER = ["x", "y", "z", "qx", "qy", "qz", "qw", "hip", "knee", "ankle", "toe", "waist"]


def text_of(rows, separator=",", header=None, form="%.7f", end="\n"):
    lines = [separator.join(form % value for value in row) for row in rows]
    if header is not None:
        lines.insert(0, header if isinstance(header, str) else separator.join(header))
    return end.join(lines) + end


def save(tmp_path, text, name="walk_30hz.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def read(path, **options):
    (source,) = open_sources([path], **options)
    (recording,) = source.read(source.files()[0])
    return recording, [note.partition(": ")[2] for note in source.notes]


def is_the_motion(recording):
    qpos = recording.arrays["qpos"]
    np.testing.assert_allclose(qpos[:, :3], MOVED["position"], atol=1e-5)
    assert same_rotations(qpos[:, 3:7], MOVED["rotation"])
    np.testing.assert_allclose(qpos[:, 7:], MOVED["joints"], atol=1e-5)
    return True


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", "  ", ", ", " ; "])
@pytest.mark.parametrize("header", [None, HEADER])
def test_separators(tmp_path, separator, header):
    path = save(tmp_path, text_of(ROWS, separator, header))
    assert recognise(path) is UnitreeCsvSource
    recording, notes = read(path)
    assert is_the_motion(recording)
    assert notes == []
    assert recording.attributes.get("joint_names") == (None if header is None else HEADER[7:])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    header = [*HEADER[:-1], "tête"]
    recording, notes = read(save(tmp_path, text_of(ROWS, header=header, end=end), encoding=encoding))
    assert is_the_motion(recording)
    assert recording.attributes["joint_names"][-1] == "tête"
    assert notes == []


def test_decimal_commas_quotes_and_separators_at_the_end(tmp_path):
    assert is_the_motion(read(save(tmp_path, text_of(ROWS, ";", HEADER).replace(".", ",")))[0])
    assert is_the_motion(read(save(tmp_path, text_of(ROWS, header=[f'"{name}"' for name in HEADER], form='"%.7f"')))[0])
    for header in (None, HEADER):
        recording, notes = read(save(tmp_path, text_of(ROWS, header=header).replace("\n", ",\n")))
        assert is_the_motion(recording)
        assert notes == ["every row ends in a separator, which was taken for no column"]


@pytest.mark.parametrize(
    "names",
    [
        "root_x,root_y,root_z,root_qx,root_qy,root_qz,root_qw",
        "Root_X,Root_Y,Root_Z,Root_QX,Root_QY,Root_QZ,Root_QW",
        "pos_x,pos_y,pos_z,quat_x,quat_y,quat_z,quat_w",
        "base_pos_x,base_pos_y,base_pos_z,base_rot_x,base_rot_y,base_rot_z,base_rot_w",
        "pos[x],pos[y],pos[z],quat[x],quat[y],quat[z],quat[w]",
        "root.pos.x,root.pos.y,root.pos.z,root.quat.x,root.quat.y,root.quat.z,root.quat.w",
        "px,py,pz,qx,qy,qz,qw",
        "tx,ty,tz,qx,qy,qz,qw",
        "a0,a1,a2,a3,a4,a5,a6",  # they say nothing, so the place counts
    ],
)
def test_names_of_the_root(tmp_path, names):
    header = names.split(",") + HEADER[7:]
    recording, _ = read(save(tmp_path, text_of(ROWS, header=header)))
    assert is_the_motion(recording)
    assert recording.attributes["joint_names"] == HEADER[7:]


def test_a_header_says_the_order_and_the_place(tmp_path):
    header = [f"{name}_joint" for name in HEADER[7:]] + ["qw", "qx", "qy", "qz", "x", "y", "z"]
    rows = np.concatenate([MOVED["joints"], MOVED["rotation"], MOVED["position"]], axis=1)
    recording, notes = read(save(tmp_path, text_of(rows, header=header)))
    assert is_the_motion(recording)
    assert recording.attributes["quaternion_order_in_file"] == "wxyz"
    assert notes == []
    _, notes = read(save(tmp_path, text_of(rows, header=header)), quaternion_order="xyzw")
    assert "says that quaternions are wxyz; xyzw was told and counts" in notes


@pytest.mark.parametrize(
    "header",
    [
        "# " + ",".join(HEADER),
        "Robot: G1\nrate: 30\n" + ",".join(HEADER),
        ",".join(HEADER) + "\n" + ",".join(["m"] * 3 + ["-"] * 4 + ["rad"] * 5),
    ],
    ids=["numpy's", "above it", "units"],
)
def test_headers_of_several_kinds(tmp_path, header):
    recording, _ = read(save(tmp_path, text_of(ROWS, header=header)))
    assert is_the_motion(recording)
    assert [name.strip() for name in recording.attributes["joint_names"]] == HEADER[7:]


COUNTED = np.concatenate([np.arange(30)[:, None], ROWS], axis=1)
TIMED = np.concatenate([TIME[:, None], ROWS], axis=1)
BOTH = np.concatenate([np.arange(30)[:, None], TIME[:, None], ROWS], axis=1)


@pytest.mark.parametrize(
    ("rows", "lead", "words"),
    [
        (COUNTED, ["Frame"], ["counts frames"]),
        (COUNTED, [""], ["counts frames"]),
        (COUNTED, ["frame_idx"], ["counts frames"]),
        (COUNTED, None, ["counts frames"]),
        (COUNTED + np.eye(1, 13)[0], None, ["counts frames"]),
        (TIMED, ["time"], ["tells the time (30 per second)"]),
        (TIMED, ["Time (s)"], ["tells the time (30 per second)"]),
        (TIMED, ["timestamp"], ["tells the time (30 per second)"]),
        (TIMED, None, ["tells the time (30 per second)"]),
        (BOTH, ["frame", "t"], ["counts frames", "tells the time (30 per second)"]),
        (BOTH, None, ["counts frames", "tells the time (30 per second)"]),
    ],
)
def test_columns_that_count_or_tell_the_time(tmp_path, rows, lead, words):
    header = None if lead is None else lead + HEADER
    recording, notes = read(save(tmp_path, text_of(rows, header=header), "walk.csv"), fps=30)
    assert is_the_motion(recording)
    assert [note.split(" was left out")[0].split(" ", 2)[-1].split(") ", 1)[-1] for note in notes] == [
        word.split(") ", 1)[-1] for word in words
    ] or all(any(word in note for note in notes) for word in words)
    assert all("was left out" in note for note in notes)
    if "time" in "".join(words):
        assert read(save(tmp_path, text_of(rows, header=header), "walk.csv"))[0].fps == 30


def test_times_count_before_the_name_of_the_file(tmp_path):
    recording, notes = read(save(tmp_path, text_of(TIMED), "walk_60hz.csv"))
    assert recording.fps == 30
    assert "its times say 30 frames per second, its name 60; the times count" in notes
    uneven = TIMED.copy()
    uneven[5:, 0] += 3
    assert read(save(tmp_path, text_of(uneven), "walk_60hz.csv"))[0].fps == 60
    stamps = np.concatenate([1.7e18 + np.arange(30)[:, None] * 3.3e7, ROWS], axis=1)
    assert read(save(tmp_path, text_of(stamps, header=["timestamp", *HEADER]), "walk_60hz.csv"))[0].fps == 60


def test_what_libraries_of_tables_write_by_themselves(tmp_path):
    numbered = [str(number) for number in range(12)]
    recording, notes = read(save(tmp_path, text_of(ROWS, header=numbered)))
    assert is_the_motion(recording)
    assert notes == []
    assert "joint_names" not in recording.attributes
    assert is_the_motion(read(save(tmp_path, text_of(COUNTED, header=["", *numbered])))[0])


def test_units(tmp_path):
    scaled = ROWS * np.array([100] * 3 + [1] * 4 + [180 / np.pi] * 5)
    recording, _ = read(save(tmp_path, text_of(scaled)), lengths="cm", angles="deg")
    assert is_the_motion(recording)
    np.testing.assert_allclose(recording.arrays["qvel"][:, 6:], np.gradient(MOVED["joints"], 1 / 30, axis=0), atol=1e-4)
    for name, value in (("lengths", "inch"), ("angles", "grad"), ("lengths", 1)):
        with pytest.raises(SourceError, match=f"option {name}: expected one of"):
            open_source(tmp_path / "walk_30hz.csv", **{name: value})


def test_names_that_do_not_name_each_joint(tmp_path):
    recording, notes = read(save(tmp_path, text_of(ROWS, header=[*HEADER[:-1], "hip"])))
    assert is_the_motion(recording)
    assert notes == ["the header does not name each joint once, so they have no names"]


# The G1


def g1_rows():
    return np.concatenate([ROWS[:, :7], np.tile(ROWS[:, 7:8], (1, 29))], axis=1)


@pytest.mark.parametrize(
    "name", ["g1_walk_30hz.csv", "G1_Take_30hz.csv", "unitree_g1/walk_30hz.csv", "g1/walk_30hz.csv"]
)
def test_the_g1s_names_are_assumed_where_the_path_says_g1(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    recording, notes = read(save(tmp_path, text_of(g1_rows()), name))
    assert recording.attributes["joint_names"] == list(G1_JOINTS)
    assert recording.attributes["joint_names_from"] == "assumed: 29 joints, and the path says g1"
    assert notes == []


@pytest.mark.parametrize("name", ["walk_30hz.csv", "booster_t1_30hz.csv", "g12_walk_30hz.csv", "king1_30hz.csv"])
def test_another_robot_of_29_joints_has_no_names(tmp_path, name):
    place = tmp_path / "robot"
    place.mkdir()
    recording, notes = read(save(place, text_of(g1_rows()), name))
    assert "joint_names" not in recording.attributes
    assert notes == ["29 joints without names, as a Unitree G1 has them; if it is one: pass joint_names=g1"]
    recording, notes = read(place / name, joint_names="g1")
    assert recording.attributes["joint_names"] == list(G1_JOINTS)
    assert "joint_names_from" not in recording.attributes
    assert notes == []


# What is wrong


def lines():
    return text_of(ROWS, form="%.4f").splitlines()


def changed(row, column, cell):
    rows = lines()
    cells = rows[row].split(",")
    cells[column] = cell
    rows[row] = ",".join(cells)
    return "\n".join(rows)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "\n".join([*lines()[:20], ",".join(lines()[20].split(",")[:3])]),
            r"row 20 \(line 21\) has 3 columns, the others 12",
        ),
        ("\n".join([lines()[0] + ",1.0", *lines()[1:]]), r"row 0 \(line 1\) has 13 columns, the others 12"),
        (changed(5, 9, "abc"), r"row 5 \(line 6\), column 9 is 'abc'"),
        (changed(0, 9, "abc"), r"row 0 \(line 1\), column 9 is 'abc'"),
        (changed(5, 9, ""), r"row 5 \(line 6\), column 9 is ''"),
        (changed(5, 9, "1.2.3"), r"row 5 \(line 6\), column 9 is '1.2.3'"),
        (changed(5, 9, "nan"), "row 5, column 9 is nan"),
        (changed(5, 9, "-inf"), "row 5, column 9 is -inf"),
        ("a,b\n\n" + "\n".join(lines()[:9]) + "\n1,2\n", r"row 9 \(line 12\) has 2 columns, the others 12"),
        (",".join(HEADER) + "\n", "no row of numbers after the header"),
        ("hello\nworld\n", r"no row of numbers after the header \(hello\)"),
        ("\n\n", "it is empty"),
        (lines()[0] + "\n", "has 1 rows, velocities need at least two"),
        ("\x00\x01" * 50, "it is no text"),
    ],
)
def test_faults_are_named_in_our_own_words(tmp_path, text, message):
    path = save(tmp_path, text)
    source = open_source(path, "unitree-csv")
    with pytest.raises(SourceError, match=message) as raised:
        list(source.read(source.files()[0]))
    assert str(path) in str(raised.value)
    for word in ("usecols", "genfromtxt", "dtype", "loadtxt"):
        assert word not in str(raised.value)


EULER = np.concatenate([MOVED["position"], 90 * MOVED["joints"][:, :3], MOVED["joints"]], axis=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (EULER, "are these Euler angles in degrees"),
        (EULER / ([1] * 3 + [90] * 3 + [1] * 5), "Euler angles, or is it"),
        (
            np.concatenate([np.ones((30, 1)), ROWS], axis=1),
            "columns 4 to 7 are one: column 0 looks like a number before the root",
        ),
        (
            np.concatenate([np.arange(30)[:, None] * [1, 1, 1], ROWS], axis=1),
            "looks like a frame index and 2 more before the root",
        ),
        (ROWS[:, 3:], "columns 0 to 3 are one: is there no position before it"),
    ],
    ids=["degrees", "radians", "a constant", "three counters", "no position"],
)
def test_tables_whose_columns_are_others(tmp_path, rows, message):
    with pytest.raises(SourceError, match=f"columns 3 to 6 should be a unit quaternion.*{message}"):
        read(save(tmp_path, text_of(rows)))


cells = st.floats(-1e6, 1e6, allow_nan=False).map(repr)


@given(
    st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=9), st.sampled_from([",", ";", "\t", "|"])
)
def test_numbers_come_back_exactly(rows, separator):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "t.csv"
        path.write_text("\n".join(separator.join(row) for row in rows))
        found = read_table(path)
    expected = np.loadtxt(io.StringIO("\n".join(" ".join(row) for row in rows)), ndmin=2)
    np.testing.assert_array_equal(found.values, expected)
    assert found.names is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_an_error(content):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "walk_30hz.csv"
        path.write_bytes(content)
        UnitreeCsvSource.recognises(path)
        source = UnitreeCsvSource(path)
        found = None
        try:
            list(source.read(source.files()[0]))
        except SourceError as error:
            found = str(error)
    assert found is None or str(path) in found
