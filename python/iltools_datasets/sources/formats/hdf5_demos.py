"""Demonstrations in HDF5: robomimic, Isaac Lab's recorder, Minari, D4RL, ALOHA and ACT."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iltools_datasets.archive.schema import TRANSITION_KEYS
from iltools_datasets.errors import SourceError
from iltools_datasets.motion.description import QuaternionOrder
from iltools_datasets.motion.orders import ORDERS, Evidence, find_evidence
from iltools_datasets.sources.formats.episodes import (
    Arrays,
    episode_ranges,
    following_in,
    renamed,
    with_last_observation,
)
from iltools_datasets.sources.formats.further import quaternion_keys
from iltools_datasets.sources.formats.hdf5_file import Hdf5, can_read_hdf5, is_hdf5, top_of
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource, rate_in_file, turned
from iltools_datasets.sources.walk import has_ending

_DEMO, _EPISODE = re.compile(r"demo_[0-9]+"), re.compile(r"episode_[0-9]+")
_RATES = ("fps", "frequency", "control_freq", "control_frequency", "mocap_framerate")
_PERIODS = ("dt", "timestep", "step_dt")
_ORDER_NAMES = ("quaternion_order", "quat_order", "quaternion_convention")
_ROOT_POSE, _ROOT_WIDTH = "root_pose", 7
_FIRST = "initial_state."
_MOST_KEPT = 10_000
"""Numbers of a first state that become an attribute."""


@dataclass(frozen=True, slots=True)
class _Episode:
    """One episode: its arrays, what the file says of it and around it, what follows what, what is no row per step."""

    arrays: Arrays
    said: Sequence[Mapping[str, Any]]
    attributes: dict[str, Any]
    following: dict[str, str] = field(default_factory=dict)
    without_rows: list[str] = field(default_factory=list)


class Hdf5DemosSource(ToldSource):
    """A file of episodes, told by the names of its groups; each episode is a trajectory, in natural order.

    - robomimic and Isaac Lab's recorder: `data/demo_N/` with `actions [T, A]` and arrays, also nested ones, of T rows.
    - Minari: `episode_N/` with `observations [T + 1, ...]`, `actions [T, A]`, `rewards`, `terminations`, `truncations`.
    - D4RL: `observations [steps, ...]`, `actions`, `rewards`, cut where `terminals` or `timeouts` hold.
    - ALOHA and ACT: `action [T, A]`, `observations/qpos`, ...: one episode a file.

    Values, dtypes and names are kept; a nested name has dots (`obs.eef_pos`). `dones` is called `done`, `terminals` and
    `terminations` are `terminated`, `timeouts` and `truncations` `truncated`. Where a file has what follows each step
    (`next_obs`, `next_observations`) the observations get the state after the last action, see
    `episodes.with_last_observation`.

    Isaac Lab records `obs` before an action and `states` after it, both are kept in the file's rows. `initial_state`
    becomes an attribute.

    The rate is taken from attributes (`fps`, `dt`, robomimic's `control_freq`, Isaac Lab's `sim_args`), names from
    `joint_names` and `body_names`, the order of quaternions from `quaternion_order`. Where the order is stated or told,
    keys whose name says quaternion, and columns 3 to 6 of each `root_pose`, are brought to wxyz; a `root_pose` is taken
    for wxyz, as Isaac Lab wrote it before 3.0, unless the motion speaks against it. Otherwise nothing is touched.
    """

    format = "hdf5-demos"
    summary = "HDF5 of robomimic, Isaac Lab's recorder, Minari, D4RL, ALOHA (needs the extra hdf5)"
    suffixes = (".hdf5", ".h5", ".he5", ".hdf")
    owns_suffixes = False

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if not is_hdf5(path) or not can_read_hdf5():
            return False
        top, damage = top_of(path)
        return _layout(top) is not None or (damage is not None and has_ending(path, cls.suffixes))

    def read(self, file: SourceFile) -> Iterator[Recording]:
        path = file.path
        top, _ = top_of(path)
        with Hdf5(path, self.skip) as opened:
            layout = _layout(top)
            if layout is None:
                raise SourceError(f"{path}: no known arrangement of episodes; at its top are {opened.names()[:12]}")
            for name, why in opened.unreadable.items():
                if name.startswith("mask/"):
                    continue
                self.about(path, f"left out {re.sub('_[0-9]+/', '_*/', name)!r}: {why}")
            for episode in layout(opened):
                yield self._recording(path, episode)

    def _recording(self, path: Path, episode: _Episode) -> Recording:
        if not episode.arrays:
            raise SourceError(f"{path}: {episode.attributes.get('episode')}: holds no arrays of numbers")
        arrays = with_last_observation(self, path, episode.arrays, episode.following)
        attributes = dict(episode.attributes)
        states = _count_states(path, arrays)
        firsts = {key: array for key, array in arrays.items() if key.startswith(_FIRST) and len(array) == 1}
        kept = {key: array for key, array in arrays.items() if key not in firsts and _has_rows(key, array, states)}
        self.leave_out(path, episode.without_rows, ", which has no row per step")
        for key, array in arrays.items():
            if key not in firsts and key not in kept:
                self.leave_out(path, [key], f", {array.dtype} {list(array.shape)}: no row per state")
        order, quaternions = self._order(path, kept, _first(episode.said, _ORDER_NAMES))
        columns = {
            **{key: (3,) for key in (*kept, *firsts) if _is_root_pose(key, {**kept, **firsts}[key])},
            **quaternions,
        }
        if order is not None:
            attributes["quaternion_order_in_file"] = order
            kept = {key: turned(array, columns.get(key, ()), order) for key, array in kept.items()}
            firsts = {key: turned(array, columns.get(key, ()), order) for key, array in firsts.items()}
        if firsts:
            attributes["initial_state"] = {
                key.removeprefix(_FIRST): array[0].tolist()
                for key, array in firsts.items()
                if array.size < _MOST_KEPT and np.isfinite(array).all()
            }
        named = [_first(episode.said, (what,)) for what in ("joint_names", "body_names")]
        attributes |= self.all_names(path, *(names if _are_names(names) else None for names in named))
        return Recording(
            kept,
            fps=self.rate_of(path, lambda: _stated_rate(path, episode.said)),
            quaternions=None if order is None else {key: columns[key] for key in kept if key in columns},
            attributes=attributes,
        )

    def _order(
        self, path: Path, arrays: Arrays, stated: Any
    ) -> tuple[QuaternionOrder | None, dict[str, tuple[int, ...]]]:
        """Return the order of the file's quaternions, None where nobody says it, and where those with a name are."""
        order: QuaternionOrder | None = next((known for known in ORDERS if known == stated), None)
        named: dict[str, tuple[int, ...]] = dict.fromkeys(quaternion_keys(arrays), (0,))
        roots = [key for key, array in arrays.items() if _is_root_pose(key, array)]
        if roots:
            return self.order(path, _evidence(arrays, roots), order), named
        if self.quaternion_order == "auto" and named:
            self.about(path, "nothing in it shows the order of its quaternions; they stay as they are")
        told = self.quaternion_order or order
        if self.quaternion_order in ORDERS and order not in (None, told):
            self.about(path, f"says that quaternions are {order}; {told} was told and counts")
        return (told if told in ORDERS else order), named


