"""What works without JAX, torch or pyarrow, and which extra the rest names; each in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lerobot_cases import cache_fixture, make_set  # noqa: F401

HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import numpy as np
from data_cases import Numbered, make_store
import iltools_datasets.data as data
from iltools_datasets.errors import MissingExtraError
"""


def run(hidden: tuple[str, ...], script: str, *arguments: object) -> str:
    code = HIDE.format(hidden=hidden)
    command = [sys.executable, "-W", "error", "-c", code + script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_set(tmp_path / "set", "v3.0", [4, 3], cameras={"camera": "image"}).root


def test_names_alone_load_nothing(root: Path) -> None:
    run(
        (),
        """
ds = data.LeRobotDatasetAdapter(sys.argv[1])  # builds the store, with pyarrow
heavy = {'torch', 'tensordict', 'torchrl', 'jax', 'zarr', 'matplotlib'}
assert not heavy & {name.partition('.')[0] for name in sys.modules}, heavy & set(sys.modules)
""",
        root,
    )
    run(
        ("jax", "jaxlib", "torch", "pyarrow", "av", "PIL", "zarr"),
        """
ds = data.LeRobotDatasetAdapter(sys.argv[1])  # finds it
assert all(type(field).__module__ == 'numpy' for field in ds[0]), ds[0]
assert ds.batch([0, 1]).obs.shape == (2, 5)
data.compute_norm_stats(ds, ['obs', 'action'])
data.Resize(2, 2)({})
""",
        root,
    )


def test_without_jax() -> None:
    said = run(
        ("jax", "jaxlib"),
        """
try:
    data.JaxDataLoader
except MissingExtraError as error:
    print(error)
""",
    )
    assert "JaxDataLoader needs an optional extra: pip install 'iltools-datasets[jax]'" in said


def test_without_torch(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="needs the jax extra")
    said = run(
        ("torch", "tensordict", "torchrl"),
        """
for dataset in (make_store(sys.argv[2]), data.LeRobotDatasetAdapter(sys.argv[1])):
    with data.JaxDataLoader(dataset, 2, num_workers=2) as loader:
        assert len(list(loader)) == len(dataset) // 2
assert len(list(data.JaxDataLoader(Numbered(8), 2))) == 4
config = data.LeRobotDatasetConfig(sys.argv[1], obs_keys=['camera'], image_transforms=lambda picture: picture)
for ask in (
    lambda: iter(data.JaxDataLoader(Numbered(8), 2, num_workers=2)),
    lambda: data.LeRobotDatasetAdapter(config).batch([0]),
):
    try:
        ask()
    except MissingExtraError as error:
        print(error)
""",
        root,
        tmp_path / "store",
    )
    assert said.splitlines() == [
        "num_workers > 0 for this data set needs an optional extra: pip install 'iltools-datasets[torch]'",
        "image_transforms= needs an optional extra: pip install 'iltools-datasets[torch]'",
    ]


def test_without_pyarrow(root: Path) -> None:
    said = run(
        ("pyarrow", "av"),
        """
try:
    data.LeRobotDatasetAdapter(sys.argv[1])
except MissingExtraError as error:
    print(error)
""",
        root,
    )
    assert "iltools-datasets[data]" in said
