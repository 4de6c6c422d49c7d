"""Demonstrations in HDF5, written with h5py as robomimic, Isaac Lab, Minari, D4RL and ALOHA arrange them."""

import json

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore, build_store
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.errors import SourceError
from iltools_datasets.sources import export, open_source, open_sources
from motions import angular_velocity, as_xyzw, walk

h5py = pytest.importorskip("h5py", reason="needs the hdf5 extra")

RNG = np.random.default_rng(3)


def numbers(*shape, dtype="f4"):
    return RNG.standard_normal(shape).astype(dtype)


def write(path, tree, **attributes):
    """A file of a nested dict of arrays; `@name` is an attribute of its group."""

    def fill(group, content):
        for key, value in content.items():
            if key.startswith("@"):
                group.attrs[key[1:]] = value
            elif isinstance(value, dict):
                fill(group.create_group(key), value)
            elif callable(value):
                value(group, key)
            else:
                group.create_dataset(key, data=value, compression="gzip" if np.ndim(value) and np.size(value) else None)

    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        fill(file, tree)
    return path


def demo(steps, seed=0, with_next=True):
    rng = np.random.default_rng(seed)
    observed = rng.standard_normal((steps + 1, 3))
    found = {
        "@num_samples": steps,
        "@model_file": "<mujoco>" + "x" * 500,
        "actions": rng.standard_normal((steps, 7)),
        "dones": np.arange(steps) == steps - 1,
        "rewards": (np.arange(steps) == steps - 1).astype(float),
        "states": rng.standard_normal((steps, 9)),
        "obs": {"eef_pos": observed[:-1], "camera": rng.integers(0, 255, (steps, 4, 4, 3), dtype=np.uint8)},
    }
    if with_next:
        camera = np.concatenate([found["obs"]["camera"][1:], found["obs"]["camera"][:1]])
        found["next_obs"] = {"eef_pos": observed[1:], "camera": camera}
    return found


def robomimic(path, counts=(5, 8, 3), numbered=(0, 2, 10), **more):
    environment = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
    demos = {f"demo_{number}": demo(count, number, **more) for number, count in zip(numbered, counts, strict=True)}
    mask = {"train": np.array([b"demo_0", b"demo_10"])}
    return write(path, {"data": {"@env_args": json.dumps(environment), "@total": 16, **demos}, "mask": mask})


def read(path, **options):
    source = open_source(path, **options)
    assert source.format == "hdf5-demos"
    return list(source.read(source.files()[0])), source.notes


def same(found, expected):
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


def test_robomimic_keeps_the_last_transition(tmp_path):
    recordings, notes = read(robomimic(tmp_path / "lift.hdf5"))
    assert [one.attributes["episode"] for one in recordings] == ["demo_0", "demo_2", "demo_10"]
    for one, number, count in zip(recordings, (0, 2, 10), (5, 8, 3), strict=True):
        wrote = demo(count, number)
        last = wrote["next_obs"]["eef_pos"][-1:]
        assert same(one.arrays["obs.eef_pos"], np.concatenate([wrote["obs"]["eef_pos"], last]))
        assert len(one.arrays["obs.camera"]) == count + 1
        assert same(one.arrays["actions"], wrote["actions"])
        assert same(one.arrays["rewards"], wrote["rewards"])
        assert same(one.arrays["done"], wrote["dones"])
        assert set(one.arrays) == {"obs.eef_pos", "obs.camera", "actions", "rewards", "done"}
        assert one.fps == 20
        assert one.attributes["env_name"] == "Lift"
        assert one.attributes.get("masks", []) == ([] if number == 2 else ["train"])
        assert "model_file" not in one.attributes
        assert one.quaternions is None
    (note,) = notes
    assert "left out 'states', which has no row for the last state; with skip=next_obs it is kept" in note


def test_what_follows_can_be_skipped(tmp_path):
    recordings, notes = read(robomimic(tmp_path / "lift.hdf5"), skip="next_obs,camera")
    wrote = demo(5)
    assert same(recordings[0].arrays["states"], wrote["states"])
    assert same(recordings[0].arrays["obs.eef_pos"], wrote["obs"]["eef_pos"])
    assert set(recordings[0].arrays) == {"obs.eef_pos", "actions", "rewards", "done", "states"}
    assert notes == []


