"""The student's observation against twenty plain lines, over random episodes; and against an env's own history."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.errors import ArgumentError, MissingKeyError, OutOfRangeError, SchemaError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection.student_obs import StudentObsBuilder  # noqa: E402

NUM_ENVS = 5
DIMS = {"command": 4, "joint_pos": 3, "body": 6, "actions": 2}
SHAPES = {"command": (4,), "joint_pos": (3,), "body": (2, 3), "actions": (2,)}


def make_env(own_history: int = 0, groups: tuple[str, ...] = ("policy",), num_envs: int = NUM_ENVS) -> Any:
    """An env with a manager like Isaac Lab's: terms, their widths with their own history, and settings."""
    frames = max(own_history, 1)
    manager = SimpleNamespace(
        active_terms={group: list(DIMS) for group in groups},
        group_obs_term_dim={group: [(frames * dim,) for dim in DIMS.values()] for group in groups},
        cfg={group: SimpleNamespace(history_length=own_history or None, terms={}) for group in groups},
    )
    return SimpleNamespace(observation_manager=manager, num_envs=num_envs, device="cpu")


def frames_of(rng: np.random.Generator) -> dict[str, Any]:
    return {
        name: torch.from_numpy(rng.standard_normal((NUM_ENVS, *shape), dtype=np.float32))
        for name, shape in SHAPES.items()
    }


def expected_row(
    past: list[dict[str, Any]], now: dict[str, Any], env: int, keys: list[str], length: int, **how: str
) -> Any:
    """The definition: `past` are this env's frames since its episode began, oldest first, without `now`."""
    if length == 0:
        return torch.cat([now[key][env].flatten() for key in keys])
    row = []
    for key in keys:
        known = [frame[key][env].flatten() for frame in past]
        if how["history"] == "current":
            known.append(now[key][env].flatten())
        first = past[0][key][env].flatten() if past else now[key][env].flatten()
        lack = first if how["pad"] == "first" else torch.zeros_like(first)
        newest_first = (known[::-1] + [lack] * length)[:length]
        row += newest_first if how["order"] == "newest_first" else newest_first[::-1]
    return torch.cat(row)


HOW = {
    "order": st.sampled_from(["newest_first", "oldest_first"]),
    "pad": st.sampled_from(["zero", "first"]),
    "history": st.sampled_from(["current", "past"]),
}


