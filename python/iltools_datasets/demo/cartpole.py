"""A cart-pole in plain numpy, vectorised over a leading batch dimension.

The pole is a point mass on a massless rod, hinged on a cart that moves along a line without friction; the only input is
a horizontal force on the cart. State rows are `[x, theta, x_dot, theta_dot]` in m, rad, m/s, rad/s; theta is 0 upright,
grows towards +x and is not wrapped, so it stays continuous over a full turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CartPole:
    """Masses in kg, rod length in m, gravity in m/s^2, force limit in N, time step (of the controller) in s."""

    cart_mass: float = 1.0
    pole_mass: float = 0.2
    length: float = 0.5
    gravity: float = 9.81
    max_force: float = 20.0
    dt: float = 0.02

    def derivative(self, state: Floats, force: Floats) -> Floats:
        """Return d(state)/dt, float64 [..., 4], for states [..., 4] and forces [...].

        From the Lagrangian of a cart at x and a point mass at (x + l sin theta, l cos theta).
        """
        _, theta, x_dot, theta_dot = np.moveaxis(state, -1, 0)
        sin, cos = np.sin(theta), np.cos(theta)
        push = force + self.pole_mass * sin * (self.length * theta_dot**2 - self.gravity * cos)
        x_acceleration = push / (self.cart_mass + self.pole_mass * sin**2)
        theta_acceleration = (self.gravity * sin - x_acceleration * cos) / self.length
        return np.stack([x_dot, theta_dot, x_acceleration, theta_acceleration], axis=-1)

    def step(self, state: Floats, force: Floats) -> Floats:
        """Return the states [..., 4] after `dt` with the force held: two steps of the classical Runge-Kutta method."""
        force = np.clip(force, -self.max_force, self.max_force)
        h = self.dt / 2
        for _ in range(2):
            k1 = self.derivative(state, force)
            k2 = self.derivative(state + h / 2 * k1, force)
            k3 = self.derivative(state + h / 2 * k2, force)
            k4 = self.derivative(state + h * k3, force)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return state

    def energy(self, state: Floats) -> Floats:
        """Return the total mechanical energy [...] in J; 0 for everything at rest with the pole upright."""
        _, theta, x_dot, theta_dot = np.moveaxis(state, -1, 0)
        kinetic = (
            (self.cart_mass + self.pole_mass) * x_dot**2 / 2
            + self.pole_mass * self.length * x_dot * theta_dot * np.cos(theta)
            + self.pole_mass * self.length**2 * theta_dot**2 / 2
        )
        total: Floats = kinetic + self.pole_mass * self.gravity * self.length * (np.cos(theta) - 1)
        return total

    def linearised_upright(self) -> tuple[Floats, Floats]:
        """Return A [4, 4] and B [4, 1] of d(state)/dt = A state + B force about the upright rest."""
        tilt = self.pole_mass * self.gravity / self.cart_mass
        a = np.zeros((4, 4))
        a[0, 2] = a[1, 3] = 1.0
        a[2, 1] = -tilt
        a[3, 1] = (self.gravity + tilt) / self.length
        b = np.array([[0.0], [0.0], [1 / self.cart_mass], [-1 / (self.cart_mass * self.length)]])
        return a, b


def wrapped(angle: Floats) -> Floats:
    """Return angles in rad, any shape, brought into [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
