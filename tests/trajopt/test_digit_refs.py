"""Digit references: rotations against scipy, numpy against JAX, files against windows, and bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.errors import OutOfRangeError, SchemaError, SourceError, SourceNotFoundError
from iltools_datasets.motion.rotations import euler_angles, into_body_frame
from iltools_datasets.trajopt.digit_refs import DigitRefSpec, DigitTrajoptRefBuilder, build_refs_from_window

NQ, NV, MOTORS = 12, 11, 3
SPEC = DigitRefSpec([7, 9, 11], [6, 8, 10])
KEYS = {
    "ref_len", "ref_motor_joint_pos", "ref_motor_joint_vel", "ref_base_local_pos", "ref_base_local_trans",
    "ref_base_local_ori", "ref_base_robot_lin_vel", "ref_base_robot_ang_vel", "ref_local_ee_pos",
    "ref_base_local_ee_pos",
}  # fmt: skip


def states(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((*shape, *tail)).astype(dtype) for tail in ((NQ,), (NV,), (5, 3)))


def scipy_rotation() -> Any:
    return pytest.importorskip("scipy.spatial.transform", reason="the rotations are compared with scipy's").Rotation


leads = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@given(leads, st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_all_references_against_scipy(lead: tuple[int, ...], steps: int, subsample: int, seed: int) -> None:
    rotation_of = scipy_rotation().from_quat
    qpos, qvel, ee_pos = states((*lead, steps), seed)
    spec = DigitRefSpec(SPEC.a_pos_index, SPEC.a_vel_index, subsample)
    refs = build_refs_from_window(qpos, qvel, spec, ee_pos)
    assert set(refs) == KEYS
    kept = range(0, steps, subsample)
    for place in np.ndindex(*lead):
        window = {key: value[place] for key, value in refs.items()}
        assert window["ref_len"] == len(kept)
        assert window["ref_len"].dtype == np.int32
        first = qpos[(*place, 0)]
        heading = scipy_rotation().from_euler("z", rotation_of(first[3:7]).as_euler("xyz")[2])
        for row, step in enumerate(kept):
            q, v, ee = qpos[(*place, step)], qvel[(*place, step)], ee_pos[(*place, step)]
            rotation = rotation_of(q[3:7])
            expected = {
                "ref_motor_joint_pos": q[[7, 9, 11]],
                "ref_motor_joint_vel": v[[6, 8, 10]],
                "ref_base_local_pos": q[:3],
                "ref_base_local_trans": heading.inv().apply(q[:3] - first[:3]),
                "ref_base_robot_lin_vel": rotation.inv().apply(v[:3]),
                "ref_base_robot_ang_vel": rotation.inv().apply(v[3:6]),
                "ref_local_ee_pos": ee - q[:3],
                "ref_base_local_ee_pos": rotation.inv().apply(ee - q[:3]),
                "ref_base_local_ori": rotation.as_euler("xyz"),
            }
            for key, value in expected.items():
                np.testing.assert_allclose(window[key][row], value, rtol=1e-9, atol=1e-9, err_msg=key)


angle = st.floats(-np.pi, np.pi)


@given(angle, st.sampled_from([-np.pi / 2, np.pi / 2]), st.floats(-1e-3, 1e-3), angle, st.sampled_from([4, 8]))
def test_the_angles_give_the_rotation_back_where_pitch_is_upright(
    roll: float, upright: float, near: float, yaw: float, size: int
) -> None:
    rotation = scipy_rotation().from_euler("xyz", [roll, upright + near, yaw])
    angles = euler_angles(rotation.as_quat(scalar_first=True).astype(f"f{size}"))
    assert (np.abs(angles) <= np.pi * (1 + 1e-6)).all()
    difference = scipy_rotation().from_euler("xyz", angles.astype(np.float64)) * rotation.inv()
    assert difference.magnitude() < {4: 2e-6, 8: 1e-9}[size]


@given(leads, st.integers(0, 2**32 - 1))
def test_the_length_of_a_quaternion_and_its_sign_do_not_matter(lead: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    quaternion, vector = rng.standard_normal((*lead, 4)), rng.standard_normal((*lead, 3))
    for factor in (-1.0, 0.3, 7.0):
        np.testing.assert_allclose(
            into_body_frame(vector, factor * quaternion), into_body_frame(vector, quaternion), atol=1e-12
        )
    turned = scipy_rotation().from_quat(quaternion.reshape(-1, 4), scalar_first=True).inv().apply(vector.reshape(-1, 3))
    np.testing.assert_allclose(into_body_frame(vector, quaternion).reshape(-1, 3), turned, atol=1e-12)


def test_numbers_worked_out_by_hand() -> None:
    """A root that has turned left by a quarter, moves along the world's y axis, and walks 2 m along it."""
    quarter = np.sqrt(0.5)
    qpos = np.array([[1, 2, 0.9, 0, 0, quarter, quarter, 0.1], [1, 4, 0.9, 0, 0, quarter, quarter, 0.2]])
    qvel = np.tile(np.array([0, 3, 0, 0, 0, 0.5, 9.0]), (2, 1))
    refs = build_refs_from_window(qpos, qvel, DigitRefSpec([7], [6]), np.tile([1.0, 3.0, 0.9], (2, 5, 1)))
    np.testing.assert_allclose(refs["ref_base_local_ori"], [[0, 0, np.pi / 2]] * 2, atol=1e-12)
    np.testing.assert_allclose(refs["ref_base_robot_lin_vel"], [[3, 0, 0]] * 2, atol=1e-12)
    np.testing.assert_allclose(refs["ref_base_robot_ang_vel"], [[0, 0, 0.5]] * 2, atol=1e-12)
    np.testing.assert_allclose(refs["ref_base_local_trans"], [[0, 0, 0], [2, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(refs["ref_local_ee_pos"][:, 0], [[0, 1, 0], [0, -1, 0]], atol=1e-12)
    np.testing.assert_allclose(refs["ref_base_local_ee_pos"][:, 0], [[1, 0, 0], [-1, 0, 0]], atol=1e-12)


def test_references_share_no_memory_with_the_window() -> None:
    qpos, qvel, ee_pos = states((4,))
    refs = build_refs_from_window(qpos, qvel, SPEC, ee_pos)
    assert not any(np.shares_memory(value, array) for value in refs.values() for array in (qpos, qvel, ee_pos))


def test_without_end_effectors_none_are_made_up() -> None:
    qpos, qvel, _ = states((4,), dtype=np.float32)
    refs = build_refs_from_window(qpos, qvel, SPEC)
    assert set(refs) == KEYS - {"ref_local_ee_pos", "ref_base_local_ee_pos"}
    assert {value.dtype for key, value in refs.items() if key != "ref_len"} == {np.dtype(np.float32)}


# JAX


@pytest.mark.jax
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("with_ee", [True, False])
@pytest.mark.parametrize("subsample", [1, 3])
def test_jax_and_numpy_agree(lead: tuple[int, ...], with_ee: bool, subsample: int) -> None:
    jax = pytest.importorskip("jax", reason="needs the jax extra")
    qpos, qvel, ee_pos = states((*lead, 7), dtype=np.float32)
    spec = DigitRefSpec(np.array(SPEC.a_pos_index), np.array(SPEC.a_vel_index), subsample)
    arrays = {"qpos": qpos, "qvel": qvel} | ({"ee_pos": ee_pos} if with_ee else {})
    expected = build_refs_from_window(spec=spec, **arrays)
    jitted = jax.jit(build_refs_from_window, static_argnames="spec")
    placed = {key: jax.numpy.asarray(value) for key, value in arrays.items()}
    for found in (build_refs_from_window(spec=spec, **placed), jitted(spec=spec, **placed)):
        assert set(found) == set(expected)
        for key, value in found.items():
            assert isinstance(value, jax.Array)
            assert (value.dtype, value.shape) == (expected[key].dtype, expected[key].shape)
            np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=2e-6, err_msg=key)


@pytest.mark.jax
def test_a_quaternion_of_zeros_is_the_identity_for_numpy_and_jax() -> None:
    jax = pytest.importorskip("jax", reason="needs the jax extra")
    rng = np.random.default_rng(0)
    qpos, qvel = rng.standard_normal((3, 4, NQ), "f4"), rng.standard_normal((3, 4, NV), "f4")
    qpos[1, 2, 3:7] = 0
    with pytest.warns(
        UserWarning, match=r"1 states have a root quaternion of zeros in columns 3:7, the first is \[1, 2\]"
    ):
        refs = build_refs_from_window(qpos, qvel, SPEC)
    on_device = jax.jit(build_refs_from_window, static_argnames="spec")(
        *map(jax.numpy.asarray, (qpos, qvel)), spec=SPEC
    )
    qpos[1, 2, 3:7] = [0, 0, 0, 1]
    expected = build_refs_from_window(qpos, qvel, SPEC)
    for key, value in expected.items():
        np.testing.assert_array_equal(refs[key], value)
        np.testing.assert_allclose(on_device[key], value, atol=2e-6)
    np.testing.assert_array_equal(expected["ref_base_robot_lin_vel"][1, 2], qvel[1, 2, :3])


def test_jax_is_not_imported() -> None:
    code = "import sys, iltools_datasets.trajopt.reference_source; print('jax' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.jax
def test_references_of_streamed_windows(tmp_path: Path) -> None:
    """Step 4 of the documented pipeline: env by env, and for all envs in one call."""
    pytest.importorskip("jax", reason="needs the jax extra")
    from iltools_datasets.jax_stream import DoubleBufferStreamer
    from iltools_datasets.storage import VectorizedTrajectoryDataset
    from iltools_datasets.trajopt.loader import TrajoptLoader

    rng = np.random.default_rng(0)
    clips = [{"qpos": rng.standard_normal((n, 65), "f4"), "qvel": rng.standard_normal((n, 58), "f4")} for n in (50, 9)]
    for number, clip in enumerate(clips):
        np.savez(tmp_path / f"traj{number}.npz", **clip, action=np.zeros((len(clip["qpos"]), 20), np.float32))
    zarr_path = TrajoptLoader(tmp_path).save(out_dir=tmp_path / "zarr", dataset_source="trajopt", motion="digit_v3")
    num_envs, window = 6, 8
    ds = VectorizedTrajectoryDataset(zarr_path=zarr_path, num_envs=num_envs, cfg={"allow_wrap": True})
    ds.update_references(env_to_traj={e: e % 2 for e in range(num_envs)}, env_to_step=dict.fromkeys(range(num_envs), 0))

    def host_fetch_window() -> dict[str, np.ndarray]:
        batch = {key: ds.fetch_window(range(num_envs), key=key, window_size=window) for key in ("qpos", "qvel")}
        ds.update_references(env_to_step={e: ds.env_steps[e] + window for e in range(num_envs)})
        return batch

    motors = [*range(7, 10), 14, 18, 23, *range(30, 37), 41, 45, 50, *range(57, 65)]
    rates = [*range(6, 9), 12, 16, 20, *range(26, 33), 36, 40, 44, *range(50, 58)]
    spec = DigitRefSpec(np.array(motors, dtype=np.int32), np.array(rates, dtype=np.int32))
    with DoubleBufferStreamer(window_fn=host_fetch_window) as streamer:
        for n in range(3):
            batch = streamer.next_window()
            together = build_refs_from_window(batch["qpos"], batch["qvel"], spec)
            for e in range(num_envs):
                refs = build_refs_from_window(batch["qpos"][e], batch["qvel"][e], spec)
                clip = clips[e % 2]
                rows = (n * window + np.arange(window)) % len(clip["qpos"])
                expected = build_refs_from_window(clip["qpos"][rows], clip["qvel"][rows], spec)
                for key, value in expected.items():
                    np.testing.assert_allclose(refs[key], value, rtol=1e-5, atol=5e-6, err_msg=key)
                    np.testing.assert_allclose(together[key][e], value, rtol=1e-5, atol=5e-6, err_msg=key)


# Files


@pytest.fixture
def npz_dir(tmp_path: Path) -> Path:
    """Three trajectories; the third is padded, and the order of names is the natural one."""
    (tmp_path / "npz").mkdir()
    for number, (steps, extra) in enumerate([(10, {}), (4, {}), (9, {"true_length": 5})]):
        qpos, qvel, ee_pos = states((steps,), number, np.float32)
        name = ("traj1", "traj2", "traj10")[number]
        np.savez(tmp_path / "npz" / f"{name}.npz", qpos=qpos, qvel=qvel, ee_pos=ee_pos, **extra)
    return tmp_path / "npz"


@pytest.mark.parametrize("subsample", [1, 2, 3, 20])
def test_the_builder_pads_with_the_last_row(npz_dir: Path, subsample: int) -> None:
    spec = DigitRefSpec(SPEC.a_pos_index, SPEC.a_vel_index, subsample)
    builder = DigitTrajoptRefBuilder(npz_dir, spec)
    assert builder.num_trajectories == 3
    assert builder.max_len == len(range(0, 10, subsample))
    for number, (steps, own) in enumerate([(10, 10), (4, 4), (9, 5)]):
        qpos, qvel, ee_pos = states((steps,), number, np.float32)
        expected = build_refs_from_window(qpos[:own], qvel[:own], spec, ee_pos[:own])
        refs = builder.build_by_index(number)
        assert set(refs) == KEYS
        count = len(range(0, own, subsample))
        assert refs["ref_len"] == count
        for key in KEYS - {"ref_len"}:
            assert len(refs[key]) == builder.max_len
            np.testing.assert_array_equal(refs[key][:count], expected[key])
            assert (refs[key][count:] == expected[key][-1]).all()


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "a_pos_index: expected columns from 0 on"),
        (([7, -1], [6, 7]), "a_pos_index: expected columns from 0 on"),
        (([7, 8], [6]), "a_vel_index: expected 2 columns like a_pos_index, found 1"),
        (([7.5], [6]), "a_pos_index: expected integers"),
        (([7], [6], 0), "subsample: expected 1 or more, found 0"),
        (([7], [6], 1.5), "subsample: expected integers"),
    ],
)
def test_bad_specifications(arguments: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        DigitRefSpec(*arguments)


def test_a_specification_can_be_hashed_and_compared() -> None:
    assert DigitRefSpec(np.array([7, 9]), np.array([6, 8])) == DigitRefSpec([7, 9], (6, 8))
    assert len({DigitRefSpec(np.array([7, 9]), np.array([6, 8])), DigitRefSpec([7, 9], (6, 8))}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qpos": np.ones((4, 6))}, r"qpos: expected 7 columns or more, the root's, found 6"),
        ({"qvel": np.ones((4, 5))}, r"qvel: expected 6 columns or more, the root's, found 5"),
        ({"qvel": np.ones((3, NV))}, r"qvel: expected \[4, nv\] like qpos, found \[3, 11\]"),
        ({"qpos": np.ones(NQ)}, r"qpos: expected \[\.\.\., T, nq\] with T at least 1, found \[12\]"),
        ({"qpos": np.ones((0, NQ))}, r"qpos: expected .* found \[0, 12\]"),
        ({"ee_pos": np.ones((4, 15))}, r"ee_pos: expected \[4, 5, 3\] like qpos, found \[4, 15\]"),
        ({"qpos": [[1.0] * NQ] * 4}, r"qpos: expected a numpy or JAX array, found list"),
        ({"qvel": np.ones((4, NV), int)}, r"qvel: expected floating point numbers, found int64"),
    ],
)
def test_bad_windows(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        build_refs_from_window(**{"qpos": np.ones((4, NQ)), "qvel": np.ones((4, NV)), "spec": SPEC} | changes)


def test_a_motor_beyond_the_width() -> None:
    with pytest.raises(OutOfRangeError, match=r"qpos: a_pos_index expects 13 columns or more, found 12"):
        build_refs_from_window(np.ones((4, NQ)), np.ones((4, NV)), DigitRefSpec([12], [6]))
    with pytest.raises(OutOfRangeError, match=r"qvel: a_vel_index expects 12 columns or more, found 11"):
        build_refs_from_window(np.ones((4, NQ)), np.ones((4, NV)), DigitRefSpec([11], [11]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_quaternion_that_is_no_rotation(value: float) -> None:
    qpos = np.ones((2, 6, NQ))
    qpos[1, 4, 3:7] = value
    with pytest.raises(SchemaError, match=r"qpos: expected a root quaternion .* columns 3:7 of \[1, 4\], found \["):
        build_refs_from_window(qpos, np.ones((2, 6, NV)), DigitRefSpec([7], [6], 2))


@pytest.mark.jax
def test_arrays_of_two_kinds() -> None:
    jnp = pytest.importorskip("jax.numpy", reason="needs the jax extra")
    with pytest.raises(SchemaError, match=r"qvel: expected an array of numpy, found jax\.numpy"):
        build_refs_from_window(np.ones((4, NQ)), jnp.ones((4, NV)), SPEC)


def test_bad_files(npz_dir: Path, tmp_path: Path) -> None:
    builder = DigitTrajoptRefBuilder(npz_dir, SPEC)
    for index in (-1, 3):
        with pytest.raises(OutOfRangeError, match=rf"trajectory {index} is outside \[0, 3\)"):
            builder.build_by_index(index)
    with pytest.raises(OutOfRangeError, match=r"traj1\.npz: qpos: a_pos_index expects 21 columns or more, found 12"):
        DigitTrajoptRefBuilder(npz_dir, DigitRefSpec([20], [6]))
    np.savez(npz_dir / "traj2.npz", qpos=np.full((4, NQ), np.nan), qvel=np.zeros((4, NV)))
    with pytest.raises(SchemaError, match=r"traj2\.npz: qpos: expected a root quaternion in columns 3:7 of \[0\]"):
        DigitTrajoptRefBuilder(npz_dir, SPEC).build_by_index(1)
    np.savez(npz_dir / "traj2.npz", qpos=np.zeros((4, NQ)))
    with pytest.raises(SourceError, match=r"traj2\.npz: no member 'qvel'"):
        DigitTrajoptRefBuilder(npz_dir, SPEC)
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        DigitTrajoptRefBuilder(tmp_path / "nowhere", SPEC)
