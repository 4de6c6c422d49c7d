"""LeRobot sets of every version, written with pyarrow and PyAV alone: what the tests read, and spoil."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BARS = 20
HEIGHT, WIDTH = 48, 80
TASKS = ("pick up the cup", "put it down")
VERSIONS = ("v2.0", "v2.1", "v3.0")


def counter_picture(episode: int, frame: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture [H, W, 3] whose 20 bars, white for 1, spell `episode << 12 | frame`."""
    number = episode << 12 | frame
    bars = np.array([255 * (number >> bit & 1) for bit in reversed(range(BARS))], np.uint8)
    return np.ascontiguousarray(np.broadcast_to(np.repeat(bars, width // BARS)[None, :, None], (height, width, 3)))


def read_counter(picture: np.ndarray) -> tuple[int, int]:
    """(episode, frame) that a picture spells."""
    height, width = picture.shape[:2]
    row = picture.reshape(height, BARS, width // BARS, -1).mean(axis=(0, 2, 3)) > 127
    number = int("".join("1" if bar else "0" for bar in row), 2)
    return number >> 12, number & 0xFFF


def encode(
    path: Path, pictures: Iterable[np.ndarray], fps: Fraction | int, codec: str = "libx264", **options: Any
) -> None:
    """Write an mp4. `times` gives each picture's time in units of `time_base`; `gop` the pictures between keyframes."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    times, gop, bf = options.pop("times", None), options.pop("gop", 4), options.pop("b_frames", 0)
    time_base = options.pop("time_base", Fraction(1, 15360))
    with av.open(str(path), "w", format="mp4") as container:
        stream = None
        for number, picture in enumerate(pictures):
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(100_000))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.gop_size = gop
                stream.max_b_frames = bf
                stream.codec_context.time_base = time_base
                quality = {"libx264": {"crf": "1", "preset": "ultrafast"}, "libsvtav1": {"crf": "10", "preset": "12"}}
                stream.options = {**quality.get(codec, {}), **options}
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = time_base
            frame.pts = times[number] if times is not None else round(number / Fraction(fps) / time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def png(picture: np.ndarray) -> bytes:
    """A picture as PNG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class LeRobotSet:
    """A set as it was written: `columns[episode][key]` is the oracle.

    Attributes:
        root: where it lies.
        version: "v2.0", "v2.1" or "v3.0".
        fps: frames per second.
        columns: by episode number, by feature, [T, *shape].
        cameras: feature -> "video" or "image".
        info: what stands in `info.json`.
    """

    root: Path
    version: str
    fps: Fraction
    columns: dict[int, dict[str, np.ndarray]]
    cameras: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def episodes(self) -> list[int]:
        return list(self.columns)

    def length(self, episode: int) -> int:
        return len(self.columns[episode]["frame_index"])

    def all(self, key: str) -> np.ndarray:
        return np.concatenate([columns[key] for columns in self.columns.values()])

    def data_file(self, episode: int) -> Path:
        """The file with an episode's rows (v2: its own; v3: the only one, or the one of `files`)."""
        if self.version == "v3.0":
            return self.root / f"data/chunk-000/file-{self.info['_file_of'][episode]:03d}.parquet"
        return self.root / f"data/chunk-{episode // 1000:03d}/episode_{episode:06d}.parquet"

    def video_file(self, episode: int, key: str) -> Path:
        if self.version == "v3.0":
            return self.root / f"videos/{key}/chunk-000/file-{self.info['_video_of'][episode]:03d}.mp4"
        return self.root / f"videos/chunk-{episode // 1000:03d}/{key}/episode_{episode:06d}.mp4"

    def edit_info(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change `info.json` as a whole."""
        path = self.root / "meta/info.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    def edit_data(self, episode: int, change: Callable[[pa.Table], pa.Table]) -> None:
        """Change the data file of an episode."""
        path = self.data_file(episode)
        pq.write_table(change(pq.read_table(path)), path)

    def edit_lines(self, name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        """Change a `.jsonl` file below meta/."""
        path = self.root / "meta" / name
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        write_lines(path, change(lines))

    def edit_episodes(self, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        """Change the episode table, whatever the version."""
        if self.version != "v3.0":
            self.edit_lines("episodes.jsonl", change)
            return
        path = self.root / "meta/episodes/chunk-000/file-000.parquet"
        rows = change(pq.read_table(path).to_pylist())
        pq.write_table(pa.Table.from_pylist(rows), path)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def numbers(lengths: Mapping[int, int], fps: Fraction, seed: int = 0) -> dict[int, dict[str, np.ndarray]]:
    """Random columns of every shape and dtype that a set has."""
    rng = np.random.default_rng(seed)
    columns = {}
    first = 0
    for episode, length in lengths.items():
        frame = np.arange(length)
        columns[episode] = {
            "observation.state": rng.standard_normal((length, 5), dtype=np.float32),
            "observation.matrix": rng.standard_normal((length, 2, 3), dtype=np.float32),
            "observation.wide": rng.standard_normal((length, 2)),
            "observation.half": rng.standard_normal((length, 2)).astype(np.float16),
            "observation.bytes": rng.integers(0, 255, (length, 3)).astype(np.uint8),
            "observation.level": rng.standard_normal((length, 1), dtype=np.float32),
            "action": rng.standard_normal((length, 4), dtype=np.float32),
            "next.reward": rng.standard_normal((length, 1), dtype=np.float32),
            "next.done": (frame == length - 1)[:, None],
            "timestamp": (frame / float(fps)).astype(np.float32)[:, None],
            "frame_index": frame[:, None],
            "episode_index": np.full((length, 1), episode),
            "index": (first + frame)[:, None],
            "task_index": np.full((length, 1), episode % len(TASKS)),
        }
        first += length
    return columns


def arrow_column(values: np.ndarray, fixed: bool = True) -> pa.Array:
    """[T, *shape] as lerobot writes it: a plain column for (1,), else nested lists."""
    if values.ndim == 2 and values.shape[1] == 1:
        return pa.array(values[:, 0])
    if values.ndim == 1:
        return pa.array(values)
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for extent in reversed(values.shape[1:]):
        if fixed and values.ndim == 2:
            array = pa.FixedSizeListArray.from_arrays(array, extent)
        else:
            array = pa.ListArray.from_arrays(np.arange(0, len(array) + 1, extent, dtype=np.int32), array)
    return array


def table_of(columns: Mapping[str, np.ndarray], pictures: Mapping[str, Sequence[bytes]] | None = None) -> pa.Table:
    arrays = {key: arrow_column(values) for key, values in columns.items()}
    for key, encoded in (pictures or {}).items():
        arrays[key] = pa.array(
            [{"bytes": content, "path": f"frame_{n:06d}.png"} for n, content in enumerate(encoded)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    return pa.table(arrays)


def feature_stats(values: np.ndarray) -> dict[str, list[Any]]:
    """min, max, mean, std, count as lerobot writes them."""
    exact = values.astype(np.float64)
    return {
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "mean": exact.mean(axis=0).tolist(),
        "std": exact.std(axis=0).tolist(),
        "count": [len(values)],
    }


def make_set(
    root: Path,
    version: str = "v2.1",
    lengths: Mapping[int, int] | Sequence[int] = (5, 3, 7),
    *,
    fps: Fraction | int | float = 10,
    cameras: Mapping[str, str] | None = None,
    codec: str = "libx264",
    per_file: int = 2,
    seed: int = 0,
    picture_rate: int = 1,
    columns: dict[int, dict[str, np.ndarray]] | None = None,
) -> LeRobotSet:
    """Write a set.

    Args:
        lengths: frames by episode number, or of episodes 0, 1, ...
        cameras: feature -> "video" or "image"; every picture spells its episode and frame.
        per_file: v3: episodes per data file; video files hold one more.
        picture_rate: pictures per row in videos.
        columns: the numbers, by episode and feature; None: random ones.
    """
    lengths = dict(lengths) if isinstance(lengths, Mapping) else dict(enumerate(lengths))
    rate = Fraction(str(fps))
    made = LeRobotSet(root, version, rate, columns or numbers(lengths, rate, seed), dict(cameras or {}))
    features: dict[str, Any] = {
        key: {"dtype": values.dtype.name, "shape": list(values.shape[1:]), "names": None}
        for key, values in next(iter(made.columns.values())).items()
    }
    for key, kind in made.cameras.items():
        features[key] = {"dtype": kind, "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
    v3 = version == "v3.0"
    made.info = {
        "codebase_version": version,
        "robot_type": "made up",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths.values()),
        "chunks_size": 1000,
        "fps": fps if not isinstance(fps, Fraction) else float(fps),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if v3
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if v3
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(made.info))
    images = [key for key, kind in made.cameras.items() if kind == "image"]
    videos = [key for key, kind in made.cameras.items() if kind == "video"]
    encoded = {
        episode: {key: [png(counter_picture(episode, frame)) for frame in range(length)] for key in images}
        for episode, length in lengths.items()
    }
    writer = _write_v3 if v3 else _write_v2
    writer(made, lengths, encoded, videos, per_file, codec, picture_rate)
    return made


def _pictures(episode: int, length: int, rate: int) -> list[np.ndarray]:
    return [counter_picture(episode, frame // rate) for frame in range(length * rate)]


def _write_v2(made: LeRobotSet, lengths: Any, encoded: Any, videos: Any, per_file: int, codec: str, rate: int) -> None:
    root = made.root
    for episode, columns in made.columns.items():
        path = made.data_file(episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of(columns, encoded[episode]), path)
        for key in videos:
            encode(made.video_file(episode, key), _pictures(episode, lengths[episode], rate), made.fps * rate, codec)
    write_lines(
        root / "meta/episodes.jsonl",
        (
            {"episode_index": episode, "tasks": [TASKS[episode % len(TASKS)]], "length": length}
            for episode, length in lengths.items()
        ),
    )
    write_lines(root / "meta/tasks.jsonl", ({"task_index": n, "task": task} for n, task in enumerate(TASKS)))
    if made.version == "v2.0":
        keys = next(iter(made.columns.values()))
        (root / "meta/stats.json").write_text(json.dumps({key: feature_stats(made.all(key)) for key in keys}))
    else:
        write_lines(
            root / "meta/episodes_stats.jsonl",
            (
                {"episode_index": episode, "stats": {key: feature_stats(v) for key, v in columns.items()}}
                for episode, columns in made.columns.items()
            ),
        )


def _write_v3(made: LeRobotSet, lengths: Any, encoded: Any, videos: Any, per_file: int, codec: str, rate: int) -> None:
    root, order = made.root, list(lengths)
    made.info["_file_of"] = {episode: place // per_file for place, episode in enumerate(order)}
    made.info["_video_of"] = {episode: place // (per_file + 1) for place, episode in enumerate(order)}
    rows = []
    first = 0
    for episode in order:
        rows.append(
            {
                "episode_index": episode,
                "tasks": [TASKS[episode % len(TASKS)]],
                "length": lengths[episode],
                "data/chunk_index": 0,
                "data/file_index": made.info["_file_of"][episode],
                "dataset_from_index": first,
                "dataset_to_index": first + lengths[episode],
            }
        )
        first += lengths[episode]
        for key, values in made.columns[episode].items():
            rows[-1] |= {f"stats/{key}/{name}": value for name, value in feature_stats(values).items()}
    for number in sorted(set(made.info["_file_of"].values())):
        inside = [episode for episode in order if made.info["_file_of"][episode] == number]
        path = made.data_file(inside[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = [table_of(made.columns[episode], encoded[episode]) for episode in inside]
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)
    for key in videos:
        for number in sorted(set(made.info["_video_of"].values())):
            inside = [episode for episode in order if made.info["_video_of"][episode] == number]
            pictures = [picture for episode in inside for picture in _pictures(episode, lengths[episode], rate)]
            encode(made.video_file(inside[0], key), pictures, made.fps * rate, codec)
            at = Fraction(0)
            for episode in inside:
                row = rows[order.index(episode)]
                row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"] = 0, number
                row[f"videos/{key}/from_timestamp"] = float(at)
                at += lengths[episode] / made.fps
                row[f"videos/{key}/to_timestamp"] = float(at)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    tasks = pa.table({"task_index": list(range(len(TASKS))), "__index_level_0__": list(TASKS)})
    # As pandas writes a table whose index are the tasks.
    columns = [
        {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": kind, "metadata": None}
        for name, field, kind in (("task_index", "task_index", "int64"), (None, "__index_level_0__", "object"))
    ]
    about = {"index_columns": ["__index_level_0__"], "columns": columns, "column_indexes": []}
    tasks = tasks.replace_schema_metadata({"pandas": json.dumps(about)})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    keys = next(iter(made.columns.values()))
    (root / "meta/stats.json").write_text(json.dumps({key: feature_stats(made.all(key)) for key in keys}))


__all__ = ["LeRobotSet", "counter_picture", "encode", "make_set", "read_counter"]
