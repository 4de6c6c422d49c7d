"""Npz files that are cut, lie about sizes, or hold pickles."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from iltools_datasets.errors import SourceError, SourceNotFoundError
from iltools_datasets.sources.formats.npz import Npz, member_names


class Bomb:
    """Unpickling this would create a file."""

    def __reduce__(self):
        return (open, ("/tmp/iltools-unpickled", "w"))


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def npy_bytes(array, shape=None):
    """The bytes of a `.npy` file whose header claims `shape`."""
    buffer = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4)),
        np.array(5, dtype=np.uint8),
        np.zeros((0,), np.float32),
        np.array(["a", "hip"]),
        np.array([True, False]),
    ],
)
def test_reads_what_numpy_writes(tmp_path, writer, array):
    writer(tmp_path / "a.npz", x=array, other=np.zeros(3))
    with Npz(tmp_path / "a.npz") as npz:
        found = npz.read("x")
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype.newbyteorder("=")
        assert npz.arrays["x"].shape == array.shape
        assert found.flags.writeable
    assert member_names(tmp_path / "a.npz") == {"x", "other"}


def test_nothing_is_unpickled(tmp_path):
    path = save(tmp_path / "a.npz", good=np.zeros(2), bad=np.array([Bomb()], dtype=object), none=np.array(None))
    with Npz(path) as npz:
        assert npz.arrays.keys() == {"good"}
        assert npz.unreadable == ["bad", "none"]
        with pytest.raises(SourceError, match=r"a\.npz.*'bad' is a pickled object"):
            npz.read("bad")
    raw = write_zip(tmp_path / "b.npz", {"x.npy": pickle.dumps(Bomb())})
    with pytest.raises(SourceError, match=r"b\.npz: member 'x' is damaged"):
        Npz(raw)


@pytest.mark.parametrize("shape", [(10**12,), (3, 10**15), (2**62, 4), (1,), (-1,), (3, 5)])
def test_lying_headers(tmp_path, shape):
    path = write_zip(tmp_path / "a.npz", {"x.npy": npy_bytes(np.zeros((3, 4)), shape)})
    with pytest.raises(SourceError, match=r"a\.npz: member 'x' is damaged"):
        Npz(path)


def test_lying_zip_directory(tmp_path):
    """The entry's size is raised along with the header, so only the size of the file can give them away."""
    claimed = 10**9
    data = npy_bytes(np.zeros(4), (claimed,))
    real = struct.pack("<I", len(data))
    lie = struct.pack("<I", len(data) - 32 + 8 * claimed & 0xFFFFFFFF)
    path = write_zip(tmp_path / "a.npz", {"x.npy": data})
    path.write_bytes(path.read_bytes().replace(real, lie))
    with pytest.raises(SourceError, match=r"a\.npz"):
        Npz(path)
    deflated = write_zip(tmp_path / "b.npz", {"x.npy": data}, zipfile.ZIP_DEFLATED)
    deflated.write_bytes(deflated.read_bytes().replace(real, lie))
    with pytest.raises(SourceError, match=r"b\.npz"):
        Npz(deflated)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_cut_anywhere(tmp_path, compression):
    values = np.random.default_rng(0).standard_normal(40)
    path = write_zip(tmp_path / "a.npz", {"x.npy": npy_bytes(values), "y.npy": npy_bytes(values)}, compression)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"a\.npz"):
            Npz(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_flipped_bits_are_found(tmp_path, compression):
    values = np.random.default_rng(0).standard_normal(40)
    path = write_zip(tmp_path / "a.npz", {"x.npy": npy_bytes(values)}, compression)
    whole = path.read_bytes()
    unnoticed = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            with Npz(path) as npz:
                np.testing.assert_array_equal(npz.read("x"), values)
                unnoticed += 1  # dates and the like: the values are right
        except SourceError as error:
            assert "a.npz" in str(error)  # noqa: PT017
    assert unnoticed < len(whole)


def test_other_files(tmp_path):
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        Npz(tmp_path / "nowhere.npz")
    for content in (b"", b"hello", b"PK\x03\x04"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(SourceError, match=r"a\.npz: not a readable npz"):
            Npz(tmp_path / "a.npz")
        assert member_names(tmp_path / "a.npz") == frozenset()
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("x.npy", npy_bytes(np.zeros(3)))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x.npy", npy_bytes(np.zeros(3)))
    with pytest.raises(SourceError, match=r"b\.npz: member 'x' is there twice"):
        Npz(tmp_path / "b.npz")


def test_numbers_and_names(tmp_path):
    path = save(
        tmp_path / "a.npz",
        fps=np.array([30]),
        two=np.arange(2),
        same=np.full(9, 4.0),
        text=np.array("59.94"),
        bad=np.array(-1.0),
        names=np.array([b"a"]),
    )
    with Npz(path) as npz:
        assert npz.rate("fps") == 30.0
        with pytest.raises(SourceError, match="'two' should be one number"):
            npz.number("two")
        assert (npz.number("same"), npz.rate("text")) == (4.0, 59.94)
        with pytest.raises(SourceError, match="'bad' should be a positive rate"):
            npz.rate("bad")
        assert npz.names("names") == ["a"]
        assert npz.names("fps") is npz.names("nothing") is None
        with pytest.raises(SourceError, match="no member 'qpos', there are"):
            npz.require(["fps", "qpos"])
        with pytest.raises(SourceError, match="no member 'qpos'"):
            npz.read("qpos")


def test_a_header_that_python_cannot_tokenize_is_an_error_of_the_file(tmp_path):
    file = io.BytesIO()
    np.save(file, np.zeros((4, 3)))
    damaged = file.getvalue().replace(b"'fortran_order': False", b"'fortran_order': #alse")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:  # its checksum is right
        archive.writestr("qpos.npy", damaged)
    with pytest.raises(SourceError, match=r"a\.npz: member 'qpos' is damaged: a damaged header"):
        Npz(tmp_path / "a.npz")
