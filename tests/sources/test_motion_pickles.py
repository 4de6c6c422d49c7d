"""Motion in pickles, written with pickle, joblib, numpy and torch: the values come back, and nothing is ever run."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import pytest
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError
from iltools_datasets.motion.kinematics import free_joint_velocity
from iltools_datasets.sources import export, open_source, open_sources
from iltools_datasets.sources.formats import unpacked as unpacking
from motions import JOINTS, as_xyzw, robot_rows, tracking_arrays, walk, write_rows


def retargeted(seed=0, order="xyzw", frames=60, dtype="f8", **changes):
    """One clip as GMR and TWIST write it."""
    moved = walk(frames, seed=seed)
    rotation = as_xyzw(moved["rotation"]) if order == "xyzw" else moved["rotation"]
    clip = {
        "fps": 29.877,
        "root_pos": moved["position"].astype(dtype),
        "root_rot": rotation.astype(dtype),
        "dof_pos": moved["joints"].astype(dtype),
        "local_body_pos": np.zeros((frames, 3, 3), "f4"),
        "link_body_list": ["pelvis", "left", "right"],
        **changes,
    }
    return {key: value for key, value in clip.items() if value is not Ellipsis}


def by_clip(count=3, frames=60):
    """Many clips as PHC, ASAP and PBHC write them."""
    return {
        f"0-walk_{number}": {
            "root_trans_offset": walk(frames + number)["position"],
            "root_rot": as_xyzw(walk(frames + number)["rotation"]),
            "dof": walk(frames + number, seed=number)["joints"].astype("f4"),
            "pose_aa": np.asfortranarray(np.ones((frames + number, 7, 3), "f4") * number),
            "contact_mask": np.zeros((frames + number, 2)),
            "smpl_joints": None,
            "beta": np.zeros(16),
            "gender": "neutral",
            "fps": 30,
        }
        for number in range(count)
    }


def expected_qpos(clip, rotation=None):
    parts = [clip.get("root_pos", clip.get("root_trans_offset")), rotation, clip.get("dof_pos", clip.get("dof"))]
    xyzw = clip["root_rot"]
    parts[1] = xyzw[:, [3, 0, 1, 2]] if rotation is None else rotation
    return np.concatenate(parts, axis=1)


def read(path, **options):
    source = open_source(path, **options)
    assert source.format == "motion-pkl"
    return list(source.read(source.files()[0])), source.notes


def same(found, expected):
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


def pickled(data, protocol=4):
    return pickle.dumps(data, protocol)


def joblibed(data, **options):
    joblib = pytest.importorskip("joblib", reason="needs the dev extra")
    file = io.BytesIO()
    joblib.dump(data, file, **options)
    return file.getvalue()


def npy(data):
    file = io.BytesIO()
    np.save(file, data, allow_pickle=True)
    return file.getvalue()


def torched(data):
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    file = io.BytesIO()
    torch.save(as_tensors(torch, data), file)
    return file.getvalue()


def as_tensors(torch, data):
    if isinstance(data, dict):
        return {key: as_tensors(torch, value) for key, value in data.items()}
    return torch.from_numpy(np.ascontiguousarray(data)) if isinstance(data, np.ndarray) else data


WRAPPINGS = {
    "protocol 2": ("a.pkl", lambda data: pickled(data, 2)),
    "protocol 4": ("a.pickle", pickled),
    "protocol 5": ("a.p", lambda data: pickled(data, 5)),
    "called csv": ("a.csv", pickled),
    "joblib": ("a.pkl", joblibed),
    "joblib protocol 2": ("a.joblib", lambda data: joblibed(data, protocol=2)),
    "joblib zlib": ("a.pkl", lambda data: joblibed(data, compress=3)),
    "joblib gzip": ("a.joblib", lambda data: joblibed(data, compress=("gzip", 3))),
    "joblib bz2": ("a.pkl", lambda data: joblibed(data, compress=("bz2", 3))),
    "joblib xz": ("a.pkl", lambda data: joblibed(data, compress=("xz", 1))),
    "gzip": ("a.pkl.gz", lambda data: gzip.compress(pickled(data))),
    "bz2": ("a.pkl", lambda data: bz2.compress(pickled(data))),
    "xz": ("a.pkl", lambda data: lzma.compress(pickled(data))),
    "npy": ("a.npy", npy),
    "torch": ("a.pt", torched),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_one_clip_in_every_wrapping(tmp_path, name):
    file, wrap = WRAPPINGS[name]
    clip = retargeted()
    (tmp_path / file).write_bytes(wrap(clip))
    ((one,), notes) = read(tmp_path / file)
    assert same(one.arrays["qpos"], expected_qpos(clip))
    assert same(one.arrays["qvel"], free_joint_velocity(expected_qpos(clip), 29.877))
    assert same(one.arrays["local_body_pos"], clip["local_body_pos"])
    assert set(one.arrays) == {"qpos", "qvel", "local_body_pos"}
    assert one.fps == 29.877
    assert one.quaternions == {"qpos": (3,)}
    assert one.attributes["body_names"] == ["pelvis", "left", "right"]
    assert one.attributes["quaternion_order_in_file"] == "xyzw"
    assert notes == []


@pytest.mark.parametrize("name", ["protocol 4", "joblib", "joblib zlib", "torch"])
def test_many_clips_in_one_file(tmp_path, name):
    file, wrap = WRAPPINGS[name]
    clips = by_clip()
    (tmp_path / file).write_bytes(wrap(clips))
    recordings, notes = read(tmp_path / file)
    for one, (clip_name, clip) in zip(recordings, clips.items(), strict=True):
        assert one.attributes["clip"] == clip_name
        assert same(one.arrays["qpos"], expected_qpos(clip))
        assert same(one.arrays["pose_aa"], np.ascontiguousarray(clip["pose_aa"]))
        assert same(one.arrays["contact_mask"], clip["contact_mask"])
        assert one.attributes["gender"] == "neutral"
        assert one.attributes["beta"] == [0.0] * 16
        assert one.fps == 30
    assert notes == []


def test_single_precision_stays_single(tmp_path):
    clip = retargeted(dtype="f4")
    (tmp_path / "a.pkl").write_bytes(pickled(clip))
    ((one,), _) = read(tmp_path / "a.pkl")
    assert same(one.arrays["qpos"], expected_qpos(clip))
    assert one.arrays["qvel"].dtype == np.float32


def test_lists_of_numbers_are_arrays(tmp_path):
    clip = retargeted()
    lists = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in clip.items()}
    (tmp_path / "a.pkl").write_bytes(pickled(lists))
    ((one,), _) = read(tmp_path / "a.pkl")
    assert same(one.arrays["qpos"], expected_qpos(clip))


@pytest.mark.faults("quaternions in another order")
def test_the_order_is_what_is_told_and_what_stands(tmp_path):
    clip = retargeted(order="wxyz")
    (tmp_path / "a.pkl").write_bytes(pickled(clip))
    with pytest.raises(SourceError, match=r"order of its quaternions is in doubt.*pass quaternion_order=wxyz"):
        read(tmp_path / "a.pkl")
    for told in ("wxyz", "auto"):
        ((one,), _) = read(tmp_path / "a.pkl", quaternion_order=told)
        assert same(one.arrays["qpos"], expected_qpos(clip, clip["root_rot"]))
        assert one.attributes["quaternion_order_in_file"] == "wxyz"


def test_rotations_of_another_kind_are_not_taken_for_quaternions(tmp_path):
    clip = {
        "pose_quat": np.zeros((40, 24, 3)),
        "pose_aa": np.zeros((40, 72)),
        "trans_orig": np.zeros((40, 3)),
        "fps": 30.0,
    }
    (tmp_path / "amass.pkl").write_bytes(joblibed({"x": {**clip, "fps": 30.0, "root_trans_offset": np.zeros((40, 3))}}))
    ((one,), _) = read(tmp_path / "amass.pkl")
    assert one.quaternions == {}


def test_a_motion_library_of_a_body_is_kept_as_it_is(tmp_path):
    rotation = as_xyzw(walk(40)["rotation"])
    pose = np.repeat(rotation[:, None], 24, axis=1)
    clip = {"pose_quat_global": pose, "pose_aa": np.zeros((40, 72)), "trans_orig": np.zeros((40, 3)), "fps": 30.0}
    (tmp_path / "amass.pkl").write_bytes(joblibed({"x": {**clip, "root_trans_offset": np.zeros((40, 3))}}))
    ((one,), notes) = read(tmp_path / "amass.pkl")
    assert set(one.arrays) == {"pose_quat_global", "pose_aa", "trans_orig", "root_trans_offset"}
    assert same(one.arrays["pose_quat_global"], pose[..., [3, 0, 1, 2]])
    assert one.quaternions == {"pose_quat_global": (0,)}
    assert "human body" in notes[0]


def skeleton(frames=50):
    rotation = np.repeat(as_xyzw(walk(frames)["rotation"])[:, None], 3, axis=1).astype("f4")

    def part(array):
        return OrderedDict(arr=array, context={"dtype": array.dtype.name})

    return OrderedDict(
        rotation=part(rotation),
        root_translation=part(walk(frames)["position"].astype("f4")),
        global_velocity=part(np.ones((frames, 3, 3), "f4")),
        global_angular_velocity=part(np.zeros((frames, 3, 3), "f4")),
        skeleton_tree=OrderedDict(
            node_names=["pelvis", "torso", "head"],
            parent_indices=part(np.array([-1, 0, 1])),
            local_translation=part(np.zeros((3, 3), "f4")),
        ),
        is_local=True,
        fps=60,
        __name__="SkeletonMotion",
    ), rotation


def test_poselibs_npy(tmp_path):
    motion, rotation = skeleton()
    (tmp_path / "amp_humanoid.npy").write_bytes(npy(motion))
    ((one,), notes) = read(tmp_path / "amp_humanoid.npy")
    assert same(one.arrays["rotation"], rotation[..., [3, 0, 1, 2]])
    for key in ("root_translation", "global_velocity", "global_angular_velocity"):
        assert same(one.arrays[key], motion[key]["arr"])
    assert one.fps == 60
    assert one.attributes["body_names"] == ["pelvis", "torso", "head"]
    assert one.attributes["parent_indices"] == [-1, 0, 1]
    assert one.attributes["is_local"] is True
    assert notes == []


def proto(frames=50, bodies=4):
    like = tracking_arrays(walk(frames), order="xyzw")
    return {
        "fps": 50,
        "rigid_body_pos": like["body_pos_w"][:, 1:].astype("f4"),
        "rigid_body_rot": like["body_quat_w"][:, 1:].astype("f4"),
        "rigid_body_vel": like["body_lin_vel_w"][:, 1:].astype("f4"),
        "rigid_body_ang_vel": like["body_ang_vel_w"][:, 1:].astype("f4"),
        "dof_pos": like["joint_pos"].astype("f4"),
        "dof_vel": like["joint_vel"].astype("f4"),
        "rigid_body_contacts": np.zeros((frames, 3), bool),
        "local_rigid_body_rot": like["body_quat_w"][:, 1:].astype("f4"),
    }


PROTO_KEYS = {
    "rigid_body_pos": "body_pos_w", "rigid_body_vel": "body_lin_vel_w", "rigid_body_ang_vel": "body_ang_vel_w",
    "dof_pos": "joint_pos", "dof_vel": "joint_vel", "rigid_body_contacts": "rigid_body_contacts",
}  # fmt: skip


@pytest.mark.torch
def test_proto_motions(tmp_path):
    torch = pytest.importorskip("torch")
    motion = proto()
    (tmp_path / "walk.motion").write_bytes(torched(motion))
    by_torch = torch.load(tmp_path / "walk.motion", weights_only=True, mmap=True)
    ((one,), notes) = read(tmp_path / "walk.motion")
    for key, name in PROTO_KEYS.items():
        assert same(one.arrays[name], by_torch[key].numpy())
    for key, name in (("rigid_body_rot", "body_quat_w"), ("local_rigid_body_rot", "local_rigid_body_rot")):
        assert same(one.arrays[name], by_torch[key].numpy()[..., [3, 0, 1, 2]])
    assert one.fps == 50
    assert notes == []


@pytest.mark.torch
def test_a_library_of_proto_motions(tmp_path):
    torch = pytest.importorskip("torch")
    clips = [proto(30), proto(20), proto(40)]
    short = {"rigid_body_pos": "gts", "rigid_body_rot": "grs", "rigid_body_vel": "gvs", "rigid_body_ang_vel": "gavs",
             "dof_pos": "dps", "dof_vel": "dvs", "local_rigid_body_rot": "lrs"}  # fmt: skip
    library = {name: np.concatenate([clip[key] for clip in clips]) for key, name in short.items()}
    library |= {"length_starts": np.array([0, 30, 50]), "motion_num_frames": np.array([30, 20, 40])}
    library |= {"motion_dt": np.array([0.02, 0.02, 0.04], "f4"), "motion_weights": np.ones(3, "f4")}
    library |= {"motion_files": ("x/a.motion", "x/b.motion", "x/c.motion"), "motion_lengths": np.ones(3, "f4")}
    (tmp_path / "lib.pt").write_bytes(torched(library))
    assert set(torch.load(tmp_path / "lib.pt", weights_only=True)) == set(library)
    recordings, notes = read(tmp_path / "lib.pt")
    assert [one.attributes["clip"] for one in recordings] == ["a", "b", "c"]
    assert [one.fps for one in recordings] == pytest.approx([50, 50, 25])
    for one, clip in zip(recordings, clips, strict=True):
        assert same(one.arrays["body_pos_w"], clip["rigid_body_pos"])
        assert same(one.arrays["joint_vel"], clip["dof_vel"])
        assert same(one.arrays["body_quat_w"], clip["rigid_body_rot"][..., [3, 0, 1, 2]])
    assert notes == []
    library["motion_num_frames"] = np.array([30, 20, 41])
    (tmp_path / "lib.pt").write_bytes(torched(library))
    with pytest.raises(SourceError, match="clip 2 is frames 50 to 91, there are 90"):
        read(tmp_path / "lib.pt")


@pytest.mark.torch
def test_tensors_that_share_a_storage_or_are_strided(tmp_path):
    torch = pytest.importorskip("torch")
    clip = retargeted()
    whole = torch.from_numpy(np.concatenate([clip["root_pos"], clip["root_rot"], clip["dof_pos"]], axis=1))
    held = {
        "root_pos": whole[:, :3],
        "root_rot": torch.nn.Parameter(whole[:, 3:7]),
        "dof_pos": whole[:, 7:].T.T,
        "fps": 30,
    }
    held["contacts"] = torch.zeros(3, 60, dtype=torch.bool).T
    torch.save(held, tmp_path / "a.pt")
    ((one,), _) = read(tmp_path / "a.pt")
    assert same(one.arrays["qpos"], expected_qpos(clip))
    assert one.arrays["contacts"].shape == (60, 3)


def test_qpos_by_name(tmp_path):
    held = {
        "qpos": np.ones((9, 10)),
        "qvel": np.ones((9, 9), "f4"),
        "action": np.zeros((8, 3)),
        "dt": 0.02,
        "robot": "g1",
    }
    (tmp_path / "a.npy").write_bytes(npy(held))
    ((one,), _) = read(tmp_path / "a.npy")
    assert same(one.arrays["qpos"], held["qpos"])
    assert same(one.arrays["qvel"], held["qvel"])
    assert one.quaternions is None
    assert one.fps == pytest.approx(50)
    assert one.attributes["robot"] == "g1"


def test_export_and_back(tmp_path):
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / "gmr.pkl").write_bytes(pickled(retargeted()))
    (data / "deep" / "PHC.PKL").write_bytes(joblibed(by_clip()))
    write_rows(data / "walk_30hz.csv", robot_rows(walk()))
    report = export(open_sources([data]), tmp_path / "a.zarr")
    assert report.formats == {"motion-pkl": 2, "unitree-csv": 1}
    assert report.quaternion_orders == {"xyzw": 5}
    paths = [clip.path for clip in ArchiveReader(tmp_path / "a.zarr").trajectories]
    assert paths == [
        *(f"motion_pkl/PHC/traj{number}" for number in range(3)), "motion_pkl/gmr/traj0", "unitree_csv/walk_30hz/traj0"
    ]  # fmt: skip


# Programs, lies and damage


class Boom:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.faults("archive that runs code")
@pytest.mark.parametrize("name", WRAPPINGS)
def test_nothing_is_run_in_any_wrapping(tmp_path, name):
    file, wrap = WRAPPINGS[name]
    data = retargeted(more=Boom(tmp_path / "ran"))
    (tmp_path / file).write_bytes(wrap(data))
    (tmp_path / "data").mkdir()
    with pytest.raises(SourceError, match="not plain data in a pickle"):
        list(open_source(tmp_path / file, "motion-pkl").read(open_source(tmp_path / file, "motion-pkl").files()[0]))
    with pytest.raises(SourceError):
        export(open_sources([tmp_path / file]), tmp_path / "a.zarr")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.faults("archive that runs code")
def test_nothing_is_loaded_by_those_who_run_it(tmp_path, monkeypatch):
    for name, (file, wrap) in WRAPPINGS.items():
        (tmp_path / name.replace(" ", "_")).mkdir()
        (tmp_path / name.replace(" ", "_") / file).write_bytes(wrap(retargeted()))
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (np, "load")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("unpickled"))
    assert export(open_sources([tmp_path]), tmp_path / "out.zarr", keep_going=False).num_trajectories == len(WRAPPINGS)


@pytest.mark.faults("archive that grows")
def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "_ALWAYS", 1 << 16)
    monkeypatch.setattr(unpacking, "_RATIO", 2)
    for pack in (zlib.compress, gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "bomb.pkl").write_bytes(pack(pickled(bytes(1 << 22))))
        with pytest.raises(SourceError, match=r"unpacks to more than \d+ bytes"):
            read_any(tmp_path / "bomb.pkl")


def read_any(path):
    source = open_source(path, "motion-pkl")
    return list(source.read(source.files()[0]))


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize("name", WRAPPINGS)
def test_a_cut_file_is_refused(tmp_path, name):
    file, wrap = WRAPPINGS[name]
    content = wrap(retargeted())
    for part in (0.3, 0.9, 1 - 1 / len(content)):
        (tmp_path / file).write_bytes(content[: int(len(content) * part)])
        with pytest.raises(SourceError, match=str(tmp_path / file)):
            read_any(tmp_path / file)


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize("name", ["protocol 4", "joblib", "joblib zlib", "torch", "npy"])
def test_mutations_are_read_or_refused(tmp_path, name):
    file, wrap = WRAPPINGS[name]
    content, rng = wrap(retargeted(frames=12)), np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        mutated = bytearray(content)
        for _ in range(rng.integers(1, 8)):
            mutated[rng.integers(len(mutated))] = rng.integers(256)
        (tmp_path / file).write_bytes(bytes(mutated))
        try:
            read_any(tmp_path / file)
        except SourceError:
            refused += 1
    assert refused > 15


LIES = [
    ({"root_pos": np.zeros((60, 2))}, "'root_pos' is float64 .60, 2., expected floats .T, 3."),
    ({"root_rot": np.zeros((60, 4))}, "'root_rot' should be a unit quaternion, their norm is 0"),
    ({"root_rot": np.zeros((59, 4))}, "'root_rot' is float64 .59, 4., expected floats .60, 4."),
    ({"dof_pos": np.zeros((60, 5), int)}, "'dof_pos' is int64"),
    ({"fps": 0}, "fps: expected a positive number, found 0; pass fps=30"),
    ({"fps": float("nan")}, "fps: expected a positive number, found nan"),
    ({"fps": "fast"}, "fps: expected a positive number"),
    ({"fps": ...}, "does not say its rate; pass fps=30"),
    ({"dof_names": ["a"]}, "has 5 joints, but 1 joint names"),
    ({"dof_pos": "x"}, "should be numbers"),
    ({"dof_pos": [[1.0], [1.0, 2.0]]}, "should be numbers"),
]


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize(("changes", "words"), LIES)
def test_what_does_not_fit_is_named(tmp_path, changes, words):
    (tmp_path / "a.pkl").write_bytes(pickled(retargeted(**changes)))
    with pytest.raises(SourceError, match=f"{tmp_path / 'a.pkl'}.*{words}"):
        export(open_sources([tmp_path / "a.pkl"]), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
    if words.startswith(("fps", "does not say")):
        assert read(tmp_path / "a.pkl", fps=30)[0][0].fps == 30


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.torch
def test_torch_zips_that_lie(tmp_path):
    content = torched(retargeted(frames=6))

    def changed(change):
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
            for entry in old.infolist():
                change(new, entry.filename, old.read(entry))
        (tmp_path / "a.pt").write_bytes(file.getvalue())
        with pytest.raises(SourceError) as raised:
            read_any(tmp_path / "a.pt")
        return str(raised.value)

    def cut(new, name, data):
        new.writestr(name, data[:-8] if "/data/" in name else data)

    def packed(new, name, data):
        new.writestr(name, data, zipfile.ZIP_DEFLATED)

    def without(new, name, data):
        if not name.endswith("/data/1"):
            new.writestr(name, data)

    def big(new, name, data):
        new.writestr(name, b"big" if name.endswith("byteorder") else data)

    def twice(new, name, data):
        new.writestr(name, data)
        if name.endswith("data.pkl"):
            new.writestr("other/data.pkl", data)

    assert "takes 144 bytes, 136 are there" in changed(cut)
    assert "is packed" in changed(packed)
    assert "data/1" in changed(without)
    assert "big-endian" in changed(big)
    assert "two pickles" in changed(twice)


@pytest.mark.torch
def test_models_and_optimisers_are_told_and_passed_over(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "policy.pt")
    torch.save(torch.nn.Linear(3, 2), tmp_path / "model.pt")
    (tmp_path / "config.p").write_bytes(pickled({"lr": 3e-4}))
    (tmp_path / "gmr.pkl").write_bytes(pickled(retargeted()))
    report = export(open_sources([tmp_path]), tmp_path / "out" / "a.zarr")
    assert report.num_trajectories == 1
    text = "\n".join(report.notes)
    assert "passed over 2 .pt files (model.pt, policy.pt)" in text
    assert "config.p is a pickle; it holds a dictionary with 'lr': no known arrangement of motion" in text


@pytest.mark.faults("clip that is not what it claims")
def test_a_damaged_one_stops_a_folder_or_is_listed(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "good.pkl").write_bytes(pickled(retargeted()))
    (data / "cut.pkl").write_bytes(pickled(retargeted())[:-200])
    with pytest.raises(SourceError, match=r"cut\.pkl: byte \d+: not plain data"):
        export(open_sources([data]), tmp_path / "a.zarr")
    report = export(open_sources([data]), tmp_path / "a.zarr", keep_going=True)
    assert [failure.path.name for failure in report.failures] == ["cut.pkl"]
    assert report.num_trajectories == 1
    assert JOINTS == 5
