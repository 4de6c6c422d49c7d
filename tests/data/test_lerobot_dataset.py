"""A LeRobot set as transitions, against the rules in plain numpy: every version, windows, pictures, chosen episodes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iltools_datasets.data import LeRobotDatasetAdapter, LeRobotDatasetConfig, Transition, compute_norm_stats
from iltools_datasets.data.lerobot_dataset import _pack_obs
from iltools_datasets.errors import (
    ArgumentError,
    IltoolsError,
    MissingKeyError,
    OutOfRangeError,
    SourceError,
    SourceNotFoundError,
    StoreChangedError,
)
from lerobot_cases import HEIGHT, VERSIONS, WIDTH, LeRobotSet, Oracle, cache_fixture, make_set, read_counter  # noqa: F401

TOP, SIDE = "observation.images.top", "observation.images.side"
LENGTHS = {2: 5, 3: 1, 7: 9, 4: 6}


@pytest.fixture(scope="module", params=VERSIONS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LeRobotSet:
    """A set of every version, of episodes with gaps between their numbers, one of a single frame."""
    lengths = dict(sorted(LENGTHS.items()))
    cameras = {TOP: "video", SIDE: "image"}
    return make_set(tmp_path_factory.mktemp("sets") / request.param, request.param, lengths, cameras=cameras)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LeRobotSet:
    """A set of the newest version without pictures."""
    return make_set(tmp_path_factory.mktemp("sets") / "small", "v3.0", [4, 1, 7, 3], fps=10)


def adapter(made: LeRobotSet, *, options: dict[str, Any] | None = None, **config: Any) -> LeRobotDatasetAdapter:
    return LeRobotDatasetAdapter(LeRobotDatasetConfig(str(made.root), **config), **(options or {}))


def assert_item(found: Any, wanted: Any) -> None:
    for field in Transition._fields:
        one, other = np.asarray(getattr(found, field)), np.asarray(getattr(wanted, field))
        assert (one.dtype, one.shape) == (other.dtype, other.shape), field
        np.testing.assert_array_equal(one, other, err_msg=field)


def assert_batch(batch: Any, wanted: list[Any]) -> None:
    for field in Transition._fields:
        values = getattr(batch, field)
        assert isinstance(values, np.ndarray)
        other = np.stack([getattr(one, field) for one in wanted])
        assert (values.dtype, values.shape) == (other.dtype, other.shape), field
        np.testing.assert_array_equal(values, other, err_msg=field)


class TestItems:
    def test_each_is_what_the_rules_say(self, made: LeRobotSet) -> None:
        dataset, oracle = adapter(made), Oracle(made)
        assert len(dataset) == len(oracle) == 21
        wanted = [oracle.transition(item) for item in range(21)]
        for item in range(21):
            assert_item(dataset[item], wanted[item])
            assert_item(dataset[item - 21], wanted[item])
        order = np.random.default_rng(0).permutation(21)
        assert_batch(dataset.batch(order), [wanted[item] for item in order])
        assert_batch(dataset.batch([-1, 0, -21]), [wanted[20], wanted[0], wanted[0]])

    def test_are_arrays_of_jax(self, small: LeRobotSet) -> None:
        jax = pytest.importorskip("jax", reason="needs the jax extra")
        assert all(isinstance(field, jax.Array) for field in adapter(small)[3])

    def test_in_a_torch_loader_and_its_workers(self, small: LeRobotSet) -> None:
        data = pytest.importorskip("torch.utils.data", reason="needs the torch extra")
        dataset, oracle = adapter(small), Oracle(small)
        loader = data.DataLoader(
            dataset, 5, num_workers=1, collate_fn=_types_and_items, multiprocessing_context="forkserver"
        )
        seen = 0
        for kinds, items in loader:
            assert kinds == {"ndarray", "float32", np.bool_.__name__}
            for found in items:
                assert_item(found, oracle.transition(seen))
                seen += 1
        assert seen == 15

    @pytest.mark.parametrize("wrong", [15, -16, 10**12])
    def test_beyond_the_end(self, small: LeRobotSet, wrong: int) -> None:
        with pytest.raises(IndexError, match=f"{wrong}") as caught:
            adapter(small)[wrong]
        assert isinstance(caught.value, OutOfRangeError)
        with pytest.raises(OutOfRangeError):
            adapter(small).batch([0, wrong])

    def test_end_a_loop(self, small: LeRobotSet) -> None:
        assert len(list(adapter(small))) == 15

    def test_of_chosen_episodes_in_their_order(self, made: LeRobotSet) -> None:
        episodes = [7, 2, 3]
        dataset, oracle = adapter(made, episodes=episodes), Oracle(made, episodes)
        assert dataset.episodes == episodes
        assert_batch(dataset.batch(range(15)), [oracle.transition(item) for item in range(15)])
        assert dataset.metadata["total_episodes"] == 4
        assert dataset.metadata["total_frames"] == 21

    def test_one_key_may_have_any_shape_and_dtype(self, small: LeRobotSet) -> None:
        oracle = Oracle(small)
        for key in ("observation.matrix", "observation.wide", "observation.half", "observation.bytes"):
            dataset = adapter(small, obs_keys=[key])
            assert_batch(dataset.batch(range(15)), [oracle.transition(item, [key]) for item in range(15)])
        assert adapter(small, obs_keys=["observation.level"])[0].obs.shape == (1,)
        assert adapter(small, action_key="observation.level")[0].action.shape == (1,)
        assert adapter(small, action_key="observation.level").batch([0, 1]).action.shape == (2, 1)

    def test_several_keys_are_side_by_side(self, small: LeRobotSet) -> None:
        keys = ["observation.level", "observation.matrix", "observation.state"]
        oracle = Oracle(small)
        dataset = adapter(small, obs_keys=keys)
        assert dataset[0].obs.shape == (1 + 6 + 5,)
        assert_batch(dataset.batch(range(15)), [oracle.transition(item, keys) for item in range(15)])

    def test_a_dict_on_request(self, small: LeRobotSet) -> None:
        keys = ["observation.matrix", "observation.state"]
        batch = adapter(small, obs_keys=keys, options={"obs": "dict"}).batch([0, 3])
        oracle = Oracle(small)
        assert list(batch.obs) == list(batch.next_obs) == keys
        for key in keys:
            np.testing.assert_array_equal(batch.obs[key], [oracle.value(item, key) for item in (0, 3)])
            np.testing.assert_array_equal(batch.next_obs[key], [oracle.value(item, key, after=1) for item in (0, 3)])

    def test_the_reward(self, small: LeRobotSet, tmp_path: Path) -> None:
        oracle = Oracle(small)
        assert adapter(small, reward_key=None)[2].reward == 0
        assert_item(
            adapter(small, reward_key="observation.level")[2], oracle.transition(2, reward_key="observation.level")
        )
        with pytest.raises(MissingKeyError, match=r"no feature 'rewards'; there are .*next\.reward"):
            adapter(small, reward_key="rewards")
        with pytest.raises(SourceError, match=r"reward_key 'action': expected one number, found \[4\]"):
            adapter(small, reward_key="action")
        made = make_set(tmp_path / "set", "v2.1", [3])
        made.edit_info(lambda info: info["features"].pop("next.reward"))
        made.edit_data(0, lambda table: table.drop_columns(["next.reward"]))
        batch = adapter(made).batch([0, 2])
        assert (batch.reward.dtype, batch.reward.tolist()) == (np.float32, [0, 0])


def _types_and_items(items: list[Any]) -> tuple[set[str], list[Any]]:
    return {type(field).__name__ for item in items for field in item}, items


class TestWindows:
    @settings(max_examples=40)
    @given(
        steps=st.dictionaries(
            st.sampled_from(["action", "observation.state", "observation.matrix", "next.reward"]),
            st.lists(st.integers(-9, 9), min_size=1, max_size=5),
        ),
        items=st.lists(st.integers(0, 14), min_size=1, max_size=6),
        several=st.booleans(),
    )
    def test_are_what_the_rules_say(
        self, small: LeRobotSet, steps: dict[str, list[int]], items: list[int], several: bool
    ) -> None:
        keys = ["observation.state", "observation.matrix"] if several else ["observation.state"]
        times = {key: [offset / 10 for offset in offsets] for key, offsets in steps.items()}
        dataset, oracle = adapter(small, delta_timestamps=times, obs_keys=keys), Oracle(small)
        extra = [f"{key}_is_pad" for key in steps]
        found = dataset.batch(items, extra=extra) if extra else (dataset.batch(items), {})
        batch, masks = found
        wanted = [oracle.transition(item, keys, steps, None) for item in items]
        reward_steps = steps.get("next.reward")
        rewards = [oracle.value(item, "next.reward", reward_steps).reshape(-1) for item in items]
        rewards = [reward if reward_steps else reward[0] for reward in rewards]
        assert_batch(batch, [one._replace(reward=reward) for one, reward in zip(wanted, rewards, strict=True)])
        for key, offsets in steps.items():
            mask = masks[f"{key}_is_pad"]
            assert mask.dtype == np.bool_
            np.testing.assert_array_equal(mask, [oracle.is_pad(item, offsets) for item in items])

    def test_of_one_step_have_their_axis(self, small: LeRobotSet) -> None:
        dataset = adapter(small, delta_timestamps={"action": [0.1], "observation.state": [0]})
        assert dataset[0].action.shape == (1, 4)
        assert dataset[0].obs.shape == (1, 5)

    @pytest.mark.parametrize(("fps", "times", "offsets"), [(30, [1 / 30, -0.0666], [1, -2]), (29.97, [0.1001], [3])])
    def test_times_are_taken_to_the_nearest_frame(self, tmp_path: Path, fps: Any, times: Any, offsets: Any) -> None:
        made = make_set(tmp_path / "set", "v2.1", [6], fps=fps)
        batch = adapter(made, delta_timestamps={"action": times}).batch([2])
        np.testing.assert_array_equal(batch.action[0], made.columns[0]["action"][[2 + offset for offset in offsets]])

    def test_extras_may_be_windows(self, small: LeRobotSet) -> None:
        dataset = adapter(small, delta_timestamps={"observation.wide": [-0.1, 0, 0.1]})
        assert dataset.metadata["notes"] == [
            "delta_timestamps of 'observation.wide' are of use only where it is an extra"
        ]
        _, extras = dataset.batch([0, 5], extra=["observation.wide", "observation.wide_is_pad", "task_index"])
        oracle = Oracle(small)
        wanted = [oracle.value(item, "observation.wide", [-1, 0, 1]) for item in (0, 5)]
        np.testing.assert_array_equal(extras["observation.wide"], wanted)
        np.testing.assert_array_equal(extras["observation.wide_is_pad"][0], [True, False, False])
        np.testing.assert_array_equal(extras["task_index"], [oracle.value(item, "task_index") for item in (0, 5)])


class TestPictures:
    @pytest.mark.parametrize("key", [TOP, SIDE])
    def test_are_those_of_their_frames(self, made: LeRobotSet, key: str) -> None:
        dataset, oracle = adapter(made, obs_keys=[key]), Oracle(made)
        items = [20, 0, 4, 4, 5, 13]
        batch = dataset.batch(items)
        assert (batch.obs.dtype, batch.obs.shape) == (np.uint8, (6, HEIGHT, WIDTH, 3))
        for row, item in enumerate(items):
            episode, frame = (int(oracle.value(item, name)[0]) for name in ("episode_index", "frame_index"))
            assert read_counter(batch.obs[row]) == (episode, frame)
            after = frame if oracle.is_last(item) else frame + 1
            assert read_counter(batch.next_obs[row]) == (episode, after)
        assert read_counter(np.asarray(dataset[7].obs)) == (4, 1)

    def test_in_windows_with_numbers(self, made: LeRobotSet) -> None:
        dataset = adapter(
            made,
            obs_keys=[TOP, "observation.state", SIDE],
            delta_timestamps={TOP: [-0.1, 0], "observation.state": [0, 0.1]},
            options={"obs": "dict", "image_dtype": "float32"},
        )
        oracle = Oracle(made)
        batch, extras = dataset.batch([0, 10], extra=[f"{TOP}_is_pad"])
        assert batch.obs[TOP].shape == (2, 2, HEIGHT, WIDTH, 3)
        assert batch.obs[SIDE].dtype == np.float32
        assert 0.9 < batch.obs[SIDE].max() <= 1
        np.testing.assert_array_equal(extras[f"{TOP}_is_pad"], [[True, False], [False, False]])
        for row, item in enumerate((0, 10)):
            frames = oracle.value(item, "frame_index", [-1, 0])[:, 0]
            assert [read_counter(picture * 255)[1] for picture in batch.obs[TOP][row]] == frames.tolist()
            following = oracle.value(item, "frame_index", [-1, 0], after=1)[:, 0]
            assert [read_counter(picture * 255)[1] for picture in batch.next_obs[TOP][row]] == following.tolist()
            np.testing.assert_array_equal(
                batch.obs["observation.state"][row], oracle.value(item, "observation.state", [0, 1])
            )

    def test_of_another_size_and_kept(self, made: LeRobotSet, tmp_path: Path) -> None:
        for place in (1 << 20, str(tmp_path / "frames")):
            options = {"image_size": (24, 40), "frame_cache": place}
            dataset = adapter(made, obs_keys=[TOP], options=options)
            first, again = dataset.batch([0, 9]), dataset.batch([9, 0])
            assert first.obs.shape == (2, 24, 40, 3)
            np.testing.assert_array_equal(first.obs, again.obs[::-1])
            assert read_counter(first.obs[1]) == (4, 3)

    def test_as_extras(self, made: LeRobotSet) -> None:
        _, extras = adapter(made).batch([9], extra=[TOP])
        assert read_counter(extras[TOP][0]) == (4, 3)

    def test_transforms_of_torchvision(self, made: LeRobotSet) -> None:
        torch = pytest.importorskip("torch", reason="needs the torch extra")
        seen = []

        def darker(picture: Any) -> Any:
            assert isinstance(picture, torch.Tensor)
            assert picture.dtype == torch.float32
            assert 0.9 < float(picture.max()) <= 1
            seen.append(tuple(picture.shape))
            return picture[..., :24, :] / 2

        plain = adapter(made, obs_keys=[SIDE]).batch([0, 9])
        found = adapter(made, obs_keys=[SIDE], image_transforms=darker).batch([0, 9])
        assert set(seen) == {(3, HEIGHT, WIDTH)}
        assert (found.obs.dtype, found.obs.shape) == (np.float32, (2, 24, WIDTH, 3))
        np.testing.assert_allclose(found.obs, plain.obs[:, :24] / 510.0, rtol=1e-6)
        seen.clear()
        windows = adapter(made, obs_keys=[SIDE], image_transforms=darker, delta_timestamps={SIDE: [0, 0.1]})
        assert windows.batch([0]).next_obs.shape == (1, 2, 24, WIDTH, 3)
        assert set(seen) == {(2, 3, HEIGHT, WIDTH)}
        flat = adapter(made, obs_keys=[SIDE], image_transforms=lambda picture: picture.reshape(-1))
        with pytest.raises(Exception, match=r"image_transforms: expected 3 axes \[..., C, H, W\], found shape"):
            flat.batch([0])


class TestAround:
    def test_metadata(self, made: LeRobotSet) -> None:
        found = adapter(made).metadata
        assert found["repo_id"] == found["root"] == str(made.root)
        assert (found["fps"], type(found["fps"])) == (10, int)
        assert found["codebase_version"] == made.version
        assert found["robot_type"] == "made up"
        assert found["tasks"] == {0: "pick up the cup", 1: "put it down"}
        assert found["features"]["observation.state"] == {"dtype": "float32", "shape": (5,), "names": None}
        assert TOP in found["features"]

    def test_a_name_is_a_config_with_all_else_as_it_is(self, small: LeRobotSet, tmp_path: Path) -> None:
        config = LeRobotDatasetConfig("me/small", root=str(small.root))
        assert (config.obs_keys, config.action_key, config.reward_key) == (
            ["observation.state"],
            "action",
            "next.reward",
        )
        assert (config.episodes, config.delta_timestamps, config.image_transforms, config.revision) == (None,) * 4
        assert LeRobotDatasetAdapter(config).metadata["repo_id"] == "me/small"
        assert_item(LeRobotDatasetAdapter(str(small.root))[4], LeRobotDatasetAdapter(config)[4])
        with pytest.raises(AttributeError):
            config.repo_id = "other"  # type: ignore[misc]

    def test_the_store_is_that_of_all_episodes(self, small: LeRobotSet) -> None:
        store = adapter(small, episodes=[2]).store
        np.testing.assert_array_equal(
            store.gather(range(15), ["observation.state"])["observation.state"], small.all("observation.state")
        )

    def test_statistics_of_chosen_episodes(self, made: LeRobotSet) -> None:
        stats = adapter(made, episodes=[7, 3]).stats
        if made.version == "v2.0":  # which states none of single episodes
            assert "action" not in stats
            return
        rows = np.concatenate([made.columns[episode]["action"] for episode in (3, 7)])
        np.testing.assert_allclose(stats["action"]["mean"], rows.mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(stats["action"]["max"], rows.max(axis=0))

    def test_computed_statistics_count_each_frame_once(self, small: LeRobotSet) -> None:
        keys = ["obs", "next_obs", "action", "reward", "done", "observation.wide"]
        windows = adapter(small, delta_timestamps={"action": [0, 0.1, 0.2], "observation.state": [-0.1]})
        found = compute_norm_stats(windows, keys)
        assert found == compute_norm_stats(adapter(small), keys)
        np.testing.assert_allclose(found["action"].mean, small.all("action").mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["obs"].std, small.all("observation.state").std(axis=0), rtol=1e-5)
        np.testing.assert_allclose(found["done"].mean, 4 / 15)
        part = compute_norm_stats(
            adapter(small, episodes=[2], obs_keys=["observation.state"], options={"obs": "dict"}),
            ["obs/observation.state"],
        )
        np.testing.assert_allclose(
            part["obs/observation.state"].mean, small.columns[2]["observation.state"].mean(axis=0), rtol=1e-5, atol=1e-6
        )
        for wrong in ("nothing", "obs/action"):
            with pytest.raises(MissingKeyError):
                compute_norm_stats(windows, [wrong])

    def test_a_pickle_is_small_and_refuses_a_set_that_has_changed(self, tmp_path: Path) -> None:
        made = make_set(tmp_path / "set", "v3.0", [4, 1, 7, 3])
        dataset = adapter(made, episodes=[2, 0], delta_timestamps={"action": [0, 0.1]})
        pickled = pickle.dumps(dataset)
        assert len(pickled) < 2000
        again = pickle.loads(pickled)
        assert_item(again[5], dataset[5])
        assert again.identity == dataset.identity
        made.edit_data(0, lambda table: table)
        with pytest.raises(StoreChangedError):
            pickle.loads(pickled)

    def test_its_identity_is_that_of_the_content(self, tmp_path: Path, cache: Path) -> None:
        one = make_set(tmp_path / "one", "v3.0", [4, 6])
        copied = make_set(tmp_path / "copy", "v2.1", [4, 6])
        other = make_set(tmp_path / "other", "v3.0", [4, 6], seed=1)
        identity = adapter(one).identity
        assert adapter(one, obs_keys=["observation.wide"]).identity == identity
        assert LeRobotDatasetAdapter(str(copied.root), cache=cache / "elsewhere").identity == identity
        assert adapter(other).identity != identity
        assert adapter(one, episodes=[1, 0]).identity != identity
        assert len(identity) < 200


class TestPackObs:
    def test_one_and_several(self) -> None:
        item = {"a": np.arange(3.0), "b": [[1, 2], [3, 4]], "c": 7}
        np.testing.assert_array_equal(_pack_obs(item, ["b"]), [[1, 2], [3, 4]])
        np.testing.assert_array_equal(_pack_obs(item, ["b", "a", "c"]), [1, 2, 3, 4, 0, 1, 2, 7])
        with pytest.raises(MissingKeyError, match=r"no key 'd' in the sample; there are \['a', 'b', 'c'\]"):
            _pack_obs(item, ["a", "d"])

    def test_what_torch_holds(self) -> None:
        torch = pytest.importorskip("torch", reason="needs the torch extra")
        item = {"a": torch.arange(3), "b": torch.ones(2, 2)}
        np.testing.assert_array_equal(_pack_obs(item, ["a", "b"]), [0, 1, 2, 1, 1, 1, 1])


class TestWrong:
    @pytest.mark.parametrize(
        ("config", "error", "message"),
        [
            ({"obs_keys": ["observation.stat"]}, MissingKeyError, "no feature 'observation.stat'; there are"),
            ({"obs_keys": []}, ArgumentError, "obs_keys is empty"),
            ({"action_key": "actions"}, MissingKeyError, "no feature 'actions'; there are"),
            ({"action_key": TOP}, SourceError, "'observation.images.top' is a camera"),
            ({"episodes": [0, 5]}, OutOfRangeError, "no episode 5; there are 2, from 0 to 1"),
            ({"episodes": [1, 1]}, ValueError, "1 is chosen more than once"),
            ({"episodes": []}, ValueError, "none was chosen; None means all"),
            ({"delta_timestamps": {"actions": [0]}}, MissingKeyError, "no feature 'actions'"),
            (
                {"delta_timestamps": {"action": [0, 0.15]}},
                SourceError,
                r"delta_timestamps\['action'\]: .*0.15 \(the nearest are 0.1 and 0.2\)",
            ),
            ({"delta_timestamps": {"action": []}}, SourceError, "expected times in seconds, found none"),
            ({"delta_timestamps": {"action": [float("nan")]}}, SourceError, "a value that is no number"),
            ({"delta_timestamps": {"action": ["soon"]}}, SourceError, r"delta_timestamps\['action'\]"),
            (
                {"obs_keys": ["observation.state", TOP]},
                SourceError,
                "'observation.images.top' is a camera, and .* obs='dict' gives",
            ),
        ],
    )
    def test_config(self, tmp_path: Path, config: Any, error: type[Exception], message: str) -> None:
        made = make_set(tmp_path / "set", "v2.1", [3, 4], cameras={TOP: "image"})
        with pytest.raises(error, match=message) as caught:
            adapter(made, **config)
        if error is not ArgumentError:
            assert str(made.root) in str(caught.value)

    @pytest.mark.parametrize("options", [{"obs": "tuple"}, {"on_nan": "drop"}, {"image_dtype": "float64"}])
    def test_options(self, small: LeRobotSet, options: Any) -> None:
        with pytest.raises(ArgumentError, match=f"{next(iter(options))} is '"):
            adapter(small, options=options)

    def test_no_config(self) -> None:
        with pytest.raises(TypeError, match="expected a repo_id or a LeRobotDatasetConfig, found int"):
            LeRobotDatasetAdapter(7)  # type: ignore[arg-type]

    def test_a_key_twice_in_a_dict(self, small: LeRobotSet) -> None:
        keys = ["observation.state", "observation.state"]
        assert adapter(small, obs_keys=keys)[0].obs.shape == (10,)
        with pytest.raises(ArgumentError, match="twice"):
            adapter(small, obs_keys=keys, options={"obs": "dict"})

    def test_no_set(self, tmp_path: Path) -> None:
        with pytest.raises(SourceNotFoundError, match="no LeRobot data set"):
            LeRobotDatasetAdapter(str(tmp_path))

    @pytest.mark.parametrize("key", ["action", "observation.state", "observation.wide"])
    def test_nan_is_refused_where_it_is_asked_for(self, tmp_path: Path, key: str) -> None:
        made = make_set(tmp_path / "set", "v2.1", [3, 4])
        values = made.columns[1][key].astype(np.float64).tolist()
        values[2][0] = float("nan")

        def spoil(table: Any) -> Any:
            import pyarrow as pa

            place = table.column_names.index(key)
            return table.set_column(place, key, pa.array(values, table.schema.field(key).type))

        made.edit_data(1, spoil)
        message = f"episode 1, frame 2: '{key}' is NaN"
        if key == "observation.wide":
            dataset = adapter(made)
            with pytest.raises(SourceError, match=message):
                dataset.batch([0], extra=[key])
            with pytest.raises(SourceError, match=message):
                compute_norm_stats(dataset, [key])
            return
        with pytest.raises(SourceError, match=message):
            adapter(made)
        assert len(adapter(made, episodes=[0])) == 3
        kept = adapter(made, options={"on_nan": "keep"}).batch([5])
        assert np.isnan(kept.obs if key == "observation.state" else kept.action).any()

    def test_extras_that_are_not_there(self, small: LeRobotSet) -> None:
        dataset = adapter(small, delta_timestamps={"action": [0]})
        for name in ("tasks", "observation.state_is_pad", "_is_pad"):
            with pytest.raises(MissingKeyError, match=f"no feature '{name}'"):
                dataset.check_extra([name])
            with pytest.raises(MissingKeyError, match=f"no feature '{name}'"):
                dataset.batch([0], extra=[name])
        dataset.check_extra(["action_is_pad", "index", "timestamp"])

    @pytest.mark.parametrize("dtype", ["string", "language"])
    def test_a_feature_that_is_no_array(self, tmp_path: Path, dtype: str) -> None:
        import pyarrow as pa

        made = make_set(tmp_path / "set", "v2.1", [3])
        made.edit_info(lambda info: info["features"].update(note={"dtype": dtype, "shape": [1], "names": None}))
        made.edit_data(0, lambda table: table.append_column("note", pa.array(["a", "b", "c"])))
        dataset = adapter(made)
        assert dataset.metadata["features"]["note"]["dtype"] == dtype
        assert len(dataset) == 3
        for ask in (lambda: dataset.check_extra(["note"]), lambda: adapter(made, obs_keys=["note"])):
            with pytest.raises(SourceError, match="note") as caught:
                ask()
            assert isinstance(caught.value, IltoolsError)

    def test_pictures_that_are_not_there(self, tmp_path: Path) -> None:
        made = make_set(tmp_path / "set", "v2.1", [3, 4], cameras={TOP: "video"})
        made.video_file(1, TOP).unlink()
        assert len(adapter(made)) == 7
        assert len(adapter(made, obs_keys=[TOP], episodes=[0])) == 3
        with pytest.raises(SourceError, match="episode"):
            adapter(made, obs_keys=[TOP])
        with pytest.raises(SourceError, match="episode"):
            adapter(made).check_extra([TOP])
