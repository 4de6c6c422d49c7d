"""A student's history on the device and in streams, and streams over a store that grows meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs the jax extra")
pytest.importorskip("torch", reason="needs the torch extra")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets.collection import place  # noqa: E402
from iltools_datasets.jax.device_store import DeviceStore  # noqa: E402
from iltools_datasets.jax_stream import DoubleBufferStreamer  # noqa: E402
from iltools_datasets.windows.source import WindowSource  # noqa: E402
from student_rollouts import NUM_ENVS, OBSERVATION, RollOut, make_builder  # noqa: E402

pytestmark = pytest.mark.jax

STUDENT, FRAME, TERM = "student_observation", "student_frame", ("student_observation_terms", "joint_pos")


@pytest.fixture(autouse=True)
def _seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publications are those that are asked for."""
    monkeypatch.setattr(place, "PUBLISH_SECONDS", 3600.0)


def rolled_out(path: Path, steps: int = 24, **how: Any) -> RollOut:
    rolled = RollOut(path, make_builder(length=3, **how), same=how["history"] == "past")
    for at in range(steps):
        rolled.step()
        rolled.end({at % NUM_ENVS, at * 3 % NUM_ENVS} if at % 2 else (), known=at % 4 == 1)
    rolled.collector.flush()
    return rolled


@settings(max_examples=6)
@given(
    how=st.fixed_dictionaries(
        {
            "order": st.sampled_from(["newest_first", "oldest_first"]),
            "pad": st.sampled_from(["zero", "first"]),
            "history": st.sampled_from(["current", "past"]),
        }
    ),
    boundary=st.sampled_from(["wrap", "clamp", "mask"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_device_holds_frames_and_gives_the_history(
    tmp_path_factory: Any, how: Any, boundary: Any, seed: int
) -> None:
    path = tmp_path_factory.mktemp("recorded") / "store"
    rolled_out(path, **how).collector.close()
    store = TrajectoryStore.open(path)
    keys = [STUDENT, ("next", STUDENT), TERM, "action"]
    on_device = DeviceStore.from_store(store, keys)
    assert on_device.keys == keys
    # Frames are there once, and nothing of the histories.
    assert [column.shape for column in on_device.columns] == [(len(store), 2), (store.num_states, OBSERVATION)]
    rng = np.random.default_rng(seed)
    traj = rng.integers(0, store.num_trajectories, 12)
    step = rng.integers(-9, 20, 12)
    found = jax.jit(lambda device, traj, step: device.window(traj, step, 4, boundary))(on_device, traj, step)
    expected = store.windows(traj, step, 4, boundary, keys)
    for key in (STUDENT, "action"):
        assert np.asarray(found[key]).tobytes() == expected[key].tobytes()
    assert np.asarray(found["next"][STUDENT]).tobytes() == expected["next", STUDENT].tobytes()
    assert np.asarray(found[TERM[0]][TERM[1]]).tobytes() == expected[TERM].tobytes()


@pytest.mark.parametrize("history", ["current", "past"])
def test_streams_of_a_store_that_grows_give_what_was_there(tmp_path: Path, history: Any) -> None:
    """Windows and a stream that runs ahead, while more is published and the store is sealed; then over all of it."""
    rolled = rolled_out(tmp_path / "store", history=history)
    store = TrajectoryStore.open(tmp_path / "store")
    expected, _, _ = rolled.expected()
    lengths, starts = store.segments.length, store.segments.start
    envs = list(range(store.num_trajectories))

    def windows(store: TrajectoryStore) -> WindowSource:
        return WindowSource(store, [STUDENT], 4, env_to_traj=envs, boundary="wrap")

    source = windows(store)
    with DoubleBufferStreamer(source) as stream:
        for turn in range(12):
            steps = (4 * turn + np.arange(4)) % lengths[envs][:, None]
            wanted = expected[starts[envs][:, None] + steps]
            window = stream.next_window()
            assert np.asarray(window[STUDENT]).tobytes() == wanted.tobytes()
            rolled.step()
            rolled.end([turn % NUM_ENVS])
            if turn % 3 == 0:
                rolled.collector.flush()
            if turn == 9:
                rolled.end(range(NUM_ENVS))
                rolled.collector.close()
                break
    saved = source.state_dict()
    longer = store.refresh()
    assert not longer.is_growing
    assert longer.num_trajectories == len(rolled.over) > len(envs)
    # A place that was saved over the prefix is the same place in the whole store.
    again = windows(longer)
    again.load_state_dict(saved)
    assert again()[STUDENT].tobytes() == source()[STUDENT].tobytes()
    envs = list(range(longer.num_trajectories))
    expected, _, _ = rolled.expected()
    first = windows(longer)()[STUDENT]
    steps = np.arange(4) % longer.segments.length[envs][:, None]
    assert first.tobytes() == expected[longer.segments.start[envs][:, None] + steps].tobytes()
