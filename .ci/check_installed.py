"""Check an installed wheel that has no extra next to it: run from outside the source tree."""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import import_module
from importlib.metadata import entry_points, version
from pathlib import Path

import iltools_datasets
import numpy as np
from iltools_datasets import StoreBuilder, TrajectoryStore
from iltools_datasets.errors import MissingExtraError


def check_import() -> None:
    """The package comes from the wheel, and importing it brings neither torch nor jax."""
    assert Path(iltools_datasets.__file__).is_relative_to(sysconfig.get_path("platlib")), iltools_datasets.__file__
    assert iltools_datasets.__version__ == version("iltools-datasets")
    loaded = {name for name in ("torch", "jax", "tensordict", "zarr") if name in sys.modules}
    assert not loaded, f"importing the package loads {loaded}"


def check_round_trip(path: Path) -> None:
    """What goes into a store comes out of it, bit for bit."""
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(length, 3)).astype(np.float32) for length in (5, 2, 9)]
    with StoreBuilder(path) as builder:
        for number, clip in enumerate(clips):
            builder.add(0, number, states={"qpos": clip}, transitions={"action": clip[1:]})
    store = TrajectoryStore.open(path)
    assert not list(store.verify())
    batch = store.gather(np.arange(len(store)))
    np.testing.assert_array_equal(batch["qpos"], np.concatenate([clip[:-1] for clip in clips]))
    np.testing.assert_array_equal(batch["next", "qpos"], np.concatenate([clip[1:] for clip in clips]))
    np.testing.assert_array_equal(batch["action"], batch["next", "qpos"])


def check_motion(path: Path) -> None:
    """Motion is looked up, followed and resumed with numpy alone."""
    from iltools_datasets.tracking import MotionSampler

    half = np.pi * np.arange(31) / 90
    turn = np.stack([np.cos(half / 2), 0 * half, 0 * half, np.sin(half / 2)], axis=1)[:, None].astype(np.float32)
    place = np.arange(31, dtype=np.float32)[:, None, None] * np.ones((1, 1, 3), dtype=np.float32)
    with StoreBuilder(path, attributes={"motion": {"fps": 30.0}}) as builder:
        builder.add(0, 0, states={"body_pos_w": place, "body_quat_w": turn})
    sampler = MotionSampler(TrajectoryStore.open(path), 8, 0.02, [0, 1, 2.5])
    sampler.reset()
    sampler.reset(sampler.step())
    sampler.sync()
    found = sampler.lookup_at([0, 0], [0.5, 0.51])
    frame = 30 * (np.array([[0.5], [0.51]]) + 0.02 * np.array([0, 1, 2.5]))
    np.testing.assert_allclose(found["body_pos_w"][..., 0, 0], frame, rtol=1e-6)
    np.testing.assert_allclose(found["body_quat_w"][..., 0, 3], np.sin(np.pi * frame / 180), atol=3e-7)
    sampler.load_state_dict(sampler.state_dict())
    assert sampler.lookup()["valid"][:, 0].all()
    loaded = {name for name in ("torch", "jax", "tensordict") if name in sys.modules}
    assert not loaded, f"following motion loads {loaded}"
    message = ""
    try:
        MotionSampler(TrajectoryStore.open(path), 8, 0.02, as_="torch")
    except MissingExtraError as error:
        message = str(error)
    assert "[torch]" in message, message


def check_missing_extra(module: str, extra: str) -> None:
    """A part whose extra is missing says which one to install."""
    try:
        import_module(module)
    except MissingExtraError as error:
        message = str(error)
    else:
        raise AssertionError(f"{module} was imported without the extra {extra}")
    assert f"[{extra}]" in message, message


def check_command_line() -> None:
    """`iltools` without its extra ends with one line that names it, not with a traceback."""
    assert any(script.name == "iltools" for script in entry_points(group="console_scripts"))
    command = shutil.which("iltools", path=sysconfig.get_path("scripts"))
    assert command is not None
    outcome = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 2, outcome
    assert "[cli]" in outcome.stderr, outcome
    assert "Traceback" not in outcome.stderr, outcome


if __name__ == "__main__":
    check_import()
    with tempfile.TemporaryDirectory() as directory:
        check_round_trip(Path(directory) / "store")
        check_motion(Path(directory) / "motion")
    check_missing_extra("iltools_datasets.torchrl", "torch")
    check_missing_extra("iltools_datasets.replay_manager", "torch")
    check_command_line()
    print(f"iltools-datasets {iltools_datasets.__version__} works by itself on Python {sys.version.split()[0]}")
