"""Data out of pickles: everything numpy and plain containers write, nothing else, and no code ever."""

from __future__ import annotations

import collections
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from iltools_datasets._base.pickled_data import read_pickled_data
from iltools_datasets.errors import SourceError

pytestmark = pytest.mark.faults

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
DTYPES = st.sampled_from(["?", "i1", "u1", "<i2", ">i4", "<i8", "<u8", "<f2", "<f4", ">f8", "<U3", "S5"])
ARRAYS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)))
KEYS = st.text() | st.integers()
DATA = st.recursive(
    PLAIN | ARRAYS | ARRAYS.filter(lambda array: array.size > 0).map(lambda array: array.flat[0]),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, np.ndarray | np.generic):
        return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()
    return type(found) is type(expected) and found == expected


def read(data: bytes) -> Any:
    return read_pickled_data(memoryview(data), "file.npy")


@settings(max_examples=150)
@given(data=DATA, protocol=st.integers(2, 5))
def test_data_comes_back(data: Any, protocol: int) -> None:
    assert same(read(pickle.dumps(data, protocol)), data)


def test_what_numpy_saves_and_fortran_order_and_shared_parts() -> None:
    shared = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    data = {"a": shared, "b": [shared, collections.OrderedDict(k=shared)], "names": np.array(["x", "yz"], dtype=object)}
    file = io.BytesIO()
    np.save(file, data, allow_pickle=True)  # type: ignore[arg-type]
    content = file.getvalue()
    found = read(content[content.index(b"\n") + 1 :])[()]
    assert np.array_equal(found["a"], shared)
    assert found["b"][0] is found["a"]
    assert np.array_equal(found["b"][1]["k"], shared)
    assert found["names"].tolist() == ["x", "yz"]


