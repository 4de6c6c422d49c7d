"""Codecs: what zarr-python writes is read equal, and nothing is decoded beyond what its array can hold."""

import bz2
import gzip
import lzma
import os
import pickle
import subprocess
import sys
import zlib

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs as codecs
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.archive import ArchiveReader
from iltools_datasets.archive.chunks import chunk_encoding
from iltools_datasets.archive.codecs import bounded_decoder, checked_crc32c, has_checksum, zstd_size
from iltools_datasets.errors import ArchiveCorruptError, SourceError
from raw_zarr import ARRAY, v2_array, v3_array, write_archive
from zarr.codecs import numcodecs as v3_numcodecs

ENCODERS = {
    "zstd": numcodecs.zstd.compress,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "lz4": numcodecs.lz4.compress,
    "blosc": lambda data: numcodecs.blosc.compress(data, b"zstd", 5),
    "bz2": bz2.compress,
    "lzma": lzma.compress,
}
VALUES = np.arange(12, dtype="<f4").reshape(4, 3)


def read_one(root):
    reader = ArchiveReader(root)
    return reader.read(reader.trajectories[0])["qpos"]


CHAINS = {
    "none": (),
    "crc32c": (codecs.Crc32cCodec(),),
    "crc32c, blosc": (codecs.Crc32cCodec(), codecs.BloscCodec()),
    "blosc, crc32c": (codecs.BloscCodec(), codecs.Crc32cCodec()),
    "gzip, blosc": (codecs.GzipCodec(), codecs.BloscCodec()),
    "blosc, blosc": (codecs.BloscCodec(cname="lz4"), codecs.BloscCodec(cname="zstd")),
    "zstd, gzip, crc32c": (codecs.ZstdCodec(), codecs.GzipCodec(), codecs.Crc32cCodec()),
    "crc32c, zstd, crc32c": (codecs.Crc32cCodec(), codecs.ZstdCodec(checksum=True), codecs.Crc32cCodec()),
    "gzip, gzip, gzip": (codecs.GzipCodec(),) * 3,
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("noise", [False, True], ids=["smooth", "noise"])
@pytest.mark.parametrize("shards", [None, (20, 3)], ids=["chunks", "shards"])
def test_chains_of_codecs_read_as_zarr_reads_them(tmp_path, name, noise, shards):
    # Noise grows when it is compressed, so stages inside a chain are larger than the chunk.
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, (40, 3), dtype=np.uint32).view("f4") if noise else np.zeros((40, 3), "f4")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    array = group.create_array(
        ARRAY, shape=values.shape, chunks=(10, 3), shards=shards, dtype="f4", compressors=CHAINS[name], filters=None
    )
    array[:] = values
    np.testing.assert_array_equal(read_one(tmp_path / "a.zarr").view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("filters", [None, [numcodecs.Delta("<f4")], [numcodecs.Delta("<f4"), numcodecs.Zlib()]])
@pytest.mark.parametrize("name", [*ENCODERS, None])
def test_every_compressor_of_format_2(tmp_path, name, order, filters):
    values = np.linspace(0, 1, 120, dtype="f4").reshape(40, 3)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    compressor = None if name is None else numcodecs.get_codec({"id": name})
    array = group.create_array(
        ARRAY, shape=values.shape, chunks=(7, 3), dtype="f4", compressors=compressor, filters=filters, order=order
    )
    array[:] = values
    np.testing.assert_array_equal(read_one(tmp_path / "a.zarr"), array[:])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")
@pytest.mark.parametrize("name", ["Zlib", "LZ4", "BZ2", "LZMA", "Zstd", "GZip", "Blosc", "CRC32", "Fletcher32"])
def test_compressors_of_numcodecs_in_format_3(tmp_path, name):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    codec = getattr(v3_numcodecs, name)()
    array = group.create_array(ARRAY, shape=(4, 3), chunks=(2, 3), dtype="f4", compressors=[codec], filters=None)
    array[:] = VALUES
    np.testing.assert_array_equal(read_one(tmp_path / "a.zarr"), VALUES)


def test_members_that_follow_each_other():
    for name in ("gzip", "zlib", "bz2", "lzma", "zstd"):
        decode = bounded_decoder({"id": name})
        parts = [bytes([number]) * 70_000 for number in range(3)]
        joined = b"".join(map(ENCODERS[name], parts))
        assert decode(joined, 210_000) == b"".join(parts)
        with pytest.raises(ValueError, match="209999"):
            decode(joined, 209_999)
        if name != "zstd":
            assert decode(joined + bytes(17), 210_000) == b"".join(parts)
        with pytest.raises((ValueError, RuntimeError)):
            decode(joined + b"rubbish", 210_000)


@given(st.binary(max_size=5000), st.integers(0, 6000))
def test_a_limit_is_kept_by_every_decoder(content, most):
    for name, encode in ENCODERS.items():
        if name in ("blosc", "lz4") and not content:
            continue  # their encoders refuse nothing at all
        encoded = encode(content)
        if most < len(content):
            with pytest.raises(ValueError, match=str(most)):
                bounded_decoder({"id": name})(encoded, most)
        else:
            assert bytes(bounded_decoder({"id": name})(encoded, most)) == content


def zstd_frame(blocks, window=0x58):
    """A zstd frame that does not state its size; blocks are (kind, size, content)."""
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, window])
    for number, (kind, size, content) in enumerate(blocks):
        frame += (size << 3 | kind << 1 | (number == len(blocks) - 1)).to_bytes(3, "little") + content
    return frame


