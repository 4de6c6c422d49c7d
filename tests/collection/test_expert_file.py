"""The file others train from: numpy reads what we write, we read what numpy and torch write, and nothing is run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets.errors import ArgumentError, SchemaError, SourceError, SourceNotFoundError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from iltools_datasets.collection.expert_file import (  # noqa: E402
    StreamedArray,
    check_suffix,
    load_rollouts,
    write_npy,
)
from iltools_datasets.sources.formats.expert_file import holds_rollouts  # noqa: E402

WIDTHS = {"observations": 7, "actions": 3, "action_mean": 3, "action_sigma": 3, "student_observations": 14}


def rollouts(steps: int = 20, envs: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays = {key: rng.standard_normal((steps, envs, width), dtype=np.float32) for key, width in WIDTHS.items()}
    metadata = {"num_trajectories": 3, "num_steps": 61, "obs_dim_dict": {"teacher": 7}, "action_dim": 3}
    return {**arrays, "valid_mask": rng.random((steps, envs)) > 0.3, "metadata": {**metadata, "has_valid_mask": True}}


def streamed(held: dict[str, Any], step: int = 6) -> dict[str, StreamedArray]:
    def pieces(array: Any) -> Iterator[Any]:
        return (array[at : at + step] for at in range(0, len(array), step))

    arrays = {key: value for key, value in held.items() if key != "metadata"}
    return {key: StreamedArray(array.shape, array.dtype, pieces(array)) for key, array in arrays.items()}


def assert_same(found: Any, held: dict[str, Any]) -> None:
    for key in WIDTHS:
        assert found.arrays[key].dtype == held[key].dtype
        assert np.array_equal(found.arrays[key], held[key])
    assert np.array_equal(found.valid, held["valid_mask"])


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    held = rollouts()
    write_npy(tmp_path / "expert.npy", streamed(held), held["metadata"])
    loaded = np.load(tmp_path / "expert.npy", allow_pickle=True).item()
    assert list(loaded) == [*WIDTHS, "valid_mask", "metadata"]
    for key in (*WIDTHS, "valid_mask"):
        assert loaded[key].dtype == held[key].dtype
        assert np.array_equal(loaded[key], held[key])
        assert loaded[key].flags.writeable
    assert set(loaded["metadata"].pop("crc32c")) == {*WIDTHS, "valid_mask"}
    assert loaded["metadata"] == held["metadata"]
    assert [file.name for file in tmp_path.iterdir()] == ["expert.npy"]
    assert_same(load_rollouts(tmp_path / "expert.npy"), held)


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_reads_what_the_original_writes(tmp_path: Path, suffix: str) -> None:
    held, path = rollouts(), tmp_path / f"expert{suffix}"
    if suffix == ".npy":
        np.save(path, held, allow_pickle=True)  # type: ignore[arg-type]
        assert holds_rollouts(path)
    else:
        torch.save({k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in held.items()}, path)
    found = load_rollouts(path)
    assert_same(found, held)
    assert found.shape == (20, 4)
    assert found.metadata == held["metadata"]


def test_a_flat_file_is_one_env(tmp_path: Path) -> None:
    held = {key: value[:, 0] for key, value in rollouts().items() if key != "metadata"}
    np.save(tmp_path / "flat.npy", held, allow_pickle=True)  # type: ignore[arg-type]
    found = load_rollouts(tmp_path / "flat.npy")
    assert found.arrays["actions"].shape == (20, 1, 3)
    assert found.valid is not None
    assert found.valid.shape == (20, 1)


class _Code:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._marker}",)


@pytest.mark.faults
@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_code_is_refused_and_not_run(tmp_path: Path, suffix: str) -> None:
    held, path = {**rollouts(), "hook": _Code(tmp_path / "ran")}, tmp_path / f"expert{suffix}"
    if suffix == ".npy":
        np.save(path, held, allow_pickle=True)  # type: ignore[arg-type]
    else:
        torch.save(held, path)
    with pytest.raises(SourceError, match=rf"expert\{suffix}"):
        load_rollouts(path)
    assert not (tmp_path / "ran").exists()


WHOLE = rollouts()
ACTIONS = WHOLE["actions"]
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no actions": ({"actions": ...}, "no 'actions'; there are "),
    "objects": ({"actions": np.array([[None]])}, r"'actions': expected an array of numbers, found object \[1, 1\]"),
    "a list": ({"actions": [1, 2]}, "'actions': expected an array of numbers, found list"),
    "other steps": (
        {"actions": ACTIONS[1:]},
        r"'actions': expected \[20, 4, ...\] as in 'observations', found \[19, 4\]",
    ),
    "other envs": ({"action_mean": ACTIONS[:, 1:]}, r"'action_mean': expected \[20, 4, ...\]"),
    "four axes": (
        {"actions": ACTIONS[None]},
        r"'actions': expected \[steps, envs, width\], found \[1, 20, 4, 3\]",
    ),
    "nothing": ({"observations": np.zeros((0, 4, 3))}, r"'observations': expected \[steps, envs, width\]"),
    "a mask of another shape": (
        {"valid_mask": np.ones((20, 4, 1), bool)},
        r"'valid_mask': expected \[20, 4\], found \[20, 4, 1\]",
    ),
    "a mask of twos": ({"valid_mask": np.full((20, 4), 2)}, "'valid_mask': expected bools or 0 and 1"),
    "metadata": ({"metadata": 3}, "'metadata': expected a dictionary, found int"),
}


@pytest.mark.faults
@pytest.mark.parametrize("what", BROKEN)
def test_a_wrong_file_names_its_key(tmp_path: Path, what: str) -> None:
    change, message = BROKEN[what]
    held = {key: value for key, value in {**WHOLE, **change}.items() if value is not ...}
    np.save(tmp_path / "wrong.npy", held, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"wrong\.npy.*" + message):
        load_rollouts(tmp_path / "wrong.npy")


@pytest.mark.faults
@pytest.mark.parametrize("what", sorted(set(BROKEN) - {"objects"}))
def test_a_wrong_file_of_tensors_names_its_key(tmp_path: Path, what: str) -> None:
    change, message = BROKEN[what]
    held = {key: value for key, value in {**WHOLE, **change}.items() if value is not ...}
    tensors = {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in held.items()}
    torch.save(tensors, tmp_path / "wrong.pt")
    with pytest.raises(SourceError, match=r"wrong\.pt.*" + message):
        load_rollouts(tmp_path / "wrong.pt")


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_tensors_that_are_no_arrays(tmp_path: Path) -> None:
    tensors = {key: torch.from_numpy(value) for key, value in WHOLE.items() if key != "metadata"}
    for strange, message in (
        (tensors["actions"].bfloat16(), r"'actions': torch\.bfloat16"),
        (tensors["actions"].to_sparse(), r"'actions': torch\.float32 torch\.sparse_coo"),
        (tensors["actions"].to(torch.complex64), "'actions': expected an array of numbers, found complex64"),
    ):
        torch.save({**tensors, "actions": strange}, tmp_path / "strange.pt")
        with pytest.raises(SourceError, match=r"strange\.pt, " + message):
            load_rollouts(tmp_path / "strange.pt")
    learned = {**tensors, "actions": torch.nn.Parameter(tensors["actions"].mT.contiguous().mT)}
    torch.save(learned, tmp_path / "learned.pt")
    np.testing.assert_array_equal(load_rollouts(tmp_path / "learned.pt").arrays["actions"], ACTIONS)
    content = (tmp_path / "learned.pt").read_bytes()
    for size in (0, 5, 300, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.pt").write_bytes(content[:size])
        with pytest.raises(SourceError, match=r"cut\.pt"):
            load_rollouts(tmp_path / "cut.pt")


@pytest.mark.faults
def test_a_shape_that_lies_is_held_against_the_bytes(tmp_path: Path) -> None:
    held = rollouts()
    write_npy(tmp_path / "expert.npy", streamed(held), held["metadata"])
    content = (tmp_path / "expert.npy").read_bytes()
    honest = b"(K\x14K\x04K\x07t"  # a tuple of 20, 4, 7
    assert content.count(honest) == 1
    for lie in (
        b"(K\x15K\x04K\x07t",
        b"(K\x13K\x04K\x07t",
        b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fK\x07t",
        b"(J\xff\xff\xff\xffK\x04K\x07t",
    ):
        (tmp_path / "lies.npy").write_bytes(content.replace(honest, lie))
        with pytest.raises(SourceError, match=r"lies\.npy: byte [0-9]+: .*(2240 are there|no shape)"):
            load_rollouts(tmp_path / "lies.npy")


@pytest.mark.faults
def test_files_that_are_something_else(tmp_path: Path) -> None:
    held = rollouts()
    write_npy(tmp_path / "good.npy", streamed(held), held["metadata"])
    content = (tmp_path / "good.npy").read_bytes()
    for size in (0, 5, 60, 128, 300, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.npy").write_bytes(content[:size])
        with pytest.raises(SourceError, match=r"cut\.npy"):
            load_rollouts(tmp_path / "cut.npy")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(SourceError, match=r"expected a dictionary saved with numpy\.save, found an array"):
        load_rollouts(tmp_path / "array.npy")
    np.save(tmp_path / "list.npy", np.array([[1], [2, 3]], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError, match=r"list\.npy"):
        load_rollouts(tmp_path / "list.npy")
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(SourceError, match=r"text\.pt: not a file of tensors"):
        load_rollouts(tmp_path / "text.pt")
    with pytest.raises(SourceNotFoundError):
        load_rollouts(tmp_path / "nowhere.npy")
    with pytest.raises(ArgumentError, match=r"ends in \.npy or \.pt"):
        check_suffix(tmp_path / "expert.hdf5")


@pytest.mark.faults
def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    held, path = rollouts(), tmp_path / "expert.npy"
    path.write_bytes(b"old")
    wrong = {"actions": StreamedArray((3, 1, 2), np.dtype(np.float32), [np.zeros((2, 1, 2), np.float32)])}
    with pytest.raises(SchemaError, match=r"'actions': expected 24 bytes for \[3, 1, 2\], found 16"):
        write_npy(path, wrong, held["metadata"])
    with pytest.raises(SchemaError, match="expected pieces of float32 in C order, found float64"):
        write_npy(path, {"actions": StreamedArray((1, 1, 2), np.dtype(np.float32), [np.zeros((1, 1, 2))])}, {})
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["expert.npy"]
