"""mjlab's own tracking task on the CPU, its motion command replaced by one over a sampler.

Needs the sim extra; each run is a process of its own (tests/support/simulator.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import simulator
from iltools_datasets.ingest.from_archive import build_store
from iltools_datasets.sources import export, open_source

pytestmark = [pytest.mark.sim, pytest.mark.slow, pytest.mark.shared_data, pytest.mark.timeout(900)]
if not simulator.is_there():
    pytestmark.append(pytest.mark.skip("needs the sim extra: mjlab and rsl_rl"))

KEYS = ["joint_pos", "joint_vel", "body_pos_w", "body_quat_w", "body_lin_vel_w", "body_ang_vel_w"]
AS_GIVEN = {"termination anchor_pos", "termination anchor_ori", "termination ee_body_pos", "observation command"}
"""No float32 arithmetic is between the motion and these, or only what is the same in both."""


@pytest.fixture(scope="module")
def motion(shared_data: Path, tmp_path_factory: Any) -> tuple[Path, Path]:
    """A second of a real clip as mjlab reads it, and as a store: long enough to fall in and to come to its end."""
    folder = tmp_path_factory.mktemp("g1")
    simulator.run("motion", shared_data / "unitree_g1" / "G1_Take_102.bvh_60hz.csv", folder / "motion.npz", 1)
    export(open_source(folder / "motion.npz"), folder / "archive.zarr")
    store, _ = build_store(folder / "archive.zarr", folder / "store", KEYS, concat_obs_to_key="frame")
    return folder / "motion.npz", Path(store)


def said(command: str, motion: tuple[Path, Path], steps: int) -> Any:
    return json.loads(simulator.run(command, motion[1], motion[0], steps).stdout.strip().splitlines()[-1])


def test_every_term_is_what_it_is_with_its_own_command(motion: tuple[Path, Path]) -> None:
    seen = said("beside_its_own", motion, 80)
    off = seen["off"]
    assert len([name for name in off if name.startswith("reward")]) == 6
    assert len([name for name in off if name.startswith("observation")]) == 5
    assert len([name for name in off if name.startswith("metric")]) == 10
    assert off.keys() >= AS_GIVEN
    assert {name: error for name, error in off.items() if error > (0 if name in AS_GIVEN else 1e-6)} == {}
    # Falls, ends of the clip and starts all over it were among what was compared, and all was counted.
    assert min(seen["ends"], seen["wraps"]) > 3
    assert seen["starts"] > 10
    assert (seen["failures"], seen["visits"], seen["syncs"]) == (seen["ends"], 80 * 16, 3)


def test_an_env_does_not_notice(motion: tuple[Path, Path]) -> None:
    seen = said("instead_of_its_own", motion, 80)
    assert seen["same_ends"]
    assert seen["ends"][0] == seen["ends"][1] > 10
    assert (seen["states"], seen["observations"], seen["rows"]) == (0.0, 0.0, 80 * 16)
    assert seen["rewards"] < 1e-6 < seen["largest_reward"]