def _stated_rate(path: Path, said: Sequence[Mapping[str, Any]]) -> float | None:
    told: list[tuple[str, Any]] = [(name, _first(said, (name,))) for name in (*_RATES, *_PERIODS)]
    environment = _first(said, ("env_args",))
    if isinstance(environment, str):
        told += _rate_of_environment(environment)
    for name, value in told:
        if value is None:
            continue
        one = value[0] if isinstance(value, list) and len(value) == 1 else value
        rate = rate_in_file(f"{path}: attribute ", name, one)
        return 1 / rate if name in _PERIODS else rate
    return None


def _layout(top: Mapping[str, list[str]]) -> Callable[[Hdf5], Iterator[_Episode]] | None:
    names = top.keys()
    if any(_DEMO.fullmatch(name) for name in top.get("data", ())):
        return _demos
    if any(_EPISODE.fullmatch(name) for name in names):
        return _minari
    if {"observations", "actions"} <= names and {"terminals", "timeouts", "dones", "rewards"} & names:
        return _d4rl
    if {"action", "observations"} <= names and "qpos" in top["observations"]:
        return _aloha
    return None


def _demos(file: Hdf5) -> Iterator[_Episode]:
    around = [file.attributes("data"), file.attributes()]
    masks = {name: set(file.texts(f"mask/{name}")) for name in file.names("mask")}
    for demo in file.names("data"):
        place = f"data/{demo}"
        if not _DEMO.fullmatch(demo) or not file.is_group(place):
            continue
        said = file.attributes(place)
        arrays = _read(file, place)
        attributes: dict[str, Any] = {"episode": demo, **_short(said)}
        chosen = [name for name, demos in masks.items() if demo in demos]
        if chosen:
            attributes["masks"] = chosen
        environment = next((_json(text).get("env_name") for text in (around[0].get("env_args"),) if text), None)
        if environment:
            attributes["env_name"] = environment
        following = following_in(arrays)
        _check_steps(file, place, arrays, "actions")
        yield _Episode(arrays, [said, *around], attributes, following)


