"""Environments of every kind tell the same story: what was seen, what ended, what was seen last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from iltools_datasets.errors import ArgumentError, SchemaError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection.envs import adapt  # noqa: E402

LENGTHS = (3, 5, 4)
NUM_ENVS = len(LENGTHS)


class Counting:
    """Episodes of fixed lengths: env e observes (e, episode, step). Odd episodes are cut by time, even ones fall."""

    def __init__(self) -> None:
        self.num_envs, self.max_episode_length = NUM_ENVS, 7
        self.episode, self.at = np.zeros(NUM_ENVS, int), np.zeros(NUM_ENVS, int)

    def observe(self) -> np.ndarray:
        return np.stack([np.arange(NUM_ENVS), self.episode, self.at], axis=1).astype(np.float32)

    def begin(self, envs: np.ndarray) -> None:
        self.episode[envs] += 1
        self.at[envs] = 0

    def advance(self) -> tuple[np.ndarray, np.ndarray]:
        self.at += 1
        ended = self.at == np.array(LENGTHS)
        return ended & (self.episode % 2 == 0), ended & (self.episode % 2 == 1)


class RslRl(Counting):
    """rsl_rl: one tensor before 3, groups since; the reset happens in the step."""

    device = "cpu"

    def __init__(self, groups: bool, final: bool, time_outs: bool = True) -> None:
        super().__init__()
        self.groups, self.final, self.time_outs = groups, final, time_outs

    def get_observations(self) -> Any:
        seen = torch.from_numpy(self.observe())
        return {"policy": seen, "critic": seen * 2} if self.groups else (seen, {"observations": {"critic": seen * 2}})

    def step(self, actions: Any) -> Any:
        terminated, truncated = self.advance()
        last = torch.from_numpy(self.observe())
        self.begin(terminated | truncated)
        extras: dict[str, Any] = {"time_outs": torch.from_numpy(truncated)} if self.time_outs else {}
        if self.final:
            extras["final_obs"] = {"policy": last, "critic": last * 2}
        found = self.get_observations()
        if not self.groups:
            extras.update(found[1])
        dones = torch.from_numpy(terminated | truncated).long()
        return found if self.groups else found[0], torch.zeros(NUM_ENVS), dones, extras


class Manager(Counting):
    """Isaac Lab and mjlab: groups of terms, five results; resets itself, or leaves it to the caller."""

    observation_manager = object()

    def __init__(self, auto_reset: bool) -> None:
        super().__init__()
        self.draws = 0
        self.flags = torch.zeros(2, NUM_ENVS, dtype=torch.bool)  # kept, and cleared by a reset
        self.action_manager = SimpleNamespace(total_action_dim=1)
        self.cfg, self.unwrapped = SimpleNamespace(auto_reset=auto_reset), self
        self.buffer = torch.zeros(NUM_ENVS, 3)

    def get_observations(self) -> Any:
        raise AssertionError("it computes terms, and the step has given them")

    def observed(self) -> Any:
        self.draws += 1
        self.buffer.copy_(torch.from_numpy(self.observe()))  # the same memory every time
        noise = torch.full((NUM_ENVS, 1), float(self.draws))  # drawn anew for all envs, also where a few are reset
        return {
            "policy": {"who": self.buffer[:, :1], "where": self.buffer[:, 1:]},
            "critic": self.buffer * 2,
            "noisy": noise,
        }

    def reset(self, seed: Any = None, env_ids: Any = None) -> Any:
        if env_ids is not None:
            self.begin(env_ids.numpy())
            self.flags[:, env_ids] = False
        return self.observed(), {}

    def step(self, actions: Any) -> Any:
        terminated, truncated = self.advance()
        if self.cfg.auto_reset:
            self.begin(terminated | truncated)
        self.flags.copy_(torch.from_numpy(np.stack([terminated, truncated])))
        return self.observed(), 0, self.flags[0], self.flags[1], {}


def gymnasium_env(mode: str) -> Any:
    gymnasium = pytest.importorskip("gymnasium", reason="needs gymnasium")

    class Single(gymnasium.Env):  # type: ignore[misc]
        metadata = {"render_modes": []}  # noqa: RUF012
        observation_space = gymnasium.spaces.Box(-100, 100, (3,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def __init__(self, number: int) -> None:
            self.number, self.episode, self.at = number, -1, 0

        def seen(self) -> Any:
            return np.array([self.number, self.episode, self.at], np.float32)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            self.episode, self.at = self.episode + 1, 0
            return self.seen(), {}

        def step(self, action: Any) -> Any:
            assert action in (0, 1)
            self.at += 1
            ended = self.at == LENGTHS[self.number]
            return self.seen(), 0.0, ended and self.episode % 2 == 0, ended and self.episode % 2 == 1, {}

    makers = [lambda number=number: Single(number) for number in range(NUM_ENVS)]
    return gymnasium.vector.SyncVectorEnv(makers, copy=False, autoreset_mode=gymnasium.vector.AutoresetMode[mode])


ENVS = {
    "rsl_rl 2": lambda: (RslRl(groups=False, final=False), False),
    "rsl_rl 3": lambda: (RslRl(groups=True, final=False), False),
    "rsl_rl 5, final": lambda: (RslRl(groups=True, final=True), True),
    "manager": lambda: (Manager(auto_reset=True), False),
    "manager, reset by the caller": lambda: (Manager(auto_reset=False), True),
    "gymnasium, next step": lambda: (gymnasium_env("NEXT_STEP"), True),
    "gymnasium, same step": lambda: (gymnasium_env("SAME_STEP"), True),
    "gymnasium, disabled": lambda: (gymnasium_env("DISABLED"), True),
}


@pytest.mark.parametrize("kind", ENVS)
def test_episodes_are_what_happened(kind: str) -> None:
    made, knows_final = ENVS[kind]()
    env = adapt(made)
    step = env.reset(seed=None if "rsl" in kind else 3)
    rows: list[list[list[float]]] = [[] for _ in range(NUM_ENVS)]
    episodes: list[list[tuple[list[list[float]], Any, str]]] = [[] for _ in range(NUM_ENVS)]
    for _ in range(40):
        live = torch.ones(NUM_ENVS, dtype=torch.bool) if step.live is None else step.live
        for e in range(NUM_ENVS):
            if live[e]:
                rows[e].append(step.groups["policy"][e].tolist())
        step = env.step(torch.zeros(NUM_ENVS, 1))
        assert not (step.terminated & step.truncated).any()
        for e in range(NUM_ENVS):
            if live[e] and step.ended[e]:
                last = None if step.final is None else step.final["policy"][e].tolist()
                episodes[e].append((rows[e], last, "fell" if step.terminated[e] else "cut"))
                rows[e] = []
    for e, length in enumerate(LENGTHS):
        assert len(episodes[e]) >= 6
        for number, (seen, last, how) in enumerate(episodes[e]):
            assert seen == [[e, number, at] for at in range(length)]
            assert last == ([e, number, length] if knows_final else None)
            assert how == ("fell" if number % 2 == 0 else "cut")


def test_groups_of_terms_and_other_groups() -> None:
    for made in (RslRl(groups=False, final=False), RslRl(groups=True, final=True), Manager(auto_reset=True)):
        env = adapt(made)
        step = env.step(torch.zeros(NUM_ENVS, 1))
        assert set(step.groups) - {"noisy"} == {"policy", "critic"}
        assert torch.equal(step.groups["critic"], step.groups["policy"] * 2)
        assert env.max_episode_steps == 7


def test_no_time_outs_is_said_once() -> None:
    env = adapt(RslRl(groups=True, final=False, time_outs=False))
    with pytest.warns(UserWarning, match="all ends count as terminated") as said:
        steps = [env.step(torch.zeros(NUM_ENVS, 1)) for _ in range(20)]
    assert len(said) == 1
    assert not any(step.truncated.any() for step in steps)


def test_a_reset_of_some_leaves_the_others_what_they_saw() -> None:
    made = Manager(auto_reset=False)
    env = adapt(made)
    env.reset()
    for _ in range(12):
        step = env.step(torch.zeros(NUM_ENVS, 1))
        drawn = step.groups["noisy"][:, 0]
        of_the_step = made.draws - 1 if bool(step.ended.any()) else made.draws
        expected = torch.where(step.ended, torch.tensor(float(made.draws)), torch.tensor(float(of_the_step)))
        assert torch.equal(drawn, expected)
        assert torch.equal(step.given["noisy"][:, 0], expected)
        if step.final is not None:
            assert (step.final["noisy"] == of_the_step).all()


def test_widths_of_actions_and_results_that_are_others() -> None:
    assert adapt(Manager(auto_reset=True)).action_width == 1
    assert adapt(RslRl(groups=True, final=False)).action_width is None
    env = adapt(Manager(auto_reset=True))
    assert adapt(env) is env
    made = RslRl(groups=True, final=False)
    made.step = lambda actions: (1, 2, 3, 4, 5)  # type: ignore[method-assign]
    with pytest.raises(SchemaError, match=r"RslRl\.step: expected 4 results, found 5 results"):
        adapt(made).step(torch.zeros(NUM_ENVS, 1))


def test_refuses_what_is_no_vector_env() -> None:
    with pytest.raises(ArgumentError, match="expected a vectorised environment with num_envs and step"):
        adapt(object())
    with pytest.raises(ArgumentError, match="it has none of them"):
        adapt(SimpleNamespace(num_envs=1, step=lambda actions: None))
