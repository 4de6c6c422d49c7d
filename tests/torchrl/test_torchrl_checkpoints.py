"""A run that was begun with TorchRL's buffer goes on after the import line has changed, and the other way round."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

import torchrl.data as peer  # noqa: E402
from iltools_datasets import TrajectoryStore  # noqa: E402
from iltools_datasets import torchrl as ours  # noqa: E402
from iltools_datasets.errors import StateError  # noqa: E402
from stores import build_store, make_clips  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torchrl.envs.transforms import RenameTransform  # noqa: E402

ROWS = 70
NAMES = ("RandomSampler", "SamplerWithoutReplacement", "SliceSampler", "SliceSamplerWithoutReplacement")
WAYS = pytest.mark.parametrize("way", ["directory", "state_dict", "pickled state_dict"])


def build(module: Any, name: str, **options: Any) -> Any:
    slices = {"num_slices": 2, "traj_key": "traj"} if "Slice" in name else {}
    sampler_options = {**slices, **options.pop("sampler", {})}
    return module.TensorDictReplayBuffer(
        storage=module.LazyTensorStorage(ROWS),
        sampler=getattr(module, name)(**sampler_options),
        batch_size=10,
        generator=torch.Generator().manual_seed(3),
        **options,
    )


def filled(rb: Any) -> Any:
    rb.extend(TensorDict({"t": torch.arange(ROWS), "traj": torch.arange(ROWS) // 10}, [ROWS]))
    return rb


def hand_over(way: str, giver: Any, taker: Any, path: Path) -> None:
    if way == "directory":
        giver.dumps(path)
        taker.loads(path)
        return
    state = giver.state_dict()
    if way == "pickled state_dict":
        torch.save(state, path)
        state = torch.load(path, weights_only=False)
    taker.load_state_dict(state)


def rest_of_epoch(rb: Any) -> list[int]:
    drawn: list[int] = []
    rb.sampler.ran_out = False
    while not rb.sampler.ran_out:
        drawn += rb.sample()["t"].tolist()
    return drawn


@pytest.mark.faults("checkpoint of TorchRL's")
@WAYS
@pytest.mark.parametrize("name", NAMES)
def test_data_and_generator_come_over(name: str, way: str, tmp_path: Path) -> None:
    theirs, rb = filled(build(peer, name)), build(ours, name)
    theirs.sample()
    has_order = "WithoutReplacement" in name
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        hand_over(way, theirs, rb, tmp_path / "saved")
    assert [str(warning.message) for warning in told if "begins anew" in str(warning.message)] != [] or not has_order
    assert not [warning for warning in told if "begins anew" in str(warning.message)] or has_order
    assert len(rb) == ROWS
    assert rb.storage.get(slice(0, ROWS))["t"].tolist() == list(range(ROWS))
    assert torch.equal(rb._rng.get_state(), theirs._rng.get_state())
    assert rb.writer._cursor == theirs.writer._cursor
    if has_order:
        assert sorted(rest_of_epoch(rb)) == list(range(ROWS)) or "Slice" in name
    rb.add(TensorDict({"t": torch.tensor(-1), "traj": torch.tensor(0)}))
    assert rb.storage.get(0)["t"].item() == -1


@WAYS
def test_a_warning_that_is_an_error_comes_when_all_is_loaded(way: str, tmp_path: Path) -> None:
    theirs = filled(build(peer, "SamplerWithoutReplacement"))
    rb = build(ours, "SamplerWithoutReplacement")
    theirs.sample()
    theirs._batch_size = 7
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(RuntimeWarning, match="begins anew"):
            hand_over(way, theirs, rb, tmp_path / "saved")
    assert (len(rb), rb.batch_size) == (ROWS, 7)
    assert torch.equal(rb._rng.get_state(), theirs._rng.get_state())
    assert len(rest_of_epoch(rb)) == ROWS


@WAYS
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_place_in_the_storages_order_is_kept(way: str, drop_last: bool, tmp_path: Path) -> None:
    options = {"shuffle": False, "drop_last": drop_last}
    theirs = filled(build(peer, "SamplerWithoutReplacement", sampler=options))
    rb = build(ours, "SamplerWithoutReplacement", sampler={"shuffle": False})
    for _ in range(3):
        theirs.sample()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        hand_over(way, theirs, rb, tmp_path / "saved")
    assert rb.sampler.drop_last is drop_last
    assert rest_of_epoch(rb) == rest_of_epoch(theirs) == list(range(30, ROWS))


@pytest.mark.parametrize("way", ["state_dict", "pickled state_dict"])
@pytest.mark.parametrize("batches", [0, 1, 4, 7])
@pytest.mark.parametrize("name", ["SamplerWithoutReplacement", "SliceSamplerWithoutReplacement"])
def test_torchrls_sampler_goes_on_with_the_rest_of_our_epoch(name: str, batches: int, way: str, tmp_path: Path) -> None:
    options = {"slice_len": 5, "num_slices": None} if "Slice" in name else {}
    rb, theirs = filled(build(ours, name, sampler=options)), build(peer, name, sampler=options)
    for _ in range(batches):
        rb.sample()
    hand_over(way, rb, theirs, tmp_path / "saved")
    assert theirs.storage.get(slice(0, ROWS))["t"].tolist() == list(range(ROWS))
    if "Slice" in name:  # where a slice lies is drawn with the batch
        assert sorted(row // 10 for row in rest_of_epoch(theirs)) == sorted(row // 10 for row in rest_of_epoch(rb))
    elif batches % 7:
        assert rest_of_epoch(theirs) == rest_of_epoch(rb)
    else:  # an epoch that has not begun takes its order from the generator, in each its own way
        assert sorted(rest_of_epoch(theirs)) == list(range(ROWS))


def test_a_state_stays_small_where_the_rows_are_not_in_it(tmp_path: Path) -> None:
    store = TrajectoryStore.open(build_store(tmp_path / "store", make_clips([4000])))
    sampler = ours.SamplerWithoutReplacement(seed=1)
    sampler.sample(ours.TrajectoryStorage(store), 10)
    state = sampler.state_dict()
    assert len(pickle.dumps(state)) < 1024
    assert state["_sample_list"].tolist() == sampler.sample(ours.TrajectoryStorage(store), 10_000)[0].tolist()


def test_a_state_of_torchrls_that_cannot_be_is_refused() -> None:
    theirs, rb = filled(build(peer, "SamplerWithoutReplacement")), filled(build(ours, "SamplerWithoutReplacement"))
    theirs.sample()
    rb.sample()
    good, before = theirs.sampler.state_dict(), dict(rb.sampler.state_dict())
    lists = [torch.tensor([0, ROWS]), torch.tensor([-1]), torch.zeros(2, 2, dtype=torch.int64), torch.ones(3), "rows"]
    for wrong in [{"_sample_list": found} for found in lists] + [{"len_storage": "x"}, {"len_storage": 3}]:
        with pytest.raises(StateError, match="TorchRL's"):
            rb.sampler.load_state_dict({**good, **wrong})
        assert dict(rb.sampler.state_dict()) == before
    with pytest.raises(StateError):
        rb.sampler.load_state_dict({})  # that of a sampler with replacement


def test_transforms_come_over(tmp_path: Path) -> None:
    theirs, rb = filled(build(peer, "RandomSampler")), build(ours, "RandomSampler")
    for each in (theirs, rb):
        each.append_transform(RenameTransform(["t"], ["time"], create_copy=True))
    theirs.dumps(tmp_path)
    rb.loads(tmp_path)
    assert torch.equal(rb.sample()["time"], rb.sample()["t"]) or len(rb) == ROWS


class Boom:
    def __reduce__(self) -> Any:
        return (os.mkdir, (os.environ["ILTOOLS_BOOM"],))


@pytest.mark.faults("checkpoint of TorchRL's")
def test_a_queue_that_is_empty_is_passed_over_and_any_other_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ILTOOLS_BOOM", str(tmp_path / "was run"))
    theirs, path = filled(build(peer, "RandomSampler")), tmp_path / "saved"
    theirs.dumps(path)
    boom = {"version": 1, "capacity": 1, "queue": (Boom(),)}
    batch = {"version": 1, "capacity": 1, "queue": ((theirs.sample(), {}),)}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for content, is_empty in (
            ({"version": 1, "capacity": 4, "queue": ()}, True),
            (boom, False),
            (batch, False),
            (Boom(), False),
            ({}, False),
        ):
            (path / "prefetch.pkl").write_bytes(pickle.dumps(content, protocol))
            rb = build(ours, "RandomSampler")
            if is_empty:
                rb.loads(path)
                assert len(rb) == ROWS
            else:
                with pytest.raises(StateError, match=r"prefetch\.pkl: TorchRL's own buffer pickled batches"):
                    rb.loads(path)
                assert len(rb) == 0
    assert not (tmp_path / "was run").exists()


@pytest.mark.faults("checkpoint of TorchRL's")
@pytest.mark.parametrize("name", ["buffer_metadata.json", "storage/storage_metadata.json", "storage/meta.json"])
def test_a_damaged_checkpoint_of_torchrls_changes_nothing(name: str, tmp_path: Path) -> None:
    theirs, rb = filled(build(peer, "SamplerWithoutReplacement")), filled(build(ours, "SamplerWithoutReplacement"))
    theirs.sample()
    theirs.dumps(tmp_path)
    rb.sample()
    before = dict(rb.sampler.state_dict())
    good = (tmp_path / name).read_bytes()
    for bad in (b"", b"[]", good[: len(good) // 2], None):
        (tmp_path / name).unlink() if bad is None else (tmp_path / name).write_bytes(bad)
        with pytest.raises(StateError):
            rb.loads(tmp_path)
        assert dict(rb.sampler.state_dict()) == before


@pytest.mark.faults("checkpoint of TorchRL's")
@pytest.mark.parametrize("name", ["storage/t.memmap", "sampler/_sample_list.memmap", "rng_state/rng_state.memmap"])
def test_a_column_of_another_length_is_neither_read_nor_made_longer(name: str, tmp_path: Path) -> None:
    """TensorDict would fill it up with zeros, on disk."""
    theirs, rb = filled(build(peer, "SamplerWithoutReplacement")), build(ours, "SamplerWithoutReplacement")
    theirs.sample()
    theirs.dumps(tmp_path)
    good = (tmp_path / name).read_bytes()
    for bad in (good[:-8], good[:3], good + b"8 bytes."):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(StateError, match=rf"expected {len(good)} bytes, found {len(bad)}"):
            rb.loads(tmp_path)
        assert (tmp_path / name).read_bytes() == bad
        assert len(rb) == 0
