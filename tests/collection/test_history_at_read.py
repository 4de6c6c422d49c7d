"""A student's history, put together when it is read, is what its builder gave when it was recorded."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets import TrajectoryStore, verify_store
from iltools_datasets.errors import ArgumentError, MissingKeyError, SchemaError, StoreCorruptError
from manifests import rewrite

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection import ExpertTrajectoryCollector, place  # noqa: E402
from student_rollouts import DIMS, NUM_ENVS, OBSERVATION, RollOut, make_builder  # noqa: E402

STUDENT, TERMS = "student_observation", "student_observation_terms"


@pytest.fixture(autouse=True, scope="module")
def _seldom() -> Any:
    """Publications are those that are asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "PUBLISH_SECONDS", 3600.0)
        yield


HOW = st.fixed_dictionaries(
    {
        "order": st.sampled_from(["newest_first", "oldest_first"]),
        "pad": st.sampled_from(["zero", "first"]),
        "history": st.sampled_from(["current", "past"]),
    }
)
STEPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from([True, True, True, False]), min_size=NUM_ENVS, max_size=NUM_ENVS),
        st.sets(st.integers(0, NUM_ENVS - 1), max_size=3),
        st.booleans(),
    ),
    min_size=1,
    max_size=16,
)


def play(rolled: RollOut, steps: Any) -> None:
    for mask, ended, known in steps:
        rolled.step(mask)
        rolled.end(ended, known=known and not rolled.updates_first)


def assert_reads(store: TrajectoryStore, rolled: RollOut) -> None:
    expected, after, known = rolled.expected()
    index = np.random.default_rng(0).permutation(len(store))
    keys = [STUDENT, ("next", STUDENT)]
    rows = store.gather(index, keys)
    for found, wanted, where in ((rows[STUDENT], expected, ...), (rows["next", STUDENT], after, known[index])):
        assert found.dtype == wanted.dtype == np.float32
        assert found[where].tobytes() == wanted[index][where].tobytes()
    begin = 0
    for name, dim in zip(rolled.builder.obs_keys, rolled.builder.obs_dims, strict=True):
        end = begin + dim * max(rolled.builder.history_length, 1)
        term = store.gather(index, [(TERMS, name)])[TERMS, name]
        assert term.tobytes() == expected[index][:, begin:end].tobytes()
        begin = end
    lengths = store.segments.length
    traj = np.repeat(np.arange(len(lengths)), 2)
    step = np.random.default_rng(1).integers(-3, 20, len(traj))
    windows = store.windows(traj, step, 5, "mask", [STUDENT])
    at = step[:, None] + np.arange(5)
    row = store.segments.start[traj][:, None] + np.clip(at, 0, lengths[traj][:, None] - 1)
    assert windows[STUDENT].tobytes() == expected[row].tobytes()
    np.testing.assert_array_equal(windows["mask"], (at >= 0) & (at < lengths[traj][:, None]))


