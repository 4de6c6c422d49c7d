"""A LeRobot data set as transitions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iltools_datasets import _core
from iltools_datasets.data.dataset import BatchDataset
from iltools_datasets.data.frames import DONE, Frames, Look, Wanted
from iltools_datasets.data.lerobot_config import NO_REWARD, LeRobotDatasetConfig, Options
from iltools_datasets.data.store_dataset import side_by_side
from iltools_datasets.data.transition import Transition
from iltools_datasets.errors import ArgumentError, MissingKeyError, SourceError
from iltools_datasets.lerobot.camera import Camera
from iltools_datasets.lerobot.frame_cache import frame_cache_of
from iltools_datasets.lerobot.reader import LeRobotReader
from iltools_datasets.lerobot.stats import Statistics
from iltools_datasets.store.trajectory_store import TrajectoryStore

__all__ = ["LeRobotDatasetAdapter", "LeRobotDatasetConfig"]

_PAD = "_is_pad"
_SAMPLE = 256  # frames that tell one data set from another


class LeRobotDatasetAdapter(BatchDataset):
    """A LeRobot data set (v2.0, v2.1, v3.0) whose item i is the transition at frame i of the chosen episodes.

    `next_obs` is the next frame of the same episode; at the last one it is `obs` itself, and `done` is True. It needs
    neither lerobot nor torch. `iltools_datasets.lerobot` says how directories are read.

    Args:
        config: a `LeRobotDatasetConfig`, or something with its fields, or a `repo_id` for one with all else as it is by
            default.
        tolerance_s: how far a time in `delta_timestamps` may be off a whole number of frames, in seconds.
        on_nan: `"error"` refuses NaN in what is asked for, `"keep"` takes it as it is.
        obs: `"array"` gives one key's array, or several flattened and side by side; `"dict"` gives `{key: array}`.
        image_dtype: `"uint8"`, or `"float32"` for values within [0, 1]; pictures are `[H, W, C]`.
        image_size: (H, W) that pictures are resized to.
        frame_cache: where decoded pictures are kept: so many bytes of memory, or a directory.
        cache: directory of the stores that data sets are built into once; None = the user's.

    Raises:
        SourceNotFoundError: there is no such data set.
        SourceError: something in it is wrong, or a feature cannot be had as it is asked for.
        MissingKeyError: there is no such feature.
        OutOfRangeError: there is no such episode.
        ArgumentError: an argument is none of its choices.
        TypeError: `config` is none.

    Examples:
        >>> ds = LeRobotDatasetAdapter("picks")
        >>> len(ds), ds[0].obs.shape, ds[0].action.shape
        (15, (5,), (4,))
    """

    def __init__(
        self,
        config: LeRobotDatasetConfig | str | Path,
        *,
        tolerance_s: float = 1e-4,
        on_nan: Literal["error", "keep"] = "error",
        obs: Literal["array", "dict"] = "array",
        image_dtype: Literal["uint8", "float32"] = "uint8",
        image_size: tuple[int, int] | None = None,
        frame_cache: int | str | Path | None = None,
        cache: str | Path | None = None,
    ) -> None:
        config = LeRobotDatasetConfig.of(config)
        options = Options(tolerance_s, on_nan, obs, image_dtype, image_size, frame_cache)
        cameras = list(config.obs_keys)  # those of them that are
        reader = LeRobotReader.find(
            config.repo_id, config.root, config.revision, cache=cache, episodes=config.episodes, cameras=cameras
        )
        self._open(config, options, reader)

    def _open(self, config: LeRobotDatasetConfig, options: Options, reader: LeRobotReader) -> None:
        self.config = config
        self.reader = reader
        self._options = options
        self._choice = reader.choice(config.episodes)
        self._frame_cache = frame_cache_of(options.frame_cache)
        self._cameras: dict[str, Camera] = {}
        self._checked: set[str] = set()
        self._offsets = self._checked_offsets(config.delta_timestamps or {}, options.tolerance_s)
        self._reward_key = config.reward_key
        if self._reward_key == NO_REWARD and NO_REWARD not in reader.features:
            self._reward_key = None
        self._check(config)
        look = Look(options.image_dtype, config.image_transforms)
        self._frames = Frames(reader, self._offsets, self._cameras, look)
        self._single = Frames(reader, {}, self._cameras, look)
        obs = [Wanted(key) for key in config.obs_keys]
        rest = [Wanted(key) for key in (config.action_key, self._reward_key) if key is not None]
        self._wanted = (*obs, *(Wanted(one.key, follows=True) for one in obs), *rest, DONE)

    def _checked_offsets(self, times: Mapping[str, Sequence[float]], tolerance: float) -> dict[str, NDArray[np.int64]]:
        root, offsets = self.reader.root, {}
        for key, seconds in times.items():
            self.reader.info.feature(key, root)
            try:
                offsets[key] = self.reader.offsets(seconds, tolerance)
            except (TypeError, ValueError) as error:
                raise SourceError(f"{root}: delta_timestamps[{key!r}]: {error}") from error
            if not len(offsets[key]):
                raise SourceError(f"{root}: delta_timestamps[{key!r}]: expected times in seconds, found none")
        return offsets

    def _check(self, config: LeRobotDatasetConfig) -> None:
        root, keys = self.reader.root, list(config.obs_keys)
        if not keys:
            raise ArgumentError("obs_keys is empty; an observation needs a feature")
        features = {key: self.reader.info.feature(key, root) for key in keys}
        pictures = [key for key, feature in features.items() if feature.is_camera]
        if pictures and len(keys) > 1 and self._options.obs == "array":
            raise SourceError(
                f"{root}: obs_keys {keys}: {pictures[0]!r} is a camera, and pictures are not put side by side with "
                "other features; obs='dict' gives {key: array}"
            )
        if len(features) < len(keys) and self._options.obs == "dict":
            raise ArgumentError(f"obs_keys {keys}: a key is there twice, which a dict cannot hold")
        self._check_features([*keys, config.action_key, *([self._reward_key] if self._reward_key else [])])
        self.reader.column(config.action_key)
        if self._reward_key is not None:
            shape = self.reader.store.shape(self.reader.column(self._reward_key))
            if int(np.prod(shape)) != 1:
                raise SourceError(f"{root}: reward_key {self._reward_key!r}: expected one number, found {list(shape)}")

    def _check_features(self, keys: Iterable[str]) -> None:
        """Raise if one of them cannot be had, or has NaN in the chosen episodes; open the cameras among them."""
        for key in keys:
            if key in self._checked:
                continue
            if self.reader.info.feature(key, self.reader.root).is_camera:
                size, kept = self._options.image_size, self._frame_cache
                camera = self.reader.camera(key, size=size, frame_cache=kept, episodes=self._choice)
                self._cameras.setdefault(key, camera)
            else:
                self.reader.column(key)
                if self._options.on_nan == "error":
                    self.reader.check_no_nan([key], self._choice.episodes.tolist())
            self._checked.add(key)

    def __reduce__(self) -> tuple[Callable[..., LeRobotDatasetAdapter], tuple[Any, ...]]:
        return _reopen, (self.config, self._options, self.reader)

    def __len__(self) -> int:
        return len(self._choice)

    def __repr__(self) -> str:
        return f"LeRobotDatasetAdapter({str(self.reader.root)!r}, {len(self)} transitions)"

    @property
    def store(self) -> TrajectoryStore:
        """The numbers of all episodes, whichever were chosen: for a TorchRL storage, or a JAX device."""
        return self.reader.store

    @property
    def episodes(self) -> list[int]:
        """The numbers of the chosen episodes, in their order."""
        return [int(number) for number in self._choice.episodes]

    @cached_property
    def _statistics(self) -> Statistics:
        return self.reader.statistics(self._choice)

    @property
    def stats(self) -> Mapping[str, Mapping[str, NDArray[Any]]]:
        """What the files state of the chosen episodes, `{feature: {"mean": array, ...}}`; see `lerobot.stats`."""
        return self._statistics.of

    @property
    def metadata(self) -> dict[str, Any]:
        """What the data set says of itself, of all its episodes.

        `repo_id`, `fps`, `features` (`{name: {"dtype", "shape", "names"}}`), `total_episodes`, `total_frames`,
        `codebase_version`, `robot_type`, `tasks` (`{task_index: text}`), `root`, `notes` (what is
        unusual, a line each).
        """
        reader, fps = self.reader, self.reader.fps
        return {
            "repo_id": self.config.repo_id,
            "fps": int(fps) if fps.denominator == 1 else float(fps),
            "features": {
                key: {"dtype": feature.dtype, "shape": feature.shape, "names": feature.names}
                for key, feature in reader.features.items()
            },
            "total_episodes": reader.num_episodes,
            "total_frames": reader.num_frames,
            "codebase_version": reader.info.codebase_version,
            "robot_type": reader.info.robot_type,
            "tasks": dict(reader.tasks),
            "root": str(reader.root),
            "notes": [*reader.notes, *self._notes],
        }

    @property
    def _notes(self) -> list[str]:
        used = {one.key for one in self._wanted}
        unused = [key for key in self._offsets if key not in used]
        stated = self._statistics.notes if "_statistics" in self.__dict__ else ()
        return [
            *stated,
            *(f"delta_timestamps of {key!r} are of use only where it is an extra" for key in unused),
        ]

    @cached_property
    def identity(self) -> str:
        """A digest of the chosen episodes, their lengths, and the numbers in some frames of them, the same anywhere."""
        items = _core.EpochShuffle(len(self), 0).next_within_epoch(min(_SAMPLE, len(self)))
        keys = self.reader.info.number_keys
        values = self.reader.gather(self._choice.rows(items), keys)
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self._choice.episodes.tobytes())
        digest.update(self.store.segments.length[self._choice.segments].tobytes())
        for key in sorted(keys):
            digest.update(f"{key} {values[key].dtype} {values[key].shape}".encode())
            digest.update(values[key].tobytes())
        return f"lerobot {digest.hexdigest()}"

    def check_extra(self, extra: Sequence[str]) -> None:
        """Any feature that is an array can be added, and `KEY_is_pad` of a KEY in `delta_timestamps`."""
        self._check_features(name for name in extra if not self._is_pad(name))

    def _is_pad(self, name: str) -> bool:
        return name.endswith(_PAD) and name not in self.reader.features and name.removesuffix(_PAD) in self._offsets

    def batch(self, index: ArrayLike, *, extra: Sequence[str] = ()) -> Any:
        """Return the transitions `index`, int `[B]`, as one of numpy arrays that nobody writes to again.

        Args:
            index: items; negative ones count from the end.
            extra: names of what comes besides, see `check_extra`.

        Returns:
            obs and next_obs `[B, *shape]`, pictures `[B, H, W, C]`; action `[B, *shape]`; reward float32 and done bool
            `[B]`. What has `delta_timestamps` has their axis behind B. With `extra`, `(transition, {name: array})`;
            `KEY_is_pad` is bool `[B, H]`, true where a step lies outside the episode and its first or last one stands.

        Raises:
            OutOfRangeError: there is no such item (an IndexError).
            MissingKeyError, SourceError: something to add is not there, or is no array.
            SourceError: a picture cannot be decoded.
        """
        if extra:
            self.check_extra(extra)
        pads = [name.removesuffix(_PAD) for name in extra if self._is_pad(name)]
        added = [name for name in extra if not self._is_pad(name)]
        wanted = (*self._wanted, *map(Wanted, added)) if added else self._wanted
        rows = self._choice.rows(index)
        found, outside = self._frames.read(rows, wanted, pads)
        values, masks = iter(found), iter(outside)
        keys = self.config.obs_keys
        obs, next_obs = (self._packed([next(values) for _ in keys]) for _ in range(2))
        action = next(values)
        reward = np.zeros(len(rows), np.float32) if self._reward_key is None else _number(next(values))
        transition = Transition(obs, action, reward, next_obs, next(values).reshape(len(rows)))
        if not extra:
            return transition
        return transition, {name: next(masks) if self._is_pad(name) else next(values) for name in extra}

    def frames(self, index: ArrayLike, keys: Sequence[str]) -> dict[str, Any]:
        """Return `{key: [B, ...]}` of fields of a transition, `obs/KEY`, or features, without windows."""
        rows = self._choice.rows(index)
        parts = {key: self._parts_of(key) for key in keys}
        values = iter(self._single.read(rows, [one for of in parts.values() for one in of])[0])
        result: dict[str, Any] = {}
        for key, of in parts.items():
            found = side_by_side([next(values) for _ in of]) if of else np.zeros(len(rows), np.float32)
            result[key] = _number(found) if key == "reward" else found.reshape(-1) if key == "done" else found
        return result

    def _parts_of(self, name: str) -> list[Wanted]:
        """Return the features that a field of a transition, `obs/KEY`, or a feature is made of."""
        field, _, part = name.partition("/")
        if field in ("obs", "next_obs"):
            keys = self.config.obs_keys
            if part in keys if self._options.obs == "dict" else not part:
                return [Wanted(key, field == "next_obs") for key in ([part] if part else keys)]
        elif name == "action":
            return [Wanted(self.config.action_key)]
        elif name == "reward":
            return [] if self._reward_key is None else [Wanted(self._reward_key)]
        elif name == "done":
            return [DONE]
        self._check_features([name])
        return [Wanted(name)]

    def _packed(self, parts: list[NDArray[Any]]) -> Any:
        if self._options.obs == "dict":
            return dict(zip(self.config.obs_keys, parts, strict=True))
        return side_by_side(parts)


def _number(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return [B, 1] as float32 [B], and windows of such, [B, H, 1], as [B, H]."""
    return values.reshape(values.shape[:2] if values.ndim > 2 else values.shape[:1]).astype(np.float32, copy=False)


def _reopen(config: LeRobotDatasetConfig, options: Options, reader: LeRobotReader) -> LeRobotDatasetAdapter:
    adapter = LeRobotDatasetAdapter.__new__(LeRobotDatasetAdapter)
    adapter._open(config, options, reader)
    return adapter


def _pack_obs(item: Mapping[str, Any], obs_keys: Sequence[str]) -> NDArray[Any]:
    """Return the observation in a LeRobot sample: the array of one key, or several flattened and end to end.

    Raises `MissingKeyError` for a key that is not there.
    """
    missing = [key for key in obs_keys if key not in item]
    if missing:
        raise MissingKeyError(f"no key {missing[0]!r} in the sample; there are {sorted(item)}")
    parts = [np.asarray(item[key]) for key in obs_keys]
    return parts[0] if len(parts) == 1 else np.concatenate([part.reshape(-1) for part in parts])
