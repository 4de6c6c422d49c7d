"""TensorDict directories of other people: read like tensordict reads them, and never a way out of the directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets import TrajectoryStore, errors

DIRECTORY = {"type": "TensorDict"}


def leaf(dtype: str = "torch.float32", *shape: int) -> dict[str, Any]:
    return {"device": "cpu", "shape": list(shape or (3,)), "dtype": dtype, "is_nested": False}


def write(directory: Path, **entries: Any) -> Path:
    """Write a `meta.json` that says `end` tells three rows of one trajectory, and more."""
    directory.mkdir(exist_ok=True)
    np.array([0, 0, 1], np.uint8).tofile(directory / "end.memmap")
    meta = {"end": leaf("torch.bool"), **entries, "shape": [3], "device": "cpu", "_type": "TensorDict"}
    (directory / "meta.json").write_text(json.dumps(meta))
    return directory


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A directory beside the one that is opened, with a column of the right length."""
    directory = write(tmp_path / "secret", secret=leaf())
    np.full(3, 7, np.float32).tofile(directory / "secret.memmap")
    return directory


@pytest.mark.faults("foreign metadata")
@pytest.mark.parametrize(
    "name", ["{secret}", "../secret", "inner/../../secret", ".", "..", "", "inner", "linked", "a\0b"]
)
def test_a_nested_key_leads_nowhere_else(tmp_path: Path, secret: Path, name: str) -> None:
    directory = write(tmp_path / "opened", **{name.format(secret=secret): DIRECTORY})
    (directory / "inner").mkdir()
    (directory / "linked").symlink_to(secret)
    with pytest.raises(errors.StoreCorruptError, match=str(directory)):
        TrajectoryStore.from_tensordict_memmap(directory, end_key="end")


@pytest.mark.faults("foreign metadata")
@pytest.mark.parametrize("name", ["{secret}/secret", "../secret/secret", "linked", "piped", "none", "..", "k" * 300])
@pytest.mark.parametrize("backend", ["mmap", "pread", "ram"])
def test_a_leaf_leads_nowhere_else(tmp_path: Path, secret: Path, name: str, backend: Any) -> None:
    directory = write(tmp_path / "opened", **{name.format(secret=secret): leaf()})
    (directory / "linked.memmap").symlink_to(secret / "secret.memmap")
    os.mkfifo(directory / "piped.memmap")
    with pytest.raises(errors.StoreCorruptError, match=str(directory)):
        TrajectoryStore.from_tensordict_memmap(directory, end_key="end", backend=backend)


@pytest.mark.faults("foreign metadata")
@pytest.mark.parametrize("what", ["meta.json", "end.memmap"])
@pytest.mark.parametrize("kind", ["pipe", "link", "hole"])
def test_what_is_read_to_find_the_trajectories(tmp_path: Path, what: str, kind: str) -> None:
    directory = write(tmp_path / "opened")
    (directory / what).rename(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(directory / what)
    elif kind == "link":
        (directory / what).symlink_to(tmp_path / "elsewhere")
    else:
        (directory / what).touch()
        os.truncate(directory / what, 3 << 40)
    with pytest.raises(errors.StoreCorruptError, match=what):
        TrajectoryStore.from_tensordict_memmap(directory, end_key="end")


@pytest.mark.faults("foreign metadata")
@pytest.mark.parametrize("dtype", ["torch.qint8", "torch.float8_e4m3fn", "torch.complex32", "float128", ""])
@pytest.mark.parametrize("key", ["x", "end"])
def test_a_type_that_numpy_does_not_know(tmp_path: Path, dtype: str, key: str) -> None:
    directory = write(tmp_path / "opened", **{key: leaf(dtype)})
    with pytest.raises(errors.SchemaError, match=f'meta.json: key "{key}": dtype .*cannot be read'):
        TrajectoryStore.from_tensordict_memmap(directory, end_key="end")


@pytest.mark.faults("foreign metadata")
@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [3]},
        {"dtype": "torch.bool"},
        {**leaf(), "shape": [-1]},
        {**leaf(), "shape": [3.0]},
        {**leaf(), "shape": [2**63]},
        {**leaf(), "shape": [2**70]},
        {**leaf(), "shape": "3"},
        {**leaf(), "shape": None},
        {**leaf(), "dtype": 3},
        {**leaf(), "is_nested": True},
        {**leaf(), "is_nested": "yes"},
    ],
)
def test_an_entry_that_is_no_tensor(tmp_path: Path, entry: dict[str, Any]) -> None:
    directory = write(tmp_path / "opened", x=entry)
    with pytest.raises(errors.StoreCorruptError, match=r'meta.json: key "x": no plain tensor'):
        TrajectoryStore.from_tensordict_memmap(directory, end_key="end")


