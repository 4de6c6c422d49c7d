"""Kinds of files that people have and that no source reads: what each is, and what to do instead.

They are told by their first bytes and the names inside, and nothing of them is imported or run. Whoever reads
a message of this module should know what the file is and what turns it into something that can be exported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.hdf5_file import can_read_hdf5, is_hdf5, top_of
from iltools_datasets.sources.formats.motion_pickle import describe_held
from iltools_datasets.sources.formats.pickled_file import OF_OLD_PROTOCOL, read_pickled_file, wrapping_of
from iltools_datasets.sources.walk import has_ending

_HEAD = 1 << 16
_TAIL = 1 << 16
_AS_NPZ = "save its arrays with numpy.savez"
_MOTION_NPZ = "an npz of fps, joint_pos, joint_vel, body_pos_w, body_quat_w, or a CSV of root and joints"
_RETARGET = (
    "it holds a human body and no robot; retarget it to a robot first (GMR, for instance), and export what that writes"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file is, and what to do with it. `is_lost` says that the content that was meant is not there at all."""

    what: str
    instead: str
    is_lost: bool = False

    def __str__(self) -> str:
        return f"{self.what}; {self.instead}"


def kind_of(path: Path) -> Kind | None:
    """Return what a file or a data set's directory is, or None if it is nothing that is known here."""
    try:
        if path.is_dir():
            return _kind_of_directory(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, size - _TAIL))
            tail = file.read(_TAIL)
    except OSError:
        return None
    for recognise in _RECOGNISERS:
        if (kind := recognise(path, head, tail)) is not None:
            return kind
    return None


def is_data_set(path: Path) -> bool:
    """Tell whether a directory is a whole data set of a kind that is known here, which is not to be looked into."""
    return path.is_dir() and _kind_of_directory(path) is not None


# Files whose content is somewhere else


def _lost(path: Path, head: bytes, tail: bytes) -> Kind | None:
    start = head.lstrip()[:200].lower()
    if not head:
        return Kind("is empty", "get it again: nothing was written, or nothing arrived", is_lost=True)
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return Kind(
            "is a Git LFS pointer and not the file itself", "get the content: git lfs install, then git lfs pull", True
        )
    if head.startswith((b"\x00\x05\x16\x07", b"\x00\x05\x16\x00")):
        return Kind(
            "is what macOS keeps beside a file (AppleDouble), and holds no data", "remove it, or export its file", True
        )
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return Kind(
            "is a web page (HTML), saved in place of the file",
            "download it again: a login, a licence or an error page came instead",
            True,
        )
    if start.startswith(b"<?xml") and b"<error>" in start:
        return Kind("is a server's error message (XML), saved in place of the file", "download it again", True)
    if re.match(rb"oid sha256:|\.\./.*/annex/objects|/annex/objects/", head):
        return Kind("is a pointer of git-annex and not the file itself", "get the content: git annex get", True)
    if head.startswith(b"outs:") and b"md5:" in head[:400]:
        return Kind("is a pointer of DVC and not the file itself", "get the content: dvc pull", True)
    if len(head) > 64 and not any(head) and not any(tail):
        return Kind("holds nothing but zeros", "get it again: its download or its copy broke off", True)
    return None


# Pickles, in all their wrappings


def _pickle(path: Path, head: bytes, tail: bytes) -> Kind | None:
    wrapping = wrapping_of(path)
    if wrapping is None:
        if has_ending(path, (".pkl", ".pickle", ".joblib")):
            return Kind("is called a pickle, but is none", "get it again, or give it the ending of what it is")
        return None
    if wrapping == OF_OLD_PROTOCOL:
        return Kind(f"is {wrapping}, which are not read", "pickle.dump it again with protocol=4")
    try:
        held = read_pickled_file(path)
    except SourceError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return Kind(
            f"is {wrapping} that cannot be read as plain data ({reason})",
            "pickles are programs, and none is ever run; load it with what wrote it, where you trust it, and convert "
            f"it: {_AS_NPZ} ({_MOTION_NPZ})",
        )
    return Kind(
        f"is {wrapping}; it holds {describe_held(held)}: no known arrangement of motion",
        "robots have root_pos, root_rot and dof_pos, of one clip or by the names of clips, or qpos; convert it to one "
        "of them",
    )


