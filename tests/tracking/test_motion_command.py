"""The example's motion command: robots that were just put somewhere are where the motion is; falls become starts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = str(Path(__file__).parents[2] / "examples")


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, EXAMPLES)
    try:
        import motion_command
    finally:
        sys.path.remove(EXAMPLES)
    return motion_command


@pytest.fixture(scope="module")
def clips(example, tmp_path_factory):
    return example.write_clips(tmp_path_factory.mktemp("clips") / "store")


def test_a_robot_that_was_put_there_is_where_the_motion_is(example, clips):
    command = example.MotionCommand(clips, 20, "torso_link", example.BODIES)
    robots = example.ToyRobots(20, 0.5)
    everyone = np.arange(20)
    robots.put(everyone, command.start_state(everyone))
    command.update(robots.state)
    assert command.command.shape == (20, 3 * 2 * len(example.JOINTS))
    for name, error in command.metrics.items():
        assert error.max() < 1e-5, name
    # Elsewhere and turned, it is still where the motion is, once that is aligned with it.
    anchor = robots.state.body_pos[:, command.anchor].copy()
    robots.state.body_pos[..., :2] += np.float32(3)
    command.update(robots.state)
    np.testing.assert_allclose(command.body_pos[:, command.anchor, :2], anchor[:, :2] + 3, atol=1e-5)
    assert command.metrics["error_body_pos"].max() < 1e-5


@pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")
def test_what_is_too_fast_is_practised(example, clips, capsys):
    command = example.run(clips, 64, 30)
    coverage = command.sampler.coverage()
    fast = (coverage.bin_clip % 4 == 0) & (coverage.bin_begin < 3) & (coverage.bin_end > 2)
    assert coverage.failures[fast].sum() > 0.5 * coverage.failures.sum() > 20
    before = (coverage.bin_clip % 4 == 0) & (coverage.bin_begin < 3)
    share = coverage.probabilities[before].sum() / (coverage.bin_end - coverage.bin_begin)[before].sum()
    assert share > 3 * coverage.probabilities[~before].sum() / (coverage.bin_end - coverage.bin_begin)[~before].sum()
    assert "falls per start" in capsys.readouterr().out