@pytest.mark.faults("foreign metadata")
@pytest.mark.parametrize("content", ["", "[]", "{", "null", '"x"', '{"a": }', "[" * 100_000, '{"\\ud800": {}}', "\x00"])
def test_metadata_that_is_none(tmp_path: Path, content: str) -> None:
    directory = write(tmp_path / "opened")
    (directory / "meta.json").write_text(content)
    with pytest.raises(errors.StoreCorruptError, match=r"meta\.json: not TensorDict metadata"):
        TrajectoryStore.from_tensordict_memmap(directory, end_key="end")


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "rows differ": ({"x": leaf("torch.int8", 4)}, {}, errors.SchemaError, "differ in their number of rows: 3, 4"),
    "no dimension": ({"x": {**leaf(), "shape": []}}, {}, errors.SchemaError, "differ.*none, 3"),
    "wide end": (
        {},
        {"end_key": "wide"},
        errors.SchemaError,
        r'"wide": expected shape \[3\] or \[3, 1\], found \[3, 2\]',
    ),
    "no end": ({}, {"end_key": None}, errors.MissingKeyError, 'give traj_key or end_key.*"end"'),
    "another end": ({}, {"end_key": ("next", "done")}, errors.MissingKeyError, r'no key \("next", "done"\)'),
    "another trajectory": ({}, {"traj_key": "episode"}, errors.MissingKeyError, 'no key "episode"'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_directories_that_are_no_store(tmp_path: Path, case: str) -> None:
    entries, keys, error, words = REFUSED[case]
    directory = write(tmp_path / "opened", wide=leaf("torch.int8", 3, 2), **entries)
    (directory / "wide.memmap").write_bytes(bytes(6))
    with pytest.raises(error, match=words):
        TrajectoryStore.from_tensordict_memmap(directory, **{"end_key": "end", **keys})


@pytest.mark.torch
def test_what_tensordict_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    tensordict = pytest.importorskip("tensordict", reason="needs the torch extra")
    rng = np.random.default_rng(0)
    names = ["größe", "x y", "a/b", "100%", "..", ".", "", "tab\t", "C:x", "q*?", "end"]
    tree = {name: torch.from_numpy(rng.standard_normal((5, 2))) for name in names[:-1]}
    data = tensordict.TensorDict(
        {
            **tree,
            "end": torch.tensor([False, True, False, False, False]),
            "nothing": torch.zeros(5, 0),
            "note": tensordict.NonTensorData({"x": {"y": 1}}, batch_size=[5]),
            "next": {"deep/er": {"..": torch.arange(5)}},
        },
        [5],
    )
    data.memmap(tmp_path / "memmap")
    loaded = tensordict.TensorDict.load_memmap(tmp_path / "memmap")
    store = TrajectoryStore.from_tensordict_memmap(tmp_path / "memmap", end_key="end")
    assert store.segments.length.tolist() == [2, 3]
    rows = store.gather(np.arange(5))
    tensors = {key for key in loaded.keys(True, True) if isinstance(loaded.get(key), torch.Tensor)}
    assert set(rows) == tensors - {"note"}
    for key, column in rows.items():
        np.testing.assert_array_equal(column, loaded[key].numpy())
    order = json.loads((tmp_path / "memmap" / "meta.json").read_text())
    assert [key for key in store.keys if isinstance(key, str)] == [key for key in order if key in tensors]


@pytest.mark.torch
def test_names_that_earlier_releases_wrote_as_they_are(tmp_path: Path) -> None:
    directory = write(tmp_path / "opened", **{"x y": leaf(), "n m": DIRECTORY})
    np.arange(3, dtype=np.float32).tofile(directory / "x y.memmap")
    write(directory / "n m")
    store = TrajectoryStore.from_tensordict_memmap(directory, end_key="end")
    assert store.keys == ["end", "x y", ("n m", "end")]
    assert store.gather([2])["x y"].tolist() == [2]


@given(data=st.data())
def test_any_mutation_is_refused_or_stays_inside(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Metadata with bytes changed, or entries exchanged: a typed error, or columns of this directory."""
    place = tmp_path_factory.mktemp("mutated")
    directory = write(place / "opened", x=leaf(), next=DIRECTORY)
    np.arange(3, dtype=np.float32).tofile(directory / "x.memmap")
    write(directory / "next")
    write(place / "secret", secret=leaf())
    meta = directory / "meta.json"
    content = bytearray(meta.read_bytes())
    mutate: list[Callable[[], None]] = [
        lambda: content.__setitem__(data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 255))),
        lambda: content.__delitem__(slice(data.draw(st.integers(0, len(content))), None)),
        lambda: content.__setitem__(
            slice(0, None),
            content.replace(
                data.draw(st.sampled_from([b"x", b"next", b"3", b"torch.float32", b"bool"])),
                data.draw(
                    st.sampled_from([b"../secret", b"..", b"", b"-1", b"1" * 30, b"torch.int64", b"[]", b"\\u0000"])
                ),
            ),
        ),
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        data.draw(st.sampled_from(mutate))()
        if not content:
            break
    meta.write_bytes(content)
    try:
        store = TrajectoryStore.from_tensordict_memmap(directory, end_key="end")
    except errors.IltoolsError:
        return
    assert not any("secret" in key for key in store.keys)
    assert all(len(column) == 3 for column in store.gather([0, 1, 2]).values())