def _minari(file: Hdf5) -> Iterator[_Episode]:
    around = [file.attributes()]
    for episode in file.names():
        if not _EPISODE.fullmatch(episode) or not file.is_group(episode):
            continue
        said = file.attributes(episode)
        arrays = _read(file, episode)
        yield _Episode(arrays, [said, *around], {"episode": episode, **_short(said)})


def _d4rl(file: Hdf5) -> Iterator[_Episode]:
    said = [file.attributes()]
    paths = file.below()
    steps = next(iter(file.arrays[paths["actions"]].shape if "actions" in paths else ()), 0)
    if not steps:
        raise SourceError(f"{file.path}: 'actions' should be numbers, a row per step")
    others = [key for key, path in paths.items() if file.arrays[path].shape[:1] != (steps,)]
    rows = {key: file.read(path) for key, path in paths.items() if key not in others}
    for number, (first, end) in enumerate(episode_ranges(file.path, rows, steps)):
        arrays = renamed({key: array[first:end].copy() for key, array in rows.items()})
        following = following_in(arrays)
        yield _Episode(arrays, said, {"episode": number}, following, others)


def _aloha(file: Hdf5) -> Iterator[_Episode]:
    said = file.attributes()
    arrays = _read(file, "")
    _check_steps(file, "", arrays, "action")
    yield _Episode(arrays, [said], _short(said))


def _check_steps(file: Hdf5, place: str, arrays: Arrays, key: str) -> None:
    if key not in arrays or not arrays[key].ndim or not len(arrays[key]):
        raise SourceError(f"{file.path}: {place or '/'!r}: no {key!r} with a row per step; there are {sorted(arrays)}")


def _read(file: Hdf5, group: str) -> Arrays:
    return renamed({key: file.read(path) for key, path in file.below(group).items()})


def _count_states(path: Path, arrays: Arrays) -> int:
    """Return T of an episode: of its observations, or its actions; SourceError where those do not fit together."""
    rows = {key: len(array) for key, array in arrays.items() if array.ndim}
    observed = {key: count for key, count in rows.items() if key.split(".")[0] in ("obs", "observations")}
    steps = {key: count for key, count in rows.items() if key in TRANSITION_KEYS and key not in observed}
    states = max((observed or steps or rows).values())
    for key, count in (observed | steps).items():
        if count != states and not (key in steps and count == states - 1):
            raise SourceError(f"{path}: {key!r} has {count} rows, expected {states} like the observations")
    return states


def _has_rows(key: str, array: NDArray[Any], states: int) -> bool:
    return bool(array.ndim) and (len(array) == states or (key in TRANSITION_KEYS and len(array) == states - 1))


def _is_root_pose(key: str, array: NDArray[Any]) -> bool:
    return key.rsplit(".", 1)[-1] == _ROOT_POSE and array.shape[1:] == (_ROOT_WIDTH,) and array.dtype.kind == "f"


def _evidence(arrays: Arrays, roots: list[str]) -> Evidence:
    robots = [key for key in roots if ".articulation." in f".{key}"] or roots
    pose = arrays[robots[0]]
    velocity = arrays.get(robots[0].replace(_ROOT_POSE, "root_velocity"))
    angular = None if velocity is None or velocity.shape != (len(pose), 6) else velocity[:, 3:]
    return find_evidence(pose[:, 3:7], pose[:, 3:7], angular)


def _first(said: Sequence[Mapping[str, Any]], names: tuple[str, ...]) -> Any:
    return next((around[name] for name in names for around in said if name in around), None)


def _short(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says of an episode in a few words; a robot's whole model is not kept."""
    used = {*_RATES, *_PERIODS, *_ORDER_NAMES, "joint_names", "body_names"}
    return {
        key: value
        for key, value in said.items()
        if key not in used and len(str(value)) <= 200 and not (isinstance(value, float) and not np.isfinite(value))
    }


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _json(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _rate_of_environment(text: str) -> list[tuple[str, Any]]:
    environment = _json(text)
    inner, simulation = environment.get("env_kwargs"), environment.get("sim_args")
    found: list[tuple[str, Any]] = []
    if isinstance(inner, dict):
        found.append(("control_freq", inner.get("control_freq")))
    if isinstance(simulation, dict):
        period, every = simulation.get("dt"), simulation.get("decimation", 1)
        if isinstance(period, int | float) and isinstance(every, int):
            found.append(("dt", period * every))
    return found