def test_what_follows_and_is_something_else_stays(tmp_path):
    other = demo(5)
    other["next_obs"]["eef_pos"] = other["next_obs"]["eef_pos"] + 1
    ((one,), _) = read(write(tmp_path / "a.h5", {"data": {"demo_0": other}}))
    assert same(one.arrays["next_obs.eef_pos"], other["next_obs"]["eef_pos"])
    assert same(one.arrays["states"], other["states"])


def isaac(path, order="wxyz", frames=60, **attributes):
    moved = walk(frames)
    rotation = moved["rotation"] if order == "wxyz" else as_xyzw(moved["rotation"])
    angular = angular_velocity(moved["rotation"], 50.0)
    pose = np.concatenate([moved["position"], rotation], axis=1)
    cube = np.tile(np.r_[1.0, 2, 3, rotation[0]], (frames, 1))
    robot = {
        "joint_position": moved["joints"],
        "root_pose": pose,
        "root_velocity": np.concatenate([np.zeros((frames, 3)), angular], axis=1),
    }
    one = {
        "@success": True,
        "@seed": 7,
        "actions": numbers(frames, 5),
        "obs": {"joint_pos": numbers(frames, 5), "eef_quat": rotation},
        "initial_state": {"articulation": {"robot": {key: value[:1] for key, value in robot.items()}}},
        "states": {"articulation": {"robot": robot}, "rigid_object": {"cube": {"root_pose": cube}}},
    }
    environment = {"env_name": "Isaac-Stack-Cube", "type": 2, "sim_args": {"dt": 0.005, "decimation": 4}}
    return write(path, {"data": {"@env_args": json.dumps(environment), "demo_0": one, **attributes}}), robot, rotation


def test_isaac_labs_recorder(tmp_path):
    path, robot, _ = isaac(tmp_path / "stack.hdf5")
    ((one,), notes) = read(path)
    for key, value in robot.items():
        assert same(one.arrays[f"states.articulation.robot.{key}"], value)
    assert one.fps == pytest.approx(50, rel=1e-15)
    assert one.attributes["success"] is True
    assert one.attributes["initial_state"]["articulation.robot.root_pose"] == robot["root_pose"][0].tolist()
    assert one.quaternions == {
        "obs.eef_quat": (0,),
        "states.articulation.robot.root_pose": (3,),
        "states.rigid_object.cube.root_pose": (3,),
    }
    assert notes == []


@pytest.mark.parametrize(("said", "told"), [("xyzw", None), (None, "xyzw"), (None, "auto")])
def test_isaac_lab_3_in_xyzw_is_brought_to_wxyz(tmp_path, said, told):
    path, robot, rotation = isaac(tmp_path / "stack.hdf5", "xyzw", **({"@quaternion_order": said} if said else {}))
    ((one,), _) = read(path, **({"quaternion_order": told} if told else {}))
    turned = robot["root_pose"][:, [0, 1, 2, 6, 3, 4, 5]]
    assert same(one.arrays["states.articulation.robot.root_pose"], turned)
    assert same(one.arrays["obs.eef_quat"], rotation[:, [3, 0, 1, 2]])
    assert one.arrays["states.rigid_object.cube.root_pose"][0, 3:].tolist() == rotation[0, [3, 0, 1, 2]].tolist()
    assert one.attributes["initial_state"]["articulation.robot.root_pose"] == turned[0].tolist()
    assert one.attributes["quaternion_order_in_file"] == "xyzw"


def test_an_order_that_the_motion_speaks_against_is_refused(tmp_path):
    path, _, _ = isaac(tmp_path / "stack.hdf5", "xyzw")
    with pytest.raises(SourceError, match=r"turns against its own angular velocities.*pass quaternion_order=xyzw"):
        read(path)


def test_names_and_rates_where_they_are(tmp_path):
    one = {"@fps": 12.5, "@joint_names": ["a", "b"], "actions": numbers(4, 2), "obs": {"q": numbers(4, 2)}}
    ((found,), _) = read(write(tmp_path / "a.h5", {"data": {"@fps": 99, "demo_0": one}}, body_names=["x"]))
    assert (found.fps, found.attributes["joint_names"], found.attributes["body_names"]) == (12.5, ["a", "b"], ["x"])
    ((found,), _) = read(tmp_path / "a.h5", fps=25)
    assert found.fps == 25
    path = write(tmp_path / "b.h5", {"data": {"demo_0": {**one, "@fps": -3}}})
    with pytest.raises(SourceError, match=r"attribute fps: expected a positive number.*pass fps=30"):
        read(path)
    assert read(path, fps=25)[0][0].fps == 25


