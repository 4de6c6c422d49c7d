"""The loop over environments of every kind: rows, ends and last observations are those that happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets import TrajectoryStore
from iltools_datasets.errors import ArgumentError, MissingKeyError
from test_envs import ENVS, LENGTHS, NUM_ENVS, Manager, RslRl

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection import ExpertTrajectoryCollector, StudentObsBuilder, collect  # noqa: E402


def policy(observations: Any) -> Any:
    seen = observations if not hasattr(observations, "keys") else observations["policy"]
    if hasattr(seen, "keys"):
        seen = torch.cat(list(seen.values()), dim=1)
    seen = torch.as_tensor(seen)
    return (seen.sum(dim=1, keepdim=True) > 3).float()


@pytest.mark.parametrize("kind", ENVS)
def test_whole_episodes_of_every_kind_of_env(tmp_path: Path, kind: str) -> None:
    env, knows_final = ENVS[kind]()
    with ExpertTrajectoryCollector(3, 1, directory=tmp_path / "store") as collector:
        collect(env, policy, collector, episodes=7)
        assert 7 <= collector.num_trajectories < 7 + NUM_ENVS
        assert len(collector.running) == 0
    store = TrajectoryStore.open(tmp_path / "store")
    rows = store.gather(np.arange(len(store)))
    at, episodes = 0, dict.fromkeys(range(NUM_ENVS), 0)
    for length in store.segments.length.tolist():
        env_id, episode, _ = rows["observation"][at].astype(int).tolist()
        assert (episode, length) == (episodes[env_id], LENGTHS[env_id])
        episodes[env_id] += 1
        here = slice(at, at + length)
        np.testing.assert_array_equal(rows["observation"][here], [[env_id, episode, s] for s in range(length)])
        last = length if knows_final else length - 1
        assert rows["next", "observation"][here][-1].tolist() == [env_id, episode, last]
        assert bool(rows["next_known"][here][-1, 0]) is knows_final
        assert bool(rows["terminated"][here][-1, 0]) is (episode % 2 == 0)
        assert bool(rows["truncated"][here][-1, 0]) is (episode % 2 == 1)
        np.testing.assert_array_equal(rows["action"][here, 0], rows["observation"][here].sum(1) > 3)
        at += length


class Remembers:
    """An expert with a memory: it says 1 in the first row of what it takes for an episode."""

    def __init__(self) -> None:
        self.rows = torch.zeros(NUM_ENVS)

    def __call__(self, observations: Any) -> Any:
        self.rows += 1
        return (self.rows == 1).float()[:, None]

    def reset(self, ended: Any) -> None:
        self.rows[ended] = 0


@pytest.mark.parametrize("kind", ENVS)
def test_a_memory_is_as_old_as_its_episode(tmp_path: Path, kind: str) -> None:
    env, _ = ENVS[kind]()
    with ExpertTrajectoryCollector(3, 1, directory=tmp_path / "store") as collector:
        collect(env, Remembers(), collector, steps=30)
    store = TrajectoryStore.open(tmp_path / "store")
    rows = store.gather(np.arange(len(store)))
    np.testing.assert_array_equal(rows["action"][:, 0] == 1, rows["observation"][:, 2] == 0)


class TermsEnv(RslRl):
    """Counting with a manager that says what the terms are."""

    def __init__(self) -> None:
        super().__init__(groups=True, final=True)
        self.num_actions = 1
        self.observation_manager = type(
            "Terms", (), {"active_terms": {"policy": ["who", "where"]}, "group_obs_term_dim": {"policy": [(1,), (2,)]}}
        )()


def test_the_students_history_follows_the_episodes(tmp_path: Path) -> None:
    env = TermsEnv()
    student = StudentObsBuilder(env, ["where"], 3)
    with ExpertTrajectoryCollector(3, 1, student.total_dim, directory=tmp_path / "store") as collector:
        collect(env, policy, collector, steps=30, student=student)
    store = TrajectoryStore.open(tmp_path / "store")
    for segment in store.segments:
        here = np.arange(segment.start, segment.start + segment.length)
        rows = store.gather(here, ["student_observation", ("next", "student_observation"), "next_known"])
        where = store.gather(here, ["observation"])["observation"][:, 1:]
        padded = np.concatenate([np.zeros((2, 2), np.float32), where])
        expected = np.concatenate([padded[2:], padded[1:-1], padded[:-2]], axis=1)
        np.testing.assert_array_equal(rows["student_observation"], expected)
        if rows["next_known"][-1]:
            # Its last next one has the rows before it in its history, too.
            np.testing.assert_array_equal(rows["next", "student_observation"][-1][2:], expected[-1][:4])


def test_steps_and_refusals(tmp_path: Path) -> None:
    seen = []
    with ExpertTrajectoryCollector(3, 1, directory=tmp_path / "store") as collector:
        collect(
            Manager(auto_reset=True),
            policy,
            collector,
            steps=4,
            on_step=lambda c, tally: seen.append((c.num_steps, tally.steps)),
        )
        assert seen == [(3, 1), (6, 2), (9, 3), (12, 4)]
        with pytest.raises(ArgumentError, match="say when to stop"):
            collect(Manager(auto_reset=True), policy, collector)
        with pytest.raises(
            MissingKeyError, match=r"no observation group 'teacher'; there are \['critic', 'noisy', 'policy'\]"
        ):
            collect(Manager(auto_reset=True), policy, collector, steps=1, group="teacher")
