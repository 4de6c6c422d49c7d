"""Motion in JSON, as DeepMimic, motion_imitation and AMP for legged robots write it."""

import json

import numpy as np
import pytest
from iltools_datasets.errors import SourceError
from iltools_datasets.motion.kinematics import free_joint_velocity
from iltools_datasets.sources import export, open_source, open_sources
from motions import as_xyzw, turn, walk

RNG = np.random.default_rng(2)


def legged(width=19, order="xyzw", frames=50):
    moved = walk(frames)
    rotation = as_xyzw(moved["rotation"]) if order == "xyzw" else moved["rotation"]
    rest = RNG.standard_normal((frames, width - 7))
    return np.concatenate([moved["position"], rotation, rest], axis=1)


def write(path, frames, duration=0.02, **more):
    document = {
        "LoopMode": "Wrap",
        "FrameDuration": duration,
        "MotionWeight": 0.5,
        **more,
        "Frames": np.asarray(frames).tolist(),
    }
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    return path


def read(path, **options):
    source = open_source(path, **options)
    assert source.format == "motion-json"
    (one,) = source.read(source.files()[0])
    return one, source.notes


@pytest.mark.parametrize("name", ["dog_pace.txt", "trot.JSON"])
def test_motion_imitation(tmp_path, name):
    frames = legged()
    one, notes = read(write(tmp_path / name, frames))
    qpos = frames[:, [0, 1, 2, 6, 3, 4, 5, *range(7, 19)]]
    assert one.arrays["qpos"].tobytes() == qpos.tobytes()
    assert one.arrays["qvel"].tobytes() == free_joint_velocity(qpos, 50).tobytes()
    assert (one.fps, one.quaternions) == (50, {"qpos": (3,)})
    assert (one.attributes["LoopMode"], one.attributes["MotionWeight"]) == ("Wrap", 0.5)
    assert notes == []


def test_amp_for_legged_robots(tmp_path):
    frames = legged(61)
    one, _ = read(write(tmp_path / "trot.txt", frames))
    places = {"toe_pos_local": (19, 31), "root_lin_vel": (31, 34), "root_ang_vel": (34, 37), "joint_vel": (37, 49),
              "toe_vel_local": (49, 61)}  # fmt: skip
    for key, (first, end) in places.items():
        assert one.arrays[key].tobytes() == frames[:, first:end].tobytes()
    assert one.arrays["qpos"].shape == (50, 19)


def test_an_order_that_lies_is_refused(tmp_path):
    path = write(tmp_path / "a.json", legged(order="wxyz"))
    with pytest.raises(SourceError, match=r"in doubt.*pass quaternion_order=wxyz"):
        read(path)
    one, _ = read(path, quaternion_order="wxyz")
    assert one.attributes["quaternion_order_in_file"] == "wxyz"


def humanoid(frames=12):
    rows = RNG.standard_normal((frames, 44))
    rows[:, 0] = 0.0333
    rows[-1, 0] = 0
    for column in (4, 8, 12, 16, 21, 25, 30, 35, 39):
        rows[:, column : column + 4] = turn(1, RNG.uniform(-1, 1, frames))
    return rows


def test_deep_mimic(tmp_path):
    frames = humanoid()
    one, notes = read(write(tmp_path / "humanoid3d_walk.txt", frames, None, Loop="wrap"))
    assert one.arrays["qpos"].tobytes() == frames[:, 1:].tobytes()
    assert one.fps == pytest.approx(1 / 0.0333)
    assert one.quaternions == {"qpos": (3, 7, 11, 15, 20, 24, 29, 34, 38)}
    assert (one.attributes["Loop"], one.attributes["up_axis"], notes) == ("wrap", "y", [])


def test_other_characters_of_deep_mimic(tmp_path):
    one, notes = read(write(tmp_path / "atlas.txt", humanoid()[:, :30], None))
    assert one.quaternions is None
    assert "it is not known which are quaternions" in notes[0]


def test_frames_of_several_durations_have_no_rate(tmp_path):
    frames = humanoid()
    frames[3, 0] = 0.05
    path = write(tmp_path / "a.txt", frames, None)
    with pytest.raises(SourceError, match=r"its frames last 0\.0333 to 0\.05 s, which is no rate; pass fps=30"):
        read(path)
    assert read(path, fps=30)[0].fps == 30


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"FrameDuration": 0.02, "Frames": [[1, 2', "damaged JSON"),
        ('{"FrameDuration": 0.02, "Frames": [[NaN]]}', "damaged JSON: NaN is no number"),
        ('{"FrameDuration": 0.02, "Frames": [[1e999, 2, 3, 0, 0, 0, 1, 5]]}', "row 0, column 0 of 'Frames' is inf"),
        ('{"FrameDuration": 0.02, "Frames": 5}', "'Frames' should be rows of numbers"),
        ('{"FrameDuration": 0.02, "Frames": []}', "'Frames' should be rows of numbers"),
        ('{"FrameDuration": 0.02, "Frames": [[1, 2], [1]]}', "row 1 of 'Frames' has 1 numbers, the first 2"),
        ('{"FrameDuration": 0.02, "Frames": [[1, "2"]]}', "row 0, column 1 of 'Frames' is '2'"),
        ('{"FrameDuration": 0.02, "Frames": [[1, true]]}', "row 0, column 1 of 'Frames' is True"),
        ('{"FrameDuration": 0.02, "Frames": [[1, 2], [1, 2]]}', "root position, root quaternion and joints"),
        ('{"FrameDuration": 0, "Frames": [[0,0,0,0,0,0,1,0],[0,0,0,0,0,0,1,0]]}', "FrameDuration: expected a positive"),
        ('{"FrameDuration": 1, "Frames": [[0,0,0,0,0,0,9,0],[0,0,0,0,0,0,1,0]]}', "should be a unit quaternion"),
        ('{"Frames": [[1, 2], [1, 2]]}', "without FrameDuration each begins with its duration"),
        ('{"Frames": ' + "[" * 100_000, "damaged JSON"),
        ('{"FrameDuration": 1, "Frames": [[' + "9" * 400 + "]]}", "'Frames': "),
    ],
)
def test_damaged_files_are_refused(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=f"{path}: .*{words}"):
        export(open_sources([path]), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_other_json_and_texts_are_passed_over(tmp_path):
    (tmp_path / "config.json").write_text('{"lr": 1}')
    (tmp_path / "README.txt").write_text("Frames")
    write(tmp_path / "walk.txt", legged())
    report = export(open_sources([tmp_path]), tmp_path / "out" / "a.zarr")
    assert report.formats == {"motion-json": 1}
    assert "passed over 2 files (README.txt, config.json) of no known format" in "\n".join(report.notes)