def minari(path, lengths=(4, 6)):
    episodes = {}
    for number, steps in enumerate(lengths):
        episodes[f"episode_{number}"] = {
            "@id": number,
            "@seed": "None",
            "@total_steps": steps,
            "observations": {"achieved_goal": numbers(steps + 1, 2, dtype="f8"), "pose": numbers(steps + 1, 3)},
            "actions": numbers(steps, 2),
            "rewards": numbers(steps, dtype="f8"),
            "terminations": np.arange(steps) == steps - 1,
            "truncations": np.zeros(steps, bool),
            "infos": {"success": np.zeros(steps + 1, bool)},
        }
    return write(path, episodes, total_episodes=len(lengths), dataset_id="maze/large-v1"), episodes


def test_minari(tmp_path):
    path, wrote = minari(tmp_path / "main_data.hdf5")
    recordings, notes = read(path)
    for one, (name, episode) in zip(recordings, wrote.items(), strict=True):
        assert one.attributes["episode"] == name
        assert same(one.arrays["observations.achieved_goal"], episode["observations"]["achieved_goal"])
        assert same(one.arrays["observations.pose"], episode["observations"]["pose"])
        assert same(one.arrays["terminated"], episode["terminations"])
        assert same(one.arrays["truncated"], episode["truncations"])
        assert same(one.arrays["infos.success"], episode["infos"]["success"])
        assert one.num_states == len(episode["actions"]) + 1
    assert notes == []


def d4rl(path, with_next, lengths=(5, 1, 7), cut=3):
    steps = sum(lengths) + cut
    ends = np.cumsum(lengths) - 1
    terminals, timeouts = np.zeros(steps, bool), np.zeros(steps, bool)
    terminals[ends[0]], timeouts[ends[1:]] = True, True
    states = numbers(steps + len(lengths) + 1, 11)
    starts = np.r_[0, ends + 1]
    now = np.concatenate(
        [np.arange(a, b) + k for k, (a, b) in enumerate(zip(starts, [*starts[1:], steps], strict=True))]
    )
    arrays = {
        "observations": states[now],
        "actions": numbers(steps, 3),
        "rewards": numbers(steps),
        "terminals": terminals,
        "timeouts": timeouts,
        "infos": {"qpos": numbers(steps, 6, dtype="f8")},
        "metadata": {"algorithm": np.bytes_(b"SAC"), "policy": {"bias": numbers(4)}},
    }
    if with_next:
        arrays["next_observations"] = states[now + 1]
    return write(path, arrays), arrays, [*zip(starts, [*starts[1:], steps], strict=True)]


@pytest.mark.parametrize("with_next", [True, False])
def test_d4rl_is_cut_at_terminals_and_timeouts(tmp_path, with_next):
    path, wrote, ranges = d4rl(tmp_path / "hopper_medium-v2.hdf5", with_next)
    recordings, notes = read(path)
    assert [len(one.arrays["actions"]) for one in recordings] == [5, 1, 7, 3]
    for one, (first, end) in zip(recordings, ranges, strict=True):
        observed = wrote["observations"][first:end]
        if with_next:
            observed = np.concatenate([observed, wrote["next_observations"][end - 1 : end]])
            assert set(one.arrays) == {"observations", "actions", "rewards", "terminated", "truncated"}
        else:
            assert same(one.arrays["infos.qpos"], wrote["infos"]["qpos"][first:end])
        assert same(one.arrays["observations"], observed)
        assert same(one.arrays["actions"], wrote["actions"][first:end])
        assert same(one.arrays["terminated"], wrote["terminals"][first:end])
        assert same(one.arrays["truncated"], wrote["timeouts"][first:end])
    text = "\n".join(notes)
    assert "left out 'metadata.policy.bias', which has no row per step" in text
    assert "left out 'metadata/algorithm': no numbers" in text
    assert ("infos.qpos" in text) is with_next


def test_what_a_store_of_d4rl_observes(tmp_path):
    path, wrote, _ = d4rl(tmp_path / "hopper.hdf5", with_next=True)
    export(open_sources([path]), tmp_path / "a.zarr")
    place, report = build_store(tmp_path / "a.zarr", tmp_path / "store", progress=False)
    assert list(report.obs_keys) == ["observations"]
    assert report.num_transitions == len(wrote["actions"])
    rows = TrajectoryStore.open(place).gather(np.arange(5), ["observation", "action"])
    assert np.array_equal(rows["observation"], wrote["observations"][:5])
    assert np.array_equal(rows["action"], wrote["actions"][:5])


