"""One trajectory as a TensorDict: what is packed where, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

from iltools_datasets.errors import SchemaError  # noqa: E402
from iltools_datasets.replay_memmap import (  # noqa: E402
    build_trajectory_td,
    build_trajectory_td_from_components,
    concat_components,
)

pytestmark = pytest.mark.torch


def test_a_trajectory_is_packed_as_torchrl_expects() -> None:
    obs, act, nxt = torch.randn(5, 3), torch.randn(5, 2), torch.randn(5, 3)
    td = build_trajectory_td(observation=obs, action=act, next_observation=nxt)
    assert td.batch_size == torch.Size([5])
    assert set(td.keys(True, True)) == {"observation", "action", ("next", "observation")}
    assert td["next", "observation"] is nxt
    assert td["observation"] is obs


def test_flags_are_bool_columns_at_the_root_and_under_next() -> None:
    x = torch.zeros(3, 1)
    td = build_trajectory_td(x, x, x, terminated=torch.tensor([0, 0, 1]), truncated=torch.tensor([[1], [0], [0]]))
    for prefix in ((), ("next",)):
        assert td[(*prefix, "terminated")].tolist() == [[False], [False], [True]]
        assert td[(*prefix, "truncated")].tolist() == [[True], [False], [False]]
    assert td["next", "done"].tolist() == [[True], [False], [True]]


def test_extra_entries() -> None:
    x = torch.zeros(3, 1)
    td = build_trajectory_td(x, x, x, extra={("next", "reward"): torch.ones(3, 1)})
    assert td["next", "reward"].sum() == 3


def test_components_by_name_and_in_a_row() -> None:
    before = {"qpos": torch.randn(4, 3), "pose": torch.randn(4, 2, 2)}
    after = {"pose": torch.randn(4, 2, 2), "qpos": torch.randn(4, 3)}
    td = build_trajectory_td_from_components(before, torch.zeros(4, 1), after, concat_obs_to_key="policy")
    assert torch.equal(td["policy"], torch.cat([before["qpos"], before["pose"].flatten(1)], 1))
    assert torch.equal(td["next", "policy"], torch.cat([after["qpos"], after["pose"].flatten(1)], 1))
    assert torch.equal(td["next", "pose"], after["pose"])
    in_a_row = build_trajectory_td_from_components(
        list(before.values()), torch.zeros(4, 1), [after["qpos"], after["pose"]]
    )
    assert set(in_a_row.keys(True, True)) == {"observation", "action", ("next", "observation")}
    assert torch.equal(in_a_row["observation"], td["policy"])


def test_concatenation_of_plain_rows() -> None:
    assert concat_components([torch.arange(3), torch.ones(3, 2, dtype=torch.long)]).tolist() == [
        [0, 1, 1],
        [1, 1, 1],
        [2, 1, 1],
    ]


X = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"next_observation": torch.zeros(3, 1)}, r"next observation.*\[3, 2\].*\[3, 1\]"),
        ({"next_observation": X.double()}, r"next observation.*float32.*float64"),
        ({"action": torch.zeros(4, 1)}, r"'observation': expected 4 rows"),
        ({"action": torch.zeros(0, 1)}, r"at least one transition"),
        ({"action": torch.tensor(1.0)}, r"at least one transition"),
        ({"terminated": torch.zeros(2)}, r"'terminated'.*3 rows"),
        ({"terminated": torch.zeros(3, 2)}, r"terminated: expected shape \[T\] or \[T, 1\]"),
        ({"extra": {"action": X}}, r"'action' is there already"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        build_trajectory_td(**{"observation": X, "action": X, "next_observation": X, **arguments})


def test_components_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"\['a'\].*\['b'\]"):
        build_trajectory_td_from_components({"a": X}, X, {"b": X})
    with pytest.raises(SchemaError, match="no components"):
        concat_components([])
    with pytest.raises(SchemaError, match=r"component b: expected 3 rows as a has"):
        concat_components({"a": X, "b": torch.zeros(4, 2)})
    with pytest.raises(SchemaError, match=r"component 1: expected torch.float32"):
        concat_components([X, X.double()])