# Containers of other libraries


def _hdf5(path: Path, head: bytes, tail: bytes) -> Kind | None:
    if not is_hdf5(path):
        return None
    if head.startswith(b"MATLAB"):
        return Kind("is a MATLAB file (7.3, so HDF5)", f"open it with h5py or mat73 and {_AS_NPZ}")
    if not can_read_hdf5():
        return Kind("is an HDF5 file", "reading it needs an optional extra: pip install 'iltools-datasets[hdf5]'")
    top, damage = top_of(path)
    if damage is not None:
        return Kind(f"is an HDF5 file that cannot be opened ({damage:.200})", "get it again", True)
    return Kind(
        "is an HDF5 file of none of the known arrangements (robomimic and Isaac Lab: data/demo_0; Minari: episode_0; "
        f"D4RL: observations, actions, terminals; ALOHA: action, observations/qpos); at its top: {list(top)[:8]}",
        f"open it with h5py and convert it: {_AS_NPZ}",
    )


def _by_first_bytes(path: Path, head: bytes, tail: bytes) -> Kind | None:
    for start, what, instead in _FIRST_BYTES:
        if head.startswith(start):
            return Kind(what, instead)
    if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or head[8:12] == b"AVI ":
        return Kind("is a video", "pictures are read from LeRobot data sets only; a motion has numbers")
    if head[257:262] == b"ustar":
        return Kind("is a tar archive", "unpack it and export what is inside")
    return None


_UNPACK = "unpack it and export what is inside"
_PICTURES = "pictures are read from LeRobot data sets and Zarr replays only"
_BAGS = f"it is not supported; read it with the package rosbags and {_AS_NPZ}"
_RECORD = "it is a scene; play it in the simulator, record qpos and qvel, and export those"
_TABLE = "convert it: open it with pyarrow and save a CSV or an npz (a LeRobot data set is read by its directory)"
_FIRST_BYTES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"\x89MCAP0",
        "is an MCAP recording (ROS 2)",
        f"MCAP is not supported; read it with the package mcap and {_AS_NPZ}",
    ),
    (b"#ROSBAG", "is a ROS bag", _BAGS),
    (b"SQLite format 3\0", "is an SQLite data base, as ROS 2 bags are", _BAGS),
    (b"PAR1", "is a Parquet table", _TABLE),
    (b"ARROW1", "is an Arrow table", _TABLE),
    (b"HIERARCHY", "is a BVH motion capture", _RETARGET),
    (b":ASF", "is an ASF skeleton", _RETARGET),
    (b"# AST/ASF", "is an ASF skeleton", _RETARGET),
    (b":FULLY-SPECIFIED", "is an AMC motion capture", _RETARGET),
    (b"#!OML:ASF", "is an AMC motion capture", _RETARGET),
    (b"Kaydara FBX Binary", "is an FBX scene", _RETARGET),
    (b"; FBX", "is an FBX scene", _RETARGET),
    (b"PathFileType", "is a TRC marker file", _RETARGET),
    (b"glTF", "is a glTF scene", _RETARGET),
    (b"PXR-USDC", "is a USD scene", _RECORD),
    (b"#usda", "is a USD scene", _RECORD),
    (b"MATLAB 5.0 MAT-file", "is a MATLAB file", f"open it with scipy.io.loadmat and {_AS_NPZ}"),
    (b"\x1f\x8b", "is packed by gzip", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "is packed by zstd", _UNPACK),
    (b"\xfd7zXZ\0", "is packed by xz", _UNPACK),
    (b"BZh", "is packed by bzip2", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", _UNPACK),
    (b"Rar!", "is a RAR archive", _UNPACK),
    (b"\x89PNG", "is a picture", _PICTURES),
    (b"\xff\xd8\xff", "is a picture", _PICTURES),
    (b"GIF8", "is a picture", _PICTURES),
    (b"%PDF", "is a PDF document", "it holds no motion"),
)