def test_aloha(tmp_path):
    arrays = {
        "@sim": True,
        "action": numbers(6, 14),
        "observations": {
            "qpos": numbers(6, 14),
            "qvel": numbers(6, 14),
            "images": {"top": np.zeros((6, 2, 2, 3), np.uint8)},
        },
    }
    ((one,), notes) = read(write(tmp_path / "episode_0.hdf5", arrays))
    assert set(one.arrays) == {"action", "observations.qpos", "observations.qvel", "observations.images.top"}
    assert same(one.arrays["observations.qpos"], arrays["observations"]["qpos"])
    assert (one.attributes["sim"], notes) == (True, [])


def test_export_and_back(tmp_path):
    robomimic(tmp_path / "lift.hdf5")
    report = export(open_sources([tmp_path / "lift.hdf5"]), tmp_path / "a.zarr")
    assert report.formats == {"hdf5-demos": 1}
    reader = ArchiveReader(tmp_path / "a.zarr")
    assert [clip.path for clip in reader.trajectories] == [f"hdf5_demos/lift/traj{number}" for number in range(3)]
    assert [clip.num_states for clip in reader.trajectories] == [6, 9, 4]


# Files that lie or lead elsewhere


def hostile(tmp_path, build):
    path = tmp_path / "bad.hdf5"
    write(path, {"data": {"demo_0": {"actions": numbers(4, 2), "obs": {"q": numbers(4, 2)}}}})
    with h5py.File(path, "a") as file:
        build(file, file["data/demo_0"])
    return path


def other_file(tmp_path):
    secret = tmp_path / "secret.h5"
    if not secret.exists():
        write(secret, {"q": numbers(4, 2)})
    return secret


def virtual(tmp_path, demo):
    layout = h5py.VirtualLayout(shape=(4, 2), dtype="f4")
    layout[:] = h5py.VirtualSource(str(other_file(tmp_path)), "q", shape=(4, 2))
    demo.create_virtual_dataset("states", layout)


def outside(tmp_path, demo):
    (tmp_path / "raw.bin").write_bytes(bytes(32))
    demo.create_dataset("states", shape=(4, 2), dtype="f4", external=[(str(tmp_path / "raw.bin"), 0, 32)])


def unwritten(demo):
    data = demo.create_dataset("states", shape=(4, 2), dtype="f4", chunks=(2, 2))
    data[:2] = 1


def huge_chunk(demo):
    data = demo.create_dataset(
        "states", shape=(4, 2), maxshape=(None, 2), dtype="f4", chunks=(1 << 26, 2), compression=1
    )
    data.id.write_direct_chunk((0, 0), b"x\x9c" + bytes(40))


