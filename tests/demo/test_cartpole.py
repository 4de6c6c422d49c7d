"""The simulated plant against conservation laws, an independent integrator and its own linearisation."""

import numpy as np
import pytest
from iltools_datasets.demo.cartpole import CartPole, wrapped

PLANT = CartPole()


def random_states(count: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, (count, 4)) * [1.0, np.pi, 2.0, 5.0]


def test_energy_is_conserved_without_force() -> None:
    state = random_states(64)
    before = PLANT.energy(state)
    for _ in range(100):
        state = PLANT.step(state, np.zeros(64))
    np.testing.assert_allclose(PLANT.energy(state), before, atol=2e-4)


def test_energy_grows_by_the_work_of_the_force() -> None:
    state, force = random_states(64), np.full(64, 3.0)
    moved = PLANT.step(state, force)
    work = force * (moved[:, 0] - state[:, 0])
    np.testing.assert_allclose(PLANT.energy(moved) - PLANT.energy(state), work, atol=1e-5)


def test_linearisation_is_the_jacobian_at_the_upright_rest() -> None:
    a, b = PLANT.linearised_upright()
    h = 1e-6
    for axis in range(4):
        shift = np.zeros(4)
        shift[axis] = h
        slope = (PLANT.derivative(shift, np.zeros(())) - PLANT.derivative(-shift, np.zeros(()))) / (2 * h)
        np.testing.assert_allclose(slope, a[:, axis], atol=1e-6)
    slope = (PLANT.derivative(np.zeros(4), np.array(h)) - PLANT.derivative(np.zeros(4), np.array(-h))) / (2 * h)
    np.testing.assert_allclose(slope, b[:, 0], atol=1e-6)


def test_step_agrees_with_an_adaptive_integrator() -> None:
    integrate = pytest.importorskip("scipy.integrate", reason="scipy is the oracle here")
    start, force = random_states(8), np.linspace(-10, 10, 8)
    stepped = PLANT.step(start, force)
    for state, push, ours in zip(start, force, stepped, strict=True):
        solution = integrate.solve_ivp(
            lambda _, y, push=push: PLANT.derivative(y, push), (0, PLANT.dt), state, rtol=1e-10, atol=1e-12
        )
        np.testing.assert_allclose(ours, solution.y[:, -1], atol=1e-5)


def test_force_is_limited() -> None:
    state = random_states(4)
    limit = np.full(4, PLANT.max_force)
    np.testing.assert_array_equal(PLANT.step(state, 10 * limit), PLANT.step(state, limit))


def test_wrapped_angles() -> None:
    np.testing.assert_allclose(
        wrapped(np.array([0.5, 3 * np.pi + 0.1, -np.pi, 7.0])), [0.5, -np.pi + 0.1, -np.pi, 7.0 - 2 * np.pi]
    )