def test_large_arrays_are_views_of_the_file() -> None:
    data = bytearray(pickle.dumps({"a": np.zeros(100_000)}, 4))
    found = read_pickled_data(memoryview(data), "file")["a"]
    data[len(data) // 2] = 7
    assert found.any()
    assert not found.flags.writeable


class _Code:
    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call


class _Slots:
    value = 1


def test_nothing_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    programs = [
        _Code(os.system, (f"touch {marker}",)),
        _Code(eval, (f"open({str(marker)!r}, 'w')",)),
        _Code(getattr, ("text", "upper")),
        _Code(np.load, (str(marker),)),
        _Code(np.ndarray, ((10**12,),)),
        _Slots(),
        {1, 2},
        np.zeros(2, dtype=[("a", "f4")]),
        np.array([1j]),
        np.array([_Code(os.system, (f"touch {marker}",))], dtype=object),
        np.datetime64("2020-01-01"),
    ]
    for program in programs:
        for wrapped in (program, [program], {"a": (program,)}):
            for protocol in (2, 4, 5):
                with pytest.raises(SourceError, match=r"file\.npy: byte \d+: not plain data in a pickle: "):
                    read(pickle.dumps(wrapped, protocol))
    assert not marker.exists()


NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def array_program(shape: bytes, content: bytes, code: bytes = b"f8") -> bytes:
    dtype = (
        b"cnumpy\ndtype\nX"
        + len(code).to_bytes(4, "little")
        + code
        + b"\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return b"\x80\x04" + NDARRAY + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb."


@pytest.mark.parametrize(
    "program",
    [
        array_program(b"\x8a\x08" + b"\xff" * 7 + b"\x0f\x85", b"C\x08" + bytes(8)),  # 2^60 values
        array_program(b"\x8a\x07" + b"\x00" * 4 + b"\x01\x00\x00\x85", b"C\x08" + bytes(8)),  # 2^32 values
        array_program(b"J\xff\xff\xff\xff\x85", b"C\x08" + bytes(8)),  # -1 values
        array_program(b"K\x02\x85", b"C\x08" + bytes(8)),  # one too few
        array_program(b"K\x01\x85", b"C\x08" + bytes(8), b"O8"),
        array_program(b"K\x01\x85", b"C\x08" + bytes(8), b"V8"),
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"abc.",  # bytes beyond the file
        b"\x80\x04\x96" + (2**40).to_bytes(8, "little") + b"abc.",
        b"\x80\x04\x8b\xff\xff\xff\x7f.",
        b"\x80\x04h\x05.",  # a memo that was never put
        b"\x80\x04a.",
        b"\x80\x04]e.",
        b"\x80\x04}(K\x01u.",  # a key without a value
        b"\x80\x04}]K\x01s.",  # a list as a key
        b"\x80\x04" + NDARRAY + b".",  # an array without content
        b"\x80\x04cnumpy\nndarray\n.",
        b"\x80\x04(.",
        b"\x80\x04N",
        b"\x80\x04Pnumpy\n.",
        b"",
    ],
)
def test_programs_that_lie(program: bytes) -> None:
    with pytest.raises(SourceError, match="not plain data"):
        read(program)


JOBLIB = b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81"


def joblib_program(shape: bytes, order: bytes, content: bytes, subclass: bytes = b"cnumpy\nndarray\n") -> bytes:
    def text(value: bytes) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value

    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"f8")
        + b"\x89\x88\x87R(K\x03"
        + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    state = (
        text(b"subclass") + subclass + text(b"shape") + shape + text(b"order") + text(order) + text(b"dtype") + dtype
    )
    return JOBLIB + b"}(" + state + text(b"numpy_array_alignment_bytes") + b"K\x10ub" + content + b"."


def test_joblibs_arrays_lie_between_the_opcodes() -> None:
    values = np.arange(6.0)
    padded = b"\x05" + b"\xff" * 5 + values.tobytes()
    assert np.array_equal(read(joblib_program(b"K\x02K\x03\x86", b"C", padded)), values.reshape(2, 3))
    assert np.array_equal(read(joblib_program(b"K\x02K\x03\x86", b"F", padded)), values.reshape(3, 2).T)
    for program in (
        joblib_program(b"K\x02K\x03\x86", b"C", padded[:-1]),
        joblib_program(b"K\x02K\x03\x86", b"X", padded),
        joblib_program(b"K\x02K\x03\x86", b"C", padded, b"cnumpy\nmatrix\n"),
        joblib_program(b"\x8a\x08" + b"\xff" * 7 + b"\x0f\x85", b"C", padded),  # 2^60 values
        joblib_program(b"K\x01", b"C", padded),
        joblib_program(b"K\x02K\x03\x86", b"C", padded).replace(JOBLIB[2:-2], b"cnumpy\nndarray\n", 1),
        JOBLIB + b".",  # an array without a state
        b"\x80\x04cnumpy\nndarray\n)\x81.",
        b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\nK\x01\x85\x81.",
    ):
        with pytest.raises(SourceError, match="not plain data"):
            read(program)


def tensor_program(count: int, offset: int, shape: bytes, strides: bytes, kind: bytes = b"FloatStorage") -> bytes:
    storage = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage += b"J" + count.to_bytes(4, "little", signed=True) + b"tQ"
    tail = b"J" + offset.to_bytes(4, "little", signed=True) + shape + strides + b"\x89}t"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + tail + b"R."


def test_tensors_lie_in_storages_beside_the_pickle() -> None:
    values = np.arange(6, dtype="<f4")
    asked: list[tuple[str, int]] = []

    def storage(name: str, size: int) -> memoryview:
        asked.append((name, size))
        if size > values.nbytes:
            raise ValueError("no such storage")
        return memoryview(values.tobytes())[:size]

    def tensor(program: bytes) -> Any:
        return read_pickled_data(memoryview(program), "file.pt", storage)

    two_by_three, three_by_two = b"K\x02K\x03\x86", b"K\x03K\x02\x86"
    assert np.array_equal(tensor(tensor_program(6, 0, two_by_three, b"K\x03K\x01\x86")), values.reshape(2, 3))
    assert np.array_equal(tensor(tensor_program(6, 0, three_by_two, b"K\x01K\x03\x86")), values.reshape(2, 3).T)
    assert np.array_equal(tensor(tensor_program(6, 4, b"K\x02\x85", b"K\x01\x85")), values[4:])
    assert asked == [("0", 24)] * 3
    for program in (
        tensor_program(7, 0, b"K\x07\x85", b"K\x01\x85"),  # more than there is
        tensor_program(6, 5, b"K\x02\x85", b"K\x01\x85"),  # past the end
        tensor_program(6, -1, b"K\x02\x85", b"K\x01\x85"),
        tensor_program(6, 0, b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),  # backwards
        tensor_program(6, 0, b"J\x00\x00\x00\x7f\x85", b"K\x00\x85"),  # one number, two billion times
        tensor_program(6, 0, two_by_three, b"K\x01\x85"),
        tensor_program(-1, 0, b"K\x01\x85", b"K\x01\x85"),
        tensor_program(6, 0, b"K\x02\x85", b"K\x01\x85", b"BFloat16Storage"),
        tensor_program(6, 0, b"K\x02\x85", b"K\x01\x85")[:-2].replace(b"_rebuild_tensor_v2", b"_import_dotted_name")
        + b"R.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ.",
    ):
        with pytest.raises(SourceError, match="not plain data"):
            tensor(program)
    with pytest.raises(SourceError, match="not plain data"):
        read(tensor_program(6, 0, two_by_three, b"K\x03K\x01\x86"))


def test_a_small_file_that_means_a_lot_takes_no_longer() -> None:
    doubled = b"\x80\x04K\x01" + b"2\x86" * 60 + b"."  # a pair of a pair of ...: 2^60 ones
    found = read(doubled)
    for _ in range(60):
        assert found[0] is found[1]
        found = found[0]
    deep = b"\x80\x04N" + b"\x85" * 100_000 + b"."
    with pytest.raises(SourceError, match="recursion"):
        read(deep)


def test_mutations_are_read_or_refused() -> None:
    rng = np.random.default_rng(0)
    data = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": [1, None, "x" * 40, (np.float32(3), True)],
        "m": np.ones((2, 3), bool),
    }
    refused = 0
    for protocol in (2, 4, 5):
        original = pickle.dumps(data, protocol)
        for _ in range(400):
            mutated = bytearray(original)
            for _ in range(rng.integers(1, 4)):
                mutated[rng.integers(len(mutated))] = rng.integers(256)
            try:
                read(bytes(mutated[: rng.integers(1, len(mutated) + 1)]) if rng.random() < 0.3 else bytes(mutated))
            except SourceError:
                refused += 1
    assert 400 < refused < 1200