def unknown_filter(demo):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4, 2))
    plist.set_filter(32099, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((4, 2))
    data = h5py.Dataset(h5py.h5d.create(demo.id, b"states", h5py.h5t.NATIVE_FLOAT, space, plist))
    data.id.write_direct_chunk((0, 0), bytes(32))


HOSTILE = {
    "link to another file": (
        lambda d, f, demo: demo.__setitem__("states", h5py.ExternalLink(str(other_file(d)), "/q"))
    ),
    "soft link": lambda d, f, demo: demo.__setitem__("states", h5py.SoftLink("/data/demo_0/states")),
    "lead in a circle": lambda d, f, demo: demo.__setitem__("states", f["data"]),
    "lie in other files, which are never opened": lambda d, f, demo: virtual(d, demo),
    "values lie in other files": lambda d, f, demo: outside(d, demo),
    "asks for 8000000000000 bytes, 0 are said to be there": (
        lambda d, f, demo: demo.create_dataset("states", shape=(10**12,), dtype="f8")
    ),
    "1000000000 of its 1000000000 chunks were never written": (
        lambda d, f, demo: demo.create_dataset("states", shape=(10**12,), dtype="f8", chunks=(1000,), compression=9)
    ),
    "1 of its 2 chunks were never written": lambda d, f, demo: unwritten(demo),
    "asks for 536870912 bytes": lambda d, f, demo: huge_chunk(demo),
    "filter 32099, which is not installed": lambda d, f, demo: unknown_filter(demo),
}


@pytest.mark.faults("claims that nobody wrote", "clip that is not what it claims")
@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_files_are_refused_by_name(tmp_path, words):
    path = hostile(tmp_path, lambda file, demo: HOSTILE[words](tmp_path, file, demo))
    with pytest.raises(SourceError, match=f"{path}: .*'data/demo_0/states'.*{words}"):
        read(path)
    with pytest.raises(SourceError):
        export(open_sources([path]), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
    ((one,), _) = read(path, skip="states")
    assert set(one.arrays) == {"actions", "obs.q"}


def test_texts_and_records_are_left_out_by_name(tmp_path):
    def more(file, demo):
        demo["words"] = ["a", "b", "c", "d"]
        demo["records"] = np.zeros(4, dtype=[("a", "f4")])
        demo["ragged"] = np.array([b"x", b"yz"])
        demo["complex"] = np.zeros(4, complex)

    ((one,), notes) = read(hostile(tmp_path, more))
    assert set(one.arrays) == {"actions", "obs.q"}
    for name in ("words", "records", "ragged", "complex"):
        assert any(f"left out 'data/demo_*/{name}'" in note for note in notes), name


@pytest.mark.faults("clip that is not what it claims")
def test_a_file_that_is_cut_or_damaged_stops_the_export_or_is_listed(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    robomimic(data / "good.hdf5")
    content = robomimic(data / "cut.hdf5").read_bytes()
    (data / "cut.hdf5").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"cut\.hdf5: not a readable HDF5 file: .*truncated"):
        export(open_sources([data]), tmp_path / "a.zarr")
    report = export(open_sources([data]), tmp_path / "a.zarr", keep_going=True)
    assert report.num_trajectories == 3
    assert [failure.path.name for failure in report.failures] == ["cut.hdf5"]


@pytest.mark.faults("clip that is not what it claims")
@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"data": {"demo_0": {"obs": {"q": numbers(4, 2)}}}}, "no 'actions' with a row per step"),
        (
            {"data": {"demo_0": {"actions": numbers(4, 2), "obs": {"q": numbers(9, 2)}}}},
            "'actions' has 4 rows, expected 9",
        ),
        (
            {"observations": numbers(5, 2), "actions": numbers(5, 2), "terminals": numbers(5)},
            "'terminals' should be a flag",
        ),
        (
            {"observations": numbers(5, 2), "actions": np.float32(1), "terminals": np.zeros(5)},
            "'actions' should be numbers",
        ),
    ],
)
def test_what_does_not_fit_together(tmp_path, tree, words):
    with pytest.raises(SourceError, match=words):
        read(write(tmp_path / "a.h5", tree))


def test_other_hdf5_is_told_and_passed_over(tmp_path):
    write(tmp_path / "weights.h5", {"layer": {"kernel": numbers(3, 3)}})
    with pytest.raises(SourceError, match=r"HDF5 file of none of the known arrangements.*at its top: \['layer'\]"):
        open_sources([tmp_path / "weights.h5"])
    robomimic(tmp_path / "good.hdf5")
    report = export(open_sources([tmp_path]), tmp_path / "out" / "a.zarr")
    assert report.num_trajectories == 3
    assert any("passed over 1 .h5 file (weights.h5)" in note for note in report.notes)


def test_without_h5py_the_message_names_the_extra(tmp_path, monkeypatch):
    robomimic(tmp_path / "lift.hdf5")
    for module in ("kinds", "formats.hdf5_demos"):
        monkeypatch.setattr(f"iltools_datasets.sources.{module}.can_read_hdf5", lambda: False)
    with pytest.raises(
        SourceError, match=r"is an HDF5 file; reading it needs .*pip install 'iltools-datasets\[hdf5\]'"
    ):
        open_sources([tmp_path / "lift.hdf5"])


@pytest.mark.faults("clip that is not what it claims")
def test_mutations_are_read_or_refused(tmp_path):
    path, _ = minari(tmp_path / "a.hdf5", (3,))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(150):
        mutated = bytearray(content)
        for _ in range(rng.integers(1, 6)):
            mutated[rng.integers(len(mutated))] = rng.integers(256)
        path.write_bytes(bytes(mutated))
        try:
            read(path)
            outcomes["read"] += 1
        except SourceError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10


def test_an_attribute_without_a_value_is_none(tmp_path):
    import h5py

    path = robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["empty"] = h5py.Empty("f4")
    (first, *_), _ = read(path)
    assert "empty" not in first.attributes
    json.dumps(dict(first.attributes))