# numpy's own files


def _npy(path: Path, head: bytes, tail: bytes) -> Kind | None:
    if not head.startswith(b"\x93NUMPY"):
        return None
    match = re.search(rb"'shape': \(([^)]*)\)", head[:512])
    shape = match[1].decode("ascii", "replace") if match else "?"
    return Kind(
        f"is one array of numpy, shape ({shape})",
        f"a single .npy is not supported, for nothing says what its columns are; convert it to {_MOTION_NPZ}",
    )


def _zip(path: Path, head: bytes, tail: bytes) -> Kind | None:
    if not head.startswith(b"PK"):
        return None
    if b"PK\x05\x06" not in tail:
        return Kind("is cut: it begins as a zip and its directory, which is the end, is missing", "get it again", True)
    if has_ending(path, (".npz",)):
        return None
    return Kind("is a zip archive", _UNPACK)


# Texts


def _text(path: Path, head: bytes, tail: bytes) -> Kind | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:4096]
    if start.startswith((b"{", b"[")) and b'"skeleton_tree"' in head:
        return Kind("is a motion of poselib in JSON", f"it is not supported; convert it to {_MOTION_NPZ}")
    if b"<mujoco" in start:
        return Kind("is a model of MuJoCo", "it is a robot and no motion")
    if b"<robot" in start:
        return Kind("is a URDF", "it is a robot and no motion")
    if b"Format Version" in start and b"Capture" in start:
        return Kind("is a marker recording of Motive (OptiTrack)", _RETARGET)
    return None


_RECOGNISERS: tuple[Callable[[Path, bytes, bytes], Kind | None], ...] = (
    _lost, _pickle, _hdf5, _by_first_bytes, _npy, _zip, _text,
)  # fmt: skip


# Directories


def _kind_of_directory(path: Path) -> Kind | None:
    for recognise in (_lerobot, _rlds, _rosbag2, _hugging_face, _store, _zarr):
        if (kind := recognise(path)) is not None:
            return kind
    return None


def _lerobot(path: Path) -> Kind | None:
    info = path / "meta_data" / "info.json"  # later versions have meta/info.json and are read
    if not info.is_file():
        return None
    version = str(_json(info).get("codebase_version") or "v1")[:20]
    return Kind(
        f"is a LeRobot data set of version {version}",
        "versions before v2.0 are not supported; convert it with lerobot's own script",
    )


def _rlds(path: Path) -> Kind | None:
    if (path / "dataset_info.json").is_file() and (path / "features.json").is_file():
        return Kind(
            "is a data set of TensorFlow Datasets (RLDS, Open X-Embodiment)",
            f"it is not supported; read it with tensorflow_datasets and {_AS_NPZ}, or take its LeRobot version",
        )
    return None


def _rosbag2(path: Path) -> Kind | None:
    metadata = path / "metadata.yaml"
    if metadata.is_file() and b"rosbag2_bagfile_information" in metadata.read_bytes()[:4096]:
        return Kind("is a ROS 2 bag", f"ROS bags are not supported; read it with the package rosbags and {_AS_NPZ}")
    return None


def _hugging_face(path: Path) -> Kind | None:
    if (path / "dataset_info.json").is_file() and any(path.glob("*.arrow")):
        return Kind("is a data set of Hugging Face (Arrow)", "convert it: open it with datasets and save an npz")
    return None


def _store(path: Path) -> Kind | None:
    manifest = path / "manifest.json"
    if manifest.is_file() and any(path.glob("data-*")):
        return Kind("is a store, built from an archive already", "sample it, or export the raw files it came from")
    return None


def _zarr(path: Path) -> Kind | None:
    if (path / ".zarray").is_file():
        return Kind("is a single Zarr array", "a group with data/ and meta/episode_ends is expected")
    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata")):
        return None
    return Kind(
        "is a Zarr group without meta/episode_ends",
        "if it holds <dataset_source>/<motion>/<trajectory>/<key> it is an archive already: iltools info shows it",
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
