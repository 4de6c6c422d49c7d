"""The reader's numbers: every row, window and mask of sets of all versions against plain numpy."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.errors import MissingKeyError, OutOfRangeError
from iltools_datasets.lerobot import LeRobotReader
from sets import TASKS, VERSIONS, LeRobotSet, make_set

LENGTHS = {0: 5, 1: 3, 4: 7, 5: 1, 11: 6}


@pytest.fixture(params=VERSIONS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> LeRobotSet:
    return make_set(tmp_path / "set", request.param, LENGTHS, fps=30)


def test_every_row_is_there_in_order(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    assert (reader.num_frames, reader.num_episodes, reader.fps) == (sum(LENGTHS.values()), len(LENGTHS), 30)
    assert reader.episode_numbers.tolist() == made.episodes
    keys = reader.info.number_keys
    assert set(keys) == set(next(iter(made.columns.values())))
    rows = reader.gather(np.arange(reader.num_frames), keys)
    for key in keys:
        expected = made.all(key)
        if expected.dtype == np.float64:
            expected = expected.astype(np.float32)
        assert rows[key].dtype == expected.dtype
        assert rows[key].shape == expected.shape
        assert np.array_equal(rows[key], expected), key


def test_the_next_frame_repeats_at_the_end_and_done_is_true_there(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    index = np.arange(reader.num_frames)
    rows = reader.gather(index, [("next", "observation.state"), ("next", "done")])
    following, ends = [], []
    for columns in made.columns.values():
        state = columns["observation.state"]
        following.append(np.concatenate([state[1:], state[-1:]]))
        ends.append(np.arange(len(state)) == len(state) - 1)
    assert np.array_equal(rows["next", "observation.state"], np.concatenate(following))
    assert np.array_equal(rows["next", "done"][:, 0], np.concatenate(ends))
    assert np.array_equal(reader.following(index), np.where(np.concatenate(ends), index, index + 1))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[LeRobotSet, LeRobotReader]:
    made = make_set(tmp_path_factory.mktemp("windows") / "set", "v2.1", LENGTHS)
    return made, LeRobotReader(made.root, cache=tmp_path_factory.mktemp("windows-cache"))


@given(data=st.data(), offsets=st.lists(st.integers(-12, 12), min_size=1, max_size=6))
def test_windows_stay_in_their_episode(
    data: st.DataObject, offsets: list[int], opened: tuple[LeRobotSet, LeRobotReader]
) -> None:
    made, reader = opened
    index = data.draw(st.lists(st.integers(0, reader.num_frames - 1), min_size=1, max_size=8))
    values, is_pad = reader.windows(index, "action", offsets)
    flat = [(e, f) for e, length in LENGTHS.items() for f in range(length)]
    for row, i in enumerate(index):
        episode, frame = flat[i]
        for column, offset in enumerate(offsets):
            at = min(max(frame + offset, 0), LENGTHS[episode] - 1)
            assert np.array_equal(values[row, column], made.columns[episode]["action"][at])
            assert is_pad[row, column] == (at != frame + offset)


def test_chosen_episodes_keep_the_order_given(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    choice = reader.choice([11, 0, 4])
    assert len(choice) == 18
    expected = np.concatenate([made.columns[episode]["index"][:, 0] for episode in (11, 0, 4)])
    rows = choice.rows(np.arange(18))
    assert np.array_equal(reader.gather(rows, ["index"])["index"][:, 0], expected)
    assert np.array_equal(choice.rows([-1, -18]), rows[[-1, 0]])
    for wrong in ([18], [-19]):
        with pytest.raises(OutOfRangeError, match="outside the 18 frames"):
            choice.rows(wrong)
    with pytest.raises(OutOfRangeError, match=r"no episode 2; there are 5, from 0 to 11"):
        reader.choice([0, 2])
    with pytest.raises(ValueError, match="4 is chosen more than once"):
        reader.choice([4, 0, 4])
    assert len(reader.choice()) == reader.num_frames


def test_tasks_are_found_by_their_number(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    assert reader.tasks == dict(enumerate(TASKS))
    assert reader.episodes.tasks == tuple((TASKS[episode % 2],) for episode in LENGTHS)


def test_the_second_open_builds_nothing_and_changed_files_are_read_anew(made: LeRobotSet) -> None:
    first = LeRobotReader(made.root)
    assert LeRobotReader(made.root).store.uuid == first.store.uuid
    made.edit_data(4, lambda table: table)
    assert LeRobotReader(made.root).store.uuid != first.store.uuid
    assert np.array_equal(first.gather([0], ["action"])["action"], made.columns[0]["action"][:1])


def test_a_reader_pickles_as_its_path(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    content = pickle.dumps(reader)
    assert len(content) < 1000
    assert pickle.loads(content).store.uuid == reader.store.uuid


def test_offsets_are_whole_frames(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    assert reader.offsets([0, 1 / 30, -2 / 30, 0.1]).tolist() == [0, 1, -2, 3]
    with pytest.raises(ValueError, match=r"0\.05 .*0\.0333.* and 0\.0666"):
        reader.offsets([0.05])
    assert reader.offsets([0.05], tolerance_s=0.02).tolist() == [2]


def test_a_fractional_rate_is_exact(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", (4,), fps=29.97)
    reader = LeRobotReader(made.root)
    assert reader.fps == Fraction(2997, 100)
    assert reader.offsets([10 / 29.97]).tolist() == [10]


def test_unknown_keys_are_named(made: LeRobotSet) -> None:
    reader = LeRobotReader(made.root)
    with pytest.raises(MissingKeyError, match=r"no feature 'nonsense'; there are \['observation.state'"):
        reader.gather([0], ["nonsense"])
    with pytest.raises(OutOfRangeError):
        reader.gather([reader.num_frames], ["action"])
