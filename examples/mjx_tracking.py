"""Follow a motion in MJX: the reference lies on the device with the simulation, and a roll-out is one compiled scan.

`python examples/mjx_tracking.py`

The functions have the form of a Brax env's (`reset(rng) -> state`, `step(state, action) -> state`); the store is an
argument of the compiled function, not part of it. Each env follows a clip from a step of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
from expert_motion import record_cartpole
from iltools_datasets import DeviceStore
from iltools_datasets.demo.cartpole import CartPole
from iltools_datasets.demo.expert import SwingUpExpert
from mujoco import mjx

MODEL = """
<mujoco>
  <option timestep="0.02" gravity="0 0 -9.81"><flag contact="disable"/></option>
  <worldbody><body>
    <joint name="cart" type="slide" axis="1 0 0"/><geom type="box" size=".1 .1 .1" mass="1"/>
    <body><joint type="hinge" axis="0 1 0"/><geom type="sphere" size=".02" pos="0 0 .5" mass=".2"/></body>
  </body></worldbody>
  <actuator><motor joint="cart"/></actuator>
</mujoco>
"""


def reset(model: mjx.Model, store: DeviceStore, rng: jax.Array) -> dict[str, Any]:
    """Begin at any step of any clip, where the clip is."""
    of_clip, of_step = jax.random.split(rng)
    traj = jax.random.randint(of_clip, (), 0, store.num_trajectories)
    step = jax.random.randint(of_step, (), 0, store.length[traj] - 1)
    state = store.window(traj, step, 1)["observation"][0]
    data = mjx.make_data(model).replace(qpos=state[:2], qvel=state[2:])
    return {"data": data, "traj": traj, "step": step}


def step(model: mjx.Model, store: DeviceStore, state: dict[str, Any], gain: jax.Array) -> tuple[dict[str, Any], Any]:
    """Do what the expert did, corrected by how far the pole is from where it was; return the reward too."""
    reference = store.window(state["traj"], state["step"], 1, "clamp")
    data = state["data"]
    off = jnp.concatenate([data.qpos, data.qvel]) - reference["observation"][0]
    force = reference["action"][0] + gain @ off
    data = mjx.step(model, data.replace(ctrl=force[:1]))
    off = jnp.concatenate([data.qpos, data.qvel]) - reference["next"]["observation"][0]
    return {**state, "data": data, "step": state["step"] + 1}, jnp.exp(-10 * jnp.sum(off[:2] ** 2))


@partial(jax.jit, static_argnums=(4, 5))
def roll_out(
    model: mjx.Model, store: DeviceStore, rng: jax.Array, gain: jax.Array, num_envs: int, num_steps: int
) -> jax.Array:
    """Return the reward of each step of each env, `[num_steps, num_envs]`."""
    states = jax.vmap(partial(reset, model, store))(jax.random.split(rng, num_envs))
    advance = jax.vmap(lambda state: step(model, store, state, gain))
    return jax.lax.scan(lambda states, _: advance(states), states, length=num_steps)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    model = mjx.put_model(mujoco.MjModel.from_xml_string(MODEL))
    with tempfile.TemporaryDirectory() as workdir:
        store = DeviceStore.from_store(
            record_cartpole(Path(workdir) / "store", 40), ["observation", ("next", "observation"), "action"]
        )
    # A linear regulator about the reference; without it the expert's pushes are blind to where the pole has gone.
    for name, gain in (("blind", jnp.zeros((1, 4))), ("corrected", jnp.asarray(-SwingUpExpert(CartPole()).gain[None]))):
        reward = roll_out(model, store, jax.random.key(0), gain, arguments.num_envs, arguments.steps)
        print(f"{name}: mean reward {float(reward.mean()):.3f} over {reward.shape[1]} envs x {reward.shape[0]} steps")


if __name__ == "__main__":
    main()