@given(st.binary(max_size=400_000), st.integers(1, 3))
def test_the_size_of_zstd_data_is_known_from_its_headers(content, count):
    encoded = numcodecs.zstd.compress(content, 1)
    assert zstd_size(encoded) == (len(content), True)
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345"
    assert zstd_size((skippable + encoded) * count) == (len(content) * count, True)
    for cut in {*range(min(len(encoded), 20)), len(encoded) - 1}:
        with pytest.raises(ValueError, match="cut"):
            zstd_size(encoded[:cut])


def test_zstd_frames_that_do_not_state_their_size(tmp_path):
    raw = VALUES.tobytes()
    write_archive(tmp_path / "a.zarr", v3_array([{"name": "zstd"}]), zstd_frame([(0, 40, raw[:40]), (0, 8, raw[40:])]))
    np.testing.assert_array_equal(read_one(tmp_path / "a.zarr"), VALUES)
    assert zstd_size(zstd_frame([(1, 1000, b"x"), (0, 3, b"abc")])) == (1003, False)


SIZE = 1 << 28


def bombs():
    """(name, array metadata, chunk): a few kilobytes that would become 256 MiB somewhere on their way to 48 bytes."""
    huge = bytes(SIZE)
    packed = {name: encode(huge) for name, encode in ENCODERS.items() if name not in ("bz2", "lzma")}
    packed["bz2"] = bz2.compress(bytes(1 << 20)) * (SIZE >> 20)
    packed["lzma"] = lzma.compress(bytes(1 << 20)) * (SIZE >> 20)
    for name, data in packed.items():
        yield f"v2 {name}", v2_array({"id": name}), data
        yield f"v2 {name}, order F", v2_array({"id": name}, order="F"), data
        yield f"v2 {name}, delta", v2_array({"id": name}, filters=[{"id": "delta", "dtype": "<f4"}]), data
        yield f"v2 filter {name}", v2_array(None, filters=[{"id": name}]), data
        yield f"v3 numcodecs.{name}", v3_array([{"name": f"numcodecs.{name}", "configuration": {}}]), data
    for name in ("zstd", "gzip", "blosc"):
        config = {
            "zstd": {"level": 1, "checksum": False},
            "gzip": {"level": 1},
            "blosc": {"cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0},
        }
        codec = {"name": name, "configuration": config[name]}
        yield f"v3 {name}", v3_array([codec]), packed[name]
        yield f"v3 {name}, {name}", v3_array([codec, codec]), ENCODERS[name](packed[name])
        transpose = {"name": "transpose", "configuration": {"order": [1, 0]}}
        turned = v3_array([codec])
        turned["codecs"].insert(0, transpose)
        yield f"v3 transpose, {name}", turned, packed[name]
        yield f"v3 shard of {name}", *shard([codec], packed[name])
    blocks = [(1, 1 << 17, b"\0")] * (SIZE >> 17)
    yield "v3 zstd of unstated size", v3_array([{"name": "zstd", "configuration": {}}]), zstd_frame(blocks)
    yield "two zstd frames", v2_array({"id": "zstd"}), numcodecs.zstd.compress(VALUES.tobytes()) + packed["zstd"]
    whole = v2_array({"id": "zstd"}, chunks=[SIZE // 2, 3])
    yield "a chunk that dwarfs its array", whole, numcodecs.zstd.compress(bytes(6 * SIZE), 1)


def shard(inner, data):
    """A shard of one inner chunk."""
    configuration = {
        "chunk_shape": [4, 3],
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, *inner],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    array = {**v3_array([]), "codecs": [{"name": "sharding_indexed", "configuration": configuration}]}
    index = np.array([0, len(data)], "<u8").tobytes()
    return array, data + index + google_crc32c.value(index).to_bytes(4, "little")


READ_ALL = """
import sys
from pathlib import Path
import numpy, zarr.codecs, numcodecs
from iltools_datasets.archive import ArchiveReader
import warnings; warnings.simplefilter("ignore")
def read(root):
    reader = ArchiveReader(root)
    return reader.read(reader.trajectories[0])["qpos"]
def peak():
    # Not getrusage: its peak is that of the process this one was started from, where that one was larger.
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10
read(Path(sys.argv[1]) / "sound.zarr")
for root in sorted(Path(sys.argv[1]).glob("bomb*")):
    before = peak()
    try:
        outcome = read(root).shape
    except Exception as error:
        outcome = type(error).__name__
    print(root.name, outcome, peak() - before, sep="\\t")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_bombs_are_refused_before_they_are_unpacked(tmp_path):
    plain = [{"name": "gzip", "configuration": {"level": 1}}]
    write_archive(tmp_path / "sound.zarr", *shard(plain, gzip.compress(VALUES.tobytes())))
    names = {}
    for number, (name, array, data) in enumerate(bombs()):
        assert len(data) < SIZE // 50, name
        names[f"bomb{number:03}"] = name
        write_archive(tmp_path / f"bomb{number:03}", array, data)
    command = [sys.executable, "-c", READ_ALL, str(tmp_path)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    rows = [line.split("\t") for line in outcome.stdout.splitlines()]
    assert [row[0] for row in rows] == sorted(names)
    wrong = [(names[root], what, grown) for root, what, grown in rows if "Error" not in what or int(grown) > 64]
    assert wrong == []
    assert {what for _, what, _ in rows} <= {"ArchiveCorruptError", "SourceError"}


def test_a_header_of_blosc_is_compared_before_it_is_believed(tmp_path, monkeypatch):
    good = numcodecs.blosc.compress(VALUES.tobytes(), b"lz4", 5)
    monkeypatch.setattr(numcodecs.blosc, "decompress", lambda data: pytest.fail("decompressed"))
    for at, lie in ((4, 1 << 30), (8, 1 << 20), (12, 7)):
        bad = good[:at] + lie.to_bytes(4, "little") + good[at + 4 :]
        file = write_archive(tmp_path / f"{at}.zarr", v3_array([{"name": "blosc", "configuration": {}}]), bad)
        with pytest.raises(ArchiveCorruptError, match=f"{file}.*{lie}"):
            read_one(tmp_path / f"{at}.zarr")


class Boom:
    def __reduce__(self):
        return os.system, ("touch CODE_RAN",)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["pickle", "msgpack2", "json2"])
@pytest.mark.parametrize("where", ["compressor", "filter", "v3"])
def test_codecs_of_python_objects_are_never_asked(tmp_path, monkeypatch, name, where):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numcodecs.Pickle, "decode", lambda *_: pytest.fail("unpickled"))
    array = {
        "compressor": v2_array({"id": name}),
        "filter": v2_array(None, filters=[{"id": name}]),
        "v3": v3_array([{"name": f"numcodecs.{name}", "configuration": {}}]),
    }[where]
    write_archive(tmp_path / "a.zarr", array, pickle.dumps(Boom()))
    with pytest.raises(SourceError, match=f"{ARRAY}.*{name}.*never read"):
        read_one(tmp_path / "a.zarr")
    assert not (tmp_path / "CODE_RAN").exists()


def test_only_listed_codecs_are_decoded_here():
    listed = {"zstd", "gzip", "zlib", "lz4", "blosc", "bz2", "lzma"}
    for name in numcodecs.registry.codec_registry:
        assert (bounded_decoder({"id": name}) is not None) == (name in listed)
    assert bounded_decoder({"name": "crc32c"}) is checked_crc32c
    assert bounded_decoder({"id": ["zstd"]}) is None
    assert bounded_decoder({"id": "lzma", "format": lzma.FORMAT_RAW}) is None


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_codec_that_is_not_installed_is_named(tmp_path, zarr_format):
    name = "imagecodecs_jpegxl"
    array = v2_array({"id": name}) if zarr_format == 2 else v3_array([{"name": name, "configuration": {}}])
    write_archive(tmp_path / "a.zarr", array, b"\0" * 48)
    with pytest.raises(SourceError, match=f"{ARRAY}.*codec '{name}' is not there; the package imagecodecs brings it"):
        read_one(tmp_path / "a.zarr")


@pytest.mark.parametrize("separator", ["", "-", "../", "/../../", 1, None, ["."]])
def test_keys_of_chunks_are_joined_by_a_dot_or_a_slash_and_nothing_else(tmp_path, separator):
    secret = tmp_path / "secret"
    secret.write_bytes(VALUES.tobytes())
    old = v2_array(None, dimension_separator=separator)
    new = v3_array([], chunk_key_encoding={"name": "default", "configuration": {"separator": separator}})
    for number, array in enumerate((old, new)):
        write_archive(tmp_path / f"{number}.zarr", array, VALUES.tobytes())
        with pytest.raises(SourceError, match=r"damaged array metadata.*separator"):
            read_one(tmp_path / f"{number}.zarr")
    for good in (".", "/"):
        assert chunk_encoding(v2_array(None, dimension_separator=good)).key((1, 2)) == f"1{good}2"


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("decoded_here", [True, False])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "directory", "too long"])
def test_a_chunk_is_a_plain_file_of_a_possible_size(tmp_path, zarr_format, decoded_here, kind):
    if zarr_format == 2:
        array = v2_array(None, order="C" if decoded_here else "F")
    else:
        array = v3_array([])
        if not decoded_here:
            array["codecs"].insert(0, {"name": "transpose", "configuration": {"order": [1, 0]}})
    file = write_archive(tmp_path / "a.zarr", array, None)
    (tmp_path / "elsewhere").write_bytes(VALUES.tobytes())
    match kind:
        case "link":
            file.symlink_to(tmp_path / "elsewhere")
        case "link to nothing":
            file.symlink_to(tmp_path / "nothing")
        case "pipe":
            os.mkfifo(file)
        case "directory":
            file.mkdir()
        case "too long":
            with file.open("wb") as sparse:
                sparse.truncate(1 << 34)
    with pytest.raises(ArchiveCorruptError, match=f"{ARRAY}.*(link|no plain file|{1 << 34} bytes|zarr cannot read it)"):
        read_one(tmp_path / "a.zarr")


@pytest.mark.faults
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("shape", "chunks", "words"),
    [
        ([1 << 40, 3], [1 << 20, 3], "of which none is there"),
        ([1 << 40, 3], [4, 3], "which nobody wrote"),
        ([4, 10**12], [4, 10**11], "of which none is there"),
        ([10**30, 3], [4, 3], "which nobody wrote"),
        ([4, 3], [10**9, 3], "takes 12000000000 bytes, the whole array 48"),
    ],
)
def test_gigabytes_that_are_only_claimed_are_not_made_room_for(tmp_path, monkeypatch, shape, chunks, words, transposed):
    array = v3_array([], chunk_grid={"name": "regular", "configuration": {"chunk_shape": chunks}})
    array["shape"] = shape
    if transposed:
        array["codecs"].insert(0, {"name": "transpose", "configuration": {"order": [1, 0]}})
    write_archive(tmp_path / "a.zarr", array, None)
    if not transposed:
        monkeypatch.setattr(np, "empty", lambda *_, **__: pytest.fail("memory was asked for"))
    with pytest.raises(SourceError, match=f"{ARRAY}: .*({words}|no memory for shape)"):
        read_one(tmp_path / "a.zarr")


@pytest.mark.parametrize("shape", [[-1, 3], [4.0, 3], [True, 3], "43", None, 4, [[4], 3]])
@pytest.mark.parametrize("make", [v2_array, v3_array])
def test_shapes_that_are_none(tmp_path, make, shape):
    array = make(None) if make is v2_array else make([])
    array["shape"] = shape
    write_archive(tmp_path / "a.zarr", array, VALUES.tobytes())
    with pytest.raises(SourceError, match=r"a\.zarr.*(damaged array metadata: impossible shape|damaged Zarr metadata)"):
        read_one(tmp_path / "a.zarr")


def test_metadata_is_a_plain_file(tmp_path):
    write_archive(tmp_path / "a.zarr", v3_array([]), VALUES.tobytes())
    document = tmp_path / "a.zarr" / ARRAY / "zarr.json"
    document.rename(tmp_path / "aside.json")
    os.mkfifo(document)
    with pytest.raises(SourceError, match="no plain file"):
        read_one(tmp_path / "a.zarr")
    document.unlink()
    document.symlink_to(tmp_path / "aside.json")
    with pytest.raises(SourceError, match="links inside an archive are not followed"):
        read_one(tmp_path / "a.zarr")


def test_bools_are_bools_whatever_their_bytes(tmp_path):
    array = v3_array([], shape=(4, 1), data_type="bool", fill_value=False)
    write_archive(tmp_path / "a.zarr", array, bytes([0, 1, 2, 255]))
    values = read_one(tmp_path / "a.zarr")
    assert values.view(np.uint8).ravel().tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ([{"name": "bytes"}], False),
        ([{"name": "bytes"}, {"name": "crc32c"}], True),
        ([{"name": "bytes"}, {"name": "blosc", "configuration": {}}], False),
        ([{"name": "bytes"}, {"name": "zstd", "configuration": {"checksum": False}}], False),
        ([{"name": "bytes"}, {"name": "zstd", "configuration": {"checksum": True}}], True),
        ([{"id": "zlib"}], True),
        ([{"id": "blosc"}], False),
        ([{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "bytes"}, {"name": "gzip"}]}}], True),
        ([{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "bytes"}]}}], False),
    ],
)
def test_what_counts_as_a_checksum(chain, expected):
    assert has_checksum(chain) is expected
