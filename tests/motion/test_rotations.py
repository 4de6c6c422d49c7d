"""The algebra of quaternions wxyz, against scipy, for numpy and for JAX alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.motion import rotations
from iltools_datasets.motion.rotations import (
    as_wxyz,
    euler_angles,
    into_body_frame,
    quaternion_inverse,
    quaternion_product,
    rotation_vector,
)
from numpy.typing import NDArray

scipy_rotation = pytest.importorskip("scipy.spatial.transform", reason="scipy is the oracle").Rotation

angles = st.floats(-10, 10)
vectors = st.tuples(angles, angles, angles)


def wxyz(vector: tuple[float, float, float]) -> NDArray[np.float64]:
    return scipy_rotation.from_rotvec(vector).as_quat(scalar_first=True)


@given(vectors, vectors)
def test_products_inverses_and_vectors(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    left, right = scipy_rotation.from_rotvec(first), scipy_rotation.from_rotvec(second)
    product = quaternion_product(wxyz(first), wxyz(second))
    expected = left * right
    assert abs(abs(product @ expected.as_quat(scalar_first=True)) - 1) < 1e-9
    assert (scipy_rotation.from_rotvec(rotation_vector(product)).inv() * expected).magnitude() < 1e-7
    back = quaternion_product(product, quaternion_inverse(product))
    np.testing.assert_allclose(np.abs(back), [1, 0, 0, 0], atol=1e-9)


@given(st.floats(0, 1e-7))
def test_tiny_rotations(angle: float) -> None:
    quaternion = np.array([np.cos(angle / 2), np.sin(angle / 2), 0.0, 0.0])
    np.testing.assert_allclose(rotation_vector(quaternion), [angle, 0, 0], atol=1e-14)


@given(vectors, vectors)
def test_vectors_in_a_bodys_frame(turn: tuple[float, ...], vector: tuple[float, ...]) -> None:
    expected = scipy_rotation.from_rotvec(turn).inv().apply(vector)
    np.testing.assert_allclose(into_body_frame(np.array(vector), wxyz(turn)), expected, atol=1e-9)


@given(vectors)
def test_angles(turn: tuple[float, ...]) -> None:
    found = euler_angles(wxyz(turn))
    difference = scipy_rotation.from_euler("xyz", found) * scipy_rotation.from_rotvec(turn).inv()
    assert difference.magnitude() < 1e-9


def test_orders() -> None:
    numbers = np.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(as_wxyz(numbers, "xyzw"), [[3, 0, 1, 2], [7, 4, 5, 6]])
    assert as_wxyz(numbers, "wxyz") is numbers
    with pytest.raises(ValueError, match="found 'zyxw'"):
        as_wxyz(numbers, "zyxw")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_stay(dtype: type) -> None:
    quaternion = wxyz((0.3, -1.0, 2.0)).astype(dtype)
    assert quaternion_product(quaternion, quaternion).dtype == dtype
    assert quaternion_inverse(quaternion).dtype == rotation_vector(quaternion).dtype == dtype
    assert into_body_frame(np.ones(3, dtype), quaternion).dtype == euler_angles(quaternion).dtype == dtype


@pytest.mark.jax
def test_jax_gives_the_same_and_compiles() -> None:
    jax = pytest.importorskip("jax", reason="needs the extra jax")
    rng = np.random.default_rng(0)
    turn = rng.standard_normal((50, 4)).astype(np.float32)
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    vector = rng.standard_normal((50, 3)).astype(np.float32)
    other = turn[::-1].copy()
    for name, arguments in (
        ("quaternion_product", (turn, other)),
        ("quaternion_inverse", (turn,)),
        ("rotation_vector", (turn,)),
        ("into_body_frame", (vector, turn)),
        ("euler_angles", (turn,)),
    ):
        function = getattr(rotations, name)
        found = jax.jit(function)(*map(jax.numpy.asarray, arguments))
        np.testing.assert_allclose(np.asarray(found), function(*arguments), atol=2e-5, err_msg=name)
