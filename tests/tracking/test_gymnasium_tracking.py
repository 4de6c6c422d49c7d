"""The example of a MuJoCo vector env of gymnasium's that follows motion: where envs are, what they see and count."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs gymnasium[mujoco]")
pytest.importorskip("mujoco", reason="needs gymnasium[mujoco]")

EXAMPLES = str(Path(__file__).parents[2] / "examples")
pytestmark = pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """MuJoCo writes its warnings into a file where it runs."""
    with contextlib.chdir(tmp_path_factory.mktemp("mujoco")):
        yield


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, EXAMPLES)
    try:
        import gymnasium_tracking
    finally:
        sys.path.remove(EXAMPLES)
    return gymnasium_tracking


@pytest.fixture(scope="module")
def clips(example, tmp_path_factory):
    return example.record(tmp_path_factory.mktemp("gaits") / "store")


@pytest.fixture
def envs(example, clips):
    made = gymnasium.make_vec(
        example.TASK, 5, "sync", {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}, max_episode_steps=30
    )
    tracking = example.TrackMotion(made, clips, example.Adaptive(bin_s=0.5))
    yield tracking
    tracking.close()


def between_frames(clips, clip, time):
    """Interpolate qpos of one clip in float64."""
    rows = clips.trajectory(int(clip), ["qpos"])["qpos"].astype(np.float64)
    frames = np.arange(len(rows)) * 0.03
    return np.array([np.interp(time, frames, column) for column in rows.T])


def test_envs_begin_where_the_motion_is_and_see_where_it_goes(example, clips, envs):
    seen, _ = envs.reset(seed=0)
    over, fell, drawn = 0, 0, np.random.default_rng(0)
    for _ in range(60):
        assert envs.observation_space.contains(seen.astype(np.float32))
        ahead = seen[:, 17 : 17 + 27].reshape(5, 3, 9)
        qpos, _ = envs._states()
        for env in range(5):
            for step, part in zip(example.AHEAD, ahead[env], strict=True):
                time = min(envs.motion.time[env] + 0.05 * step, 239 * 0.03)
                wanted = between_frames(clips, envs.motion.clip[env], time) - qpos[env]
                np.testing.assert_allclose(part, wanted, atol=1e-5)
        before = seen
        seen, rewards, terminated, truncated, infos = envs.step(drawn.choice([-1.0, 1.0], size=(5, 6)))
        assert ((rewards > 0) & (rewards <= 1)).all()
        done = terminated | truncated
        over, fell = over + done.sum(), fell + terminated.sum()
        np.testing.assert_allclose(seen[done, 17:26], 0, atol=1e-5)
        if done.any():
            # What was seen last is not what is seen of the new start.
            np.testing.assert_array_equal(infos["_final_obs"], done)
            assert (np.abs(infos["final_obs"][done] - seen[done]).max(axis=1) > 1e-3).all()
            np.testing.assert_array_equal(infos["final_obs"][~done], seen[~done])
        assert (before != seen).any()
    coverage = envs.motion.coverage()
    assert coverage.starts.sum() == 5 + over > 10
    assert coverage.visits.sum() == 5 * 60
    # Time is up after 30 steps of MuJoCo's env: that is no fall.
    assert 0 < coverage.failures.sum() == fell < over


def test_a_controller_stays_with_it_for_longer(example, clips):
    falls, rewards = {}, {}
    for controlled in (True, False):
        envs, rewards[controlled] = example.follow(clips, 8, 250, controlled)
        falls[controlled] = envs.motion.coverage().failure_rate
        envs.close()
    assert rewards[True] > rewards[False] + 0.1
    assert falls[True] < 0.5 * falls[False]


def test_envs_that_reset_themselves_are_refused(example, clips):
    made = gymnasium.make_vec(example.TASK, 2, "sync")
    with pytest.raises(ValueError, match=r"AutoresetMode\.DISABLED"):
        example.TrackMotion(made, clips)
    made.close()
