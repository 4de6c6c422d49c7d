"""`LeRobotDataset` as torch users know it: items, batches, attributes against numpy and what lerobot gave."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.errors import MissingKeyError, OutOfRangeError, SourceError  # noqa: E402
from iltools_datasets.lerobot import LeRobotDataset  # noqa: E402
from lerobot_items import RECORDED, all_items  # noqa: E402
from sets import HEIGHT, TASKS, VERSIONS, WIDTH, LeRobotSet, make_set, read_counter  # noqa: E402

pytestmark = pytest.mark.torch

LENGTHS = {0: 6, 1: 4, 4: 7}
TOP, SIDE = "observation.images.top", "observation.images.side"
DELTAS = {"action": [0, 0.1, 0.2], "next.reward": [-0.1, 0], TOP: [-0.1, 0], SIDE: [0.0], "observation.matrix": [0.3]}


@pytest.fixture(scope="module", params=VERSIONS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LeRobotSet:
    root = tmp_path_factory.mktemp("set") / "set"
    return make_set(root, request.param, LENGTHS, cameras={TOP: "video", SIDE: "image"})


def expected(made: LeRobotSet, key: str, episode: int, frame: int) -> Any:
    value = made.columns[episode][key][min(max(frame, 0), LENGTHS[episode] - 1)]
    wide = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}[value.dtype.kind]
    value = value.astype(wide)
    return value[0] if value.shape == (1,) else value


def same(found: Any, value: Any) -> bool:
    array = np.asarray(value)
    return found.numpy().dtype == array.dtype and found.shape == array.shape and np.array_equal(found.numpy(), array)


def test_an_item_without_windows(made: LeRobotSet) -> None:
    dataset = LeRobotDataset("some/name", root=made.root, video_backend="torchcodec")
    assert len(dataset) == dataset.num_frames == 17
    place = 0
    for episode, length in LENGTHS.items():
        for frame in range(length):
            item = dataset[place]
            assert set(item) == {*made.columns[episode], TOP, SIDE, "task"}
            for key in made.columns[episode]:
                assert same(item[key], expected(made, key, episode, frame)), key
            for key in (TOP, SIDE):
                assert item[key].shape == (3, HEIGHT, WIDTH)
                assert item[key].dtype == torch.float32
                assert item[key].is_contiguous()
                assert 0 <= item[key].min() <= item[key].max() <= 1
                assert read_counter((item[key] * 255).permute(1, 2, 0).numpy()) == (episode, frame)
            assert item["task"] == TASKS[episode % 2]
            place += 1
    with pytest.raises(IndexError):
        dataset[17]
    assert int(dataset[-1]["frame_index"]) == 6
    assert sum(1 for _ in dataset) == 17


def test_windows_and_pads(made: LeRobotSet) -> None:
    dataset = LeRobotDataset("some/name", root=made.root, delta_timestamps=DELTAS, episodes=[4, 0])
    assert (dataset.num_episodes, len(dataset)) == (2, 13)
    assert dataset.delta_indices == {"action": [0, 1, 2], "next.reward": [-1, 0], TOP: [-1, 0], SIDE: [0],
                                     "observation.matrix": [3]}  # fmt: skip
    places = [(episode, frame) for episode in (4, 0) for frame in range(LENGTHS[episode])]
    for place, (episode, frame) in enumerate(places):
        item = dataset[place]
        for key, offsets in dataset.delta_indices.items():
            at = [frame + offset for offset in offsets]
            assert same(item[f"{key}_is_pad"], [not 0 <= step < LENGTHS[episode] for step in at])
            inside = [min(max(step, 0), LENGTHS[episode] - 1) for step in at]
            if key in (TOP, SIDE):
                assert item[key].shape == (len(at), 3, HEIGHT, WIDTH)
                shown = [read_counter((one * 255).permute(1, 2, 0).numpy()) for one in item[key]]
                assert shown == [(episode, step) for step in inside]
            else:
                assert same(item[key], np.stack([expected(made, key, episode, step) for step in inside]))


def test_a_single_picture_of_a_video_has_no_axis_as_in_lerobot(made: LeRobotSet) -> None:
    dataset = LeRobotDataset("some/name", root=made.root, delta_timestamps={TOP: [0.0], SIDE: [0.0]})
    item = dataset[3]
    assert (item[TOP].ndim, item[SIDE].ndim) == (3, 4)


def test_a_batch_is_the_items_stacked(made: LeRobotSet) -> None:
    dataset = LeRobotDataset("some/name", root=made.root, delta_timestamps=DELTAS)
    places = [3, 16, 0, 3]
    batch, items = dataset.batch(places), dataset.__getitems__(places)
    assert set(batch) == set(items[0])
    for key, values in batch.items():
        if key == "task":
            assert values == [item[key] for item in items]
        else:
            assert torch.equal(values, torch.stack([dataset[place][key] for place in places])), key
            assert torch.equal(values, torch.stack([item[key] for item in items])), key


@pytest.mark.parametrize("workers", [0, 2])
def test_through_torchs_loader(made: LeRobotSet, workers: int) -> None:
    dataset = LeRobotDataset("some/name", root=made.root, delta_timestamps={"action": [0, 0.1]})
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=5,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )
    batches = list(loader)
    whole = torch.cat([batch["action"] for batch in batches])
    assert torch.equal(whole, dataset.batch(range(17))["action"])
    shown = torch.cat([batch[TOP] for batch in batches])
    assert torch.equal(shown, dataset.batch(range(17))[TOP])
    assert [task for batch in batches for task in batch["task"]] == dataset.batch(range(17))["task"]


def test_transforms_get_what_torchvision_expects(made: LeRobotSet) -> None:
    seen = []

    def transform(picture: Any) -> Any:
        seen.append((tuple(picture.shape), picture.dtype))
        return picture[..., :10, :20] + 1

    dataset = LeRobotDataset("n", root=made.root, image_transforms=transform, delta_timestamps={SIDE: [0, 0.1]})
    item = dataset[2]
    assert seen == [((3, HEIGHT, WIDTH), torch.float32), ((2, 3, HEIGHT, WIDTH), torch.float32)]
    assert item[TOP].shape == (3, 10, 20)
    assert item[SIDE].shape == (2, 3, 10, 20)
    assert torch.equal(dataset.batch([2, 3])[SIDE], torch.stack([dataset[2][SIDE], dataset[3][SIDE]]))


def test_the_attributes_of_lerobots_class(made: LeRobotSet) -> None:
    dataset = LeRobotDataset("some/name", root=made.root, episodes=[1, 4], revision="main")
    assert (dataset.repo_id, dataset.fps, dataset.num_frames, dataset.num_episodes) == ("some/name", 10, 11, 2)
    assert isinstance(dataset.fps, int)
    meta = dataset.meta
    assert (meta.total_frames, meta.total_episodes, meta.total_tasks) == (17, 3, 2)
    assert meta.camera_keys == [TOP, SIDE]
    assert (meta.video_keys, meta.image_keys) == ([TOP], [SIDE])
    assert dataset.features["action"] == {"dtype": "float32", "shape": (4,), "names": None}
    assert meta.shapes["observation.matrix"] == (2, 3)
    assert meta.tasks == dict(enumerate(TASKS))
    assert (meta.get_task_index(TASKS[1]), meta.get_task_index("else")) == (1, None)
    np.testing.assert_allclose(meta.stats["action"]["mean"], made.all("action").mean(0), rtol=1e-5, atol=1e-6)
    assert meta.episodes["dataset_to_index"] == [6, 10, 17]
    assert meta.episodes[1] == {"episode_index": 1, "tasks": [TASKS[1]], "length": 4, "dataset_from_index": 6,
                                "dataset_to_index": 10}  # fmt: skip
    assert dataset.episode_data_index["from"].tolist() == [0, 4]
    assert dataset.episode_data_index["to"].tolist() == [4, 11]
    assert meta.robot_type == meta.info["robot_type"] == "made up"
    assert meta.root == dataset.root == made.root
    assert "11 frames" in repr(dataset)


def test_it_pickles_as_its_path(made: LeRobotSet) -> None:
    dataset = LeRobotDataset("some/name", root=made.root, delta_timestamps=DELTAS, frame_cache=1 << 20)
    content = pickle.dumps(dataset)
    assert len(content) < 20_000
    copy = pickle.loads(content)
    for key, value in dataset[9].items():
        assert copy[9][key] == value if key == "task" else torch.equal(copy[9][key], value)


def test_wrong_arguments_are_named(made: LeRobotSet) -> None:
    for deltas, error, message in (
        ({"nonsense": [0]}, MissingKeyError, "no feature 'nonsense'"),
        ({"action": [0.05]}, ValueError, r"action: delta_timestamps: not whole numbers of frames.*0.05"),
    ):
        with pytest.raises(error, match=message):
            LeRobotDataset("some/name", root=made.root, delta_timestamps=deltas)
    with pytest.raises(OutOfRangeError, match="no episode 2"):
        LeRobotDataset("some/name", root=made.root, episodes=[2])
    with pytest.raises(ValueError, match="on_nan"):
        LeRobotDataset("some/name", root=made.root, on_nan="ignore")  # type: ignore[arg-type]


def test_videos_have_to_be_there_unless_they_are_not_wanted(tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "v2.1", LENGTHS, cameras={TOP: "video"})
    made.video_file(1, TOP).unlink()
    with pytest.raises(SourceError, match="there is no such video"):
        LeRobotDataset("some/name", root=made.root)
    assert LeRobotDataset("some/name", root=made.root, episodes=[4, 0])[0][TOP].any()
    dataset = LeRobotDataset("some/name", root=made.root, download_videos=False)
    assert dataset[10][TOP].any()
    with pytest.raises(SourceError, match="there is no such video"):
        dataset[7]


@pytest.mark.shared_data
def test_items_of_the_real_set_are_those_that_lerobot_gave(shared_data: Path) -> None:
    """Recorded with lerobot 0.4.4, torchcodec 0.17 and FFmpeg 5.1: dtype, shape and every bit, pictures included."""
    found = json.loads(json.dumps(all_items(LeRobotDataset, shared_data / "lerobot_g1_v30")))
    assert found == json.loads(RECORDED.read_text())


class TestAsATorchRLBuffer:
    """The same numbers as transitions: `store` in a `TrajectoryStorage`, windows by slice samplers."""

    @pytest.fixture
    def parts(self, made: LeRobotSet) -> Any:
        pytest.importorskip("torchrl", reason="needs the torch extra")
        from iltools_datasets.torchrl import TrajectoryStorage

        dataset = LeRobotDataset("some/name", root=made.root)
        return dataset, TrajectoryStorage(dataset.store)

    def test_every_transition(self, parts: Any, made: LeRobotSet) -> None:
        dataset, storage = parts
        batch = storage[torch.arange(len(dataset))]
        assert torch.equal(batch["action"], dataset.batch(range(17))["action"])
        state = torch.from_numpy(made.all("observation.state"))
        ends = torch.tensor([5, 9, 16])
        following = torch.arange(17) + 1
        following[ends] = ends
        assert torch.equal(batch["observation.state"], state)
        assert torch.equal(batch["next", "observation.state"], state[following])
        assert batch["next", "done"].flatten().nonzero().flatten().tolist() == ends.tolist()
        assert torch.equal(batch["next", "terminated"], batch["next", "done"])
        assert torch.equal(batch["terminated"], batch["next", "done"])

    def test_slices_and_windows_are_those_of_delta_timestamps(self, parts: Any, made: LeRobotSet) -> None:
        from iltools_datasets.torchrl import EveryWindowSampler, SliceSampler, TensorDictReplayBuffer
        from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

        _, storage = parts
        windows = LeRobotDataset("n", root=made.root, delta_timestamps={"action": [0, 0.1, 0.2]})
        for sampler in (SliceSampler(slice_len=3, seed=1), EveryWindowSampler(3, seed=1)):
            buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, writer=ImmutableDatasetWriter())
            batch = buffer.sample(12)
            slices = batch.reshape(4, 3)
            for part in slices:
                item = windows[int(part["index"][0])]
                assert torch.equal(part["action"], item["action"])
                assert not item["action_is_pad"].any()
                assert len(set(part["episode_index"].flatten().tolist())) == 1

    def test_torchrls_own_slice_sampler_reads_the_ends(self, parts: Any) -> None:
        from torchrl.data import SliceSampler, TensorDictReplayBuffer
        from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter

        _, storage = parts
        sampler = SliceSampler(slice_len=3, end_key=("next", "done"), strict_length=True)
        buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, writer=ImmutableDatasetWriter())
        for part in buffer.sample(30).reshape(10, 3):
            assert (part["frame_index"].flatten().diff() == 1).all()
            assert len(set(part["episode_index"].flatten().tolist())) == 1