@settings(max_examples=60)
@given(
    keys=st.permutations(list(DIMS)).flatmap(lambda names: st.integers(1, 3).map(lambda count: names[:count])),
    length=st.integers(0, 5),
    how=HOW,
    same=st.booleans(),
    updates_first=st.booleans(),
    steps=STEPS,
    longest=st.sampled_from([None, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_is_the_builders(
    tmp_path_factory: Any,
    keys: Any,
    length: int,
    how: Any,
    same: bool,
    updates_first: bool,
    steps: Any,
    longest: int | None,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("recorded") / "store"
    first = updates_first and how["history"] == "past"
    rolled = RollOut(path, make_builder(keys, length, **how), same=same, updates_first=first, seed=seed)
    play(rolled, steps)
    rolled.collector.flush()
    growing = TrajectoryStore.open(path)
    assert growing.num_trajectories == len(rolled.over)
    if rolled.over:
        assert_reads(growing, rolled)
    rolled.end(range(NUM_ENVS))
    if not rolled.over:
        return
    rolled.collector.close()
    for store in (growing.refresh(), TrajectoryStore.open(path, "pread"), TrajectoryStore.open(path, "ram")):
        assert not store.is_growing
        assert_reads(store, rolled)
    assert not verify_store(path)
    frame_is_stored = not (same and keys == list(DIMS)[: len(keys)] == list(DIMS))
    assert ("student_frame" in store.keys) == frame_is_stored


@pytest.mark.parametrize("history", ["current", "past"])
def test_is_the_builders_through_torchrl(tmp_path: Path, history: Any) -> None:
    from iltools_datasets.replay.manager import ExpertReplayManager

    rolled = RollOut(tmp_path / "store", make_builder(length=4, history=history), same=True)
    for at in range(40):
        rolled.step()
        rolled.end({at % NUM_ENVS, at * 3 % NUM_ENVS} if at % 2 else (), known=at % 4 == 1)
    rolled.collector.flush()
    mgr = ExpertReplayManager.load(tmp_path / "store", sample_batch_size=16, seed=0)
    expected, after, known = rolled.expected()
    for _ in range(20):
        batch = mgr.buffer.sample()
        index = np.asarray(batch["index"])
        assert batch[STUDENT].numpy().tobytes() == expected[index].tobytes()
        assert batch[TERMS, "body"].shape == (16, 4 * DIMS["body"])
        assert batch["next", STUDENT].numpy()[known[index]].tobytes() == after[index][known[index]].tobytes()
    column = mgr.buffer.storage[:][STUDENT]
    assert torch.equal(column + 0, torch.from_numpy(expected))
    rolled.collector.close()


def test_what_the_collector_cuts_begins_anew_for_the_student_too(tmp_path: Path) -> None:
    """Rows that are no data, too long an episode, NaN: the next row of that env has no history."""
    rolled = RollOut(tmp_path / "store", make_builder(length=3, pad="first"), max_episode_steps=4, on_nan="drop")
    seen = [rolled.step() for _ in range(3)]
    seen.append(rolled.step([True, True, False, True, True]))
    seen += [rolled.step() for _ in range(9)]
    rolled.collector.close()
    store = TrajectoryStore.open(tmp_path / "store")
    rows = store.gather(np.arange(len(store)), [STUDENT, "env_id"])
    at = dict(zip(store.trajectory_names, zip(store.segments.start, store.segments.length, strict=True), strict=True))
    assert sorted(at) == sorted(
        [f"env{env}/{first}" for env in (0, 1, 3, 4) for first in (0, 4, 8, 12)]
        + [f"env2/{first}" for first in (0, 4, 8, 12)]
    )
    for name, (start, length) in at.items():
        env, first = (int(part) for part in name.removeprefix("env").split("/"))
        expected = torch.stack([seen[first + row][env] for row in range(length)])
        assert rows[STUDENT][start : start + length].tobytes() == expected.numpy().tobytes(), name


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("directory", [None, "store"])
def test_a_file_has_the_history_in_full(tmp_path: Path, same: bool, directory: str | None) -> None:
    where = None if directory is None else tmp_path / directory
    rolled = RollOut(where, make_builder(length=3, history="past", order="oldest_first"), same=same)
    masks, seen = np.random.default_rng(2).random((30, NUM_ENVS)) > 0.2, []
    for at, mask in enumerate(masks):
        seen.append(rolled.step(mask.tolist()).numpy())
        rolled.end([at % NUM_ENVS] if at % 3 == 0 else [])
        if at == 14:
            rolled.end(range(NUM_ENVS))
            rolled.collector._recording.core.next_file()
    if where is not None:
        rolled.collector.flush()
        assert rolled.collector._recording.core.first_step == 15
    rolled.collector.save(tmp_path / "expert.npy", only_valid=True)
    with pytest.warns(UserWarning, match="only_valid"):
        rolled.collector.save(tmp_path / "all.npy")
    loaded = ExpertTrajectoryCollector.load(tmp_path / "expert.npy")["student_observations"]
    valid = np.concatenate([rows[mask] for rows, mask in zip(seen, masks, strict=True)])
    assert loaded.numpy().tobytes() == valid.tobytes()
    whole = ExpertTrajectoryCollector.load(tmp_path / "all.npy")["student_observations"].numpy()
    expected = np.where(masks[..., None], np.stack(seen), 0)
    np.testing.assert_array_equal(whole, expected)
    if where is None:
        rolled.collector.save(tmp_path / "saved")
        for env in range(NUM_ENVS):
            if rolled.running[env]:
                rolled._over(env, None)
        assert_reads(TrajectoryStore.open(tmp_path / "saved"), rolled)


def test_a_student_that_was_not_asked_or_not_reset_is_named(tmp_path: Path) -> None:
    builder = make_builder(length=2)
    rolled = RollOut(tmp_path / "store", builder)
    for _ in range(8):
        rolled.step()
    steps = rolled.collector.num_steps
    now = rolled.frames()
    seen = builder.get_observation(now)
    action = torch.zeros(NUM_ENVS, 2)
    rolled.collector.mark_trajectory_end(env_ids=[3])  # and no reset_history
    with pytest.raises(SchemaError, match=r"env 3, step 8, term 'command': .*call reset_history"):
        rolled.collector.add_step(rolled.observation(now), action, student_observations=seen)
    assert rolled.collector.num_steps == steps
    builder.reset_history([3])
    rolled.collector.add_step(rolled.observation(now), action, student_observations=builder.get_observation(now))
    assert rolled.collector.num_steps == steps + NUM_ENVS
    with pytest.raises(SchemaError, match="pass env_ids"):
        rolled.collector.mark_trajectory_end(count=2)
    with pytest.raises(SchemaError, match=r"student_observations: expected \[num_envs, 26\], found \[5, 13\]"):
        rolled.collector.add_step(rolled.observation(now), action, student_observations=seen[:, :13])
    rolled.collector.mark_trajectory_end(count=NUM_ENVS)
    rolled.collector.close()


@pytest.mark.parametrize("history", ["current", "past"])
def test_rows_that_do_not_follow_from_frames_are_named(tmp_path: Path, history: Any) -> None:
    builder = make_builder(length=3, history=history)
    rolled = RollOut(tmp_path / "store", builder)
    rolled.step()
    rolled.step()
    now = rolled.frames()
    seen = builder.get_observation(now).clone()
    # A frame of the past of env 1, in the second term.
    seen[1, 3 * DIMS["command"] + 2 * DIMS["joint_pos"]] += 1
    arguments = (rolled.observation(now), torch.zeros(NUM_ENVS, 2), None, None)
    with pytest.raises(SchemaError, match=r"env 1, step 2, term 'joint_pos': expected what follows from the frames"):
        rolled.collector.add_step(*arguments, seen)
    rolled.collector.add_step(*arguments, seen, torch.tensor([True, False, True, True, True]))
    rolled.collector.close()


def test_a_frame_that_is_no_longer_the_observation_is_named(tmp_path: Path) -> None:
    rolled = RollOut(tmp_path / "store", make_builder(length=2), same=True)
    rolled.step()
    rolled.same = False
    with pytest.raises(SchemaError, match=r"env 0, step 1, term 'command': expected the observation's own numbers"):
        rolled.step()
    rolled.collector.close()


def test_widths_and_envs_are_the_builders() -> None:
    with pytest.raises(ArgumentError, match="student_obs_dim: expected 39 as student_builder has, found 7"):
        ExpertTrajectoryCollector(OBSERVATION, 2, 7, student_builder=make_builder())
    with pytest.raises(ArgumentError, match="num_envs: expected 5 as student_builder has, found 4"):
        ExpertTrajectoryCollector(OBSERVATION, 2, num_envs=4, student_builder=make_builder())


@pytest.mark.parametrize("same", [False, True])
def test_a_killed_recording_goes_on_with_the_same_history_alone(tmp_path: Path, same: bool) -> None:
    path, how = tmp_path / "store", {"length": 3, "history": "past"}
    rolled = RollOut(path, make_builder(**how), same=same)
    for at in range(7):
        rolled.step()
        rolled.end([at % NUM_ENVS])
    rolled.collector.flush()
    rolled.step()
    for env in range(NUM_ENVS):
        if rolled.running[env]:
            rolled._over(env, None)
    # What a kill leaves: the thread ends, and nothing is sealed.
    del rolled.collector._recording
    widths = {"directory": path, "resume": True}
    for other in (make_builder(**{**how, "length": 4}), make_builder(**how, pad="first"), make_builder(list(DIMS)[:2])):
        with pytest.raises(SchemaError, match="expected to go on with"):
            ExpertTrajectoryCollector(OBSERVATION, 2, student_builder=other, **widths)
    with pytest.raises(SchemaError, match="expected to go on with the student's observations in full"):
        ExpertTrajectoryCollector(OBSERVATION, 2, 39, **widths)
    again = RollOut(path, make_builder(**how), same=same, seed=1, resume=True)
    for at in range(9):
        again.step()
        again.end([at % NUM_ENVS], known=True)
    again.end(range(NUM_ENVS))
    again.collector.close()
    again.over = rolled.over + again.over
    assert_reads(TrajectoryStore.open(path), again)


def test_a_prefix_is_pickled_with_its_histories(tmp_path: Path) -> None:
    rolled = RollOut(tmp_path / "store", make_builder())
    for at in range(20):
        rolled.step()
        rolled.end([at % NUM_ENVS])
    rolled.collector.flush()
    handle = pickle.dumps(TrajectoryStore.open(tmp_path / "store"))
    over = list(rolled.over)
    rolled.end(range(NUM_ENVS))
    rolled.collector.close()
    rolled.over = over
    assert_reads(pickle.loads(handle), rolled)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("recorded") / "store"
    rolled = RollOut(path, make_builder())
    for _ in range(4):
        rolled.step()
    rolled.collector.close()
    return path


def test_the_format_is_version_2_and_says_the_rule(recorded: Path) -> None:
    manifest = json.loads((recorded / "manifest.json").read_text())["manifest"]
    assert (manifest["version"], "sealed" in manifest) == (2, False)
    rule = {"source": ["student_frame"], "length": 3, "order": "newest_first", "pad": "zero", "lag": 0}
    parts = [{"offset": 0, "width": 4}, {"offset": 4, "width": 3}, {"offset": 7, "width": 6}]
    expected = [{"key": [STUDENT], "parts": parts}]
    expected += [{"key": [TERMS, name], "parts": [part]} for name, part in zip(DIMS, parts, strict=True)]
    assert manifest["histories"] == [{**entry, **rule} for entry in expected]
    with ExpertTrajectoryCollector(2, 1, directory=recorded.parent / "plain") as collector:
        collector.add_step(torch.zeros(1, 2), torch.zeros(1, 1))
    manifest = json.loads((recorded.parent / "plain" / "manifest.json").read_text())["manifest"]
    assert (manifest["version"], "histories" in manifest) == (1, False)


def history(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["histories"][0]
    return found


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "source": (lambda m: history(m).update(source=["nowhere"]), 'no column "nowhere"'),
    "transitions": (lambda m: history(m).update(source=["action"]), "source: expected a column with a row per state"),
    "no parts": (lambda m: history(m).update(parts=[]), "parts: expected at least one"),
    "no width": (
        lambda m: history(m)["parts"][0].update(width=0),
        "parts: expected at least one, and none of no width",
    ),
    "outside": (lambda m: history(m)["parts"][2].update(offset=8), "parts: 6 elements from 8 of 13"),
    "overflowing part": (lambda m: history(m)["parts"][0].update(offset=2**64 - 1), "parts: 4 elements from"),
    "no frames": (lambda m: history(m).update(length=0), "length: expected 1 to 65536, found 0"),
    "huge": (lambda m: history(m).update(length=2**60), "length: expected 1 to 65536"),
    "order": (lambda m: history(m).update(order="sideways"), 'order: expected "newest_first" or "oldest_first"'),
    "pad": (lambda m: history(m).update(pad="ones"), 'pad: expected "zero" or "first", found "ones"'),
    "lag": (lambda m: history(m).update(lag=2), "lag: expected 0 or 1, found 2"),
    "key": (lambda m: history(m).update(key=["..", "x"]), "a name is neither empty nor begins with a dot"),
    "twice": (lambda m: history(m).update(key=["action"]), 'key "action" is there twice'),
    "type": (lambda m: history(m).update(length=-3), "not a manifest: invalid value: integer `-3`"),
    "version": (lambda m: m.update(version=1), "what belongs to version 2 is marked as version 1"),
    "none": (lambda m: m.update(histories=[]), "what belongs to version 1 is marked as version 2"),
}


@pytest.mark.faults("a history that lies")
@pytest.mark.parametrize("lie", LIES)
def test_histories_that_lie_are_refused_by_name(tmp_path: Path, recorded: Path, lie: str) -> None:
    change, expected = LIES[lie]
    (tmp_path / "store").symlink_to(recorded, target_is_directory=True)
    kept = (recorded / "manifest.json").read_bytes()
    try:
        rewrite(recorded, change)
        with pytest.raises(StoreCorruptError) as error:
            TrajectoryStore.open(recorded)
    finally:
        (recorded / "manifest.json").write_bytes(kept)
    assert expected in str(error.value)
    assert str(recorded) in str(error.value)


def test_many_frames_of_a_short_episode_are_mostly_padding(recorded: Path) -> None:
    """As many frames as may be: what is not there is not read, and memory is that of the rows asked for."""
    kept = (recorded / "manifest.json").read_bytes()
    try:
        rewrite(recorded, lambda manifest: history(manifest).update(length=65536, pad="first"))
        for backend in ("mmap", "pread"):
            store = TrajectoryStore.open(recorded, backend)
            found = store.gather([3], [STUDENT])[STUDENT][0]
            frames = store.gather([3, 2, 1, 0], ["student_frame"])["student_frame"]
            command = found[: 65536 * 4].reshape(65536, 4)
            np.testing.assert_array_equal(command[:4], frames[:, :4])
            assert (command[4:] == frames[3, :4]).all()
            with pytest.raises(MemoryError):
                store.core.windows(
                    store.field_ids([STUDENT]), np.zeros(2**20, int), np.zeros(2**20, int), 2**20, "wrap"
                )
    finally:
        (recorded / "manifest.json").write_bytes(kept)


def test_motion_is_not_looked_up_in_histories(recorded: Path) -> None:
    from iltools_datasets.motion.lookup import MotionLookup

    with pytest.raises(MissingKeyError, match="no key 'student_observation'"):
        MotionLookup(TrajectoryStore.open(recorded), fps=50.0, keys=[STUDENT])
