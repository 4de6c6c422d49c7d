"""The expert of the demo: swing-up by energy shaping, then an LQR that holds the pole upright."""

from __future__ import annotations

import numpy as np

from iltools_datasets.demo.cartpole import CartPole, Floats, wrapped

_STATE_COST = np.diag([1.0, 20.0, 0.5, 0.5])
_FORCE_COST = np.array([[0.5]])
_CAPTURE_COST = 20.0
_BLEND_WIDTH = 4.0


def solve_riccati(a: Floats, b: Floats, q: Floats, r: Floats) -> Floats:
    """Return the stabilising solution P [n, n] of a'P + Pa - P b r^-1 b' P + q = 0 (continuous time).

    P = U2 U1^-1, where the columns of [U1; U2] span the stable invariant subspace of the Hamiltonian matrix
    (Laub 1979, here with eigenvectors, which is enough while the eigenvalues are distinct). Raises
    numpy.linalg.LinAlgError where the problem has no stabilising solution.
    """
    n = len(a)
    hamiltonian = np.block([[a, -b @ np.linalg.solve(r, b.T)], [-q, -a.T]])
    eigenvalues, eigenvectors = np.linalg.eig(hamiltonian)
    stable = eigenvectors[:, eigenvalues.real < 0]
    if stable.shape[1] != n:
        raise np.linalg.LinAlgError(f"the Hamiltonian has {stable.shape[1]} stable eigenvalues, expected {n}")
    solution: Floats = np.linalg.solve(stable[:n].T, stable[n:].T).T.real
    return (solution + solution.T) / 2


class SwingUpExpert:
    """Maps states [B, 4] to forces [B] in N: pumps energy while the pole hangs, balances once it is near upright.

    The swing-up asks for the cart acceleration that drives the pole's energy to that of the upright rest (Astrom and
    Furuta 2000) and the cart to the middle, and inverts the plant for the force (Spong 1995). The two laws are blended
    over a band of the LQR's cost-to-go instead of switched: the force stays a smooth function of the state, which is
    what makes it possible to clone it.
    """

    def __init__(self, plant: CartPole) -> None:
        self.plant = plant
        a, b = plant.linearised_upright()
        self.cost_to_go = solve_riccati(a, b, _STATE_COST, _FORCE_COST)
        self.gain: Floats = np.linalg.solve(_FORCE_COST, b.T @ self.cost_to_go)[0]

    def __call__(self, state: Floats) -> Floats:
        near = np.column_stack([state[:, 0], wrapped(state[:, 1]), state[:, 2:]])
        cost = np.einsum("bi,ij,bj->b", near, self.cost_to_go, near)
        balancing = 0.5 - 0.5 * np.tanh((cost - _CAPTURE_COST) / (2 * _BLEND_WIDTH))
        force = balancing * -(near @ self.gain) + (1 - balancing) * self._swing_up(near)
        limited: Floats = self.plant.max_force * np.tanh(force / self.plant.max_force)
        return limited

    def _swing_up(self, state: Floats) -> Floats:
        plant = self.plant
        x, theta, x_dot, theta_dot = state.T
        sin, cos = np.sin(theta), np.cos(theta)
        energy = theta_dot**2 * plant.length / (2 * plant.gravity) + cos - 1  # of the pole, in units of m g l
        acceleration = 4.0 * energy * theta_dot * cos - 2.0 * x - 1.5 * x_dot
        inertia = plant.cart_mass + plant.pole_mass * sin**2
        force: Floats = inertia * acceleration - plant.pole_mass * sin * (
            plant.length * theta_dot**2 - plant.gravity * cos
        )
        return force
