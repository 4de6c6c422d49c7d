"""The examples in docstrings run as they stand, and the names that people start with have one."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iltools_datasets import StoreBuilder, build_store
from iltools_datasets.archive import ArchiveWriter

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# By what an example needs to run, besides numpy and zarr.
NAMES = {
    "": [
        "TrajectoryStore",
        "StoreBuilder",
        "WindowSource",
        "add_clips",
        "build_store",
        "verify_store",
        "archive.ArchiveReader",
        "archive.ArchiveWriter",
        "doctor.examine",
        "motion.lookup.MotionLookup",
        "sources.export",
        "tracking.Adaptive",
        "tracking.MotionSampler",
    ],
    "torch": [
        "collection.ExpertTrajectoryCollector",
        "replay_export.build_replay_from_zarr",
        "replay_manager.ExpertReplayManager",
        "torchrl.AssignedUniformSampler",
        "torchrl.EpochUniformSampler",
        "torchrl.EveryWindowSampler",
        "torchrl.LazyMemmapStorage",
        "torchrl.RandomSampler",
        "torchrl.SamplerWithoutReplacement",
        "torchrl.SequentialPerEnvSampler",
        "torchrl.SliceSampler",
        "torchrl.SliceSamplerWithoutReplacement",
        "torchrl.TensorDictReplayBuffer",
        "torchrl.TrajectoryStorage",
    ],
    "jax": [
        "DeviceStore",
        "data.JaxDataLoader",
        "jax_stream.DoubleBufferStreamer",
        "jax_stream.DoubleBufferStreamer.rewind",
    ],
    "lerobot": ["data.LeRobotDatasetAdapter", "lerobot.LeRobotReader"],
    "lerobot torch": ["lerobot.LeRobotDataset"],
}
MODULES = {"torch": ["torch", "torchrl"], "jax": ["jax"], "lerobot": ["pyarrow", "av"]}


def documented(name: str) -> Any:
    """The object that a dotted name below the package stands for."""
    found: Any = importlib.import_module("iltools_datasets")
    for part in name.split("."):
        found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
    return found


def write_archives(directory: Path) -> None:
    """Three clips of walking, 50, 30 and 20 states, and one of running."""
    rng = np.random.default_rng(0)
    for archive, motion, lengths in (("walks.zarr", "walk", (50, 30, 20)), ("runs.zarr", "run", (40,))):
        with ArchiveWriter(directory / archive) as writer:
            for number, length in enumerate(lengths):
                widths = {"qpos": 7, "qvel": 6, "action": 2}
                clip = {key: rng.standard_normal((length, width)) for key, width in widths.items()}
                writer.add("lab", motion, f"traj{number}", clip)


def write_motion(path: Path) -> None:
    """Two clips of two seconds at 50 Hz: three joints, and a pelvis that goes forward."""
    names = {"fps": 50.0, "joint_names": ["hip", "knee", "ankle"], "body_names": ["pelvis"]}
    time = np.arange(100, dtype=np.float32)[:, None] / 50
    with StoreBuilder(path, attributes={"motion": names}) as builder:
        for number in range(2):
            states = {
                "joint_pos": np.sin(time + np.arange(3, dtype=np.float32) + number),
                "body_pos_w": (time * [1, 0, 0] + [0, 0, 1]).astype(np.float32)[:, None],
                "body_quat_w": np.tile(np.float32([1, 0, 0, 0]), (100, 1, 1)),
            }
            builder.add(0, number, states, name=f"walk{number}")


@pytest.fixture(name="names", scope="module")
def names_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the examples find: data beside them, and the usual modules by their usual names."""
    directory = tmp_path_factory.mktemp("examples")
    write_archives(directory)
    build_store(directory / "walks.zarr", directory / "walks", ["qpos", "qvel"], progress=False)
    write_motion(directory / "motion")
    (directory / "recordings").mkdir()
    standing = np.tile([0, 0, 0.8, 0, 0, 0, 1, *[0.1] * 29], (30, 1))
    np.savetxt(directory / "recordings" / "walk_30fps.csv", standing, delimiter=",")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("ILTOOLS_CACHE", str(directory / "cache"))
        yield {"np": np}


def prepared(needs: str, names: dict[str, Any]) -> dict[str, Any]:
    """The names for an example that needs these extras; skips where one is not there."""
    names = dict(names)
    for extra in needs.split():
        for module in MODULES[extra]:
            names[module] = pytest.importorskip(module, reason=f"needs {module}")
    if "jax" in names:
        names["jnp"] = names["jax"].numpy
    if "pyarrow" in names and not Path("picks").exists():
        sys.path.append(str(ROOT / "tests" / "lerobot"))
        from sets import make_set

        make_set(Path("picks"), "v3.0")
    return names


@pytest.mark.parametrize(("needs", "name"), [(needs, name) for needs in NAMES for name in NAMES[needs]])
def test_an_example(needs: str, name: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    names = prepared(needs, names)
    thing = documented(name)
    module = sys.modules[thing.__module__]
    text = inspect.getdoc(thing) or ""
    section = text.partition("\nExamples:\n")[2]
    examples = doctest.DocTestParser().get_examples(section)
    assert examples, f"{name} has no section `Examples:`"
    scope = {**vars(module), **names}
    scope |= {each: documented(each) for each in ("TrajectoryStore", "WindowSource", "build_store")}
    test = doctest.DocTest(examples, scope, name, module.__file__, 0, section)
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert result.attempted == len(examples)
    assert not result.failed, capsys.readouterr().out


def test_no_example_is_left_out() -> None:
    """Whatever looks like an example in the package is one of those above."""
    found: set[str] = set()
    for path in (ROOT / "python").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module) and ">>>" in (
                ast.get_docstring(node) or ""
            ):
                found.add(getattr(node, "name", path.name))
    assert found == {name.rpartition(".")[2] for names in NAMES.values() for name in names}