@settings(max_examples=80)
@given(
    keys=st.permutations(list(DIMS)).flatmap(lambda names: st.integers(1, 4).map(lambda count: names[:count])),
    length=st.integers(0, 5),
    how=st.fixed_dictionaries(HOW),
    resets=st.lists(st.sets(st.integers(0, NUM_ENVS - 1)), min_size=1, max_size=14),
    as_mask=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_is_its_definition(keys: list[str], length: int, how: Any, resets: Any, as_mask: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    builder = StudentObsBuilder(make_env(), keys, length, **how)
    past: list[list[dict[str, Any]]] = [[] for _ in range(NUM_ENVS)]
    for ended in resets:
        now = frames_of(rng)
        found = builder.get_observation(now)
        expected = torch.stack([expected_row(past[env], now, env, keys, length, **how) for env in range(NUM_ENVS)])
        assert torch.equal(found, expected)
        assert found.shape == (NUM_ENVS, builder.total_dim)
        builder.update_history(now)
        for env in range(NUM_ENVS):
            past[env] = [] if env in ended else [*past[env], now]
        mask = torch.tensor([env in ended for env in range(NUM_ENVS)])
        builder.reset_history(mask if as_mask else sorted(ended))


@pytest.mark.parametrize("pad", ["zero", "first"])
@pytest.mark.parametrize("order", ["newest_first", "oldest_first"])
def test_past_with_the_update_first(order: Any, pad: Any) -> None:
    """Both orders of calls are allowed there: updated first, the newest frame is the one handed in."""
    rng = np.random.default_rng(1)
    after = StudentObsBuilder(make_env(), ["command", "body"], 3, history="past", order=order, pad=pad)
    current = StudentObsBuilder(make_env(), ["command", "body"], 3, history="current", order=order, pad=pad)
    for step in range(9):
        now = frames_of(rng)
        expected = current.get_observation(now)
        current.update_history(now)
        after.update_history(now)
        assert torch.equal(after.get_observation(now), expected)
        ended = [step % NUM_ENVS, (2 * step) % NUM_ENVS]
        after.reset_history(ended)
        current.reset_history(ended)


class OwnHistory:
    """What an env manager does for a group with a history: oldest first, the first frame repeated."""

    def __init__(self, length: int) -> None:
        self.length, self.frames = length, [[] for _ in range(NUM_ENVS)]

    def step(self, now: dict[str, Any]) -> Any:
        rows = []
        for env in range(NUM_ENVS):
            frame = {key: value[env].flatten() for key, value in now.items()}
            held = self.frames[env]
            held.extend([frame] * (self.length if not held else 1))
            del held[: -self.length]
            rows.append(torch.cat([torch.cat([old[key] for old in held]) for key in DIMS]))
        return torch.stack(rows)


def test_like_is_the_envs_own_group() -> None:
    rng, length = np.random.default_rng(2), 4
    env = make_env(own_history=length, groups=("policy", "policy_student"))
    own, builder = OwnHistory(length), StudentObsBuilder.like(env)
    assert (builder.history_length, builder.total_dim) == (length, length * sum(DIMS.values()))
    for step in range(12):
        now = frames_of(rng)
        theirs = own.step(now)
        assert torch.equal(builder.get_observation(now), theirs)
        newest = builder.split(theirs)
        assert all(torch.equal(newest[key], now[key].flatten(1)) for key in DIMS)
        builder.update_history(now)
        for env_id in {step % NUM_ENVS, (3 * step) % NUM_ENVS}:
            own.frames[env_id] = []
            builder.reset_history([env_id])


def test_touches_nothing_of_the_caller() -> None:
    rng = np.random.default_rng(3)
    builder = StudentObsBuilder(make_env(), list(DIMS), 3)
    now = frames_of(rng)
    first = builder.get_observation(now)
    builder.update_history(now)
    copies = {key: value.clone() for key, value in now.items()}
    first.fill_(7)
    for value in now.values():
        value.fill_(9)  # an env that re-uses its buffers
    again = builder.get_observation(copies)
    assert torch.equal(again[:, :4], copies["command"])
    assert torch.equal(again[:, 4:8], copies["command"])
    state = torch.random.get_rng_state()
    builder.get_observation(copies)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_frame_that_needs_gradients_is_no_part_of_a_graph() -> None:
    builder = StudentObsBuilder(make_env(), ["actions"], 2)
    found = builder.get_observation({"actions": torch.ones(NUM_ENVS, 2, requires_grad=True)})
    assert not found.requires_grad


def test_widths_without_public_names_and_with_terms_of_their_own_history() -> None:
    manager = SimpleNamespace(
        _group_obs_term_names={"actor": ["a", "b"]},
        _group_obs_term_dim={"actor": [(6,), (2,)]},
        _group_obs_term_cfgs={"actor": [SimpleNamespace(history_length=3), SimpleNamespace(history_length=0)]},
    )
    env = SimpleNamespace(unwrapped=SimpleNamespace(observation_manager=manager, num_envs=2, device="cpu"))
    builder = StudentObsBuilder(env, ["b", "a"])
    assert builder.obs_dims == [2, 2]
    split = builder.split(torch.arange(16.0).reshape(2, 8))
    assert split["a"].tolist() == [[4, 5], [12, 13]]
    assert split["b"].tolist() == [[6, 7], [14, 15]]
    with pytest.raises(ArgumentError, match="not of one length"):
        StudentObsBuilder.like(env, "actor")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"obs_keys": ["command", "speed"]},
            r"no term 'speed'; there are \['command', 'joint_pos', 'body', 'actions'\]",
        ),
        ({"obs_keys": ["command", "command"]}, "'command' is named twice"),
        ({"obs_keys": []}, "no term is named"),
        ({"group": "student"}, r"no observation group 'student'; there are \['policy'\]"),
        ({"order": "newest"}, "order: expected one of"),
        ({"pad": "repeat"}, "pad: expected one of"),
        ({"history": "future"}, "history: expected one of"),
        ({"history_length": -1}, "history_length: expected an integer of at least 0"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        StudentObsBuilder(make_env(), **{"obs_keys": ["command"], **options})


def test_a_bad_step_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    builder, other = (StudentObsBuilder(make_env(), ["command", "actions"], 3) for _ in range(2))
    good, later = frames_of(rng), frames_of(rng)
    for each in (builder, other):
        each.get_observation(good)
        each.update_history(good)
    bad = {
        "missing": ({"command": later["command"]}, MissingKeyError, "no observation term 'actions'"),
        "width": (
            {**later, "actions": later["actions"][:, :1]},
            SchemaError,
            r"'actions': expected \[5, 2\], found \[5, 1\]",
        ),
        "envs": (
            {**later, "command": later["command"][:4]},
            SchemaError,
            r"'command': expected \[5, 4\], found \[4, 4\]",
        ),
        "dtype": ({key: value.double() for key, value in later.items()}, SchemaError, "float32 so far"),
    }
    for frames, error, message in bad.values():
        for call in (builder.get_observation, builder.update_history):
            with pytest.raises(error, match=message):
                call(frames)
    for ids, error in (
        ([5], OutOfRangeError),
        ([-1], OutOfRangeError),
        ([True] * 4, OutOfRangeError),
        ([0.0], TypeError),
    ):
        with pytest.raises(error):
            builder.reset_history(torch.tensor(ids))
    assert torch.equal(builder.get_observation(later), other.get_observation(later))


def test_update_first_would_put_the_frame_in_twice() -> None:
    builder = StudentObsBuilder(make_env(), ["command"], 2)
    with pytest.raises(ArgumentError, match="call get_observation first"):
        builder.update_history(frames_of(np.random.default_rng(5)))
